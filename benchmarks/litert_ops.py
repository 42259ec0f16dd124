# SPDX-License-Identifier: MIT
"""Which operators of LiteRT give the integers of the integer model, by kernel: `python benchmarks/litert_ops.py --json FILE`.

Every operator is written as a .tflite file of its own, run with XNNPACK (the interpreter's default), with LiteRT's optimised
kernels and with its reference kernels, and compared with integers computed from the definition; differing outputs are counted.
The exporter uses what is exact with XNNPACK, and float32 arithmetic on integers for the rest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from bitwright.benchmark import environment
from bitwright.export.litert.builder import LitertBuilder
from bitwright.integer import IntegerModel, Multipliers, certify
from bitwright.integer.multipliers import add_multipliers, requantize

KERNELS = {
    "xnnpack": OpResolverType.AUTO,
    "optimised": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}
CHANNELS, SIZE, IMAGES = 64, 28, 8
IMAGE = [-1, SIZE, SIZE, CHANNELS]
ZERO = -128  # unsigned integers q are stored as q - 128
Array = np.ndarray[Any, Any]
Case = tuple[str, bytes, list[Array], Array]


def builder() -> LitertBuilder:
    """An empty file; no case reads a model."""
    model: IntegerModel = None  # type: ignore[assignment]
    return LitertBuilder(model, None)


def rounded(sums: Array, multipliers: Multipliers) -> Array:
    """The integer model's rescaling to 0 ... 255, channels last."""
    return requantize(sums, multipliers, 0, 255, channel_axis=-1)


def convolution(name: str, operator: str, rng: np.random.Generator) -> Case:
    """Per-channel weights and an int32 bias: 3 x 3, depthwise, a matrix product, or sums over 7 x 7 with weights of one."""
    values = rng.integers(0, 256, (IMAGES, SIZE, SIZE, CHANNELS))
    padding, kernel = ("VALID", 7 if name == "average pool as depthwise convolution" else 3)
    if operator == "FULLY_CONNECTED":
        values = rng.integers(0, 256, (2000, CHANNELS))
        weight = rng.integers(-127, 128, (CHANNELS, CHANNELS)).astype(np.int8)
    elif operator == "CONV_2D":
        weight = rng.integers(-127, 128, (CHANNELS, kernel, kernel, CHANNELS)).astype(np.int8)
    else:
        weight = rng.integers(-127, 128, (1, kernel, kernel, CHANNELS)).astype(np.int8)
    bias = rng.integers(-20_000, 20_000, CHANNELS).astype(np.int32)
    if kernel == 7:
        weight, bias = np.ones_like(weight), np.zeros_like(bias)
    if operator == "FULLY_CONNECTED":
        sums = values @ weight.T.astype(np.int64) + bias
    else:
        images = torch.tensor(values).permute(0, 3, 1, 2).double()
        order = (0, 3, 1, 2) if operator == "CONV_2D" else (3, 0, 1, 2)
        filters = torch.tensor(weight.transpose(order)).double()
        groups = 1 if operator == "CONV_2D" else CHANNELS
        sums = F.conv2d(images, filters, groups=groups).permute(0, 2, 3, 1).numpy().astype(np.int64) + bias
    reach = np.abs(sums).reshape(-1, CHANNELS).max(0)
    multipliers = certify(rng.uniform(200, 400, CHANNELS) / reach, -8 * reach, 8 * reach, 0, 255).multipliers
    scale = multipliers.as_float32()
    made = builder()
    given = made.tensor([-1, *values.shape[1:]], "INT8", scale=1.0, zero_point=ZERO)
    axis = 3 if operator == "DEPTHWISE_CONV_2D" else 0
    operands = [given, made.constant(weight, scale=scale, axis=axis), made.constant(bias, scale=scale)]
    output = made.tensor([-1, *sums.shape[1:]], "INT8", scale=1.0, zero_point=ZERO)
    strides = {"padding": getattr(made.schema.Padding, padding), "strideH": 1, "strideW": 1}
    options: dict[str, dict[str, Any]] = {
        "CONV_2D": {"options": "Conv2DOptions", "version": 3, **strides},
        "DEPTHWISE_CONV_2D": {"options": "DepthwiseConv2DOptions", "version": 3, "depthMultiplier": 1, **strides},
        "FULLY_CONNECTED": {"options": "FullyConnectedOptions", "version": 12},
    }
    made.node(operator, operands, output, **options[operator])
    return name, made.finish([given], [output], {}), [stored(values)], rounded(sums, multipliers) + ZERO


def stored(values: Array) -> Array:
    """Unsigned integers as int8."""
    return (values + ZERO).astype(np.int8)


def addition(name: str, rng: np.random.Generator, floating: bool, halves: bool = True) -> Case:
    """Two tensors at ratios m / 2**shift: the int8 operator, or float32 arithmetic and one rounding."""
    first, second = (rng.integers(0, 256, (IMAGES, SIZE, SIZE, CHANNELS)) for _ in range(2))
    a, b, shift = add_multipliers(0.6, 0.4, (0, 255), (0, 255))  # of which no sum lies at a half
    if halves:
        a, b, shift = a >> (shift - 9), b >> (shift - 9), 9
    exact = requantize(first * a + second * b, Multipliers(np.array([1]), np.array([shift], dtype=np.int32)), 0, 255)
    made = builder()
    ratios = [a / 2**shift, b / 2**shift]
    given = [made.tensor(IMAGE, "INT8", scale=1.0 if floating else ratio, zero_point=ZERO) for ratio in ratios]
    output = made.tensor(IMAGE, "INT8", scale=1.0, zero_point=ZERO)
    if not floating:
        made.node("ADD", given, output, "AddOptions", 2)
        return name, made.finish(given, [output], {}), [stored(first), stored(second)], exact + ZERO
    terms = []
    for source, ratio in zip(given, ratios, strict=True):
        real = made.node("DEQUANTIZE", [source], made.tensor(IMAGE, "FLOAT32"), "DequantizeOptions", 2)
        terms.append(made.node("MUL", [real, made.floats(ratio)], made.tensor(IMAGE, "FLOAT32"), "MulOptions"))
    total = made.node("ADD", terms, made.tensor(IMAGE, "FLOAT32"), "AddOptions")
    made.node("QUANTIZE", [total], output, "QuantizeOptions")
    return name, made.finish(given, [output], {}), [stored(first), stored(second)], exact + ZERO


def pool(name: str, operator: str, rng: np.random.Generator) -> Case:
    """Windows of 2 x 2: of averages, the integer model rounds halves to even; maxima are only selected."""
    kernel = 2
    values = rng.integers(0, 256, (IMAGES, SIZE, SIZE, CHANNELS))
    images = torch.tensor(values).permute(0, 3, 1, 2).double()
    made = builder()
    given = made.tensor(IMAGE, "INT8", scale=1.0, zero_point=ZERO)
    if operator == "MAX_POOL_2D":
        exact = F.max_pool2d(images, kernel).permute(0, 2, 3, 1).numpy().astype(np.int64)
    else:
        exact = np.rint(F.avg_pool2d(images, kernel).permute(0, 2, 3, 1).numpy()).astype(np.int64)
    output = made.tensor([-1, *exact.shape[1:]], "INT8", scale=1.0, zero_point=ZERO)
    made.node(
        operator, [given], output, "Pool2DOptions", 2, padding=made.schema.Padding.VALID,
        strideH=kernel, strideW=kernel, filterHeight=kernel, filterWidth=kernel,
    )  # fmt: skip
    return name, made.finish([given], [output], {}), [stored(values)], exact + ZERO


def concatenation(name: str, rng: np.random.Generator) -> Case:
    """Two tensors of one scale."""
    parts = [rng.integers(0, 256, (IMAGES, SIZE, SIZE, CHANNELS)) for _ in range(2)]
    made = builder()
    given = [made.tensor(IMAGE, "INT8", scale=1.0, zero_point=ZERO) for _ in parts]
    output = made.tensor([*IMAGE[:3], 2 * CHANNELS], "INT8", scale=1.0, zero_point=ZERO)
    made.node("CONCATENATION", given, output, "ConcatenationOptions", 2, axis=3)
    return name, made.finish(given, [output], {}), [stored(part) for part in parts], np.concatenate(parts, -1) + ZERO


def zero_points(name: str, rng: np.random.Generator) -> Case:
    """The same integers at another zero point, where int8 ends sooner."""
    values = rng.integers(0, 256, (IMAGES, SIZE, SIZE, CHANNELS))
    made = builder()
    given = made.tensor(IMAGE, "INT8", scale=1.0, zero_point=ZERO)
    output = made.tensor(IMAGE, "INT8", scale=1.0, zero_point=-28)
    made.node("QUANTIZE", [given], output, "QuantizeOptions", 2)
    return name, made.finish([given], [output], {}), [stored(values)], np.minimum(values - 28, 127)


def quantization(name: str, rng: np.random.Generator, divided: bool) -> Case:
    """Images by a scale that is no power of two: the integer model divides."""
    scale = np.float32(0.0186)
    # Half of the images lie as near to a half as float32 numbers do.
    halves = (rng.integers(-120, 120, (IMAGES, SIZE, SIZE, CHANNELS)) + 0.5).astype(np.float32) * scale
    images = np.where(rng.random(halves.shape) < 0.5, halves, rng.standard_normal(halves.shape, dtype=np.float32))
    exact = np.clip(np.rint(images / scale), -128, 127).astype(np.int64)
    made = builder()
    given = made.tensor(IMAGE, "FLOAT32")
    output = made.tensor(IMAGE, "INT8", scale=1.0 if divided else scale)
    quotient = given
    if divided:
        quotient = made.node("DIV", [given, made.floats(scale)], made.tensor(IMAGE, "FLOAT32"), "DivOptions")
    made.node("QUANTIZE", [quotient], output, "QuantizeOptions")
    return name, made.finish([given], [output], {}), [images.astype(np.float32)], exact


def cases() -> Iterator[Case]:
    """Every operator, with its own random numbers."""
    makers: dict[str, Callable[[str, np.random.Generator], Case]] = {
        "convolution": lambda name, rng: convolution(name, "CONV_2D", rng),
        "depthwise convolution": lambda name, rng: convolution(name, "DEPTHWISE_CONV_2D", rng),
        "fully connected": lambda name, rng: convolution(name, "FULLY_CONNECTED", rng),
        "average pool as depthwise convolution": lambda name, rng: convolution(name, "DEPTHWISE_CONV_2D", rng),
        "average pool": lambda name, rng: pool(name, "AVERAGE_POOL_2D", rng),
        "max pool": lambda name, rng: pool(name, "MAX_POOL_2D", rng),
        "add": lambda name, rng: addition(name, rng, floating=False),
        "add, no sum at a half": lambda name, rng: addition(name, rng, floating=False, halves=False),
        "add in float32, quantized": lambda name, rng: addition(name, rng, floating=True),
        "concatenate": concatenation,
        "move the zero point": zero_points,
        "quantize images": lambda name, rng: quantization(name, rng, divided=False),
        "divide images, then quantize": lambda name, rng: quantization(name, rng, divided=True),
    }
    for seed, (name, make) in enumerate(makers.items()):
        yield make(name, np.random.default_rng(seed))


def differing(data: bytes, inputs: list[Array], exact: Array, kernel: OpResolverType) -> int:
    """How many outputs are not those of the integer model."""
    interpreter = Interpreter(model_content=data, num_threads=1, experimental_op_resolver_type=kernel)
    details = interpreter.get_input_details()
    for detail, values in zip(details, inputs, strict=True):
        interpreter.resize_tensor_input(detail["index"], list(values.shape))
    interpreter.allocate_tensors()
    for detail, values in zip(details, inputs, strict=True):
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    return int((interpreter.get_tensor(interpreter.get_output_details()[0]["index"]) != exact).sum())


def main() -> None:
    """Count, print, and write JSON if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name, data, inputs, exact in cases():
        counts = {kernel: differing(data, inputs, exact, resolver) for kernel, resolver in KERNELS.items()}
        rows.append({"operator": name, "outputs": exact.size, "differing": counts})
        print(
            f"{name}: of {exact.size:,}, " + ", ".join(f"{count:,} with {kernel}" for kernel, count in counts.items())
        )
    if arguments.json:
        result = {"environment": environment().to_dict(), "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
