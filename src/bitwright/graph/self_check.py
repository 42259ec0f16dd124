# SPDX-License-Identifier: MIT
"""Whether a captured graph computes what its model computes, and whether that can be computed at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bitwright.errors import CaptureError
from bitwright.graph.float_model import FloatModel
from bitwright.graph.graph import Graph
from bitwright.graph.intake import as_type
from bitwright.graph.nodes import BatchNorm
from bitwright.returned import by_name

_FLOAT32, _FLOAT64 = 1e-3, 1e-6
"""Relative differences of a reordered computation that pass; those in float64 are of whatever the model does in float32."""


def check_norms(graph: Graph) -> None:
    """Refuse batch norm that divides by zero.

    Raises:
        CaptureError: If variance and eps of a channel do not make a positive number.
    """
    for node in graph:
        if isinstance(node, BatchNorm):
            variance = graph.parameters[node.norm.variance]
            bad = (variance + node.norm.eps <= 0).nonzero().flatten().tolist()
            if bad:
                raise CaptureError(
                    f"{graph.model}: batch norm '{node.name}' divides by zero: channel {bad[0]} has variance "
                    f"{float(variance[bad[0]]):g} and eps {node.norm.eps:g} ({len(bad)} of {len(variance)} channels do). "
                    "Give it an eps such as 1e-5."
                )


@torch.no_grad()
def check_equal(model: nn.Module, graph: Graph, images: Tensor, expected: Mapping[str, Tensor]) -> None:
    """Compare graph and model, in float32 and, where rounding may be what differs, in float64.

    Args:
        model: In evaluation mode and float32; it returns its tensors by name.
        graph: What was captured of it.
        images: Tensor of shape (batch, channels, height, width).
        expected: What the model returns for them, by name.

    Raises:
        CaptureError: If they differ beyond rounding, or nothing finite can be compared.
    """
    got = by_name(FloatModel(graph).to(images.device).eval()(images))
    for output, values in expected.items():
        name = graph.model if len(expected) == 1 else f"{graph.model}, output '{output}'"
        if values.shape != got[output].shape:
            raise CaptureError(
                f"{name}: the captured graph returns shape {tuple(got[output].shape)}, the model {tuple(values.shape)}."
            )
        if not bool(values.isfinite().all()):
            raise CaptureError(
                f"{name} returns NaN or infinity for images of normal noise, although its weights are finite: some layer "
                "overflows, or divides by zero."
            )
        difference, span = _difference(values, got[output])
        if difference > _FLOAT32 * span and not _equal_in_double(model, graph, images, output):
            raise CaptureError(
                f"{name}: the captured graph differs from the model by {difference:.3g} on logits of size {span:.3g}. "
                "The model computes something that capture misread; please report it with its code."
            )


def _equal_in_double(model: nn.Module, graph: Graph, images: Tensor, output: str) -> bool:
    """Whether the difference is rounding, which float64 takes away: an ill-conditioned network magnifies it."""
    try:
        with as_type(model, torch.float64):
            expected = model(images.double())[output]
    except Exception:  # a model may well insist on float32: then nothing speaks for it
        return False
    got = by_name(FloatModel(graph).to(images.device).double().eval()(images.double()))[output]
    difference, span = _difference(expected, got)
    return difference <= _FLOAT64 * span


def _difference(expected: Tensor, got: Tensor) -> tuple[float, float]:
    span = float(expected.abs().max()) if expected.numel() else 0.0
    return (float((expected - got).abs().max()) if expected.numel() else 0.0), max(span, 1e-30)
