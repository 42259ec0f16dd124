# SPDX-License-Identifier: MIT
"""The weights and integers of one layer that give the float network's results, by least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.quantizer.formats import TensorFormat
from bitwright.reconstruction.second_moments import SecondMoments

COLUMNS = 128
"""Weights of a channel after which all later ones take up what was lost: less traffic than after each."""


def refitted(weight: Tensor, moments: SecondMoments, damping: float) -> Tensor:
    """The weights that give the float network's results from what the quantized network reads, nearly: ridge regression.

    Args:
        weight: Shape (groups, channels, weights of a channel), float64.
        moments: Of what they read.
        damping: See `damped`.
    """
    lost = weight @ (moments.across - moments.made)
    root = torch.linalg.cholesky(damped(moments.made, damping))
    return weight + torch.cholesky_solve(lost.transpose(1, 2), root).transpose(1, 2)


def compensated(weight: Tensor, moments: Tensor, window: TensorFormat, damping: float) -> Tensor:
    """Integers, decided one after another, the most important ones first, each behind what the others lost.

    Args:
        weight: In steps of its scale, shape (groups, channels, weights of a channel), float64.
        moments: `E[x x^T]` of what they are multiplied by, shape (groups, weights of a channel, weights of a channel).
        window: The integers that they may become.
        damping: See `damped`.

    Returns:
        Shaped as `weight`.

    Source:
        Frantar et al. 2022, GPTQ, arXiv:2210.17323, algorithm 1; the order by the diagonal is that of its code (`act_order`).
    """
    matrix = damped(moments, damping)
    order = matrix.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    across = order[:, None, :].expand_as(weight)
    left = weight.gather(2, across)
    squared = order[:, None, :].expand_as(matrix)
    matrix = matrix.gather(2, squared).gather(1, squared.transpose(1, 2))
    # The upper Cholesky factor of the inverse, for a third of the work: R^-1, where the matrix is R R^T with R upper, too.
    root = torch.linalg.cholesky(matrix.flip(1, 2))
    identity = torch.eye(weight.shape[2], dtype=root.dtype, device=root.device)
    factor = torch.linalg.solve_triangular(root, identity.expand_as(root), upper=False).flip(1, 2)
    factor = factor / factor.diagonal(dim1=1, dim2=2)[:, :, None]
    count = weight.shape[2]
    for begin in range(0, count, COLUMNS):
        end = min(begin + COLUMNS, count)
        lost = torch.zeros_like(left[:, :, begin:end])
        for column in range(begin, end):
            value = left[:, :, column]
            integer = value.round().clamp(window.quant_min, window.quant_max)
            lost[:, :, column - begin] = value - integer
            left[:, :, column] = integer
            later = factor[:, column, None, column + 1 : end]
            left[:, :, column + 1 : end] -= lost[:, :, column - begin, None] * later
        left[:, :, end:] -= lost @ factor[:, begin:end, end:]
    return torch.empty_like(weight).scatter_(2, across, left)


def damped(moments: Tensor, damping: float) -> Tensor:
    """Second moments with a part of their mean diagonal on the diagonal, positive definite: what few images show counts less.

    Args:
        moments: Shape (groups, weights of a channel, weights of a channel).
        damping: The part.
    """
    size = moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    return moments + torch.diag_embed(damping * size[:, None].expand(moments.shape[:2]))
