# SPDX-License-Identifier: MIT
"""What every data set offers: labels, and any of its images as one normalised batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import Dataset


class ImageSet(Dataset[tuple[Tensor, int | Tensor]], ABC):
    """Labelled images of one shape. `dataset[i]` is a sample, `dataset.read(indices)` a batch.

    Attributes:
        labels: int64 [images], the class of each image, by which parts of the set are chosen.
        workers: Processes worth starting to read batches: 0 where the images are in memory.
    """

    labels: Tensor
    workers: int

    @abstractmethod
    def read(self, indices: Sequence[int] | Tensor, augment_seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Read a batch.

        Args:
            indices: Positions, from 0 to `len(self) - 1`, in any order.
            augment_seed: Crops and flips at random, from this seed; None reads the images as they are.

        Returns:
            Images, float32 [batch, channels, height, width], normalised; and their targets: labels, int64 [batch], unless the set
            has others, masks for instance.

        Raises:
            DataError: If an image cannot be decoded.
        """

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        """One image, float32 [channels, height, width], and its label, or what else its target is.

        Raises:
            IndexError: If there is no such image.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected an index below {len(self)}, got {index}.")
        images, targets = self.read([index % len(self)])
        return images[0], int(targets[0]) if targets.dim() == 1 else targets[0]
