# SPDX-License-Identifier: MIT
"""Two small networks for scenes of digits: a U-Net that segments, and a detector of cross-stage partial blocks."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, function: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """Convolution, batch norm, and a function of each element."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), function())


class UNet(nn.Module):
    """Down to an eighth and up again, bilinearly, each time beside what was there on the way down.

    Source:
        Ronneberger et al. 2015, arXiv:1505.04597.
    """

    def __init__(self, num_classes: int = 11, in_channels: int = 1, width: int = 8) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = block(in_channels, width)
        self.down = nn.ModuleList(
            nn.Sequential(block(narrow, wide, stride=2), block(wide, wide)) for narrow, wide in pairwise(widths)
        )
        self.up = nn.ModuleList(block(wide + narrow, narrow) for narrow, wide in pairwise(widths))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, [batch, classes, height, width]."""
        maps = [self.stem(images)]
        for down in self.down:
            maps.append(down(maps[-1]))
        values = maps.pop()
        for up in reversed(self.up):
            values = F.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
            values = up(torch.cat([values, maps.pop()], 1))
        return self.head(values)


class PartialBlock(nn.Module):
    """A residual block on half of the channels, which the other half passes by.

    Source:
        Wang et al. 2019, CSPNet, arXiv:1911.11929.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = block(channels, channels, kernel=1, function=nn.SiLU)
        self.inner = nn.Sequential(block(half, half, kernel=1, function=nn.SiLU), block(half, half, function=nn.SiLU))
        self.leave = block(channels, channels, kernel=1, function=nn.SiLU)

    def forward(self, values: Tensor) -> Tensor:
        """The same shape."""
        passed, changed = self.enter(values).chunk(2, 1)
        return self.leave(torch.cat([passed, changed + self.inner(changed)], 1))


class Detector(nn.Module):
    """Darknet-like, with SiLU: three scales, from the coarsest up again by repeating pixels, and a head for each.

    What it returns are maps, for the task `detection`; boxes are decoded behind it, in float.

    Source:
        Redmon and Farhadi 2018, YOLOv3, arXiv:1804.02767; Bochkovskiy et al. 2020, YOLOv4, arXiv:2004.10934.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.stem = nn.Sequential(
            block(in_channels, width // 2, stride=2, function=nn.SiLU),
            block(width // 2, width, stride=2, function=nn.SiLU),
            PartialBlock(width),
        )
        self.down = nn.ModuleList(
            nn.Sequential(block(narrow, wide, stride=2, function=nn.SiLU), PartialBlock(wide))
            for narrow, wide in pairwise(widths)
        )
        self.up = nn.ModuleList(block(wide + narrow, narrow, function=nn.SiLU) for narrow, wide in pairwise(widths))
        self.heads = nn.ModuleList(nn.Conv2d(channels, 5 + num_classes, 1) for channels in widths)
        for head in self.heads:
            nn.init.constant_(head.bias[4:5], -4.0)  # at first no place has a box

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of a fourth, an eighth and a sixteenth of height and width, each [batch, 5 + classes, height, width]."""
        maps = [self.stem(images)]
        for down in self.down:
            maps.append(down(maps[-1]))
        for place in (1, 0):
            raised = F.interpolate(maps[place + 1], scale_factor=2, mode="nearest")
            maps[place] = self.up[place](torch.cat([raised, maps[place]], 1))
        return {
            name: head(values)
            for name, head, values in zip(("fine", "middle", "coarse"), self.heads, maps, strict=True)
        }
