# SPDX-License-Identifier: MIT
"""Quantizers of activations and weights in integer units, with straight-through gradients.

Values travel as integers in float tensors, their scale beside them: `real = scale * q`. A product of such integers is exact
in float32 while sums stay within 2**24, so the training forward is the integer model, up to the certification of multipliers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from math import isfinite, nan
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from bitwright.errors import TrainingError, unknown_name
from bitwright.graph.nodes import Bounds
from bitwright.quantizer.formats import TensorFormat
from bitwright.quantizer.weights import Method, percentile_scale, weight_format, weight_scale
from bitwright.quantizer.windows import smallest_window
from bitwright.training.folding import BIAS_MAX, MAX_BIAS_BITS
from bitwright.training.ranges import extremes, percentiles
from bitwright.training.straight_through import clamp_round, scale_gradient

_SMALLEST = torch.finfo(torch.float32).tiny


RUNNING_MAXIMUM = -1.0
"""The momentum that stands for no average: the widest range seen."""


class Ranges(StrEnum):
    """How scales follow the data during training.

    `learned`: by gradient (LSQ, Esser et al. 2020, arXiv:1902.08153). `ema`: activations by an exponential moving average of
    their range, weights by their present maximum (HAWQ-V3). `fixed`: as calibrated.
    """

    LEARNED = "learned"
    EMA = "ema"
    FIXED = "fixed"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise unknown_name("ranges", str(value), cls)


@dataclass(frozen=True, kw_only=True)
class QuantizerSettings:
    """How quantizers find their scales, besides the formats that a scheme gives them.

    Attributes:
        ranges: How scales follow the data in training.
        momentum: Weight of the old range in a moving average, for `ema`: from 0 to 1; -1 keeps the widest range seen.
        act_percentile: What moves the ranges of `ema`: a percentile of the values of each batch; None takes their extremes.
        weight_percentile: The percentile of each channel's weights in layers with batch norm, for `ema`; None takes the largest.
        per_channel: Whether each output channel has a scale of its own; otherwise a layer has one, that of its widest channel.
        bias_bits: Biases are clamped to signed integers of so many bits, in steps of the accumulator: from 2 to 32.
    """

    ranges: Ranges = Ranges.LEARNED
    momentum: float = 0.99
    act_percentile: float | None = None
    weight_percentile: float | None = None
    per_channel: bool = True
    bias_bits: int = MAX_BIAS_BITS

    def __post_init__(self) -> None:
        if not (0 <= self.momentum <= 1 or self.momentum == RUNNING_MAXIMUM):
            raise TrainingError(f"expected a momentum of ranges from 0 to 1, or -1, got {self.momentum}.")
        for name, value in (("activation", self.act_percentile), ("weight", self.weight_percentile)):
            if value is not None and not 0 < value <= 100:
                raise TrainingError(f"expected a percentile of {name} ranges above 0 and at most 100, got {value}.")
        if not 2 <= self.bias_bits <= MAX_BIAS_BITS:
            raise TrainingError(f"expected biases of 2 to {MAX_BIAS_BITS} bits, got {self.bias_bits}.")

    @property
    def bias_limit(self) -> int:
        """The largest integer that a bias may be."""
        return min(BIAS_MAX, (1 << (self.bias_bits - 1)) - 1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


class ActivationQuantizer(nn.Module):
    """The scale and the format of one tensor, or of several that share them.

    Args:
        window: The integers it may hold, before calibration.
        settings: How the scale follows the data.
        shared: Whether several tensors have this scale, one of which is computed after another. It then moves after each batch
            (`move`), towards the widest of them, and not between two: all of a batch are worth the same, in whatever order.
        asymmetric: Whether the window is placed by calibration, and moves with ranges that follow the data. A learned scale
            keeps the window that it was calibrated with.

    Attributes:
        scale: Shape ().
        quant_min: Shape (), the least integer of an asymmetric window.
        ends: Shape (2,), the range of real values that a moving average has reached, for an asymmetric window.
    """

    scale: Tensor
    quant_min: Tensor
    ends: Tensor

    def __init__(
        self,
        window: TensorFormat,
        settings: QuantizerSettings | None = None,
        *,
        shared: bool = False,
        asymmetric: bool = False,
    ) -> None:
        super().__init__()
        self.shared = shared
        self.asymmetric = asymmetric
        self._widest: tuple[Tensor, Tensor] | None = None
        self._read: tuple[float, int] | None = None
        settings = settings or QuantizerSettings()
        self._format = window
        self.ranges = ranges = settings.ranges
        self.momentum = settings.momentum
        self.percentile = settings.act_percentile
        if asymmetric:
            self.register_buffer("quant_min", torch.tensor(window.quant_min))
            if ranges is Ranges.EMA:
                self.register_buffer("ends", torch.tensor([window.quant_min, window.quant_max], dtype=torch.float32))
        if ranges is Ranges.LEARNED:
            self.scale = nn.Parameter(torch.ones(()))
        else:
            self.register_buffer("scale", torch.ones(()))

    @property
    def format(self) -> TensorFormat:
        """The integers it may hold."""
        if not self.asymmetric:
            return self._format
        least = int(self.quant_min) if self._read is None else self._read[1]
        return TensorFormat.starting(self._format.bit_width, least)

    @torch.no_grad()
    def place(self, window: TensorFormat, scale: float) -> None:
        """Set format and scale; the format must be the present one unless the window is asymmetric."""
        if self.asymmetric:
            self.quant_min.fill_(window.quant_min)
            if self.ranges is Ranges.EMA:
                self.ends.copy_(torch.tensor([scale * window.quant_min, scale * window.quant_max]))
        assert self.format == window
        self.scale.fill_(scale)

    def current_scale(self, elements_per_sample: int = 1) -> Tensor:
        """The scale, its gradient damped as LSQ does by the square root of elements times levels."""
        scale = self.scale.abs().clamp_min(_SMALLEST)
        if self.ranges is Ranges.LEARNED and self.training:
            window = self.format
            levels = max(window.quant_max, -window.quant_min - 1)  # of the longer side; as LSQ counts symmetric ones
            scale = scale_gradient(scale, (elements_per_sample * levels) ** -0.5)
        return scale

    def step(self) -> float:
        """The scale as a number."""
        return float(self.current_scale().detach()) if self._read is None else self._read[0]

    @property
    def follows_data(self) -> bool:
        """Whether the scale now moves with every batch: in training by `ema`."""
        return self.training and self.ranges is Ranges.EMA

    @torch.no_grad()
    def follow(self, values: Tensor, unit: Tensor, bounds: Bounds | None = None) -> None:
        """Move the range towards that of a batch: the moving average of `ema`.

        Args:
            values: Before the clamp, shape (batch, channels, ...).
            unit: What one of them is worth: shape (), or (channels,).
            bounds: The clamp fused into the tensor's producer.
        """
        found = extremes if self.percentile is None else partial(percentiles, percentile=self.percentile)
        self.observe(*found(values.detach(), unit.detach()), bounds)

    @torch.no_grad()
    def observe(self, low: Tensor, high: Tensor, bounds: Bounds | None = None) -> None:
        """Move the range towards another.

        Args:
            low: Shape (), the least real value before the clamp.
            high: Shape (), the greatest.
            bounds: The clamp fused into the tensor's producer.
        """
        if bounds is not None:
            low, high = (value.clamp(bounds.minimum, bounds.maximum) for value in (low, high))
        if not self.shared:
            self._move(low, high)
        elif self._widest is None:
            self._widest = low, high
        else:
            self._widest = torch.minimum(self._widest[0], low), torch.maximum(self._widest[1], high)

    @torch.no_grad()
    def move(self) -> None:
        """Move a shared scale towards the widest range that was observed since the last time."""
        if self._widest is not None:
            self._move(*self._widest)
            self._widest = None

    def _move(self, low: Tensor, high: Tensor) -> None:
        """Towards a range: both of its ends for an asymmetric window, else the scale that it needs."""
        if self.asymmetric:
            self._move_window(low, high)
            return
        limit = high / self._format.quant_max
        if self._format.negative:
            limit = torch.maximum(limit, low / self._format.quant_min)
        limit = limit.clamp_min(_SMALLEST)
        if self.momentum == RUNNING_MAXIMUM:
            self.scale.copy_(torch.maximum(self.scale, limit))
        else:
            self.scale.copy_(self.momentum * self.scale + (1 - self.momentum) * limit)

    def _move_window(self, low: Tensor, high: Tensor) -> None:
        if self.momentum == RUNNING_MAXIMUM:
            reached = torch.stack([torch.minimum(self.ends[0], low), torch.maximum(self.ends[1], high)])
        else:
            reached = self.momentum * self.ends + (1 - self.momentum) * torch.stack([low, high])
        self.ends.copy_(reached)
        lowest, highest = reached.tolist()
        if not (isfinite(lowest) and isfinite(highest)):
            self.scale.fill_(nan)  # the training diverged, as whoever rounds by this scale says
            return
        window, scale = smallest_window(lowest, highest, self._format.bit_width)
        self.quant_min.fill_(window.quant_min)
        self.scale.fill_(max(scale, _SMALLEST))


@contextmanager
def read_once(quantizers: Iterable[ActivationQuantizer]) -> Iterator[None]:
    """Numbers of these quantizers, which must not change meanwhile, are read from their device once, and all together.

    A pass needs the scale of each tensor as a number, and the first integer of its window: each reading waits for a GPU to have
    computed all it was given. Those that follow the data are left out.
    """
    still = [quantizer for quantizer in quantizers if not quantizer.follows_data]
    placed = [quantizer for quantizer in still if quantizer.asymmetric]
    with torch.no_grad():
        scales = torch.stack([quantizer.scale for quantizer in still]).tolist() if still else []
        starts = torch.stack([quantizer.quant_min for quantizer in placed]).tolist() if placed else []
    least = {id(quantizer): start for quantizer, start in zip(placed, starts, strict=True)}
    try:
        for quantizer, scale in zip(still, scales, strict=True):
            quantizer._read = max(abs(scale), _SMALLEST), least.get(id(quantizer), 0)
        yield
    finally:
        for quantizer in still:
            quantizer._read = None


class WeightQuantizer(nn.Module):
    """The per-channel scales of one layer's weights, and the rounding to them.

    Args:
        channels: Output channels.
        bit_width: 2 to 8.
        settings: How the scales follow the weights.

    Attributes:
        rounding: Learns, for a while, which weights to round up: it is given weights in steps of their scale. None rounds to
            the nearest.
    """

    scale: Tensor

    def __init__(self, channels: int, bit_width: int, settings: QuantizerSettings | None = None) -> None:
        super().__init__()
        settings = settings or QuantizerSettings()
        self.bit_width = bit_width
        self.ranges = ranges = settings.ranges
        self.percentile = settings.weight_percentile
        self.per_channel = settings.per_channel
        self.format = weight_format(bit_width)
        self.rounding: nn.Module | None = None
        if ranges is Ranges.LEARNED:
            self.scale = nn.Parameter(torch.ones(channels))
        else:
            self.register_buffer("scale", torch.ones(channels))

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        """Set the scales to those of `weight`, shaped (channels, ...): least squared error; for `ema`, maximum or percentile."""
        if self.ranges is Ranges.EMA and self.percentile is not None:
            found = percentile_scale(weight, self.bit_width, self.percentile)
        else:
            method: Method = "max" if self.ranges is Ranges.EMA else "mse"
            found = weight_scale(weight, self.bit_width, method=method)
        self.scale.copy_(found if self.per_channel else found.max())

    def current_scale(self, elements_per_channel: int = 1) -> Tensor:
        """The positive scales, their gradient damped so that they move no faster, relatively, than the weights.

        LSQ's factor balances the rounding errors of many weights. A single clipped weight pulls `levels` times as hard at its
        scale, which is `levels` times smaller: 1 / levels**2 balances that. Where channels have few weights and many levels
        (depthwise convolutions at 8 bits), LSQ's factor alone lets a scale grow a hundredfold in one step.
        """
        scale = self.scale.abs().clamp_min(_SMALLEST)
        if self.ranges is Ranges.LEARNED and self.training:
            levels = self.format.quant_max
            scale = scale_gradient(scale, min((elements_per_channel * levels) ** -0.5, levels**-2.0))
        return scale

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers shaped as `weight`, and their scales of shape (channels,)."""
        if self.ranges is Ranges.EMA and self.training:
            self.calibrate(weight)
        scale = self.current_scale(weight[0].numel())
        columns = scale.reshape(-1, *[1] * (weight.dim() - 1))
        if self.rounding is not None:
            return self.rounding(weight / columns), scale
        return clamp_round(weight / columns, self.format.quant_min, self.format.quant_max), scale
