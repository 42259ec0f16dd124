# SPDX-License-Identifier: MIT
"""What NVIDIA's documentation asks of an ONNX file with quantized tensors, checked on the file: TensorRT itself is not needed.

Sources (docs.nvidia.com/deeplearning/tensorrt, version 11): *Working with Quantized Types* (symmetric quantization; int8 in
[-128, 127]; rounding to nearest, ties to even, after a multiplication by the reciprocal scale), *Explicit Quantization* (weights
that are quantized already have a DequantizeLinear between them and their operator; activations per tensor, weights per tensor or
per output channel; all inputs of weighted operations), *IQuantizeLayer* (scales positive, zero points zero; int8, int4, fp8),
*ONNX Opset Guide* (opset 9 to 25), and the operator list of the ONNX parser (float32 operators; QuantizeLinear to int8; no
QLinearConv, ConvInteger or MatMulInteger).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

FLOAT_OPERATORS = {
    "Abs", "Add", "Cast", "Clip", "Concat", "Conv", "DepthToSpace", "Div", "Elu", "Erf", "Exp", "Flatten", "Floor", "Gather",
    "HardSigmoid", "Identity", "LeakyRelu", "Log", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Pad", "Relu", "Reshape",
    "Round", "Sigmoid", "Slice", "Softplus", "Sqrt", "Sub", "Tanh", "Transpose",
}  # fmt: skip
OPSETS = range(9, 26)
WEIGHTED = {"Conv": 0, "MatMul": 1}
"""Operators with weights, and the axis of the output channels in these."""


def faults(model: onnx.ModelProto) -> list[str]:
    """Every breach of the rules, in words; none where TensorRT's documentation promises to read the file."""
    found: list[str] = []
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    maker = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    if [entry.domain for entry in model.opset_import] != [""] or model.opset_import[0].version not in OPSETS:
        found.append(f"opsets {model.opset_import}")
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            found += _scales(node, constants)
        elif node.op_type not in FLOAT_OPERATORS:
            found.append(f"{node.name}: {node.op_type} is not read")
        if node.op_type == "QuantizeLinear":
            if node.input[0] in constants:
                found.append(f"{node.name}: weights are to be stored as int8")
            if any(reader.op_type != "DequantizeLinear" for reader in readers.get(node.output[0], [])):
                found.append(f"{node.name}: read by another than DequantizeLinear")
            if numpy_helper.to_array(constants[node.input[1]]).ndim:
                found.append(f"{node.name}: activations have one scale")
        if node.op_type in WEIGHTED:
            found += _layer(node, constants, maker)
    for tensor in constants.values():
        if tensor.data_type not in (TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT64):
            found.append(f"{tensor.name}: {TensorProto.DataType.Name(tensor.data_type)} is not read")
    return found


def _scales(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[str]:
    """Constant positive float32 scales; zero points, where there are any, int8 and zero."""
    scale, *zeros = (constants.get(name) for name in node.input[1:])
    if scale is None or scale.data_type != TensorProto.FLOAT or not (numpy_helper.to_array(scale) > 0).all():
        return [f"{node.name}: scales are to be positive float32 constants"]
    for zero in zeros:
        if zero is None or zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any():
            return [f"{node.name}: zero points are to be int8 and 0"]
    return [] if zeros or node.op_type == "DequantizeLinear" else [f"{node.name}: without a zero point it makes uint8"]


def _layer(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], maker: dict[str, onnx.NodeProto]) -> list[str]:
    """int8 weights in [-127, 127] with a scale for each output channel, an int8 image, a float32 bias."""
    image, weight = (maker.get(name) for name in node.input[:2])
    if weight is None:  # a layer that is left in float32 reads float32
        quantized = image is not None and image.op_type == "DequantizeLinear"
        return [f"{node.name}: reads int8 with float32 weights"] if quantized else []
    found = []
    if image is None or image.op_type != "DequantizeLinear":
        found.append(f"{node.name}: its image does not come from DequantizeLinear")
    if weight.op_type != "DequantizeLinear" or weight.input[0] not in constants:
        return [*found, f"{node.name}: its weights do not come from DequantizeLinear"]
    stored = numpy_helper.to_array(constants[weight.input[0]])
    axis = next((entry.i for entry in weight.attribute if entry.name == "axis"), 1)
    scale = numpy_helper.to_array(constants[weight.input[1]])
    if stored.dtype != np.int8 or stored.min() < -127:
        found.append(f"{node.name}: weights are to be int8 from -127")
    if axis != WEIGHTED[node.op_type] or scale.shape != (stored.shape[axis],):
        found.append(f"{node.name}: weights are to have a scale for each output channel")
    if len(node.input) > 2 and constants[node.input[2]].data_type != TensorProto.FLOAT:
        found.append(f"{node.name}: the bias is to be float32")
    return found
