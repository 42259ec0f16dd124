# SPDX-License-Identifier: MIT
"""Better integers without labels: blocks whose outputs are brought close to the float network's."""

from bitwright.reconstruction.blocks import Block, blocks
from bitwright.reconstruction.reconstruct import reconstruct
from bitwright.reconstruction.rounding import LearnedRounding
from bitwright.reconstruction.settings import ReconstructionSettings

__all__ = ["Block", "LearnedRounding", "ReconstructionSettings", "blocks", "reconstruct"]
