# SPDX-License-Identifier: MIT
"""The network that teaches another one: a file, or a model by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.numbers import real

if TYPE_CHECKING:
    from torch import nn

    from bitwright.data import Preprocessing
    from bitwright.graph import Graph
    from bitwright.task import Task
    from bitwright.training import Distillation

Alpha = Annotated[
    float | None,
    typer.Option(
        "--distill",
        parser=real(0.0, 1.0),
        help="Weight of a teacher's outputs in the loss.",
        show_default="0.5; 0 without --teacher where a checkpoint is trained further, there are several outputs, or --task tells "
        "no distance of two",
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="MODEL",
        help="Of --distill: a graph, a checkpoint, or a model's name (SOURCE:MODEL).",
        show_default="the float network",
    ),
]
TeacherWeights = Annotated[
    Path | None,
    typer.Option(
        "--teacher-weights", help="Of a teacher by name; without, a library's own are downloaded.", dir_okay=False
    ),
]


@dataclass(frozen=True)
class Taught:
    """Who teaches a network.

    Attributes:
        alpha: Weight of the teacher's outputs in the loss; None is the usual one, where there is a teacher: see `distillation`.
        teacher: Its name or file; None is the float network itself.
        weights: The file of the weights of a teacher by name.
    """

    alpha: float | None
    teacher: str | None
    weights: Path | None

    def distillation(
        self, graph: Graph, images: Preprocessing, source: str, *, task: Task, trained: bool
    ) -> Distillation | None:
        """What it adds to the loss of a network on images of this name.

        Args:
            graph: The network, with its float weights.
            images: How the images are made that it is trained on.
            source: Their name.
            task: Whose loss it is added to.
            trained: Whether these weights were trained under quantization before. In float they are no longer a good network, so
                that it teaches only who asks for it.
        """
        from bitwright.graph import FloatModel
        from bitwright.training import Distillation

        alpha = Distillation.alpha if self.alpha is None else self.alpha
        if self.teacher is not None:
            return Distillation(teacher_for(self.teacher, self.weights, graph, images, source), alpha)
        alone = trained or task.imitate is None or len(graph.outputs) > 1
        if alpha == 0 or (self.alpha is None and alone):
            return None
        return Distillation(FloatModel(graph).eval().requires_grad_(False), alpha)


def teacher_for(name: str, weights: Path | None, student: Graph, images: Preprocessing, source: str) -> nn.Module:
    """A network in evaluation mode, without gradients, that reads the student's images and returns as many outputs.

    Args:
        name: A graph's or a checkpoint's file, or a model as SOURCE:MODEL.
        weights: Of a model by name, the file of its weights; without it a library's model has those that it publishes, and a
            factory makes its own.
        student: That it teaches.
        images: How the images are made that both see.
        source: The name of the images.

    Raises:
        FileFormatError: If it is an integer model, which has no outputs of its own that are not some checkpoint's.
        DataError: If it knows that its images are made otherwise.
        TrainingError: If it returns something of another shape.
    """
    from bitwright.cli.models import integers_refused, make_model, outputs_of
    from bitwright.cli.preprocessing import network_preprocessing
    from bitwright.data import Preprocessing
    from bitwright.data.preprocessing import require_same
    from bitwright.errors import TrainingError
    from bitwright.graph import FloatModel, Graph
    from bitwright.graph.sources import SOURCES
    from bitwright.integer import IntegerModel, load

    shape = student.input_shape
    if is_name(name):
        pretrained = weights is None and name.partition(":")[0] in SOURCES
        made, _ = make_model(name, pretrained=pretrained, weights=weights, image_size=shape[1], channels=shape[0])
        known = network_preprocessing(name, pretrained, shape[1], Preprocessing())
        reads = shape
    else:
        found = load(Path(name))
        if isinstance(found, IntegerModel):
            raise integers_refused(name, "does not teach")
        graph = found if isinstance(found, Graph) else found.plan.graph
        made = FloatModel(found) if isinstance(found, Graph) else found
        known, reads = graph.preprocessing, graph.input_shape
    require_same(images, known, f"the teacher {name}", source)
    returns = outputs_of(made, reads)
    if (reads, returns) != (shape, student.output_shape):
        raise TrainingError(
            f"the teacher {name} makes {_shown(returns)} outputs of images of {_shown(reads)}, the student "
            f"{_shown(student.output_shape)} of {_shown(shape)}: give a teacher of the same images and classes."
        )
    return made.eval().requires_grad_(False)


def is_name(model: str) -> bool:
    """Whether it is a model's name (SOURCE:MODEL), and no file's."""
    return ":" in model and not Path(model).exists()


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
