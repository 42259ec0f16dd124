# SPDX-License-Identifier: MIT
"""Classify an image with an exported .tflite file, with LiteRT alone: what a product needs.

    bitwright export digits.integer --engine litert -o digits.tflite --data mnist-5k
    python litert_classify.py digits.tflite digit.png

The file takes uint8 pixels (export it with the data's normalisation), resized to its own height and width.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image


def classify(model: str, image: str) -> int:
    """The class with the largest logit."""
    interpreter = Interpreter(model_path=model)  # with XNNPACK, its default: the reference kernels round otherwise
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    _, channels, height, width = given["shape"]
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB").resize((width, height)), dtype=np.uint8)
    batch = pixels.reshape(1, height, width, channels).transpose(0, 3, 1, 2)
    interpreter.set_tensor(given["index"], np.ascontiguousarray(batch))
    interpreter.invoke()
    (logits,) = (entry["index"] for entry in interpreter.get_output_details() if entry["name"] == "logits")
    return int(interpreter.get_tensor(logits)[0].argmax())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL.tflite IMAGE")
    print(classify(sys.argv[1], sys.argv[2]))
