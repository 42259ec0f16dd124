# SPDX-License-Identifier: MIT
"""IntegerModel to ONNX: standard operators only, the same integers at every optimisation level.

All activations of up to 8 bits are uint8, signed ones of k bits with zero point 2**(k-1), since engines are fast for uint8 x
int8. Scales of convolutions are 1 but for the weights', which is the proved multiplier `b / 2**c`: the engine's `float32(sum)
* float32(scale)` is then the formula that the certificate is about. Additions multiply by `m / 2**shift`, whose sums are
exact in float32. Average pooling is a depthwise convolution with weights of one. Weights of up to 4 bits are stored as INT4
and cast to INT8 at load.

The published models' multipliers of 31 bits are replaced by float32 ones that give the same integers, where there are such
(`proof.float32_multipliers`); elsewhere, and on sums without a clamp, float64 computes what float32 cannot (`onnx.float64`).

Tensors of 9 to 16 bits are INT16 or UINT16: a layer that writes one is a ConvInteger, whose sums are multiplied and rounded
by the same formula (`onnx.sums`), and all that reads one is a multiplication that float32 does exactly.

On CPUs without 8-bit dot products, uint8 x int8 adds two products in 16 bits, which saturate. Unless the target is a CPU that
has them, layers where that could happen store their weights as uint8: engines multiply those in 16 bits
and add in 32, exactly, on every CPU.
"""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions, for_float32
from bitwright.export.names import integer_name
from bitwright.export.onnx.builder import OnnxBuilder, saturates, zero_point
from bitwright.export.onnx.graph import BATCH
from bitwright.export.onnx.outputs import add_real, file_names, output_infos
from bitwright.export.onnx.tail import Tail, add_tails
from bitwright.export.pixels import Pixels
from bitwright.export.seal import write_sealed
from bitwright.export.target import Target, check_target
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.outputs import Output


def export_onnx(
    model: IntegerModel,
    path: str | Path,
    target: Target | str = Target.ANY,
    pixels: Pixels | None = None,
    tail: Tail = None,
) -> onnx.ModelProto:
    """Write `model` as ONNX, atomically.

    The graph takes `images` (batch x channels x height x width) and returns `logits_int32` (the integers of the model) and
    `logits` (float32, the integers times the unit of each class); of several outputs, `NAME_int32` and `NAME` for each.

    Args:
        model: What to export.
        path: The path of the file.
        target: The CPUs that it must be exact on.
        pixels: How images were normalised in training: the file then takes uint8 pixels, and normalises and quantizes them
            itself; without, it takes normalised float32 images.
        tail: A softmax, log_softmax or sigmoid behind the outputs, in float: a further output, `logits_softmax`.

    Raises:
        ExportError: If the target is `avx2` and a layer can saturate, the channels of `pixels` do not match, or float32 cannot
            hold a sum over a 16-bit tensor.
        UnknownNameError: If there is no such output or tail.
    """
    made = add_tails(to_onnx(model, target, pixels), model, tail)
    write_sealed(path, made.SerializeToString())
    return made


def to_onnx(model: IntegerModel, target: Target | str = Target.ANY, pixels: Pixels | None = None) -> onnx.ModelProto:
    """`model` as an ONNX model, checked by ONNX's own checker; see `export_onnx`."""
    builder = OnnxBuilder(model=for_float32(model), target=Target(target), pixels=pixels)
    check_target(builder.model, builder.target)
    for op in builder.model:
        add_to_onnx(op, builder)
    inner = builder.make_room(file_names(model))
    for name, output in builder.model.outputs.items():
        _add_integers(name, output, inner.get(output.tensor, output.tensor), builder)
        add_real(name, output, len(model.output_shapes[name]), builder)
    kind = TensorProto.FLOAT if pixels is None else TensorProto.UINT8
    return builder.finish(
        model.model,
        [helper.make_tensor_value_info("images", kind, [BATCH, *model.input_shape])],
        output_infos(model),
        onnx_conditions(model, builder.target, pixels),
    )


def onnx_conditions(model: IntegerModel, target: Target, pixels: Pixels | None) -> dict[str, str]:
    """What the file says about itself: scheme, bounds and certificates, and on which CPUs and images it is exact."""
    saturating = [op.name for op in model.layers().values() if saturates(op, model)]
    if target is Target.AVX2:
        words = "exact on every CPU; no two products of any layer exceed 16 bits"
    elif saturating and target is Target.VNNI:
        words = f"needs 8-bit dot products (VNNI, dotprod): without, {len(saturating)} layers can saturate, first {saturating[0]}"
    else:
        words = f"exact on every CPU; {len(saturating)} layers hold uint8 weights, since int8 ones could saturate without VNNI"
    return {**conditions(model, target, pixels), "saturation": words}


def _add_integers(name: str, output: Output, source: str, builder: OnnxBuilder) -> None:
    """`NAME_int32`: accumulators as they are, quantized values without their zero point."""
    params, integers = builder.model.formats.get(output.tensor), integer_name(name)
    if params is None:
        builder.node("Identity", [source], integers)
    elif builder.exceeds_byte(output.tensor):
        builder.node("Cast", [source], integers, to=TensorProto.INT32)
    else:
        builder.node("Cast", [source], f"{integers}:stored", to=TensorProto.INT32)
        point = builder.constant(f"{integers}:zero_point", np.array(zero_point(params), dtype=np.int32))
        builder.node("Sub", [f"{integers}:stored", point], integers)


@singledispatch
def add_to_onnx(op: Node, builder: OnnxBuilder) -> None:
    """Add the ONNX form of one operation."""
    raise ExportError(f"no ONNX form of {type(op).__name__} ('{op.name}').")
