# SPDX-License-Identifier: MIT
"""What a network is for, as one value: what it is trained for, what its outputs are compared with, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bitwright.data.given import each_images, each_labelled, labelled, only_images
from bitwright.errors import TaskError
from bitwright.returned import as_returned, by_name, returned
from bitwright.task.curvature import Curvature, DifferentiatedCurvature, Loss
from bitwright.task.pairs import half_squared
from bitwright.task.placement import beside
from bitwright.task.score import Score, Shape

Network = Callable[[Tensor], Any]
"""Images, a batch of them, to outputs: a tensor, or several by name."""
Imitate = Callable[[Any, Any, float], Tensor]
"""From outputs, a teacher's outputs and a temperature to one number, the mean over images."""


def _fits_any(shape: Shape) -> bool:
    """A task of one's own knows its outputs."""
    return True


def _check_nothing(targets: Tensor, shape: Shape) -> None:
    """Targets of one's own task may be anything."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a network is for. Only name and loss have no default: any loss makes a task.

    Attributes:
        name: As it is asked for: `classification`.
        loss: What training minimises: outputs and targets of a batch to one number, the mean over its images, which do not depend
            on each other. Twice differentiable, where sensitivities are to be measured.
        scores: How the network is judged, the leading figure first.
        curvature: The curvature of the loss at the outputs; by default found by differentiating the loss twice.
        settings: Besides the name, what tells this task from others of its kind, as JSON values: kept in states, and compared
            when work goes on.
        expects: The outputs of one image, in words: `(classes,)`.
        fits: Whether outputs of one image can have this shape.
        check: Raises a DataError for targets that do not fit outputs of this shape.
        several_outputs: Whether it takes all outputs of a network: loss and scores then get what that returns, several by name;
            `fits` and `check` get the shape of the first.
        label_free: Whether targets are what `reference` says of the images, and labels are not looked at.
        reference: The network that is imitated, for instance the float one; None leaves it to who knows it (training takes the
            network that is quantized).
        class_labels: Whether targets are classes of the data set, each an output: those of a data set are then matched with
            the outputs.
        smoothed: The loss with smoothed labels, by how much they are; None where labels cannot be.
        imitate: How far outputs are from a teacher's, for distillation; by default half the mean squared difference, as in the
            task agreement. The loss itself can say it where targets are like outputs.
    """

    name: str
    loss: Loss
    scores: tuple[Score, ...] = ()
    curvature: Curvature | None = None
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    expects: str = "any shape"
    fits: Callable[[Shape], bool] = _fits_any
    check: Callable[[Tensor, Shape], None] = _check_nothing
    several_outputs: bool = False
    label_free: bool = False
    reference: Network | None = None
    class_labels: bool = False
    smoothed: Callable[[float], Loss] | None = None
    imitate: Imitate | None = None

    def identity(self) -> dict[str, Any]:
        """What decides results, as JSON values."""
        return {"name": self.name, **self.settings}

    def curved(self) -> Curvature:
        """The curvature of the loss at the outputs."""
        return self.curvature or DifferentiatedCurvature(self.loss)

    def towards(self, reference: Network) -> Task:
        """This task, with a network to imitate, where it imitates one and none was given."""
        return replace(self, reference=reference) if self.label_free and self.reference is None else self

    def training_loss(self, label_smoothing: float = 0.0) -> Loss:
        """The loss, with labels smoothed by so much.

        Raises:
            TaskError: If they cannot be.
        """
        if not label_smoothing:
            return self.loss
        if self.smoothed is None:
            raise TaskError(f"the task {self.name} has no labels that could be smoothed: leave label smoothing out.")
        return self.smoothed(label_smoothing)

    def distance(self, outputs: Any, taught: Any, temperature: float) -> Tensor:
        """How far outputs are from a teacher's, as one number."""
        return half_squared(outputs, taught) if self.imitate is None else self.imitate(outputs, taught, temperature)

    def batches(self, given: Iterable[Any]) -> Iterator[tuple[Tensor, Any]]:
        """Images and targets of each batch, as users give them; see `of`.

        Raises:
            DataError: If these are no batches.
        """
        return (
            ((images, self.imitated(images)) for images in each_images(given))
            if self.label_free
            else each_labelled(given)
        )

    def of(self, batch: Any) -> tuple[Tensor, Any]:
        """Images and targets of a batch: its labels, or what the reference says of its images.

        Raises:
            DataError: If it has no labels, and needs some.
            TaskError: If there is no network to imitate.
        """
        if not self.label_free:
            return labelled(batch)
        images = only_images(batch)
        return images, self.imitated(images)

    def imitated(self, images: Tensor) -> Any:
        """What the reference says of images, in whatever form it returns that: a tensor, or several by name.

        Raises:
            CaptureError: If it returns something else than tensors.
            TaskError: If there is none.
        """
        if self.reference is None:
            raise TaskError(
                f"the task {self.name} compares with the float network: give it with --reference GRAPH (in Python, "
                f"task.towards(network))."
            )
        with torch.no_grad():
            found = as_returned(self.reference(beside(self.reference, images)), "the reference")
        return returned({name: made.detach() for name, made in by_name(found).items()})
