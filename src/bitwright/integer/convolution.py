# SPDX-License-Identifier: MIT
"""Sums of products as convolutions: the one form in which engines add them.

A matrix product is a convolution of an image of one pixel, a sum over windows a depthwise convolution with weights of one.
Exporters know convolutions alone, wherever their engine has nothing faster. Both stay instructions of their own because
executors do have it, and because files would hold the ones:

- PyTorch on a core of an AVX2 CPU, at batch 8, pools faster than it convolves with ones: 2048 x 7 x 7 as a whole in 0.11 against
  0.72 ms, 288 x 35 x 35 by 3 x 3 in 10.0 against 14.7, 256 x 16 x 16 by 2 x 2 in 0.16 against 0.19;
- TVM's kernels add windows without products, and multiply matrices in blocks of their own;
- ONNX Runtime has MatMulInteger for logits, and float32 forms (QDQ, QONNX) MatMul.
"""

from __future__ import annotations

from functools import singledispatch

from bitwright.graph.nodes import Node
from bitwright.integer.ops import IntegerConv2d


@singledispatch
def as_convolution(op: Node) -> IntegerConv2d:
    """The convolution that makes the sums of `op`, with its name and rescaling.

    It reads images: what reads features reads an image of one pixel, and makes one.
    """
    raise NotImplementedError(f"no convolution that is {type(op).__name__}")
