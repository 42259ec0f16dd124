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
from bitwright.export.onnx.graph import BATCH, OnnxGraph, move_in_onnx, window
from bitwright.files import write_bytes
from bitwright.graph.evaluate import Tensors, folded_weight
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import (
    Add,
    AvgPool2d,
    Bounds,
    Clamp,
    Concat,
    Conv2d,
    Dropout,
    Input,
    Linear,
    Node,
    Requantize,
    Selection,
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
        {},
    )


@singledispatch
def add_float(node: Node, made: OnnxGraph, parameters: Tensors) -> None:
    """Add the ONNX form of one node."""
    raise ExportError(f"no ONNX form of {type(node).__name__} ('{node.name}').")


@add_float.register
def _(node: Selection | Concat, made: OnnxGraph, parameters: Tensors) -> None:
    move_in_onnx(node, made)


@add_float.register
def _(node: Input, made: OnnxGraph, parameters: Tensors) -> None:
    made.node("Identity", ["images"], node.name)


@add_float.register(Dropout)
@add_float.register(Requantize)
def _(node: Node, made: OnnxGraph, parameters: Tensors) -> None:
    made.node("Identity", [node.inputs[0]], node.name)


@add_float.register
def _(node: Conv2d, made: OnnxGraph, parameters: Tensors) -> None:
    operands = _operands(node, made, parameters)
    kernel = tuple(parameters[node.weight].shape[2:])
    attributes = {**window(kernel, node.stride, node.padding, node.dilation), "group": node.groups}
    clamped(made, node.name, node.bounds, lambda name: made.node("Conv", operands, name, **attributes))


@add_float.register
def _(node: Linear, made: OnnxGraph, parameters: Tensors) -> None:
    if len(node.shape) != 1:
        raise ExportError(f"expected a linear layer on vectors, got one on {node.shape} at '{node.name}'.")
    operands = _operands(node, made, parameters)
    clamped(made, node.name, node.bounds, lambda name: made.node("Gemm", operands, name, transB=1))


def _operands(node: Conv2d | Linear, made: OnnxGraph, parameters: Tensors) -> list[str]:
    """What the layer reads, its folded weight, and its bias if it has one."""
    weight, bias = folded_weight(node, parameters)
    operands = [node.inputs[0], _constant(made, f"{node.name}.weight", weight)]
    return operands if bias is None else [*operands, _constant(made, f"{node.name}.bias", bias)]


@add_float.register
def _(node: Clamp, made: OnnxGraph, parameters: Tensors) -> None:
    _clamp(made, node.inputs[0], node.name, node.bounds)


@add_float.register
def _(node: Add, made: OnnxGraph, parameters: Tensors) -> None:
    clamped(made, node.name, node.bounds, lambda name: made.node("Add", list(node.inputs), name))


@add_float.register
def _(node: AvgPool2d, made: OnnxGraph, parameters: Tensors) -> None:
    attributes = window(node.kernel, node.stride, node.padding)
    made.node("AveragePool", [node.inputs[0]], node.name, **attributes, count_include_pad=1)


def _constant(made: OnnxGraph, name: str, values: Tensor) -> str:
    return made.constant(name, values.detach().cpu().to(torch.float32).contiguous().numpy())


def clamped(made: OnnxGraph, name: str, bounds: Bounds | None, make: Callable[[str], object]) -> None:
    """Call `make` with the name of a result, which is clamped where there are bounds."""
    if bounds is None:
        make(name)
    else:
        make(f"{name}.unclamped")
        _clamp(made, f"{name}.unclamped", name, bounds)


def _clamp(made: OnnxGraph, source: str, name: str, bounds: Bounds) -> None:
    """Relu where it is one; otherwise Clip, whose missing bounds are empty names."""
    if bounds == Bounds(0.0):
        made.node("Relu", [source], name)
        return
    limits = ["" if limit is None else made.scalar(limit) for limit in (bounds.minimum, bounds.maximum)]
    made.node("Clip", [source, *limits], name)
