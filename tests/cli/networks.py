# SPDX-License-Identifier: MIT
"""A user's own model, found as `cli.networks:small`."""

from __future__ import annotations

from torch import Tensor, nn


class Small(nn.Module):
    """Two convolutions, a residual one, and a classifier: 28 x 28 digits take milliseconds."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 8, 5, stride=3, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        return self.head((features + self.body(features)).relu())


def small(in_channels: int = 1, num_classes: int = 10) -> nn.Module:
    """The factory."""
    return Small(in_channels, num_classes)


def tiny(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """The same, made for photographs of 32 x 32 pixels."""
    made = Small(in_channels, num_classes)
    made.in_size = (32, 32)  # type: ignore[assignment]
    return made


def grouped(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """One whose normalisation depends on the image, which no integers of ours can follow."""
    made = Small(in_channels, num_classes)
    made.body[1] = nn.GroupNorm(2, 8)
    return made
