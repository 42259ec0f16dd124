# SPDX-License-Identifier: MIT
"""IntegerModel to LiteRT: a .tflite file whose integers XNNPACK, the interpreter's default on CPUs, computes exactly.

Layers and means run on its 8-bit convolutions (`litert.convolution`), additions on its 8-bit additions where no sum lies at a
half (`litert.addition`). What these would round in another way is done in float32 on integers, exactly (`litert.real`). Streams
of 16 bits are float32 tensors of integers; the published models' tensors and 31-bit multipliers are int32 and int64
(`litert.int64`), where float32 multipliers do not give the same integers.

The reference kernels of LiteRT round twice and differ; the file is for the interpreter as it is, with its default delegate.
"""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions, for_float32
from bitwright.export.litert.builder import LitertBuilder
from bitwright.export.litert.images import quantize_images
from bitwright.export.litert.real import whole_of
from bitwright.export.names import integer_name
from bitwright.export.pixels import Pixels
from bitwright.export.seal import write_sealed
from bitwright.export.target import Target
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import (
    Quantize,
    ReciprocalQuantize,
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
        path: The path of the file.
        target: The same for all: XNNPACK's kernels saturate on no CPU.
        pixels: How images were normalised in training: the file then takes uint8 pixels; without, normalised float32 images.

    Raises:
        MissingLibraryError: If ai-edge-litert is not installed.
        ExportError: If an operation cannot be exact.
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
