# SPDX-License-Identifier: MIT
"""Networks of one layer on images that are integers already, and the images that drive its sums to their ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.graph.nodes import Flatten, Pair
from bitwright.integer import IntegerModel, QuantParams
from bitwright.integer.ops import IntegerConv2d, IntegerLinear, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.bounds import accumulator_bounds
from bitwright.integer.proof.certificate import certify
from bitwright.scheme import Precision, Scheme


def network(op: Any, source: QuantParams, result: QuantParams, shape: tuple[int, ...]) -> IntegerModel:
    """One operation, `layer`, on images that are integers already."""
    limits = {"low": source.quant_min, "high": source.quant_max}
    ops = [Quantize(name="input", inputs=(), shape=shape, place="", scale=1.0, **limits)]
    formats = {"input": source} if op.rescale is None else {"input": source, "layer": result}
    if op.inputs == ("flat",):
        ops.append(Flatten(name="flat", inputs=("input",), shape=(shape[0],), place=""))
        formats["flat"] = source
    scheme = Scheme.uniform(["layer"], Precision(8, 8))
    return IntegerModel("wide", scheme, (*ops, op), formats, single_output("layer"))


def rescaled(
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    source: QuantParams,
    result: QuantParams,
    largest: npt.ArrayLike,
) -> Rescale:
    """Certified multipliers with which accumulators of `largest` become the largest result: [channels] or a single number."""
    low, high = accumulator_bounds(weight, bias, source)
    ratio = np.broadcast_to(result.quant_max / np.asarray(largest, dtype=np.float64), len(weight))
    limits = result.quant_min, result.quant_max
    return Rescale(certify(ratio, low, high, *limits).multipliers, *limits)


def convolution(
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    source: QuantParams,
    image: Pair,
    *,
    result: QuantParams | None = None,
    largest: npt.ArrayLike = 1.0,
    padding: Pair = (0, 0),
    stride: Pair = (1, 1),
    groups: int = 1,
) -> IntegerModel:
    """A convolution of `image` pixels; its sums leave the network as they are, unless `result` says what becomes of them."""
    sides = zip(image, padding, weight.shape[2:], stride, strict=True)
    shape = (len(weight), *((side + 2 * pad - kernel) // step + 1 for side, pad, kernel, step in sides))
    rescale = None if result is None else rescaled(weight, bias, source, result, largest)
    op = IntegerConv2d(
        name="layer", inputs=("input",), shape=shape, place="", rescale=rescale, weight=weight,
        weight_bits=8, bias=bias, stride=stride, padding=padding, dilation=(1, 1), groups=groups,
    )  # fmt: skip
    return network(op, source, result or source, (weight.shape[1] * groups, *image))


def linear(
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    source: QuantParams,
    *,
    result: QuantParams | None = None,
    largest: npt.ArrayLike = 1.0,
) -> IntegerModel:
    """A matrix product, likewise."""
    rescale = None if result is None else rescaled(weight, bias, source, result, largest)
    op = IntegerLinear(
        name="layer", inputs=("flat",), shape=(len(weight),), place="", rescale=rescale, weight=weight,
        weight_bits=8, bias=bias,
    )  # fmt: skip
    return network(op, source, result or source, (weight.shape[1], 1, 1))


def extremes(model: IntegerModel) -> npt.NDArray[np.float32]:
    """Images at, next to and off the largest and the smallest sum of each output of a layer whose kernel is the whole image."""
    (layer,) = model.layers().values()
    source, generator = model.formats["input"], np.random.default_rng(1)
    groups = getattr(layer, "groups", 1)
    images = []
    for index, row in enumerate(layer.weight):
        group = index // (len(layer.weight) // groups)
        full = np.zeros((groups, *row.shape), dtype=np.int64)
        full[group] = row
        whole = full.reshape(model.input_shape)
        ends = [np.where(whole * sign > 0, source.quant_max, source.quant_min) for sign in (1, -1)]
        images += ends
        for end in ends:  # and one step off, in a few places
            images.append(np.clip(end + generator.integers(-1, 2, end.shape), source.quant_min, source.quant_max))
    images += list(generator.integers(source.quant_min, source.quant_max + 1, (4, *model.input_shape)))
    return np.stack(images).astype(np.float32)
