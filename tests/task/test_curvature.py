# SPDX-License-Identifier: MIT
"""The curvature at the outputs, as products and as sums of squares, against dense Hessians of single images' losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.task import Task, curvature, dense_classification
from bitwright.task.curvature import gradient_factor
from bitwright.task.factors import Drawn, Factor, Vectors
from task.losses import MAPS, VECTORS, Targets, literal

KINDS = [(name, *found, (5,)) for name, found in VECTORS.items()] + [
    (name, *found, (3, 2, 4)) for name, found in MAPS.items()
]
BY_NAME = pytest.mark.parametrize(
    ("task", "targets", "shape"), [kind[1:] for kind in KINDS], ids=[f"{kind[0]} {kind[3]}" for kind in KINDS]
)


def outputs_of(shape: tuple[int, ...], images: int = 4) -> Tensor:
    """Of so many images."""
    return 2 * torch.randn(images, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def summed(factor: Factor, image: int) -> Tensor:
    """S of an image from all its directions."""
    pairs = image * factor.columns + torch.arange(factor.columns)
    directions, signs = factor.directions(pairs)
    flat = directions.flatten(1)
    return torch.einsum("k,ki,kj->ij", factor.weights[image] * signs, flat, flat)


@BY_NAME
def test_products_are_those_of_the_hessian(task: Task, targets: Targets, shape: tuple[int, ...]) -> None:
    """S v of all images at once, as of each by itself."""
    outputs = outputs_of(shape)
    vectors = outputs_of(shape).flip(0)
    given = targets(outputs)
    found = task.curved().product(outputs, given, vectors)
    for image, dense in enumerate(literal(task, outputs, given)):
        expected = (dense @ vectors[image].flatten()).reshape(shape)
        torch.testing.assert_close(found[image], expected, rtol=1e-10, atol=1e-14)


@BY_NAME
def test_factors_sum_to_the_hessian(
    task: Task, targets: Targets, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All directions together are S; those that are drawn are so in the mean, also where there would be few enough."""
    outputs = outputs_of(shape)
    given = targets(outputs)
    dense = literal(task, outputs, given)
    factor = task.curved().factor(outputs, given)
    if not isinstance(factor, Drawn):
        for image, expected in enumerate(dense):
            torch.testing.assert_close(summed(factor, image), expected, rtol=1e-9, atol=1e-12)
        assert factor.weights.min() >= 0
    monkeypatch.setattr(curvature, "MAX_AXES", 0)
    monkeypatch.setattr(curvature, "MAX_DENSE_ELEMENTS", 0)
    drawn = task.curved().factor(outputs, given, seed=1)
    if not isinstance(drawn, Drawn):
        return
    count = 1000
    pairs = 2 * drawn.columns + torch.arange(count)
    directions, signs = drawn.directions(pairs)
    again, _ = drawn.directions(pairs[5:6])
    assert torch.equal(again[0], directions[5])
    flat = directions.flatten(1)
    samples = float(drawn.weights[2]) * signs[:, None, None] * flat[:, :, None] * flat[:, None, :]
    expected_error = float((samples.var(0) / count).sum().sqrt())
    assert float((samples.mean(0) - dense[2]).norm()) < 2 * expected_error


def test_pixels_that_do_not_count_have_no_curvature() -> None:
    """An image of nothing else has none at all, and no direction is drawn of it."""
    outputs = outputs_of((3, 2, 4))
    targets = torch.zeros(4, 2, 4, dtype=torch.int64)
    targets[1] = 255
    factor = dense_classification().curved().factor(outputs, targets)
    assert (factor.weights[:, 0] > 0).tolist() == [True, False, True, True]


@BY_NAME
def test_gradients_make_the_empirical_fisher_matrix(task: Task, targets: Targets, shape: tuple[int, ...]) -> None:
    """One direction of each image, along its own gradient."""
    outputs = outputs_of(shape)
    given = targets(outputs)
    factor = gradient_factor(task.loss, outputs, given)
    for image in range(len(outputs)):
        single = outputs[image : image + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(task.loss(single, given[image : image + 1]), single)
        expected = torch.outer(gradient.flatten(), gradient.flatten())
        torch.testing.assert_close(summed(factor, image), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("fails", [False, True])
def test_eigenvectors_of_a_loss_that_looks_at_few_outputs(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of zeros are left out, of each image its own; and where LAPACK finds nothing, another way is taken."""
    torch.manual_seed(0)
    matrices = torch.zeros(4, 300, 300, dtype=torch.float64)
    for matrix, used in zip(matrices, ([3, 8, 299], [0], [], range(300)), strict=True):
        rows = torch.tensor([*used], dtype=torch.int64)
        half = torch.randn(len(rows), max(1, len(rows) // 2), dtype=torch.float64)
        matrix[rows.unsqueeze(1), rows] = half @ half.T - torch.eye(len(rows), dtype=torch.float64)
    solved, sizes = torch.linalg.eigh, []

    def solve(matrix: Tensor) -> object:
        sizes.append(len(matrix))
        if fails:
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return solved(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", solve)
    found = Vectors.eigenvectors(matrices, (300,))
    assert sizes == [3, 1, 0, 300]
    columns = found.vectors.mT
    again = columns * (found.weights * found.signs).unsqueeze(1) @ columns.mT
    assert torch.allclose(again, matrices, atol=1e-12)
    assert torch.allclose(columns.mT @ columns, torch.eye(300, dtype=torch.float64).expand(4, 300, 300), atol=1e-12)
