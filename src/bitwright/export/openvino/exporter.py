# SPDX-License-Identifier: MIT
"""IntegerModel to OpenVINO's own format: float32 tensors of integers, and bytes where the engine multiplies those exactly.

OpenVINO computes what a file means in real numbers, and rearranges it: it moves scales through sums, folds them into weights,
and turns divisions into multiplications. Each of these rounds once more, or once less. So no rounded number of the file
depends on what may be moved: every tensor is made of integers; the accumulator, exact in float32, is multiplied by the proved
multiplier behind a clamp that no multiplication crosses (`fenced`), and rounded at once, halves to even: the formula that the
certificate is about.

Layers run on 8-bit kernels, which add in int32. CPUs without 8-bit dot products add two products in 16 bits before, which
saturate; unless the target is a CPU that has them, layers where that could happen read every input twice, once for each half of
a weight. What cannot run so (`openvino.kernels`) is a float32 convolution of integers, exact while all partial sums stay
within 2**24, or is cut into such parts, which are added as int32.
"""

from __future__ import annotations

import json
import tempfile
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions, for_float32
from bitwright.export.names import integer_name
from bitwright.export.onnx.graph import identifier
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.kernels import DOUBLED, FLOAT32, INT8, PARTS
from bitwright.export.pixels import Pixels
from bitwright.export.seal import write_sealed
from bitwright.export.target import Target
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel

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
        path: The path of the .xml file.
        target: The CPUs that it must be exact on.
        pixels: How images were normalised in training: the file then takes uint8 pixels; without, normalised float32 images.

    Raises:
        MissingLibraryError: If openvino is not installed.
        ExportError: If the path has another suffix, or an operation cannot be exact.
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
