# SPDX-License-Identifier: MIT
"""Classify an image with an exported QONNX file, with the qonnx package alone: what an FPGA flow checks its hardware against.

    bitwright export digits.integer --engine qonnx -o digits.qonnx.onnx --data mnist-5k
    python qonnx_classify.py digits.qonnx.onnx digit.png

The file takes pixels from 0 to 255 (export it with the data's normalisation), resized to its own height and width.
"""

import json
import sys

import numpy as np
from PIL import Image
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes


def classify(model: str, image: str) -> int:
    """The class with the largest logit."""
    graph = ModelWrapper(model)
    _, channels, height, width = graph.get_tensor_shape("images")
    # The package executes no dynamic batch.
    graph.set_tensor_shape("images", [1, channels, height, width])
    graph.set_tensor_shape("logits_int32", [1, *graph.get_tensor_shape("logits_int32")[1:]])
    graph = graph.transform(InferShapes())
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB").resize((width, height)), dtype=np.float32)
    batch = pixels.reshape(1, height, width, channels).transpose(0, 3, 1, 2)
    integers = execute_onnx(graph, {"images": np.ascontiguousarray(batch)})["logits_int32"]
    (unit,) = (entry.value for entry in graph.model.metadata_props if entry.key == "output_unit")
    return int((integers[0] * json.loads(unit)).argmax())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL.onnx IMAGE")
    print(classify(sys.argv[1], sys.argv[2]))
