# SPDX-License-Identifier: MIT
"""NNCF after training: `nncf.quantize` at its defaults, which have 8 bits and fast bias correction.

All layers have 8 bits: symmetric weights with a scale a channel, symmetric activations. The recipe `accurate` has asymmetric
activations (its preset `mixed`) and its slower, more accurate bias correction instead. It needs a C++ compiler.
"""

from __future__ import annotations

import os

import nncf
import torch
from exchange import answer, question
from torch import Tensor


class Network(torch.nn.Module):
    """A module that is no graph of torch.fx: NNCF has another way for those."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return self.network(images)


# It compiles a kernel at first, which takes minutes on a busy processor.
os.environ["NNCF_EXTENSION_LOAD_TIMEOUT"] = "0"
asked = question()
accurate = asked.recipe == "accurate"
quantized = nncf.quantize(
    Network(asked.network).eval(),
    nncf.Dataset([part for part, _ in asked.batches(1)]),
    preset=nncf.QuantizationPreset.MIXED if accurate else nncf.QuantizationPreset.PERFORMANCE,
    subset_size=len(asked.calibration),
    fast_bias_correction=not accurate,
)
settings = {"preset": "mixed" if accurate else "performance", "fast_bias_correction": not accurate}
answer(asked, quantized, ["nncf", "torch"], settings)
