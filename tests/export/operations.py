# SPDX-License-Identifier: MIT
"""Operations on their own, on all integers that they can be given: one table of operations for the tests of all engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bitwright.graph.functions import FUNCTIONS, Program
from bitwright.graph.nodes import (
    ChannelShuffle,
    Concat,
    DepthToSpace,
    Flatten,
    MaxPool2d,
    Node,
    Pad,
    Rearrange,
    Slice,
    Take,
)
from bitwright.integer import IntegerModel, QuantParams
from bitwright.integer.multipliers import add_multipliers
from bitwright.integer.operations.product import IntegerProduct, find_multiplier
from bitwright.integer.operations.table import IntegerTable, is_computable, real_results, rounded_entries
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    Rescale,
)
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.bounds import accumulator_bounds
from bitwright.integer.proof.certificate import certify, certify_requantize
from bitwright.integer.proof.margins import SCALE_FREEDOM, nearby
from bitwright.quantizer.formats import TensorFormat
from bitwright.quantizer.sums import window_sums
from bitwright.scheme import Scheme


class Case(NamedTuple):
    """One operation on images of integers.

    Attributes:
        model: It, alone.
        images: [5, channels, height, width]: all of its cases are in the first.
    """

    model: IntegerModel
    images: npt.NDArray[np.float32]


BYTE = TensorFormat.unsigned(8)
SIGNED = TensorFormat.symmetric(8)
WINDOW = TensorFormat(8, -31, 224)


def _model(ops: list[Node], formats: dict[str, QuantParams]) -> IntegerModel:
    name = ops[-1].name
    return IntegerModel(
        "one operation", Scheme("none", {}), tuple(ops), formats, single_output(name, np.array([formats[name].scale]))
    )


def _quantize(params: QuantParams, shape: tuple[int, ...]) -> Node:
    return Quantize(
        name="input", inputs=(), shape=shape, scale=params.scale, low=params.quant_min, high=params.quant_max
    )


def _images(params: QuantParams, integers: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Images of these integers, and of others of the format."""
    draw = np.random.default_rng(0)
    others = draw.integers(params.quant_min, params.quant_max + 1, (4, *integers.shape))
    return (np.concatenate([integers[None], others]) * np.float32(params.scale)).astype(np.float32)


@cache
def table(
    program: Program, window: TensorFormat = SIGNED, bits: int = 8, reach: float = 4.0, *, computable: bool = True
) -> Case:
    """A function of all integers of a format of 8 bits, in the format that its results fill."""
    source = QuantParams(window, float(np.float32(reach / window.magnitude)))
    real = real_results(program, source, 1.0)
    form = TensorFormat.of(bits, negative=bool(real.min() < 0))
    scale = float(np.abs(real).max() / form.quant_max)
    if computable:
        scale = next(
            scale
            for scale in nearby(scale, SCALE_FREEDOM)
            if is_computable(real_results(program, source, scale), QuantParams(form, scale))
        )
    entries = rounded_entries(real_results(program, source, scale), form.quant_min, form.quant_max)
    shape = (2, 16, 16)
    op = IntegerTable(
        name="table", inputs=("input",), shape=shape, program=program, computable=computable, entries=entries
    )
    integers = np.arange(window.quant_min, window.quant_max + 1).reshape(16, 16)
    formats = {"input": source, "table": QuantParams(form, scale)}
    return Case(_model([_quantize(source, shape), op], formats), _images(source, np.stack([integers, integers.T])))


@cache
def product(
    window: TensorFormat = BYTE, bits: int = 8, reach: float = 0.7, *, form: TensorFormat | None = None
) -> Case:
    """Products of all pairs of integers of a format, some of which are clamped."""
    source, form = QuantParams(window, 1 / 128), form or TensorFormat.of(bits, negative=window.negative)
    result = QuantParams(form, source.scale**2 * window.magnitude**2 * reach / form.quant_max)
    m = find_multiplier("product", source, source, result, form.quant_min, form.quant_max)
    count = window.span + 1
    made = IntegerProduct(
        name="product", inputs=("a", "b"), shape=(1, count, count), multiplier=int(m.multiplier[0]), shift=int(m.shift[0]),
        low=form.quant_min, high=form.quant_max,
    )  # fmt: skip
    return _on_all_pairs(made, source, result)


@cache
def small_sum(multipliers: tuple[int, int], shift: int, form: TensorFormat) -> Case:
    """Sums of all pairs of integers, none beyond a few steps: they come far nearer to halves than the steps of a byte tell."""
    source = QuantParams(TensorFormat(8, -51, 204), 1.0)
    made = IntegerAdd(
        name="sum", inputs=("a", "b"), shape=(1, 256, 256), multipliers=multipliers, shift=shift,
        low=form.quant_min, high=form.quant_max,
    )  # fmt: skip
    return _on_all_pairs(made, source, QuantParams(form, 1.0))


def _on_all_pairs(op: Node, source: QuantParams, result: QuantParams) -> Case:
    """An operation on `a` and `b`, of which an image holds every pair of integers."""
    all_of = np.arange(source.quant_min, source.quant_max + 1)
    count = len(all_of)
    first = np.broadcast_to(all_of[:, None], (count, count))
    image = np.stack([first, first.T])
    ops: list[Node] = [_quantize(source, image.shape)]
    for name, start in (("a", 0), ("b", 1)):
        ops.append(Slice(name=name, inputs=("input",), shape=(1, count, count), start=start, stop=start + 1))
    formats = dict.fromkeys(("input", "a", "b"), source) | {op.name: result}
    return Case(_model([*ops, op], formats), _images(source, image))


def _on_integers(ops: list[Node], formats: dict[str, QuantParams], shape: tuple[int, ...]) -> Case:
    """Operations behind the quantization of images, `input`, which are integers of its format, both ends among them."""
    source = formats["input"]
    generator = np.random.default_rng(0)
    integers = generator.integers(source.quant_min, source.quant_max + 1, shape)
    integers.flat[:2] = source.quant_min, source.quant_max
    return Case(_model([_quantize(source, shape), *ops], formats), _images(source, integers))


def _rescale(
    weight: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], source: QuantParams, out: QuantParams
) -> Rescale:
    """Certified multipliers with which a typical largest accumulator is the largest result, and larger ones are clamped."""
    low, high = accumulator_bounds(weight, bias, source)
    ratio = 4 * out.quant_max / np.maximum(high - low, 1)
    return Rescale(certify(ratio, low, high, *out.ends).multipliers, *out.ends)


@cache
def convolution(
    window: TensorFormat = BYTE, groups: int = 1, per_group: int = 3, side: int = 3, stride: int = 1, dilation: int = 1,
    result: TensorFormat = BYTE, bits: int = 8,
) -> Case:  # fmt: skip
    """A padded convolution to 8 outputs, on images whose sides are no multiples of anything."""
    source, out = QuantParams(window, 1.0), QuantParams(result, 1.0)
    generator, most = np.random.default_rng(1), 2 ** (bits - 1) - 1
    weight = generator.integers(-most, most + 1, (8, per_group, side, side)).astype(np.int8)
    bias = generator.integers(-500, 500, 8).astype(np.int32)
    padding = dilation * (side // 2)
    sides = tuple((size + 2 * padding - dilation * (side - 1) - 1) // stride + 1 for size in (7, 9))
    op = IntegerConv2d(
        name="layer", inputs=("input",), shape=(8, *sides), rescale=_rescale(weight, bias, source, out), weight=weight,
        weight_bits=bits, bias=bias, stride=(stride, stride), padding=(padding, padding), dilation=(dilation, dilation),
        groups=groups,
    )  # fmt: skip
    return _on_integers([op], {"input": source, "layer": out}, (per_group * groups, 7, 9))


@cache
def linear(window: TensorFormat = BYTE, result: TensorFormat = SIGNED) -> Case:
    """A matrix product of all values of an image."""
    source, out = QuantParams(window, 1.0), QuantParams(result, 1.0)
    generator = np.random.default_rng(1)
    weight = generator.integers(-127, 128, (11, 4 * 3 * 5)).astype(np.int8)
    bias = generator.integers(-500, 500, 11).astype(np.int32)
    flat = Flatten(name="flat", inputs=("input",), shape=(60,))
    op = IntegerLinear(
        name="layer", inputs=("flat",), shape=(11,), rescale=_rescale(weight, bias, source, out), weight=weight,
        weight_bits=8, bias=bias,
    )  # fmt: skip
    return _on_integers([flat, op], {"input": source, "flat": source, "layer": out}, (4, 3, 5))


@cache
def average(window: TensorFormat = BYTE, result: TensorFormat = BYTE) -> Case:
    """Means over padded windows."""
    source, out = QuantParams(window, 1.0), QuantParams(result, 0.9)
    low, high = window_sums((3, 2), source.ends)
    certified = certify_requantize(source.scale / 6 / out.scale, low, high, *out.ends)
    op = IntegerAvgPool2d(
        name="mean", inputs=("input",), shape=(3, 4, 4), rescale=Rescale(certified.multipliers, *out.ends),
        kernel=(3, 2), stride=(2, 2), padding=(1, 0),
    )  # fmt: skip
    return _on_integers([op], {"input": source, "mean": out}, (3, 7, 9))


@cache
def addition(window: TensorFormat = BYTE, result: TensorFormat = BYTE) -> Case:
    """Two halves of an image, added at other scales and clamped."""
    source, out = QuantParams(window, 1.0), QuantParams(result, 1.3)
    first, second, shift = add_multipliers(1 / 1.3, 0.37, source.ends, source.ends)
    low, high = out.ends
    halves: list[Node] = [
        Slice(name=name, inputs=("input",), shape=(2, 7, 9), start=start, stop=start + 2)
        for name, start in (("a", 0), ("b", 2))
    ]
    total = IntegerAdd(
        name="sum", inputs=("a", "b"), shape=(2, 7, 9), multipliers=(first, second), shift=shift, low=low, high=high
    )
    return _on_integers([*halves, total], dict.fromkeys(("input", "a", "b"), source) | {"sum": out}, (4, 7, 9))


@cache
def halves(result: TensorFormat = WINDOW) -> Case:
    """Two halves of an image as a / 2 + b / 4: every other sum of integers lies on a half or near it."""
    source, out = QuantParams(WINDOW, 1.0), QuantParams(result, 1.0)
    slices: list[Node] = [
        Slice(name=name, inputs=("input",), shape=(2, 7, 9), start=start, stop=start + 2)
        for name, start in (("a", 0), ("b", 2))
    ]
    total = IntegerAdd(
        name="sum", inputs=("a", "b"), shape=(2, 7, 9), multipliers=(2, 1), shift=2, low=out.ends[0], high=out.ends[1]
    )
    return _on_integers([*slices, total], dict.fromkeys(("input", "a", "b"), source) | {"sum": out}, (4, 7, 9))


@cache
def requantization(window: TensorFormat = BYTE, result: TensorFormat = SIGNED, ratio: float = 0.61) -> Case:
    """All integers of a format at another scale and window."""
    source, out = QuantParams(window, 1.0), QuantParams(result, 1 / ratio)
    certified = certify_requantize(ratio, *source.ends, *out.ends)
    rescale = Rescale(certified.multipliers, *out.ends)
    op = IntegerRequantize(name="again", inputs=("input",), shape=(1, 16, 16), rescale=rescale)
    integers = np.resize(np.arange(source.quant_min, source.quant_max + 1), (1, 16, 16))
    model = _model([_quantize(source, (1, 16, 16)), op], {"input": source, "again": out})
    return Case(model, _images(source, integers))


SELECTED: Mapping[str, Node] = {
    "maximum": MaxPool2d(
        name="moved", inputs=("input",), shape=(4, 4, 5), kernel=(3, 3), stride=(2, 2), padding=(1, 1),
        dilation=(1, 1), ceil_mode=False,
    ),
    "maximum, up": MaxPool2d(
        name="moved", inputs=("input",), shape=(4, 3, 5), kernel=(3, 2), stride=(3, 2), padding=(0, 0),
        dilation=(1, 1), ceil_mode=True,
    ),
    "maximum, dilated, up": MaxPool2d(
        name="moved", inputs=("input",), shape=(4, 3, 5), kernel=(2, 2), stride=(2, 2), padding=(0, 0),
        dilation=(2, 1), ceil_mode=True,
    ),
    "flatten": Flatten(name="moved", inputs=("input",), shape=(4 * 7 * 9,)),
    "concat": Concat(name="moved", inputs=("input", "input"), shape=(8, 7, 9)),
    "slice": Slice(name="moved", inputs=("input",), shape=(2, 7, 9), start=1, stop=3),
    "shuffle": ChannelShuffle(name="moved", inputs=("input",), shape=(4, 7, 9), groups=2),
    "take a run": Take(name="moved", inputs=("input",), shape=(4, 7, 4), axis=3, places=(1, 3, 5, 7)),
    "take any": Take(name="moved", inputs=("input",), shape=(4, 5, 9), axis=2, places=(6, 0, 0, 3, 1)),
    "pad": Pad(name="moved", inputs=("input",), shape=(5, 9, 12), before=(1, 2, 0), after=(0, 0, 3)),
    "depth to space": DepthToSpace(name="moved", inputs=("input",), shape=(1, 14, 18), block=2),
    "rearrange": Rearrange(
        name="moved", inputs=("input",), shape=(21, 6, 2), parts=(2, 2, 7, 3, 3), order=(2, 3, 1, 4, 0)
    ),
    "rearrange, in order": Rearrange(name="moved", inputs=("input",), shape=(14, 2, 9), parts=(252,), order=(0,)),
    "rearrange, to features": Rearrange(name="moved", inputs=("input",), shape=(252,), parts=(4, 63), order=(1, 0)),
}  # fmt: skip
"""What makes only integers that it reads, of images of 4 x 7 x 9."""


@cache
def selection(name: str, window: TensorFormat = BYTE) -> Case:
    """One of `SELECTED`."""
    params = QuantParams(window, 1.0)
    return _on_integers([SELECTED[name]], {"input": params, "moved": params}, (4, 7, 9))


NAMED = tuple(
    name for name, function in FUNCTIONS.items() if len(function.arguments) == 1 and name not in ("log", "reciprocal", "rsqrt")
)  # fmt: skip
"""Functions that are finite on both sides of zero; sqrt is not defined on one."""

CASES: Mapping[str, Callable[[], Case]] = {
    "sigmoid": partial(table, ("x", "sigmoid")),
    "silu": partial(table, ("x", "silu"), WINDOW),
    "hardswish": partial(table, ("x", "hardswish")),
    "gelu": partial(table, ("x", "gelu"), reach=5.0),
    "leaky_relu": partial(table, ("x", 0.1, "leaky_relu"), WINDOW),
    "of several": partial(table, ("x", "abs", 0.3, "add", "sqrt", 2.0, "x", "abs", "add", "div"), bits=4),
    "looked up": partial(table, ("x", "tanh"), WINDOW, computable=False),
    "looked up, 16 bits": partial(table, ("x", "mish"), bits=16, computable=False),
    "looked up, 3 bits": partial(table, ("x", "erf"), BYTE, 3, computable=False),
    "convolution": convolution,
    "convolution, strided": partial(convolution, WINDOW, stride=2, bits=4),
    "convolution, grouped": partial(convolution, SIGNED, 2, result=SIGNED),
    "convolution, depthwise": partial(convolution, BYTE, 8, 1),
    "convolution, dilated": partial(convolution, BYTE, dilation=2, result=WINDOW),
    "convolution, 1x1": partial(convolution, SIGNED, side=1),
    "linear": linear,
    "linear, windows": partial(linear, WINDOW, BYTE),
    "average": average,
    "average, windows": partial(average, WINDOW, SIGNED),
    "addition": addition,
    "addition, signed": partial(addition, SIGNED, SIGNED),
    "addition, windows": partial(addition, WINDOW, BYTE),
    "addition, halves": halves,
    "addition, halves, 4 bits": partial(halves, TensorFormat(4, -3, 12)),
    "requantization": requantization,
    "requantization, 4 bits": partial(requantization, WINDOW, TensorFormat(4, -3, 12), 0.05),
    **{name: partial(selection, name) for name in SELECTED},
    **{f"{name}, window": partial(selection, name, WINDOW) for name in ("maximum", "pad")},
    "product": product,
    "product, signed": partial(product, WINDOW),
    "product, 16 bits": partial(product, SIGNED, 16),
    **{
        f"product, zero point {reach}": partial(
            product, TensorFormat(8, -51, 204), reach=reach, form=TensorFormat(8, -101, 154)
        )
        for reach in (0.9245595884650375, 1.0583403970895502)
    },
    "addition, small, odd zero point": partial(small_sum, (28420, 4862), 20, TensorFormat(8, -131, 124)),
    "addition, small, even zero point": partial(small_sum, (18212, 10219), 21, TensorFormat(8, -220, 35)),
    "product, 3 bits": partial(product, TensorFormat(4, -3, 12), 3),
}
"""What every engine must compute, by name."""

FURTHER: Mapping[str, Callable[[], Case]] = {
    **{f"{name}, {bits} bits": partial(table, ("x", name), BYTE, bits) for name in NAMED for bits in (8, 4, 2)},
    **{f"{name}, wide range": partial(table, ("x", name), WINDOW, reach=20.0) for name in NAMED if name not in ("exp", "sqrt")},
    "elu": partial(table, ("x", 0.7, "elu")),
    "log": partial(table, ("x", "abs", 0.2, "add", "log")),
    **{f"product, {bits} bits": partial(product, SIGNED, bits, 0.9) for bits in range(2, 9)},
}  # fmt: skip
"""All functions, in several formats."""


def of_batch(case: Case, size: int) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
    """The first images of a case, for the reference and for an engine."""
    return torch.from_numpy(case.images[:size]), case.images[:size]
