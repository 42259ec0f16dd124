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
from bitwright.graph.nodes import Node, Slice
from bitwright.integer import IntegerModel, QuantParams
from bitwright.integer.operations.product import IntegerProduct, find_multiplier
from bitwright.integer.operations.table import IntegerTable, is_computable, real_results, rounded_entries
from bitwright.integer.ops import Quantize
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.margins import SCALE_FREEDOM, nearby
from bitwright.quantizer.formats import TensorFormat
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
    window: TensorFormat = BYTE, bits: int = 8, reach: float = 0.7, shapes: tuple[str, str] = ("full", "full")
) -> Case:
    """Products of all pairs of integers of a format, or of as many as broadcasting shows, some of which are clamped."""
    source = QuantParams(window, 1 / 128)
    form = TensorFormat.of(bits, negative=window.negative)
    result = QuantParams(form, source.scale**2 * window.magnitude**2 * reach / form.quant_max)
    m = find_multiplier("product", source, source, result, form.quant_min, form.quant_max)
    count = window.span + 1
    all_of = np.arange(window.quant_min, window.quant_max + 1)
    first = np.broadcast_to(all_of[:, None], (count, count))
    image, channels = np.stack([first, first.T]), 1
    ops: list[Node] = [_quantize(source, image.shape)]
    for name, start in (("a", 0), ("b", channels)):
        ops.append(Slice(name=name, inputs=("input",), shape=(1, count, count), start=start, stop=start + 1))
    made = IntegerProduct(
        name="product", inputs=("a", "b"), shape=(1, count, count), multiplier=int(m.multiplier[0]), shift=int(m.shift[0]),
        low=form.quant_min, high=form.quant_max,
    )  # fmt: skip
    formats = dict.fromkeys(("input", "a", "b"), source) | {"product": result}
    return Case(_model([*ops, made], formats), _images(source, image))


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
    "product": product,
    "product, signed": partial(product, WINDOW),
    "product, 16 bits": partial(product, SIGNED, 16),
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
