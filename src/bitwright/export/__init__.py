# SPDX-License-Identifier: MIT
"""Files for engines: each exporter reads an IntegerModel and refuses what it cannot guarantee to give the same integers."""

from bitwright.export.beforehand import refusals, require_deployable
from bitwright.export.exporter import Exporter, companions, exported_bytes
from bitwright.export.litert.exporter import export_litert, to_litert
from bitwright.export.onnx.exporter import export_onnx, to_onnx
from bitwright.export.onnx.float_network import export_float_onnx, to_float_onnx
from bitwright.export.onnx.qdq import export_qdq, not_for_tensorrt, to_qdq
from bitwright.export.openvino.exporter import export_openvino, to_openvino
from bitwright.export.pixels import Pixels
from bitwright.export.qonnx.digits import layers_in_digits
from bitwright.export.qonnx.exporter import export_qonnx, to_qonnx
from bitwright.export.target import Target
from bitwright.export.tvm.exporter import export_tvm

EXPORTERS: dict[str, Exporter] = {
    "litert": export_litert,
    "onnx": export_onnx,
    "openvino": export_openvino,
    "qonnx": export_qonnx,
    "tvm": export_tvm,
}
"""By the name of the engine."""

ONNX_FORMS: dict[str, Exporter] = {"qdq": export_qdq, "qoperator": export_onnx}
"""How files for ONNX Runtime can be written, by the names that its own quantizer gives to the forms."""


__all__ = [
    "EXPORTERS",
    "Exporter",
    "ONNX_FORMS",
    "Pixels",
    "Target",
    "companions",
    "export_float_onnx",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_qdq",
    "export_qonnx",
    "export_tvm",
    "exported_bytes",
    "layers_in_digits",
    "not_for_tensorrt",
    "refusals",
    "require_deployable",
    "to_float_onnx",
    "to_litert",
    "to_onnx",
    "to_openvino",
    "to_qdq",
    "to_qonnx",
]
