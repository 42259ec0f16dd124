# SPDX-License-Identifier: MIT
"""A captured graph as float ONNX: the baseline that integer files are timed against.

Batch norm is folded, as every engine would at load, and clamps become Relu or Clip; nothing else is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from bitwright.errors import ExportError
from bitwright.export.onnx.graph import BATCH, OnnxGraph
from bitwright.files import write_bytes
from bitwright.graph.evaluate import Tensors
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import (
    Bounds,
    Node,
)


def export_float_onnx(graph: Graph, path: str | Path) -> onnx.ModelProto:
    """Write `graph` with its own weights as float32 ONNX, atomically.

    The file takes `images` (float32, batch x channels x height x width) and returns `logits` (float32), or each of several
    outputs under its name; the batch is dynamic.

    Raises:
        ExportError: If a node has no ONNX form.
    """
    made = to_float_onnx(graph)
    write_bytes(path, made.SerializeToString())
    return made


@torch.no_grad()
def to_float_onnx(graph: Graph) -> onnx.ModelProto:
    """`graph` as a float32 ONNX model, checked by ONNX's own checker."""
    made = OnnxGraph()
    for node in graph:
        add_float(node, made, graph.parameters)
    inner = made.make_room(list(graph.outputs))
    for name, tensor in graph.outputs.items():
        made.node("Identity", [inner.get(tensor, tensor)], name)
    shapes = graph.output_shapes.items()
    return made.finish(
        graph.model,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [BATCH, *graph.input_shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *shape]) for name, shape in shapes],
        {} if graph.preprocessing is None else {"preprocessing": graph.preprocessing.to_text()},
    )


@singledispatch
def add_float(node: Node, made: OnnxGraph, parameters: Tensors) -> None:
    """Add the ONNX form of one node."""
    raise ExportError(f"no ONNX form of {type(node).__name__} ('{node.name}').")


def clamped(made: OnnxGraph, name: str, bounds: Bounds | None, make: Callable[[str], object]) -> None:
    """Call `make` with the name of a result, which is clamped where there are bounds."""
    if bounds is None:
        make(name)
    else:
        make(f"{name}.unclamped")
        add_clamp(made, f"{name}.unclamped", name, bounds)


def add_clamp(made: OnnxGraph, source: str, name: str, bounds: Bounds) -> None:
    """Relu where it is one; otherwise Clip, whose missing bounds are empty names."""
    if bounds == Bounds(0.0):
        made.node("Relu", [source], name)
        return
    limits = ["" if limit is None else made.scalar(limit) for limit in (bounds.minimum, bounds.maximum)]
    made.node("Clip", [source, *limits], name)


def float_constant(made: OnnxGraph, name: str, values: Tensor) -> str:
    """A float32 initializer."""
    return made.constant(name, values.detach().cpu().to(torch.float32).contiguous().numpy())
