# SPDX-License-Identifier: MIT
"""Classify an image with an exported ONNX file, with ONNX Runtime alone: what a product needs.

    bitwright export digits.integer -o digits.onnx --data mnist-5k
    python onnxruntime_classify.py digits.onnx digit.png

The file takes uint8 pixels (export it with the data's normalisation), resized to its own height and width.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image


def classify(model: str, image: str) -> int:
    """The class with the largest logit."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    _, channels, height, width = given.shape
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB").resize((width, height)), dtype=np.uint8)
    batch = pixels.reshape(1, height, width, channels).transpose(0, 3, 1, 2)
    (logits,) = session.run(["logits"], {given.name: np.ascontiguousarray(batch)})
    return int(logits[0].argmax())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL.onnx IMAGE")
    print(classify(sys.argv[1], sys.argv[2]))
