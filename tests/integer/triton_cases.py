# SPDX-License-Identifier: MIT
"""Single layers and small networks, each to be computed by Triton and by the reference executor.

Run as a program with TRITON_INTERPRET=1 it prints JSON: what each case found, by name; "equal" is good. The interpreter must be
chosen before Triton is imported, so it takes a process of its own.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitwright.graph.nodes import Flatten
from bitwright.integer import IntegerModel, Multipliers, QuantParams, prepare, run
from bitwright.integer.multipliers import hawq_dyadic
from bitwright.integer.ops import IntegerAdd, IntegerConv2d, IntegerLinear, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.bounds import accumulator_bounds
from bitwright.integer.proof.certificate import certify
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import Scheme


@dataclass(frozen=True)
class Layer:
    """One layer on integers of a format; images are the integers themselves, for a scale of 1."""

    channels: int = 5
    outputs: int = 7
    image: tuple[int, int] = (6, 5)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bits: int = 8
    signed: bool = False
    least: int | None = None  # of the window, where it is neither the signed nor the unsigned one
    weight_bits: int = 8
    out_bits: int = 8
    out_signed: bool = True
    out_least: int | None = None
    arithmetic: str = "certified"
    linear: bool = False
    batch: int = 2


def _window(bits: int, signed: bool, least: int | None) -> TensorFormat:
    return TensorFormat.of(bits, negative=signed) if least is None else TensorFormat.starting(bits, least)


def single(layer: Layer) -> tuple[IntegerModel, Tensor]:
    """The layer behind a quantizer, with images whose integers reach both ends of the format."""
    generator = np.random.default_rng(5)
    params = QuantParams(_window(layer.bits, layer.signed, layer.least), 1.0)
    out = QuantParams(_window(layer.out_bits, layer.out_signed, layer.out_least), 1.0)
    limit = 2 ** (layer.weight_bits - 1)
    image = (1, 1) if layer.linear else layer.image
    shape = (layer.channels, *image)
    taps = () if layer.linear else layer.kernel
    weight = generator.integers(-limit, limit, (layer.outputs, layer.channels // layer.groups, *taps)).astype(np.int8)
    reach = 20 if layer.bits == 2 else 3000
    bias = generator.integers(-reach, reach, layer.outputs).astype(np.int32)
    low, high = accumulator_bounds(weight, bias, params)
    ratio = 1.5 * out.format.magnitude / np.maximum(np.maximum(-low, high), 1)
    if layer.arithmetic == "none":
        rescale = None
    elif layer.arithmetic == "certified":
        found = certify(ratio, low, high, out.quant_min, out.quant_max)
        rescale = Rescale(found.multipliers, out.quant_min, out.quant_max)
    elif layer.arithmetic == "hawq":  # 31 bits: no float32 numbers
        rescale = Rescale(hawq_dyadic(ratio), out.quant_min, out.quant_max)
    else:  # every second accumulator is a half
        rescale = Rescale(Multipliers(np.array([1]), np.array([1])), out.quant_min, out.quant_max)
    size = () if layer.linear else tuple(
        (image[axis] + 2 * layer.padding[axis] - layer.dilation[axis] * (layer.kernel[axis] - 1) - 1)
        // layer.stride[axis] + 1
        for axis in (0, 1)
    )  # fmt: skip
    common: dict[str, Any] = {
        "name": "layer",
        "inputs": ("flat" if layer.linear else "images",),
        "shape": (layer.outputs, *size),
        "weight": weight,
        "weight_bits": layer.weight_bits,
        "bias": bias,
        "rescale": rescale,
    }
    op = (
        IntegerLinear(**common)
        if layer.linear
        else IntegerConv2d(
            **common, stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups
        )
    )
    first = Quantize(name="images", inputs=(), shape=shape, scale=1.0, low=params.quant_min, high=params.quant_max)
    flat = Flatten(name="flat", inputs=("images",), shape=(layer.channels,))
    formats = {"images": params, "flat": params} | ({} if rescale is None else {"layer": out})
    model = IntegerModel(
        "layer",
        Scheme("none", {}, 8),
        (first, flat, op) if layer.linear else (first, op),
        formats,
        single_output("layer"),
    )
    integers = generator.integers(params.quant_min, params.quant_max + 1, (layer.batch, *shape))
    integers.flat[:2] = params.quant_min, params.quant_max
    return model, torch.from_numpy(integers.astype(np.float32))


def added(bits: tuple[int, int, int]) -> tuple[IntegerModel, Tensor]:
    """Two convolutions of one image and their sum, whose halves go to even."""
    base, images = single(Layer(out_bits=bits[0], arithmetic="hawq"))
    other, _ = single(Layer(out_bits=bits[1], arithmetic="hawq", weight_bits=4))
    quantize, first = base.ops
    second = other.ops[1]
    assert isinstance(first, IntegerConv2d)
    assert isinstance(second, IntegerConv2d)
    out = QuantParams.symmetric(bits[2], 1.0)
    total = IntegerAdd(
        name="sum", inputs=("layer", "second"), shape=first.shape, multipliers=(3, 5), shift=2, low=out.quant_min,
        high=out.quant_max,
    )  # fmt: skip
    formats = {**base.formats, "second": other.formats["layer"], "sum": out}
    ops = (quantize, first, replace(second, name="second"), total)
    return replace(base, ops=ops, formats=formats, outputs=single_output("sum")), images


def compare(make: Callable[[], tuple[IntegerModel, Tensor]], kernels: str, products: str | None, device: str) -> str:
    """The word equal, or how many integers of which tensor differ."""
    model, images = make()
    prepared = prepare(model, device, kernels)
    if products is not None and prepared.arithmetic["layer"] != products:
        return f"expected {products}, got {prepared.arithmetic['layer']}"
    expected: dict[str, Tensor] = {}
    got: dict[str, Tensor] = {}
    logits = run(model, images, expected.__setitem__)
    prepared.run(images, got.__setitem__)
    wrong = {name: int((got[name].cpu().long() != expected[name].long()).sum()) for name in expected}
    if any(wrong.values()):
        return f"{wrong} differ"
    if len(torch.unique(logits)) < 3:
        return "the results are all alike"
    return "equal" if torch.equal(prepared.run(images).cpu(), logits) else "the logits differ"


_SHIFTED, _INT8, _DEPTHWISE = "triton shifted", "triton int8", "triton depthwise"
_LAYERS: dict[str, tuple[Layer, str]] = {
    "unsigned": (Layer(), _SHIFTED),
    "signed": (Layer(signed=True), _INT8),
    "unsigned output": (Layer(out_signed=False), _SHIFTED),
    "stride": (Layer(stride=(2, 3), image=(9, 7)), _SHIFTED),
    "padding": (Layer(padding=(2, 0)), _SHIFTED),
    "dilation": (Layer(dilation=(2, 1), padding=(2, 2), signed=True), _INT8),
    "oblong kernel": (Layer(kernel=(1, 4), padding=(0, 2)), _SHIFTED),
    "1x1": (Layer(kernel=(1, 1), padding=(0, 0), channels=33, outputs=40), _SHIFTED),
    "1x1 stride": (Layer(kernel=(1, 1), padding=(0, 0), stride=(2, 2), channels=64), _SHIFTED),
    "whole blocks": (Layer(channels=64, outputs=33, image=(4, 3)), _SHIFTED),
    "one pixel": (Layer(image=(1, 1), batch=1), _SHIFTED),
    "many rows": (Layer(image=(13, 11), batch=3, outputs=3), _SHIFTED),
    "16-bit output": (Layer(out_bits=16, arithmetic="hawq"), _SHIFTED),
    "31-bit multipliers": (Layer(arithmetic="hawq"), _SHIFTED),
    "halves": (Layer(arithmetic="halves", weight_bits=2, bits=2, channels=2, out_bits=8), _INT8),
    "halves of 31 bits": (Layer(arithmetic="halves", out_bits=16), _SHIFTED),
    "int32": (Layer(arithmetic="none"), _SHIFTED),
    "linear": (Layer(linear=True, channels=70, outputs=10, batch=3), _SHIFTED),
    "linear int32": (Layer(linear=True, channels=64, outputs=35, arithmetic="none", signed=True), _INT8),
    "window": (Layer(least=-30, out_least=-200, padding=(2, 1)), _SHIFTED),
    "negative window": (Layer(least=-255, out_least=-3, stride=(2, 1)), _SHIFTED),
    "window of 4 bits": (Layer(least=-2, bits=4, out_least=-13, out_bits=4), _INT8),
    "depthwise window": (Layer(groups=6, channels=6, outputs=6, least=-100), _DEPTHWISE),
    "depthwise": (Layer(groups=6, channels=6, outputs=6), _DEPTHWISE),
    "depthwise stride": (Layer(groups=6, channels=6, outputs=12, stride=(2, 2), signed=True), _DEPTHWISE),
    "grouped": (Layer(groups=2, channels=6, outputs=8), "float32"),
    "16-bit input": (Layer(bits=16, signed=True, arithmetic="hawq"), "float64"),
} | {
    f"W{weights}A{bits}": (Layer(weight_bits=weights, bits=bits), _SHIFTED if bits == 8 else _INT8)
    for weights, bits in ((2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (2, 8), (8, 4))
}  # fmt: skip

CASES: dict[str, Callable[[str], str]] = {
    **{
        name: partial(compare, partial(single, layer), "triton", products)
        for name, (layer, products) in _LAYERS.items()
    },
    "float16": partial(compare, partial(single, Layer()), "triton-fp16", "triton float16"),
    **{
        f"sum of {first} and {second} to {out} bits": partial(
            compare, partial(added, (first, second, out)), "triton", None
        )
        for first, second, out in ((8, 8, 8), (4, 8, 4), (16, 8, 16))
    },
}


def main() -> None:
    """All cases on the CPU, as JSON."""
    found = {}
    for name, case in CASES.items():
        try:
            found[name] = case("cpu")
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
