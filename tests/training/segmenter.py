# SPDX-License-Identifier: MIT
"""A small segmenter, and images with masks that are drawn on the fly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.data import ImageData
from bitwright.data.image_set import ImageSet

IMAGE = (1, 16, 16)


class Shapes(ImageSet):
    """Bright squares and dark discs on noise, each with its mask; borders do not count."""

    workers = 0

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = 0.3 * torch.randn(count, *IMAGE, generator=generator)
        self.masks = torch.zeros(count, *IMAGE[1:], dtype=torch.int64)
        rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        for index in range(count):
            top, left, y, x = (int(value) for value in torch.randint(2, 12, (4,), generator=generator))
            disc = (rows - y) ** 2 + (columns - x) ** 2 <= 8
            square = (rows - top).abs().maximum((columns - left).abs()) <= 2
            self.masks[index][disc] = 1
            self.masks[index][square] = 2
            self.images[index, 0] += 2.0 * (self.masks[index] == 2) - 2.0 * (self.masks[index] == 1)
        self.masks[:, 0] = self.masks[:, -1] = 255
        self.labels = torch.zeros(count, dtype=torch.int64)

    def read(self, indices: Sequence[int] | Tensor, augment_seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Images and masks."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self.images[chosen], self.masks[chosen]


class Segmenter(nn.Module):
    """Three convolutions with batch norm, and a class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.head = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, [batch, 3, height, width]."""
        values = F.relu(self.norms[0](self.first(images)))
        return self.head(F.relu(self.norms[1](self.second(values))))


def shapes() -> ImageData:
    """As a data set."""
    train, test = Shapes(256, 0), Shapes(64, 1)
    return ImageData("shapes", ("ground", "disc", "square"), IMAGE, train, test, (0.0,), (1.0,), "drawn")
