# SPDX-License-Identifier: MIT
"""A float network against its integers, tensor by tensor: where does the signal go?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bitwright.data.given import each_images
from bitwright.errors import DataError
from bitwright.graph import Graph
from bitwright.graph.execute import execute
from bitwright.graph.images import float_images
from bitwright.graph.nodes import Node
from bitwright.integer import IntegerModel, run
from bitwright.progress import Progress, silent

if TYPE_CHECKING:
    from rich.table import Table

BINS = 32
FALLEN_DB = 20.0
"""Below it more than a hundredth of a tensor's power is noise."""


@dataclass(frozen=True)
class LayerComparison:
    """One tensor of the integer model beside that of the float network, over all images.

    Attributes:
        layer: The operation that makes it.
        operation: Its kind, for instance `IntegerConv2d`.
        bits: Of the integers; None where sums leave the network as they are.
        snr_db: Power of the float tensor over that of the difference, in decibels; infinite where they are equal.
        clamped: Share of the float values that lie more than half a step beyond the window of the integers.
        fall_db: How much lower `snr_db` is than the lowest of the tensors that it reads; None where it reads none.
        low: Left end of both histograms, in real units.
        high: Right end.
        float_counts: Of the float values, in `BINS` equal parts from `low` to `high`.
        integer_counts: Of what the integers stand for, likewise.
    """

    layer: str
    operation: str
    bits: int | None
    snr_db: float
    clamped: float
    fall_db: float | None
    low: float
    high: float
    float_counts: tuple[int, ...] = field(repr=False)
    integer_counts: tuple[int, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; decibels of equal tensors, which are infinite, are null."""
        return {
            "layer": self.layer,
            "operation": self.operation,
            "bits": self.bits,
            "snr_db": self.snr_db if math.isfinite(self.snr_db) else None,
            "clamped": self.clamped,
            "fall_db": self.fall_db,
            "low": self.low,
            "high": self.high,
            "float_counts": list(self.float_counts),
            "integer_counts": list(self.integer_counts),
        }


@torch.no_grad()
def compare_layers(
    graph: Graph, model: IntegerModel, images: Tensor | Iterable[Any], *, progress: Progress = silent
) -> tuple[LayerComparison, ...]:
    """Run a float network and its integers on the same images, and compare every tensor that both have.

    Args:
        graph: The network in float, with the weights that it is to be judged by.
        model: Its integers.
        images: float32 [count, channels, height, width], normalised as in training; or batches of them. Some dozens do.
        progress: Called after each batch.

    Returns:
        The tensors that both have, in the order in which they are made.

    Raises:
        DataError: If there are no images, they do not fit, or the two are different networks.
    """
    batches = [images] if isinstance(images, Tensor) else list(each_images(images))
    if not batches or not len(batches[0]):
        raise DataError("expected at least one image to compare layers on, got none.")
    sums: dict[str, _Sums] = {}
    for done, batch in enumerate(batches, 1):
        given = float_images(batch, graph.input_shape, graph.model)
        floats: dict[str, Tensor] = {}

        def keep(node: Node, value: Tensor, into: dict[str, Tensor] = floats) -> None:
            into[node.name] = value

        def add(name: str, value: Tensor, of: dict[str, Tensor] = floats) -> None:
            _add(sums, model, name, of, value)

        execute(graph, graph.parameters, given, observe=keep)
        run(model, given, observe=add)
        progress(done, len(batches))
    if not sums.keys() >= model.layers().keys():
        missing = next(iter(model.layers().keys() - sums.keys()))
        raise DataError(f"expected {model.model} in float, got {graph.model}, which has no tensor like '{missing}'.")
    found: list[LayerComparison] = []
    # Of tensors that the float network has not, a narrower copy for one reader say, that of what they were made from.
    reached: dict[str, float] = {}
    for op in model:
        before = min((reached[name] for name in op.inputs if name in reached), default=None)
        if op.name in sums:
            found.append(sums[op.name].compared(op.name, type(op).__name__, before))
            before = found[-1].snr_db
        if before is not None:
            reached[op.name] = before
    return tuple(found)


def first_fallen(found: Sequence[LayerComparison], below_db: float = FALLEN_DB) -> LayerComparison | None:
    """The first tensor whose signal-to-noise ratio is below so many decibels, if there is one."""
    return next((entry for entry in found if entry.snr_db < below_db), None)


def largest_fall(found: Sequence[LayerComparison]) -> LayerComparison | None:
    """The tensor that adds most noise, as a share of its power, to that of what it reads, if any adds some."""

    def added(entry: LayerComparison) -> float:
        # Decibels alone would name the first layer, which falls from the images' many to the many of 8 bits.
        share = 10 ** (-entry.snr_db / 10)
        return share - 10 ** (-(entry.snr_db + (entry.fall_db or 0.0)) / 10)

    worst = max(found, key=added, default=None)
    return worst if worst is not None and added(worst) > 0 else None


class _Sums:
    """What is known of one tensor after some batches."""

    def __init__(self, bits: int | None, low: float, high: float) -> None:
        self.bits, self.low, self.high = bits, low, high
        self.values = self.outside = 0
        self.signal = self.noise = 0.0
        self.float_counts = self.integer_counts = torch.zeros(BINS, dtype=torch.int64)

    def add(self, real: Tensor, integers: Tensor, ends: tuple[float, float]) -> None:
        """A batch: float values, what the integers stand for, and between which values nothing is clamped."""
        self.values += real.numel()
        self.outside += int(((real < ends[0]) | (real > ends[1])).sum())
        self.signal += float(real.square().sum())
        self.noise += float((real - integers).square().sum())
        self.float_counts = self.float_counts + self._counts(real)
        self.integer_counts = self.integer_counts + self._counts(integers)

    def _counts(self, values: Tensor) -> Tensor:
        # On the processor: some histograms exist nowhere else.
        return torch.histc(values.clamp(self.low, self.high).cpu(), BINS, self.low, self.high).to(torch.int64)

    def compared(self, layer: str, operation: str, before: float | None) -> LayerComparison:
        snr = 10 * math.log10(self.signal / self.noise) if self.noise and self.signal else math.inf
        if self.noise and not self.signal:
            snr = -math.inf
        finite = before is not None and math.isfinite(before) and math.isfinite(snr)
        return LayerComparison(
            layer, operation, self.bits, snr, self.outside / self.values, before - snr if finite else None,  # type: ignore[operator]
            self.low, self.high, tuple(self.float_counts.tolist()), tuple(self.integer_counts.tolist()),
        )  # fmt: skip


def _add(sums: dict[str, _Sums], model: IntegerModel, name: str, floats: Mapping[str, Tensor], value: Tensor) -> None:
    """A tensor of a batch, if the float network has it, in the same shape."""
    real = floats.get(name)
    if real is None or real.shape != value.shape:
        return
    real = real.double()
    params = model.formats.get(name)
    if params is not None:
        integers = value.double() * params.scale
        half = params.scale / 2
        ends = params.quant_min * params.scale - half, params.quant_max * params.scale + half
    else:
        output = next((output for output in model.outputs.values() if output.tensor == name), None)
        if output is None:  # moved behind, in units of its own
            return
        integers = value.double() * torch.from_numpy(output.across(value.dim() - 1)).to(value.device)
        ends = -math.inf, math.inf
    if name not in sums:
        low, high = (min(float(real.min()), float(integers.min())), max(float(real.max()), float(integers.max())))
        sums[name] = _Sums(None if params is None else params.bit_width, low, high if high > low else low + 1.0)
    sums[name].add(real, integers, ends)


def layers_table(found: Sequence[LayerComparison]) -> Table:
    """For the terminal: one line for each tensor."""
    from rich.table import Table

    worst = largest_fall(found)
    table = Table()
    table.add_column("tensor", overflow="fold")
    for name in ("bits", "SNR (dB)", "fall (dB)", "clamped (%)"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in found:
        fall = "" if entry.fall_db is None else f"{entry.fall_db:+.1f}"
        table.add_row(
            entry.layer, "" if entry.bits is None else str(entry.bits), f"{entry.snr_db:.1f}", fall,
            f"{100 * entry.clamped:.2f}", style="bold" if entry is worst else None,
        )  # fmt: skip
    return table


def where_it_falls(found: Sequence[LayerComparison]) -> str:
    """In a sentence."""
    first, worst = first_fallen(found), largest_fall(found)
    where = f"no tensor is below {FALLEN_DB:g} dB" if first is None else (
        f"the first tensor below {FALLEN_DB:g} dB is '{first.layer}' ({first.snr_db:.1f} dB)"
    )  # fmt: skip
    if worst is None:
        return where
    return f"{where}; most noise is added by '{worst.layer}' ({worst.fall_db:.1f} dB below what it reads)"
