# SPDX-License-Identifier: MIT
"""Better integers without labels: blocks, and means of layers, that are brought close to the float network's."""

from bitwright.reconstruction.bias_correction import correct_biases
from bitwright.reconstruction.blocks import Block, blocks
from bitwright.reconstruction.reconstruct import reconstruct
from bitwright.reconstruction.rounding import LearnedRounding
from bitwright.reconstruction.settings import ReconstructionSettings

__all__ = ["Block", "LearnedRounding", "ReconstructionSettings", "blocks", "correct_biases", "reconstruct"]
