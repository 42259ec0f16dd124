# SPDX-License-Identifier: MIT
"""Classify an image with a library that TVM compiled, with TVM alone: what a product needs.

    bitwright export digits.integer --engine tvm -o digits.so --data mnist-5k
    python tvm_classify.py digits.so digit.png

The library takes uint8 pixels (export it with the data's normalisation), resized to its own height and width, and says what it
takes itself: its function `bitwright` returns that as JSON.
"""

import json
import os
import sys

os.environ.setdefault(
    "TVM_THREAD_POOL_SPIN_COUNT", "1000"
)  # TVM's idle threads would keep a core busy, even at the end

import numpy as np
import tvm
from PIL import Image
from tvm.relax import VirtualMachine


def classify(model: str, image: str) -> int:
    """The class with the largest logit."""
    machine = VirtualMachine(tvm.runtime.load_module(model), tvm.cpu())
    channels, height, width = json.loads(str(machine["bitwright"]()))["input"]["shape"]
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB").resize((width, height)), dtype=np.uint8)
    batch = pixels.reshape(1, height, width, channels).transpose(0, 3, 1, 2)
    _integers, logits = machine["main"](tvm.runtime.tensor(np.ascontiguousarray(batch)))
    return int(logits.numpy()[0].argmax())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL.so IMAGE")
    print(classify(sys.argv[1], sys.argv[2]))
