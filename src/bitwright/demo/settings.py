# SPDX-License-Identifier: MIT
"""What the demonstration does, with sensible numbers for each data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitwright.training import TrainSettings

BASELINE = TrainSettings(epochs=6, learning_rate=0.15, weight_decay=5e-4)
QUANTIZED = TrainSettings(epochs=1, learning_rate=0.02)


@dataclass(frozen=True)
class DemoSettings:
    """Everything that decides the results; kept beside them.

    Attributes:
        data: Name of the data set.
        model: Name of the model; it is made for the channels and classes of the data.
        image_size: Height and width that the images are brought to.
        baseline: Training of the float model.
        quantized: Training of each scheme, from the float weights, with batch norm by batch statistics.
        sensitivity_images: How many training images sensitivities are measured on.
        relative_error: Target for the standard error of each layer's trace.
        max_probes: At most this many gradients of single images.
        latency_batch: Images in a batch of the speed comparison.
        seed: The seed of everything random.
    """

    data: str = "mnist-5k"
    model: str = "pytorchcv:resnet20_cifar10"
    image_size: int = 32
    baseline: TrainSettings = BASELINE
    quantized: TrainSettings = QUANTIZED
    sensitivity_images: int = 1000
    relative_error: float = 0.05
    max_probes: int = 10_000
    latency_batch: int = 8
    seed: int = 0


def preset(data: str, *, epochs: int | None = None, seed: int = 0) -> DemoSettings:
    """Settings for a data set.

    Args:
        data: For instance `fashion-mnist`.
        epochs: The epochs of the float baseline; quantization-aware training gets a third of them.
        seed: The seed of everything random.
    """
    chosen = DemoSettings(data=data, seed=seed)
    if data.partition(":")[0] == "fashion-mnist":
        chosen = replace(
            chosen,
            baseline=TrainSettings(epochs=3, learning_rate=0.1, weight_decay=5e-4),
            quantized=TrainSettings(epochs=1, learning_rate=0.02),
        )
    baseline, quantized = replace(chosen.baseline, seed=seed), replace(chosen.quantized, seed=seed)
    if epochs is not None:
        baseline, quantized = replace(baseline, epochs=epochs), replace(quantized, epochs=max(1, round(epochs / 3)))
    return replace(chosen, baseline=baseline, quantized=quantized)
