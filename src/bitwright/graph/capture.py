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
import torch.fx.config as fx_config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from bitwright.errors import CaptureError
from bitwright.graph.autocast import autocast_ignored, full_precision
from bitwright.graph.diagnosis import explain_export, explain_run
from bitwright.graph.graph import Graph
from bitwright.graph.intake import as_type, evaluating, naming_outputs, network_of, warn_of_cast
from bitwright.graph.nodes import BatchNorm, Permute, Probabilities, Reshape
from bitwright.graph.outputs import fault_of_names
from bitwright.graph.passes import simplify
from bitwright.graph.probabilities import without_probabilities
from bitwright.graph.self_check import check_equal, check_norms
from bitwright.graph.translate import translate


@full_precision()
def capture(model: nn.Module | ExportedProgram, input_shape: tuple[int, ...], *, name: str = "model") -> Graph:
    """Capture `model` in evaluation mode as a Graph with batch norm and clamps fused.

    The captured graph is executed once beside the model, on noise: a difference beyond float rounding is an error, so
    that no mistake in the translation can pass for a quantization loss later.

    Args:
        model: Any module that takes one batch of images and returns tensors; it may be wrapped by `torch.compile`
            or DataParallel, or exported for any batch size. It stays as it is. Several tensors, in a dict, tuple, list or
            dataclass, make as many outputs, named after their places there; None is none.
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
    with (
        evaluating(network),
        as_type(network, torch.float32),
        autocast_ignored(),
        torch.random.fork_rng(devices=[]),
        naming_outputs(network, name),
    ):
        device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
        example = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
        expected = _run(network, example, name)
        translated = translate(_export(network, example, name), name, list(expected))
        check_norms(translated)
        graph = simplify(translated)
        _refuse_leftovers(graph)
        check_equal(network, graph, example, expected)
    return without_probabilities(graph)


def _run(network: nn.Module, example: Tensor, name: str) -> dict[str, Tensor]:
    """What the network itself returns, by name."""
    try:
        with torch.no_grad(), _quiet():
            found: dict[str, Tensor] = network(example.clone())
    except CaptureError:
        raise
    except Exception as error:  # whatever a forward() may raise
        raise explain_run(error, network, tuple(example.shape[1:]), name) from error
    fault = fault_of_names(found)
    if fault is not None:
        raise CaptureError(f"{name}: {fault}. Rename what the model returns.")
    return found


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
    """Without the warnings of the exporter, what it logs before it raises the same error, and stack traces that nobody reads."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    disabled = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with _without_traces(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in zip(loggers, disabled, strict=True):
            logger.disabled = before


@contextmanager
def _without_traces() -> Iterator[None]:
    """Stack traces are a fifth of the exporter's time; PyTorch 2.11 has no switch for them."""
    if not hasattr(fx_config, "do_not_emit_stack_traces"):
        yield
        return
    before = fx_config.do_not_emit_stack_traces
    try:
        fx_config.do_not_emit_stack_traces = True
        yield
    finally:
        fx_config.do_not_emit_stack_traces = before


def _refuse_leftovers(graph: Graph) -> None:
    readers = graph.consumers()
    for node in graph:
        if isinstance(node, Probabilities) and (node.name not in graph.returned or readers[node.name]):
            raise CaptureError(
                f"{graph.model}: unsupported softmax at {node.place}: its sum depends on the image: it has no integer form "
                "within a network, as in attention; only one that ends it is left out."
            )
        if isinstance(node, Reshape | Permute | BatchNorm):
            raise CaptureError(
                f"{graph.model}: unsupported {type(node).__name__.lower()} to {node.shape} at {node.place}: what computes must "
                "read images (channels, height, width), sequences, or vectors of features, or views of these."
            )
