# SPDX-License-Identifier: MIT
"""Classify an image with an exported OpenVINO file, with OpenVINO alone: what a product needs.

    bitwright export digits.integer --engine openvino -o digits.xml --data mnist-5k
    python openvino_classify.py digits.xml digit.png

The file takes uint8 pixels (export it with the data's normalisation), resized to its own height and width.
"""

import sys

import numpy as np
import openvino
from PIL import Image


def classify(model: str, image: str) -> int:
    """The class with the largest logit."""
    # The integers are exact in float32; where a CPU has bfloat16, OpenVINO would use that.
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    _, channels, height, width = (dimension.get_min_length() for dimension in compiled.input(0).partial_shape)
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB").resize((width, height)), dtype=np.uint8)
    batch = pixels.reshape(1, height, width, channels).transpose(0, 3, 1, 2)
    return int(compiled(np.ascontiguousarray(batch))["logits"][0].argmax())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL.xml IMAGE")
    print(classify(sys.argv[1], sys.argv[2]))
