# SPDX-License-Identifier: MIT
"""Files for engines: each exporter reads an IntegerModel and refuses what it cannot guarantee to give the same integers."""

from bitwright.export import operations as _operations
from bitwright.export.beforehand import refusals, require_deployable
from bitwright.export.exporter import Exporter
from bitwright.export.form import FORMS, Form, form_of, is_exported
from bitwright.export.litert.exporter import export_litert, to_litert
from bitwright.export.onnx.exporter import export_onnx, to_onnx
from bitwright.export.onnx.float_network import export_float_onnx, to_float_onnx
from bitwright.export.onnx.qdq import export_qdq, not_for_tensorrt, to_qdq
from bitwright.export.onnx.split import split_layers
from bitwright.export.openvino.exporter import export_openvino, to_openvino
from bitwright.export.pixels import Pixels
from bitwright.export.qonnx.exporter import export_qonnx, to_qonnx
from bitwright.export.seal import companions, exported_bytes
from bitwright.export.target import Target
from bitwright.export.tvm.exporter import export_tvm

del _operations

__all__ = [
    "Exporter",
    "FORMS",
    "Form",
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
    "form_of",
    "is_exported",
    "not_for_tensorrt",
    "refusals",
    "require_deployable",
    "split_layers",
    "to_float_onnx",
    "to_litert",
    "to_onnx",
    "to_openvino",
    "to_qdq",
    "to_qonnx",
]
