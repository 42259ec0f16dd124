# SPDX-License-Identifier: MIT
"""The outputs of an ONNX file: the integers of each output of the model, and what they are worth."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from bitwright.export.names import integer_name
from bitwright.export.onnx.graph import BATCH, OnnxGraph
from bitwright.integer.model import IntegerModel
from bitwright.integer.outputs import Output


def file_names(model: IntegerModel) -> list[str]:
    """The tensors that a file returns."""
    return [given for name in model.outputs for given in (integer_name(name), name)]


def add_real(name: str, output: Output, rank: int, graph: OnnxGraph) -> None:
    """`NAME`: the integers of an output, which the graph has, times their unit, in float32."""
    graph.node("Cast", [integer_name(name)], f"{name}:float", to=TensorProto.FLOAT)
    unit = graph.constant(f"{name}:unit", output.across(rank).astype(np.float32))
    graph.node("Mul", [f"{name}:float", unit], name)


def output_infos(model: IntegerModel) -> list[onnx.ValueInfoProto]:
    """Types and shapes of `NAME_int32` and `NAME` of each output."""
    return [
        helper.make_tensor_value_info(given, kind, [BATCH, *shape])
        for name, shape in model.output_shapes.items()
        for given, kind in ((integer_name(name), TensorProto.INT32), (name, TensorProto.FLOAT))
    ]
