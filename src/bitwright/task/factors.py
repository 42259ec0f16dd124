# SPDX-License-Identifier: MIT
"""The curvature of the loss at the outputs as a weighted sum of squares: what a Gauss-Newton trace is sampled from.

For each image the Hessian S of its loss by its outputs is written as a sum over columns k of w_k s_k d_k d_k^T, with weights
w_k >= 0, signs s_k and directions d_k shaped as the outputs. Then tr(J^T S J) is the sum of w_k s_k |J^T d_k|^2: weighted squared
gradient norms. Pairs of an image and a column are numbered image by image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.data.sampling import derive_seed

ENDLESS = 2**32
"""Columns of an image whose directions are drawn at random: more than anyone asks for."""


class Factor(ABC):
    """S of every image as a weighted sum of squares.

    Attributes:
        weights: float64 [images, columns], none negative. Where directions are drawn there is one column, the sum of weights.
        columns: By which pairs are numbered: pair i is of image i // columns.
    """

    weights: Tensor

    @property
    def columns(self) -> int:
        return self.weights.shape[1]

    @abstractmethod
    def directions(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Directions and signs of pairs.

        Args:
            pairs: int64 [pairs], on the device of the weights.

        Returns:
            float64 [pairs, *outputs] and [pairs].
        """


@final
@dataclass(frozen=True)
class Classes(Factor):
    """S = diag(p) - p p^T of a softmax, which is the sum over classes c of p_c (e_c - p)(e_c - p)^T.

    These are what the gradients e_c - p would give if labels were drawn from p. A trained network is sure of most images, so few
    pairs carry most of the weight.

    Attributes:
        weights: p_c |e_c - p|^2.
        probabilities: p, float64 [images, classes].
    """

    weights: Tensor
    probabilities: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Classes:
        """The factor of the softmax of `logits` [images, classes]."""
        probabilities = logits.double().softmax(1)
        squares = probabilities.square()
        others = squares.sum(1, keepdim=True) - squares
        # |e_c - p|^2 is (1 - p_c)^2 and the sum of the others' squares, which loses no digits near one.
        lengths = (1 - probabilities).square() + others.clamp_min(0)
        return cls(probabilities * lengths, probabilities)

    def directions(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors along e_c - p."""
        vectors: Tensor = -self.probabilities[pairs // self.columns]
        vectors[torch.arange(len(pairs), device=vectors.device), pairs % self.columns] += 1
        return F.normalize(vectors, dim=1, eps=torch.finfo(torch.float64).tiny), _ones(vectors)


@final
@dataclass(frozen=True)
class Vectors(Factor):
    """Any directions, one for each column.

    Attributes:
        weights: The weights of each.
        vectors: Unit vectors, float64 [images, columns, *outputs].
        signs: float64 [images, columns].
    """

    weights: Tensor
    vectors: Tensor
    signs: Tensor

    @classmethod
    def eigenvectors(cls, matrices: Tensor, shape: tuple[int, ...]) -> Vectors:
        """Of symmetric matrices [images, n, n], whose rows are outputs of this shape.

        What the loss of an image does not look at has rows of zeros, and is left out: a detector's looks at the places of boxes,
        a tenth of all.
        """
        values = matrices.new_zeros(matrices.shape[:2])
        vectors = torch.eye(matrices.shape[1], dtype=matrices.dtype, device=matrices.device).repeat(len(matrices), 1, 1)
        for matrix, of_image, columns in zip(matrices, values, vectors, strict=True):
            used = (matrix != 0).any(0) | (matrix != 0).any(1)
            of_image[used], inner = _eigen(matrix[used][:, used])
            columns[used.unsqueeze(1) & used] = inner.flatten()
        return cls(values.abs(), vectors.mT.reshape(*values.shape, *shape), values.sign())

    @classmethod
    def single(cls, gradients: Tensor) -> Vectors:
        """Of g g^T for one gradient of each image, [images, *outputs]."""
        flat = gradients.double().flatten(1)
        unit = F.normalize(flat, dim=1, eps=torch.finfo(torch.float64).tiny).reshape(gradients.shape)
        return cls(flat.square().sum(1, keepdim=True), unit[:, None], torch.ones_like(flat[:, :1]))

    def directions(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the columns asked for."""
        image, column = pairs // self.columns, pairs % self.columns
        return self.vectors[image, column], self.signs[image, column]


@final
@dataclass(frozen=True)
class Axes(Factor):
    """A diagonal: the sum of squares of the axes, each with its own weight.

    Attributes:
        weights: The diagonal, float64 [images, outputs]: equal everywhere for one output, and for several within each.
        shape: The shape of the outputs of one image.
    """

    weights: Tensor
    shape: tuple[int, ...]

    def directions(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors along the outputs."""
        vectors = F.one_hot(pairs % self.columns, self.columns).double().reshape(-1, *self.shape)
        return vectors, _ones(vectors)


@final
@dataclass(frozen=True)
class Drawn(Factor):
    """Directions drawn at random, d with E[s d d^T] = S / w: of an image as many as are asked for, each with its own seed.

    Attributes:
        weights: w, float64 [images, 1].
        draw: Given an image and a generator on the CPU, a direction [*outputs] and its sign.
        seed: The seed of all draws.
    """

    weights: Tensor
    draw: Callable[[int, torch.Generator], tuple[Tensor, float]]
    seed: int

    @property
    def columns(self) -> int:
        return ENDLESS

    def directions(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """One draw for each pair, the same whenever it is asked for."""
        found = []
        for pair in pairs.tolist():
            generator = torch.Generator().manual_seed(derive_seed(self.seed, pair // ENDLESS, pair % ENDLESS))
            found.append(self.draw(pair // ENDLESS, generator))
        signs = torch.tensor([sign for _, sign in found], dtype=torch.float64, device=pairs.device)
        return torch.stack([direction for direction, _ in found]).double(), signs


def rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """Signs of both kinds, float64, in the shape and on the device of `like`."""
    drawn = torch.randint(2, like.shape, generator=generator, dtype=torch.float64)
    return (2 * drawn - 1).to(like.device)


def output_count(outputs: Tensor) -> int:
    """Of one image."""
    return math.prod(outputs.shape[1:])


def _ones(vectors: Tensor) -> Tensor:
    return torch.ones(len(vectors), dtype=torch.float64, device=vectors.device)


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, in columns, of a symmetric matrix.

    LAPACK's divide and conquer, which PyTorch asks for, may end without a result where many eigenvalues are equal; its relatively
    robust representations do not.
    """
    try:
        found = torch.linalg.eigh(matrix)
        return found.eigenvalues, found.eigenvectors
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = scipy.linalg.eigh(matrix.cpu().numpy(), driver="evr")
        return torch.from_numpy(values).to(matrix), torch.from_numpy(vectors).to(matrix)
