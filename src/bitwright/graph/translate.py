# SPDX-License-Identifier: MIT
"""From an exported program to a Graph: one node for each ATen operation, nothing fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from bitwright.errors import CaptureError
from bitwright.graph.aten import HANDLERS, IGNORED, why_refused
from bitwright.graph.builder import Builder, Parameter
from bitwright.graph.constants import depends_on_parameters_alone, evaluated
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Input, Node
from bitwright.graph.shapes import parameter_names


def translate(program: ExportedProgram, name: str, outputs: Sequence[str]) -> Graph:
    """The graph of a program that takes one batch of images.

    Args:
        program: What was exported.
        name: What messages call it.
        outputs: The names of the tensors that it returns, in their order.

    Raises:
        CaptureError: If an operation has no handler, or not in this form, or what the program returns does not
            depend on the images.
    """
    signature = program.graph_signature
    owned = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    owned |= signature.inputs_to_lifted_tensor_constants
    constants = {key: value for key, value in program.constants.items() if isinstance(value, Tensor)}
    builder = Builder(program, name, tensors={**program.state_dict, **constants})
    for fx_node in program.graph.nodes:
        if fx_node.op == "placeholder":
            if fx_node.name in owned:
                builder.values[fx_node] = Parameter(owned[fx_node.name])
            else:
                if len(builder.shape(fx_node)) != 3:
                    raise _no_images(name, builder.shape(fx_node))
                made = Input(name=builder.unique("input"), inputs=(), shape=builder.shape(fx_node), place="the input")
                builder.values[fx_node] = builder.add(made)
    returned = _walk(builder, program.graph_module)
    tensors = {key: _output(builder, key, value) for key, value in zip(outputs, returned, strict=True)}
    used = _reachable(builder.nodes, set(tensors.values()))
    named = {tensor for node in used for tensor in parameter_names(node)}
    kept = {key: value for key, value in builder.tensors.items() if key in named or key not in builder.spent}
    return Graph(name, used, tensors, {key: value.detach().clone() for key, value in kept.items()})


def _no_images(name: str, shape: tuple[int, ...]) -> CaptureError:
    """The network reads vectors, sequences or volumes."""
    axes = ", ".join(map(str, ("batch", *shape)))
    advice = "wrap it in a module that reshapes images to that."
    if len(shape) == 2:
        advice = (
            f"capture a module that calls it on images.squeeze(2), with images of shape ({shape[0]}, 1, {shape[1]})."
        )
    return CaptureError(
        f"{name} reads inputs of shape ({axes}), expected images (batch, channels, height, width): {advice}"
    )


def _walk(builder: Builder, module: fx.GraphModule) -> Any:
    """Enter the values of all operations of a graph, whose placeholders have theirs, and give what it returns."""
    returned: Any = None
    for fx_node in module.graph.nodes:
        if fx_node.op == "call_function":
            builder.values[fx_node] = _call(builder, fx_node, module)
        elif fx_node.op == "output":
            (returned,) = fx_node.args
    return returned


def _call(builder: Builder, fx_node: fx.Node, module: fx.GraphModule) -> Any:
    """What an operation becomes: nothing for bookkeeping of shapes, a constant, or what its handler makes."""
    target = getattr(fx_node.target, "__name__", str(fx_node.target)).split(".")[0]
    made = fx_node.meta.get("val")
    if (target in IGNORED and not isinstance(made, Tensor)) or isinstance(
        made, torch.SymInt | torch.SymBool | torch.SymFloat
    ):
        return None
    if target == "wrap_with_set_grad_enabled":
        return _call_without_gradients(builder, fx_node, module)
    if depends_on_parameters_alone(builder, fx_node):
        return evaluated(builder, fx_node)
    handler = HANDLERS.get(target.rstrip("_"))
    if handler is None:
        raise builder.refuse(fx_node, why_refused(target.rstrip("_")))
    _refuse_written_view(builder, fx_node, target)
    return handler(builder, fx_node)


def _call_without_gradients(builder: Builder, fx_node: fx.Node, module: fx.GraphModule) -> Any:
    """The results of what forward() does under `torch.no_grad()`: a graph within the graph."""
    _, inner, *operands = fx_node.args
    body = module.get_submodule(str(inner.target))  # type: ignore[union-attr]
    assert isinstance(body, fx.GraphModule)
    places = (item for item in body.graph.nodes if item.op == "placeholder")
    for place, operand in zip(places, operands, strict=True):
        builder.values[place] = builder.values.get(operand)  # type: ignore[arg-type]
    return [builder.values[item] for item in _walk(builder, body)]


def _refuse_written_view(builder: Builder, fx_node: fx.Node, target: str) -> None:
    """An in-place operation on a slice changes the tensor that was sliced, which the graph cannot say."""
    source = fx_node.args[0] if fx_node.args else None
    views = ("getitem", "slice", "select", "view", "transpose", "chunk", "split")
    if target.endswith("_") and isinstance(source, fx.Node) and source.op == "call_function":
        origin = getattr(source.target, "__name__", "").split(".")[0]
        viewed = source.args[0]
        if origin in views and isinstance(viewed, fx.Node) and len(viewed.users) > 1:
            raise builder.refuse(fx_node, "it writes into a view of another tensor; use the form that is not in-place.")


def _output(builder: Builder, name: str, returned: Any) -> str:
    """The tensor that a program returns as `name`."""
    value = builder.values.get(returned) if isinstance(returned, fx.Node) else None
    if not isinstance(value, str):
        raise CaptureError(f"{builder.model} returns a constant: its output '{name}' does not depend on the images.")
    return value


def _reachable(nodes: list[Node], outputs: set[str]) -> tuple[Node, ...]:
    """Only what the outputs need, in order; the input stays."""
    needed = set(outputs)
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.name in needed or isinstance(node, Input):
            needed.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))
