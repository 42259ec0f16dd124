# SPDX-License-Identifier: MIT
"""Networks with several outputs: trained with a loss of one's own, refused the cross entropy, reconstructed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from bitwright.data.image_set import ImageSet
from bitwright.data.loader import batches as load_batches
from bitwright.errors import DataError, TaskError, TrainingError
from bitwright.graph import FloatModel
from bitwright.integer import logits
from bitwright.reconstruction import reconstruct
from bitwright.reconstruction.blocks import blocks
from bitwright.reconstruction.reconstruct import ReconstructionSettings
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity.loss import GraphLoss
from bitwright.task import Score, Task, agreement, classification
from bitwright.training import Distillation, TrainSettings, evaluate, fine_tune, train
from bitwright.training.distillation import DivergenceScale
from integer.certified import certified
from several_outputs import captured, images, quantized

LABELS = torch.arange(16) % 5


def objective(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """A loss of one's own, of all outputs."""
    assert list(outputs) == ["features", "logits"]
    return torch.nn.functional.cross_entropy(outputs["logits"], targets) + outputs["features"].square().mean()


class Right(Metric):
    """Counts the right guesses of one output."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(()))

    def update(self, outputs: dict[str, Tensor], targets: Tensor) -> None:
        self.right += (outputs["logits"].argmax(1) == targets).sum()

    def compute(self) -> Tensor:
        return self.right


OWN = Task(
    name="own",
    loss=objective,  # type: ignore[arg-type]
    scores=(Score("right", "right", lambda shape: Right()),),
    several_outputs=True,
)


def test_a_loss_of_ones_own_gets_all_outputs() -> None:
    """And each layer learns; the trained model is lowered to the very numbers that it computes."""
    model = quantized("features and logits", 4)
    before = {name: tensor.clone() for name, tensor in model.parameters_by_name().items()}
    batches = [(part, labels) for part, labels in zip(images(16).split(8), LABELS.split(8), strict=True)]
    settings = TrainSettings(epochs=1, batch_size=8, learning_rate=0.01)
    train(model, batches, settings, task=OWN)
    after = model.parameters_by_name()
    for name in ("stem.0.weight", "features.weight", "logits.weight"):
        assert not torch.equal(before[name], after[name])
    model.eval()
    integer = certified(model)
    with torch.no_grad():
        assert all(torch.equal(model(images(5))[name], real) for name, real in logits(integer, images(5)).items())


def test_the_cross_entropy_of_several_outputs_is_refused() -> None:
    """In training, before anything is computed, and in sensitivities; by the names of the outputs."""
    graph = captured("features and logits")[1]
    scheme = Scheme.uniform(graph.layers, Precision(4, 4))
    batches = [(images(16), LABELS)]
    settings = TrainSettings(epochs=1, batch_size=8)
    message = "returns features, logits, but the task classification is of one output: take the task agreement, or one of your"
    with pytest.raises(TaskError, match=message):
        fine_tune(graph, scheme, batches, settings)
    with pytest.raises(TaskError, match=message):
        train(quantized("features and logits", 4), batches, settings)
    with pytest.raises(TaskError, match=message):
        GraphLoss(graph, images(16), LABELS)


def test_several_outputs_are_distilled_and_imitated() -> None:
    """Towards the float network's, without labels or beside a loss of one's own: the sum of the outputs' squared differences."""
    graph = captured("features and logits")[1]
    teacher = FloatModel(graph).eval().requires_grad_(False)
    given, settings = images(32), TrainSettings(epochs=8, batch_size=8, learning_rate=0.02)
    batches = [(part, part.new_zeros(8, dtype=torch.int64)) for part in given.split(8)]
    for task, distillation in ((agreement(teacher), None), (OWN, Distillation(teacher, alpha=1.0))):
        losses = train(
            quantized("features and logits", 2), batches, settings, task=task, distillation=distillation
        ).losses
        assert losses[-1] < 0.8 * losses[0]
    scores = evaluate(teacher, [given], task=agreement(teacher))
    assert scores.values == (0, 100)


@final
class Noise(ImageSet):
    """The images of this file, as a set of Bitwright's own, with labels."""

    workers = 0

    def __init__(self) -> None:
        self.labels = LABELS

    def read(self, indices: Any, augment_seed: int | None = None) -> tuple[Tensor, Tensor]:
        chosen = torch.as_tensor(indices)
        return images(16)[chosen], self.labels[chosen]


def test_labels_are_not_looked_at_where_none_are_needed() -> None:
    """A set that knows all its labels is as good as one without, for a task that imitates."""
    teacher = FloatModel(captured("features and logits")[1]).eval()
    loader, settings = load_batches(Noise(), 8), TrainSettings(epochs=1, batch_size=8)
    losses = [
        train(quantized("features and logits", 3), given, settings, task=agreement(teacher)).losses
        for given in (loader, [some for some, _ in loader])
    ]
    assert losses[0] == losses[1]


class Teaching(nn.Module):
    """What another module returns, in another form."""

    def __init__(self, inner: nn.Module, form: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner, self.form = inner, form

    def forward(self, given: Tensor) -> object:
        return self.form(self.inner(given))


def test_teachers_return_what_modules_do() -> None:
    """A tuple of one, or a mapping as torchvision's segmenters: the same loss."""
    inner = nn.Sequential(nn.Flatten(), nn.Linear(144, 5)).eval().requires_grad_(False)
    made = torch.randn(4, 5)
    found = [
        Distillation(teacher).combine(classification(), made.sum(), made, images(4))
        for teacher in (inner, Teaching(inner, lambda x: (x,)), Teaching(inner, lambda x: {"out": x}))
    ]
    assert found[0] == found[1] == found[2]


def test_what_cannot_be_distilled_is_refused() -> None:
    """A teacher of other outputs, a divergence over the classes of one output, a reference of others."""
    other = FloatModel(captured("tuple")[1]).eval()
    own = FloatModel(captured("features and logits")[1]).eval()
    settings = TrainSettings(epochs=1, batch_size=8)
    for distillation, message in (
        (
            Distillation(other),
            "teacher returns output0 5, output1 6 x 8 x 6 for each image and the student features 8, logits 5",
        ),
        (
            Distillation(own, scale=DivergenceScale.PUBLISHED),
            "the published divergence is over the classes of one output",
        ),
    ):
        with pytest.raises(TrainingError, match=message):
            train(
                quantized("features and logits", 3),
                [(images(8), LABELS[:8])],
                settings,
                task=OWN,
                distillation=distillation,
            )
    with pytest.raises(DataError, match=r"reference returns .*, the model features 8, logits 5: give the float"):
        evaluate(own, [images(8)], task=agreement(other))


def test_evaluation_is_of_the_first_output() -> None:
    """As its documentation says; a task of several outputs judges all."""
    model = FloatModel(captured("tuple")[1]).eval()
    found = evaluate(model, [(images(16), LABELS)])
    assert found == evaluate(lambda given: model(given)["output0"], [(images(16), LABELS)])
    model = FloatModel(captured("features and logits")[1]).eval().requires_grad_(False)
    right = (model(images(16))["logits"].argmax(1) == LABELS).sum()
    assert evaluate(model, [(images(16), LABELS)], task=OWN).values == (float(right),)


@pytest.mark.parametrize("name", ["tuple", "features and logits", "twice"])
def test_blocks_are_reconstructed_to_all_outputs(name: str) -> None:
    """Every output is a result of some block; in parts of their size, all come closer to the float network's together."""
    model = quantized(name, 3)
    graph = model.plan.graph
    assert graph.returned <= {result for block in blocks(graph) for result in block.results} | {graph.nodes[0].name}
    target = FloatModel(captured(name)[1]).eval().requires_grad_(False)(images(64))

    def error() -> float:
        with torch.no_grad():
            made = model(images(64))
            return sum(float((made[key] - real).square().sum() / real.square().sum()) for key, real in target.items())

    before = error()
    reconstruct(model, images(64), ReconstructionSettings(steps=60))
    assert error() < before
