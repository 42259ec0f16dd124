# SPDX-License-Identifier: MIT
"""Better integers without labels, by methods that compose, each in a file of its own.

`equalised` is for the float network, before it is quantized; `reconstruct`, and then `correct_biases`, for what calibration made;
`synthesised` makes images for both, of a network whose data are not at hand.
"""

from bitwright.reconstruction.bias_correction import correct_biases
from bitwright.reconstruction.blocks import Block, blocks
from bitwright.reconstruction.compensation import compensate_rounding
from bitwright.reconstruction.equalisation import equalised
from bitwright.reconstruction.reconstruct import reconstruct
from bitwright.reconstruction.rounding import LearnedRounding
from bitwright.reconstruction.settings import ReconstructionSettings
from bitwright.reconstruction.synthesis import synthesised

__all__ = [
    "Block",
    "LearnedRounding",
    "ReconstructionSettings",
    "blocks",
    "compensate_rounding",
    "correct_biases",
    "equalised",
    "reconstruct",
    "synthesised",
]
