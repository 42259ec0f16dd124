# SPDX-License-Identifier: MIT
"""IntegerModel to LiteRT: a .tflite file whose integers XNNPACK, the interpreter's default on CPUs, computes exactly.

Layers and means run on its 8-bit convolutions (`litert_convolution`), additions on its 8-bit additions where no sum lies at a
half (`litert_addition`). What these would round in another way is done in float32 on integers, exactly (`litert_real`). Streams
of 16 bits are float32 tensors of integers; the published models' streams and 31-bit multipliers are int32 and int64
(`wide`), where float32 multipliers do not give the same integers.

The reference kernels of LiteRT round twice and differ; the file is for the interpreter as it is, with its default delegate.
"""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions, for_float32
from bitwright.export.litert.addition import add_sum
from bitwright.export.litert.builder import Held, LitertBuilder
from bitwright.export.litert.convolution import add_in_int8, convolution_of, sums_of
from bitwright.export.litert.images import quantize_images
from bitwright.export.litert.moves import move_in_litert
from bitwright.export.litert.real import as_real, combined, store_rounded, whole_of
from bitwright.export.litert.wide import floor_average, in_int64, rescale_in_int64
from bitwright.export.names import integer_name
from bitwright.export.pixels import Pixels
from bitwright.export.seal import write_sealed
from bitwright.export.target import Target
from bitwright.graph.nodes import Concat, Node, Selection
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerFloorAvgPool2d,
    IntegerLayer,
    IntegerRequantize,
    Quantize,
    ReciprocalQuantize,
    Rescale,
)
from bitwright.integer.outputs import Output


def export_litert(
    model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
) -> bytes:
    """Write `model` for LiteRT, atomically.

    The graph takes `images` (batch x channels x height x width) and returns `logits_int32` (the integers of the model) and
    `logits` (float32, the integers times the unit of each class); of several outputs, `NAME_int32` and `NAME` for each.

    Args:
        model: What to export.
        path: Of the file.
        target: The same for all: XNNPACK's kernels saturate on no CPU.
        pixels: How images were normalised in training: the file then takes uint8 pixels; without, normalised float32 images.

    Raises:
        ExportError: If ai-edge-litert is not installed, or an operation cannot be exact.
    """
    made = to_litert(model, pixels)
    write_sealed(path, made)
    return made


def to_litert(model: IntegerModel, pixels: Pixels | None = None) -> bytes:
    """`model` as the bytes of a .tflite file; see `export_litert`."""
    builder = LitertBuilder(for_float32(model), pixels)
    images = builder.tensor([-1, *model.input_shape], "FLOAT32" if pixels is None else "UINT8", "images")
    for op in builder.model:
        if isinstance(op, Quantize | ReciprocalQuantize):
            quantize_images(op, builder, images)
        else:
            add_to_litert(op, builder)
    outputs = [given for name, output in model.outputs.items() for given in _add_output(name, output, builder)]
    facts = conditions(model, Target.ANY, pixels)
    facts["engine"] = "the interpreter with its default delegate, XNNPACK; the reference kernels round otherwise"
    return builder.finish([images], outputs, facts)


def _add_output(name: str, output: Output, builder: LitertBuilder) -> tuple[int, int]:
    """The integers of an output, channels first, and these times their unit."""
    shape, whole = builder.shape(output.tensor), whole_of(output.tensor, builder)
    if len(shape) == 3:
        whole = builder.node(
            "TRANSPOSE",
            [whole, builder.integers(0, 3, 1, 2)],
            builder.tensor([-1, *shape], "INT32"),
            "TransposeOptions",
        )
    integers = builder.reshape(whole, builder.tensor([-1, *shape], "INT32", integer_name(name)), [-1, *shape])
    kinds = builder.schema.TensorType
    real = builder.node(
        "CAST",
        [integers],
        builder.tensor([-1, *shape], "FLOAT32"),
        "CastOptions",
        inDataType=kinds.INT32,
        outDataType=kinds.FLOAT32,
    )
    unit = builder.floats(output.across(len(shape)))
    return integers, builder.node("MUL", [real, unit], builder.tensor([-1, *shape], "FLOAT32", name), "MulOptions")


@singledispatch
def add_to_litert(op: Node, builder: LitertBuilder) -> None:
    """Add the LiteRT form of one operation."""
    raise ExportError(f"no LiteRT form of {type(op).__name__} ('{op.name}').")


add_to_litert.register(Selection, move_in_litert)
add_to_litert.register(Concat, move_in_litert)


@add_to_litert.register(IntegerLayer)
@add_to_litert.register(IntegerAvgPool2d)
def _(op: IntegerLayer | IntegerAvgPool2d, builder: LitertBuilder) -> None:
    layer, rescale = convolution_of(op, builder), op.rescale
    in_bytes = builder.held[layer.source].kind == "INT8"
    if rescale is not None and in_bytes and not in_int64(op, rescale, builder) and not builder.wide(op.name):
        add_in_int8(op, rescale, layer, builder)
        return
    sums = sums_of(op, layer, builder)
    if rescale is None:
        builder.held[op.name] = sums
    else:
        _rescale(op, rescale, builder, sums)


@add_to_litert.register
def _(op: IntegerRequantize, builder: LitertBuilder) -> None:
    _rescale(op, op.rescale, builder, builder.held[op.inputs[0]])


def _rescale(op: Node, rescale: Rescale, builder: LitertBuilder, source: Held) -> None:
    """The integers of `source`, rescaled and clamped as the tensor `op.name`."""
    if in_int64(op, rescale, builder):
        rescale_in_int64(op, rescale, builder, source)
        return
    real, factor = as_real(source, op.shape, builder), builder.floats(rescale.multipliers.as_float32())

    def make(activation: int) -> int:
        return combined(builder, op.shape, "MUL", [real, factor], activation)

    store_rounded(op, builder, rescale.low, rescale.high, make)


add_to_litert.register(IntegerAdd, add_sum)
add_to_litert.register(IntegerFloorAvgPool2d, floor_average)
