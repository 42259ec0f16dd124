# SPDX-License-Identifier: MIT
"""IntegerModel to OpenVINO's own format: float32 tensors of integers, and bytes where the engine multiplies those exactly.

OpenVINO computes what a file means in real numbers, and rearranges it: it moves scales through sums, folds them into weights,
and turns divisions into multiplications. Each of these rounds once more, or once less. So no rounded number of the file
depends on what may be moved: every tensor is made of integers; the accumulator, exact in float32, is multiplied by the proved
multiplier behind a clamp that no multiplication crosses (`fenced`), and rounded at once, halves to even: the formula that the
certificate is about.

Layers run on 8-bit kernels, which add in int32. CPUs without 8-bit dot products add two products in 16 bits before, which
saturate; unless the target is a CPU that has them, layers where that could happen read every input twice, once for each half of
a weight. What cannot run so (`openvino_kernels`) is a float32 convolution of integers, exact while all partial sums stay
within 2**24, or is cut into such parts, which are added as int32.
"""

from __future__ import annotations

import json
import tempfile
from functools import singledispatch
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions, for_float32, require_float32_mean
from bitwright.export.names import integer_name
from bitwright.export.onnx.graph import identifier
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.kernels import DOUBLED, FLOAT32, INT8, PARTS, may_be_matrix_products
from bitwright.export.pixels import Pixels, affine, quotient_below
from bitwright.export.seal import write_sealed
from bitwright.export.target import Target
from bitwright.graph.nodes import ChannelShuffle, Concat, DepthToSpace, Flatten, MaxPool2d, Node, Pad, Pair, Slice, Take
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerLayer,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    ReciprocalQuantize,
    Rescale,
)
from bitwright.integer.proof.bounds import exact_parts, partial_sum_bound

SUFFIX = ".xml"


def export_openvino(
    model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
) -> Any:
    """Write `model` for OpenVINO, atomically: an .xml file, and a .bin file of its weights beside it.

    The graph takes `images` (batch x channels x height x width) and returns `logits_int32` (the integers of the model) and
    `logits` (float32, the integers times the unit of each class); of several outputs, `NAME_int32` and `NAME` for each. It must
    run in float32, which OpenVINO leaves where a CPU has bfloat16: compile it with `INFERENCE_PRECISION_HINT` f32.

    Args:
        model: What to export.
        path: Of the .xml file.
        target: The CPUs that it must be exact on.
        pixels: How images were normalised in training: the file then takes uint8 pixels; without, normalised float32 images.

    Raises:
        ExportError: If openvino is not installed, the path has another suffix, or an operation cannot be exact.
    """
    place = Path(path)
    if place.suffix != SUFFIX:
        raise ExportError(
            f"expected a path that ends in {SUFFIX}, got '{path}': OpenVINO keeps the weights beside it, in .bin."
        )
    made = to_openvino(model, target, pixels)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / f"model{SUFFIX}"
        # Left to itself it would store float32 numbers as float16.
        OpenvinoBuilder(model, Target(target), pixels).openvino.save_model(made, str(written), compress_to_fp16=False)
        write_sealed(place, written.read_bytes(), written.with_suffix(".bin").read_bytes())
    return made


def to_openvino(model: IntegerModel, target: Target | str = Target.ANY, pixels: Pixels | None = None) -> Any:
    """`model` as an `openvino.Model`; see `export_openvino`."""
    builder = OpenvinoBuilder(for_float32(model), Target(target), pixels)
    ops = builder.ops
    kind = np.float32 if pixels is None else np.uint8
    images = ops.parameter([-1, *model.input_shape], kind, name="images")
    images.output(0).set_names({"images"})
    builder.values["images"] = images
    for op in builder.model:
        builder.values[op.name] = add_to_openvino(op, builder)
    results = []
    for name, output in model.outputs.items():
        integers = ops.convert(builder.values[output.tensor], "i32")
        unit = output.across(len(model.output_shapes[name]))
        real = ops.multiply(ops.convert(integers, "f32"), builder.floats(unit))
        for given, value in ((integer_name(name), integers), (name, real)):
            value.output(0).set_names({given})
            results.append(ops.result(value))
    made = builder.openvino.Model(results, [images], identifier(model.model))
    words = ", ".join(
        f"{list(builder.kernels.values()).count(kernel)} {kernel}" for kernel in (INT8, DOUBLED, FLOAT32, PARTS)
    )
    facts = conditions(model, builder.target, pixels)
    facts |= {
        "engine": "x86 CPU plugin with INFERENCE_PRECISION_HINT f32",
        "kernels": json.dumps(builder.kernels),
        "saturation": f"layers by kernel: {words}; int8 ones "
        + ("need VNNI" if builder.target is Target.VNNI else "cannot saturate"),
    }
    for key, text in facts.items():
        made.set_rt_info(text, ["bitwright", key])
    return made


@singledispatch
def add_to_openvino(op: Node, builder: OpenvinoBuilder) -> Value:
    """The OpenVINO form of one operation."""
    raise ExportError(f"no OpenVINO form of {type(op).__name__} ('{op.name}').")


@add_to_openvino.register(Quantize)
@add_to_openvino.register(ReciprocalQuantize)
def _(op: Quantize | ReciprocalQuantize, builder: OpenvinoBuilder) -> Value:
    ops, images = builder.ops, builder.values["images"]
    if builder.pixels is None:
        below, rises = quotient_below(op)
        scaled = ops.multiply(images, builder.floats(below.gain))
        integers = builder.rounded(ops.add(scaled, builder.floats(below.offset)), op.low, op.high)
        place = ops.convert(ops.add(integers, builder.floats(-op.low)), "i32")
        rise = ops.gather(builder.floats(rises), place, ops.constant(np.int64(0)))
        return ops.add(integers, ops.convert(ops.greater_equal(images, rise), "f32"))
    table = builder.pixels.table(op)
    exact = affine(table, op.low, op.high)
    if exact is None:
        # The tables of all channels behind one another; channel c looks from 256 c on.
        first = (np.arange(table.shape[0], dtype=np.int32) * table.shape[1]).reshape(-1, 1, 1)
        places = ops.add(ops.convert(images, "i32"), ops.constant(first))
        return ops.gather(builder.floats(table.reshape(-1)), places, ops.constant(np.int64(0)))
    scaled = ops.multiply(ops.convert(images, "f32"), builder.floats(exact.gain.reshape(-1, 1, 1)))
    return builder.rounded(ops.add(scaled, builder.floats(exact.offset.reshape(-1, 1, 1))), op.low, op.high)


@add_to_openvino.register
def _(op: IntegerConv2d, builder: OpenvinoBuilder) -> Value:
    window = _window(op.stride, op.padding, op.dilation)
    return _finish(op, op.rescale, builder, _sums(op, builder, op.weight, window, op.groups))


@add_to_openvino.register
def _(op: IntegerLinear, builder: OpenvinoBuilder) -> Value:
    # As a convolution of a 1 x 1 image: for matrix products, OpenVINO has kernels that quantize their inputs anew.
    outputs, inputs = op.weight.shape
    sums = _sums(op, builder, op.weight.reshape(outputs, inputs, 1, 1), _window())
    return builder.ops.reshape(_finish(op, op.rescale, builder, sums), builder.integers(-1, outputs), False)


def _window(stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1)) -> list[list[int]]:
    """Strides, padding before and after, and dilations."""
    return [list(stride), list(padding), list(padding), list(dilation)]


def _sums(
    op: IntegerLayer,
    builder: OpenvinoBuilder,
    weight: npt.NDArray[np.int8],
    window: list[list[int]],
    groups: int = 1,
) -> Value:
    """Accumulators: float32, or int32 where they are added in parts."""
    ops = builder.ops
    kernel = builder.kernel(op)
    source = builder.bytes_of(op.inputs[0]) if kernel in (INT8, DOUBLED) else builder.values[op.inputs[0]]
    if isinstance(op, IntegerLinear):
        source = ops.reshape(source, builder.integers(-1, weight.shape[1], 1, 1), False)
    if kernel == DOUBLED:
        source = ops.concat([source, source], 1)
    if kernel == PARTS:
        return _sums_of_parts(op, builder, source, weight, window, groups)
    return ops.add(_products(op, builder, source, weight, window, groups), builder.floats(op.bias.reshape(1, -1, 1, 1)))


def _products(
    op: IntegerLayer,
    builder: OpenvinoBuilder,
    source: Value,
    weight: npt.NDArray[np.int8],
    window: list[list[int]],
    groups: int,
) -> Value:
    """Sums of products, on the layer's kernel."""
    if groups == 1:
        return builder.ops.convolution(source, builder.weight(op, weight), *window)
    repeats = len(weight) // groups
    if weight.shape[1] == 1 and repeats > 1:
        # A channel for each of its filters: then the kernels for depthwise convolutions do it, in less than half the time.
        source = builder.ops.shuffle_channels(builder.ops.concat([source] * repeats, 1), 1, repeats)
        groups = len(weight)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return builder.ops.group_convolution(source, builder.weight(op, grouped), *window)


def _sums_of_parts(
    op: IntegerLayer,
    builder: OpenvinoBuilder,
    source: Value,
    weight: npt.NDArray[np.int8],
    window: list[list[int]],
    groups: int,
) -> Value:
    """Sums over few enough input channels each that float32 holds them, added as int32."""
    ops, channels = builder.ops, weight.shape[1]
    params = builder.model.formats[op.inputs[0]]
    parts = exact_parts(weight, np.zeros_like(op.bias), params, whole=groups > 1)
    if parts is None:
        raise ExportError(
            f"OpenVINO computes '{op.name}' in float32, which needs sums of at most 2**24, but those can reach "
            f"{partial_sum_bound(weight, params)}. Lower its weight or activation bits."
        )
    total = ops.constant(op.bias.astype(np.int32).reshape(1, -1, 1, 1))
    for start, stop in parts:
        part = source
        if stop - start < channels:
            part = ops.slice(source, *map(builder.integers, (start, stop, 1, 1)))
        sums = _products(op, builder, part, weight[:, start:stop], window, groups)
        total = ops.add(total, ops.convert(sums, "i32"))
    return total


@add_to_openvino.register
def _(op: IntegerAvgPool2d, builder: OpenvinoBuilder) -> Value:
    require_float32_mean(op, builder.model.formats[op.inputs[0]])
    ones = builder.floats(np.ones((op.shape[0], 1, 1, *op.kernel)))
    window = _window(op.stride, op.padding, (1, 1))
    sums = builder.ops.group_convolution(builder.values[op.inputs[0]], ones, *window)
    return _finish(op, op.rescale, builder, sums)


def _finish(op: Node, rescale: Rescale | None, builder: OpenvinoBuilder, sums: Value) -> Value:
    """Requantize, unless the accumulators leave the network."""
    if rescale is None:
        return sums
    kernel = builder.kernels.get(op.name)
    # The conversion of int32 rounds as the certificate says; no multiplication crosses it either.
    sums = builder.ops.convert(sums, "f32") if kernel == PARTS else builder.fenced(sums)
    if kernel in (INT8, DOUBLED) and may_be_matrix_products(op):
        sums = builder.unfused(sums)
    multiplier = builder.multiplier(op, rescale)
    real = builder.ops.multiply(
        sums, builder.floats(multiplier.reshape(1, -1, 1, 1) if multiplier.size > 1 else multiplier[0])
    )
    return builder.rounded(real, rescale.low, rescale.high)


@add_to_openvino.register
def _(op: IntegerAdd, builder: OpenvinoBuilder) -> Value:
    terms = [
        builder.ops.multiply(builder.addend(source), builder.floats(multiplier / 2**op.shift))
        for source, multiplier in zip(op.inputs, op.multipliers, strict=True)
    ]
    return builder.rounded(builder.ops.add(*terms), op.low, op.high)


@add_to_openvino.register
def _(op: IntegerRequantize, builder: OpenvinoBuilder) -> Value:
    scale = builder.floats(builder.multiplier(op, op.rescale)[0])
    return builder.rounded(builder.ops.multiply(builder.values[op.inputs[0]], scale), op.rescale.low, op.rescale.high)


@add_to_openvino.register
def _(op: MaxPool2d, builder: OpenvinoBuilder) -> Value:
    strides, before, after, dilations = _window(op.stride, op.padding, op.dilation)
    rounding = "ceil_torch" if op.ceil_mode else "floor"
    (source,) = op.inputs
    in_bytes = not {source, op.name}.isdisjoint(builder.stored_as_bytes)
    values = builder.bytes_of(source) if in_bytes else builder.values[source]
    pooled = builder.ops.max_pool(values, strides, dilations, before, after, list(op.kernel), rounding).output(0)
    return builder.from_bytes(op.name, pooled) if in_bytes else pooled


@add_to_openvino.register
def _(op: Concat, builder: OpenvinoBuilder) -> Value:
    return builder.ops.concat([builder.values[name] for name in op.inputs], 1)


@add_to_openvino.register
def _(op: Flatten, builder: OpenvinoBuilder) -> Value:
    return builder.ops.reshape(builder.values[op.inputs[0]], builder.integers(-1, prod(op.shape)), False)


@add_to_openvino.register
def _(op: Slice, builder: OpenvinoBuilder) -> Value:
    limits = [builder.integers(number) for number in (op.start, op.stop, 1, 1)]
    return builder.ops.slice(builder.values[op.inputs[0]], *limits)


@add_to_openvino.register
def _(op: ChannelShuffle, builder: OpenvinoBuilder) -> Value:
    return builder.ops.shuffle_channels(builder.values[op.inputs[0]], 1, op.groups)


@add_to_openvino.register
def _(op: Take, builder: OpenvinoBuilder) -> Value:
    values = builder.values[op.inputs[0]]
    if op.run is None:
        return builder.ops.gather(values, builder.integers(*op.places), builder.ops.constant(np.int64(op.axis)))
    start, stop, step = op.run
    return builder.ops.slice(values, *(builder.integers(number) for number in (start, stop, step, op.axis)))


@add_to_openvino.register
def _(op: Pad, builder: OpenvinoBuilder) -> Value:
    around = [builder.integers(0, *sizes) for sizes in (op.before, op.after)]
    return builder.ops.pad(builder.values[op.inputs[0]], *around, "constant", builder.ops.constant(np.float32(0)))


@add_to_openvino.register
def _(op: DepthToSpace, builder: OpenvinoBuilder) -> Value:
    return builder.ops.depth_to_space(builder.values[op.inputs[0]], "blocks_first", op.block)
