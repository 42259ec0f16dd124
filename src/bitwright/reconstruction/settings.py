# SPDX-License-Identifier: MIT
"""How a reconstruction is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from bitwright.errors import TrainingError

NETWORK_STEPS = 4
"""For each of a block's: at 4 bits of ResNet20 these take twice the time of the steps of all blocks."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """How blocks are reconstructed, and then the network.

    Attributes:
        compensate: Whether rounding errors are made to compensate each other at first, where weights are not trained.
        steps: The steps of gradient descent for each block; 0 where compensation, which takes far less time, is enough.
        batch_size: Images in one step.
        learning_rate: The learning rate of the rounding variables (Adam).
        scale_rate: The learning rate of the scales of activations that the block makes, and of offsets, each times the size that
            it begins with: of an offset, the root mean square over channels (Adam). 0 leaves them as they are.
        drop: Share of the activations that stay float in a step.
        decide: Weight of the term that makes rounding variables decide.
        warm_up: Share of the steps before that term counts.
        network_steps: The steps of gradient descent, behind those of the blocks, for all layers at once. None is four times
            `steps`.
        network_rate: Their learning rate of weights, in quantization steps (Adam).
        temperature: Softens the outputs that these imitate, where they are classes.
        seed: The seed of batches and drops.
    """

    compensate: bool = True
    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 0.3
    scale_rate: float = 1e-2
    drop: float = 0.5
    decide: float = 0.01
    warm_up: float = 0.2
    network_steps: int | None = None
    network_rate: float = 0.015
    temperature: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise TrainingError(f"{item.name} of a reconstruction must be a number of at least 0, got {value}.")
        if not (self.compensate or self.steps or self.network_steps) or self.batch_size < 1:
            raise TrainingError(
                f"a reconstruction needs a batch, and steps or compensation, got {self.batch_size}, {self.steps} and "
                f"{self.compensate}."
            )
        if self.temperature == 0:
            raise TrainingError("expected a temperature above 0, got 0.")
        if self.drop > 1 or self.warm_up >= 1:
            raise TrainingError(f"expected drop up to 1 and warm_up below 1, got {self.drop} and {self.warm_up}.")

    @property
    def all_network_steps(self) -> int:
        """The steps for all layers at once."""
        return NETWORK_STEPS * self.steps if self.network_steps is None else self.network_steps


DEFAULT = ReconstructionSettings()
"""What suits most networks."""
