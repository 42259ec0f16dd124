# SPDX-License-Identifier: MIT
"""Outputs like those of another network, usually the float one: for data without labels, and for outputs of any shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitwright.returned import SINGLE, by_name, first, shown_shapes
from bitwright.task.curvature import SquaredCurvature
from bitwright.task.definition import Network, Task
from bitwright.task.pairs import half_squared, unlike
from bitwright.task.registry import task
from bitwright.task.score import Score, Shape

if TYPE_CHECKING:
    from torchmetrics import Metric


@task("agreement")
def agreement(reference: Network | None = None) -> Task:
    """Outputs like the float network's: half the mean squared difference, without labels; of several outputs, the sum of theirs.

    Where the network itself is the reference, as in sensitivities, the difference is zero, and the Gauss-Newton matrix, with the
    identity at the outputs, is the Hessian in any network.

    Args:
        reference: The network that is imitated; None leaves it to who knows it, see `Task.reference`.
    """
    return Task(
        name="agreement",
        loss=half_squared,
        scores=(
            Score("relative_error_percent", "relative error", _relative_error, higher_is_better=False),
            Score("same_guess_percent", "same first guess", _same_guess),
        ),
        curvature=SquaredCurvature(),
        expects="outputs like the reference's",
        several_outputs=True,
        check=_check,
        label_free=True,
        reference=reference,
    )


def _check(targets: Any, shape: Shape) -> None:
    """Of several outputs, all are compared beside the model's, which may have them in another order."""
    found = tuple(first(targets).shape[1:])
    if len(by_name(targets)) == 1 and found != shape:
        raise unlike(shown_shapes({SINGLE: found}), shown_shapes({SINGLE: shape}))


def _relative_error(shape: Shape) -> Metric:
    from bitwright.task.counting import RelativeError

    return RelativeError()


def _same_guess(shape: Shape) -> Metric:
    from bitwright.task.counting import SameGuess

    return SameGuess()
