# SPDX-License-Identifier: MIT
"""From an `nn.Module` to a Graph, through `torch.export`."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves

from bitwright.errors import CaptureError
from bitwright.graph.aten import HANDLERS, IGNORED, supported
from bitwright.graph.autocast import full_precision
from bitwright.graph.builder import Builder, Parameter
from bitwright.graph.diagnosis import check_returned, explain_export, explain_run
from bitwright.graph.graph import Graph, operations
from bitwright.graph.intake import as_type, evaluating, network_of, warn_of_cast
from bitwright.graph.nodes import BatchNorm, Input, Node, Reshape, Transpose
from bitwright.graph.passes import simplify
from bitwright.graph.self_check import check_equal, check_norms


@full_precision()
def capture(model: nn.Module | ExportedProgram, input_shape: tuple[int, ...], *, name: str = "model") -> Graph:
    """Capture `model` in evaluation mode as a Graph with batch norm and clamps fused.

    The captured graph is executed once beside the model, on noise: a difference beyond float rounding is an error, so
    that no mistake in the translation can pass for a quantization loss later.

    Args:
        model: Any module that takes one batch of images and returns one tensor of logits; it may be wrapped by `torch.compile`
            or DataParallel, or exported for any batch size. It stays as it is.
        input_shape: (channels, height, width) of an image.
        name: What messages and files call the model.

    Returns:
        The graph, in float32; a `BitwrightWarning` says so where the weights are of another type.

    Raises:
        CaptureError: If it is no such module, fails on such images, cannot be exported, or has an operation that is not
            supported: names it, its place, and the supported ones.
    """
    sizes = input_shape if isinstance(input_shape, Sequence) else ()
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise CaptureError(f"expected the shape of an image, (channels, height, width), got {input_shape}.")
    network = network_of(model, name)
    warn_of_cast(network, name)
    with evaluating(network), as_type(network, torch.float32), torch.random.fork_rng(devices=[]):
        device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
        example = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
        expected = _run(network, example, name)
        translated = _translate(_export(network, example, name), name)
        check_norms(translated)
        graph = simplify(translated)
        _refuse_leftovers(graph)
        check_equal(network, graph, example, expected)
    return graph


def _run(network: nn.Module, example: Tensor, name: str) -> Tensor:
    """What the network itself returns."""
    try:
        with torch.no_grad(), _quiet():
            returned = network(example.clone())
    except Exception as error:  # whatever a forward() may raise
        raise explain_run(error, network, tuple(example.shape[1:]), name) from error
    check_returned(returned, name)
    return next(leaf for leaf in [*tree_leaves(returned), example.new_empty(0)] if isinstance(leaf, Tensor))


def _export(network: nn.Module, example: Tensor, name: str) -> ExportedProgram:
    batch = {0: Dim.DYNAMIC}
    first = next(iter(inspect.signature(network.forward).parameters.values()))
    shapes = ((batch,),) if first.kind is inspect.Parameter.VAR_POSITIONAL else (batch,)
    try:
        with _quiet(), redirect_stderr(StringIO()):  # where it prints the program so far
            return torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export raises many unrelated types, all of which mean the same here
        raise explain_export(error, network, tuple(example.shape[1:]), name) from error


_TALKATIVE = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")
"""The exporter's loggers of errors that it then raises."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the exporter, and what it logs before it raises the same error."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    disabled = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in zip(loggers, disabled, strict=True):
            logger.disabled = before


def _translate(program: ExportedProgram, name: str) -> Graph:
    """One node for each ATen operation, nothing fused."""
    signature = program.graph_signature
    owned = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = dict(signature.inputs_to_lifted_tensor_constants)
    builder = Builder(program, name, supported())
    output: str | None = None
    for fx_node in program.graph.nodes:
        if fx_node.op == "placeholder":
            if fx_node.name in owned:
                builder.values[fx_node] = Parameter(owned[fx_node.name])
            elif fx_node.name in constants:
                builder.values[fx_node] = Parameter(constants[fx_node.name])
            else:
                made = Input(name=builder.unique("input"), inputs=(), shape=builder.shape(fx_node), place="the input")
                builder.values[fx_node] = builder.add(made)
        elif fx_node.op == "output":
            output = _single_output(builder, fx_node)
        elif fx_node.op == "call_function":
            target = getattr(fx_node.target, "__name__", str(fx_node.target)).split(".")[0]
            if target in IGNORED:
                continue
            handler = HANDLERS.get(target.rstrip("_"))
            if handler is None:
                raise builder.refuse(fx_node, "it has no integer form here.")
            _refuse_written_view(builder, fx_node, target)
            builder.values[fx_node] = handler(builder, fx_node)
    if output is None:
        raise CaptureError(f"{name}: the exported program returns nothing.")
    used = _reachable(builder.nodes, output)
    tensors = {
        **program.state_dict,
        **{key: value for key, value in program.constants.items() if isinstance(value, Tensor)},
    }
    return Graph(name, used, output, {key: value.detach().clone() for key, value in tensors.items()})


def _refuse_written_view(builder: Builder, fx_node: fx.Node, target: str) -> None:
    """An in-place operation on a slice changes the tensor that was sliced, which the graph cannot say."""
    source = fx_node.args[0] if fx_node.args else None
    views = ("getitem", "slice", "select", "view", "transpose", "chunk", "split")
    if target.endswith("_") and isinstance(source, fx.Node) and source.op == "call_function":
        origin = getattr(source.target, "__name__", "").split(".")[0]
        viewed = source.args[0]
        if origin in views and isinstance(viewed, fx.Node) and len(viewed.users) > 1:
            raise builder.refuse(fx_node, "it writes into a view of another tensor; use the form that is not in-place.")


def _single_output(builder: Builder, fx_node: fx.Node) -> str:
    (returned,) = fx_node.args
    results = [item for item in returned if item is not None] if isinstance(returned, list | tuple) else [returned]
    if len(results) != 1:
        raise CaptureError(
            f"{builder.model} returns {len(results)} tensors in evaluation mode, but one tensor of logits is needed: "
            "wrap it in a module that returns the one to keep."
        )
    value = builder.values.get(results[0]) if isinstance(results[0], fx.Node) else None
    if not isinstance(value, str):
        raise CaptureError(f"{builder.model} returns a constant: its output does not depend on the images.")
    return value


def _reachable(nodes: list[Node], output: str) -> tuple[Node, ...]:
    """Only what the output needs, in order; the input stays."""
    needed = {output}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.name in needed or isinstance(node, Input):
            needed.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


def _refuse_leftovers(graph: Graph) -> None:
    for node in graph:
        if isinstance(node, Reshape | Transpose | BatchNorm):
            raise CaptureError(
                f"{graph.model}: unsupported {type(node).__name__.lower()} to {node.shape} at {node.place}: "
                f"only flattening and channel shuffling are known. Supported: {', '.join(operations())}."
            )
