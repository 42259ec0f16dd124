# SPDX-License-Identifier: MIT
"""Scales of activations from a few batches of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from math import isfinite
from typing import Any, NoReturn

import torch
from torch import Tensor

from bitwright.data.given import each_images
from bitwright.errors import DataError, unknown_name
from bitwright.graph.autocast import full_precision
from bitwright.graph.execute import execute
from bitwright.graph.images import float_images
from bitwright.graph.nodes import Concat, Node, Selection
from bitwright.quantizer.activations import drawn, full_scale, least_squares_scale
from bitwright.quantizer.formats import TensorFormat
from bitwright.quantizer.windows import least_squares_format, smallest_format
from bitwright.training.model import QuantizedModel
from bitwright.training.ranges import percentiles

SAMPLES_PER_BATCH = 2**15
PERCENTILE = 99.99


class Calibration(StrEnum):
    """How a range becomes a scale and a window: its extremes, a percentile of it, or the least squared error."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise unknown_name("calibration", str(value), cls)


class RangeObserver:
    """Collects the extremes and a seeded sample of a tensor's real values."""

    def __init__(self, seed: int = 0) -> None:
        self.low = 0.0
        self.high = 0.0
        self.samples: list[Tensor] = []
        self._generator = torch.Generator().manual_seed(seed)

    def update(self, values: Tensor) -> None:
        flat = values.detach().reshape(-1)
        low, high = flat.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        if len(flat) > SAMPLES_PER_BATCH:
            chosen = torch.randint(len(flat), (SAMPLES_PER_BATCH,), generator=self._generator)
            flat = flat[chosen.to(flat.device)]
        self.samples.append(flat.float().cpu())

    def scale(self, window: TensorFormat, method: Calibration, percentile: float = PERCENTILE) -> float:
        """The scale for a format; 1 where only zeros were seen."""
        full = full_scale(self.low, self.high, window)
        if full <= 0:
            return 1.0
        if method is Calibration.MSE:
            return least_squares_scale(self._sample(), window, full)
        limit = full_scale(*self._range(method, percentile), window)
        return limit if limit > 0 else full

    def format(self, bit_width: int, method: Calibration, percentile: float = PERCENTILE) -> tuple[TensorFormat, float]:
        """The format of a tensor that may be negative, and its scale; symmetric at 1 where only zeros were seen."""
        symmetric = TensorFormat.symmetric(bit_width)
        full = full_scale(self.low, self.high, symmetric)
        if full <= 0:
            return symmetric, 1.0
        if method is Calibration.MSE:
            return least_squares_format(self._sample(), bit_width, full)
        window, scale = smallest_format(*self._range(method, percentile), bit_width)
        return (window, scale) if scale > 0 else smallest_format(self.low, self.high, bit_width)

    def _range(self, method: Calibration, percentile: float) -> tuple[float, float]:
        """The least and the greatest value to hold: of all, or of the part that a percentile keeps."""
        if method is Calibration.MINMAX:
            return self.low, self.high
        low, high = map(float, percentiles(torch.cat(self.samples), torch.ones(()), percentile))
        return min(low, 0.0), max(high, 0.0)

    def _sample(self) -> Tensor:
        return drawn(torch.cat(self.samples), 2 * SAMPLES_PER_BATCH)


@torch.no_grad()
@full_precision()
def calibrate(
    model: QuantizedModel,
    batches: Iterable[Any],
    method: Calibration | str = Calibration.MSE,
    percentile: float = PERCENTILE,
) -> QuantizedModel:
    """Set the activation scales of `model`, and place its windows, from float executions of its network.

    Args:
        model: Its weight scales are set too.
        batches: Images, each of shape (batch, channels, height, width); or a DataLoader, whose labels are left aside.
        method: How a range becomes a scale and a window.
        percentile: The percentile of the values that `percentile` keeps unclipped, from 0 to 100.

    Returns:
        `model`, in evaluation mode.

    Raises:
        DataError: If there is no batch, its images do not fit the network, or a tensor is not finite on them; names the tensor.
    """
    chosen = Calibration(method)
    model.certify({})
    model.calibrate_weights()
    quantizer_of, graph = model.plan.quantizer_of, model.plan.graph
    observers = {key: RangeObserver() for key in model.plan.formats}

    def observe(node: Node, values: Tensor) -> None:
        # Movers and concatenations only repeat values that their producers showed already.
        if not isinstance(node, Selection | Concat):
            observer = observers[quantizer_of[node.name]]
            observer.update(values)
            if not (isfinite(observer.low) and isfinite(observer.high)):
                raise DataError(
                    f"calibration of {graph.model}: expected finite values of '{node.name}' ({node.place}), got NaN or infinity: "
                    "it overflows, or is not defined, on these images. Clamp what it reads, use a form that does not overflow "
                    "(F.softplus for log(1 + exp(x))), or look at the images."
                )

    seen = 0
    parameters = model.parameters_by_name()
    for images in each_images(batches):
        execute(graph, parameters, float_images(images, graph.input_shape, graph.model), observe=observe)
        seen += 1
    if not seen:
        raise DataError("calibration needs at least one batch of images, got none.")
    for key, observer in observers.items():
        if key not in model.plan.accumulators:
            quantizer = model.activation_quantizer(key)
            window = quantizer.format
            if quantizer.asymmetric:
                quantizer.place(*observer.format(window.bit_width, chosen, percentile))
            else:
                quantizer.place(window, observer.scale(window, chosen, percentile))
    model.calibrated.fill_(True)
    return model.eval()


@torch.no_grad()
def set_ranges(model: QuantizedModel, ranges: Mapping[str, tuple[float, float]]) -> int:
    """Give quantizers of activations scales and windows for known ranges, as those of another scheme; others stay.

    Args:
        model: Calibrated, where `ranges` does not name all.
        ranges: The least and the greatest real value of each quantizer, by its name in the plan; before a clamp or after it.

    Returns:
        How many quantizers were set.
    """
    bounds = {node.name: getattr(node, "bounds", None) for node in model.plan.graph}
    known = [key for key in ranges if key in model.plan.formats and key not in model.plan.accumulators]
    for key in known:
        low, high = ranges[key]
        found = bounds[key]
        if found is not None:
            low, high = (float(torch.tensor(end).clamp(found.minimum, found.maximum)) for end in (low, high))
        quantizer = model.activation_quantizer(key)
        window = quantizer.format
        if quantizer.asymmetric:
            window, scale = smallest_format(low, high, window.bit_width)
        else:
            scale = full_scale(low, high, window)
        quantizer.place(window, scale if scale > 0 else 1.0)
    return len(known)


@torch.no_grad()
def transfer_scales(model: QuantizedModel, former: QuantizedModel) -> int:
    """Give `model` the scales and windows of the same network under another scheme; where widths differ, its ranges.

    Scales of weights of another width stay as they are.

    Returns:
        How many quantizers of activations were set.
    """
    transferred = set_ranges(model, former.ranges())
    for key, usual in former.plan.formats.items():
        if model.plan.formats.get(key) == usual and key not in model.plan.accumulators | former.plan.accumulators:
            quantizer, found = model.activation_quantizer(key), former.activation_quantizer(key)
            if quantizer.asymmetric or quantizer.format == found.format:
                quantizer.place(found.format, float(found.scale))
    for layer, precision in former.plan.scheme.layers.items():
        if model.plan.scheme.layers[layer].weight_bits == precision.weight_bits:
            model.weight_quantizer(layer).scale.copy_(former.weight_quantizer(layer).scale)
    return transferred
