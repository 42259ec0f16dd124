# SPDX-License-Identifier: MIT
"""IntegerModel to QONNX: float32 tensors of integers, with a Quant node that states the bits of each.

QONNX is what FPGA flows (FINN, hls4ml) read. Scales of all Quant nodes are 1: weights and activations are the model's integers
themselves (`onnx_float32` says why that is exact); activations are rounded by the Quant node, halves to even.

Accumulators that leave the network as its logits are float32 numbers too, or int32 where float32 cannot hold them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions
from bitwright.export.names import integer_name
from bitwright.export.onnx.float32 import Float32Graph, add_in_float32, in_float32_multipliers
from bitwright.export.onnx.graph import BATCH, IR_VERSION, identifier, may_end_behind, move_in_onnx
from bitwright.export.onnx.split import splits_as_json, sums_of
from bitwright.export.pixels import Pixels
from bitwright.export.seal import write_sealed
from bitwright.export.target import Target
from bitwright.graph.nodes import MaxPool2d, Node
from bitwright.integer.model import IntegerModel, moved_from
from bitwright.integer.ops import IntegerConv2d
from bitwright.quantizer.formats import TensorFormat
from bitwright.returned import returned

DOMAIN = "qonnx.custom_op.general"
OPSET = 13
"""What the qonnx package's transformations are written for; Clip, Mul and Conv have not changed since."""


@dataclass
class QonnxBuilder(Float32Graph):
    """The graph of an integer model so far."""

    bias_in_convolution = False

    def quant(self, source: str, output: str, window: TensorFormat, mode: str = "ROUND") -> str:
        """A Quant node at scale 1."""
        symmetric = window == TensorFormat.symmetric(window.bit_width)
        zero_point = 0 if symmetric else -window.quant_min
        if zero_point and mode == "ROUND":
            # Quant adds its zero point before it rounds: an odd one moves halves, and any may round the sum in float32.
            source = self.node("Round", [source], f"{output}.rounded")
        operands = [source, self.scalar(1.0), self.scalar(zero_point), self.scalar(window.bit_width)]
        attributes = {"signed": int(symmetric), "narrow": 0, "rounding_mode": mode}
        return self.node("Quant", operands, output, domain=DOMAIN, **attributes)

    def rounded(self, real: str, output: str, low: int, high: int) -> None:
        window = self.model.formats[output].format
        if (low, high) == (window.quant_min, window.quant_min + (1 << window.bit_width) - 1):
            self.quant(real, output, window)
            return
        self.quant(real, f"{output}.unclamped", window)
        self.node("Clip", [f"{output}.unclamped", self.scalar(low), self.scalar(high)], output)

    def weight(self, name: str, values: npt.NDArray[np.int8], bits: int) -> str:
        stored = self.constant(f"{name}.weight_float", values.astype(np.float32))
        return self.quant(stored, f"{name}.weight", TensorFormat.symmetric(bits))

    def shared_weight(self, op: IntegerConv2d) -> str:
        return self.constant(f"{op.name}.ones", op.weight.astype(np.float32))

    def real(self, source: str, scale: float, output: str) -> str:
        return self.scaled(source, np.array(scale, dtype=np.float32), output)

    def move(self, op: Node) -> None:
        if isinstance(op, MaxPool2d) and may_end_behind(op):
            raise ExportError(
                f"the qonnx package counts a last window of '{op.name}' that may begin behind the image, and ONNX Runtime, which "
                "computes it there, does not. Use ceil_mode=False, or another engine."
            )
        move_in_onnx(op, self)


def export_qonnx(
    model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
) -> onnx.ModelProto:
    """Write `model` as QONNX, atomically.

    The graph takes `images` and returns `logits_int32`: the integers of the model, as float32 numbers as everything in QONNX, or
    int32 where they can exceed 2**24; of several outputs, `NAME_int32` for each. What one integer of each class is worth stands
    in the metadata, as `output_unit`, by name where there are several; which layers are in two parts, as `split_layers`.

    Args:
        model: What to export.
        path: The path of the file.
        target: The same for all: QONNX states what is computed, not how.
        pixels: How images were normalised in training: the file then takes pixels from 0 to 255; without, normalised images.

    Raises:
        ExportError: If sums of parts can exceed 2**24 as well, or a multiplier has more bits than float32 holds.
    """
    made = to_qonnx(model, pixels)
    write_sealed(path, made.SerializeToString())
    return made


def to_qonnx(model: IntegerModel, pixels: Pixels | None = None) -> onnx.ModelProto:
    """`model` as a QONNX model; see `export_qonnx`."""
    model = in_float32_multipliers(model, "QONNX")
    builder = QonnxBuilder(model=model, pixels=pixels)
    for op in model:
        add_in_float32(op, builder)
    inner = builder.make_room([integer_name(name) for name in model.outputs])
    outputs = []
    for name, output in model.outputs.items():
        kind = TensorProto.INT32 if moved_from(output.tensor, model) in builder.in_int32 else TensorProto.FLOAT
        builder.node("Identity", [inner.get(output.tensor, output.tensor)], integer_name(name))
        sizes = model.output_shapes[name]
        outputs.append(helper.make_tensor_value_info(integer_name(name), kind, [BATCH, *sizes]))
    graph = helper.make_graph(
        builder.nodes,
        identifier(model.model),
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [BATCH, *model.input_shape])],
        outputs,
        list(builder.constants.values()),
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    made.producer_name = "bitwright"
    facts = conditions(model, Target.ANY, pixels)
    facts["sums"] = sums_of(builder.splits, builder.means)
    facts["split_layers"] = splits_as_json(builder.splits)
    units = {name: np.asarray(output.unit).tolist() for name, output in model.outputs.items()}
    facts["output_unit"] = json.dumps(returned(units))
    helper.set_model_props(made, facts)
    return made


def imports_qonnx(path: Path) -> bool:
    """Whether an ONNX file imports QONNX's operators; one that cannot be read does not, and its engine will say so."""
    try:
        made = onnx.load(str(path), load_external_data=False)
    except Exception:  # protobuf raises a type of its own for each fault
        return False
    return any(entry.domain == DOMAIN for entry in made.opset_import)
