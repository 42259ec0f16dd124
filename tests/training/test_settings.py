# SPDX-License-Identifier: MIT
"""The values of a training: schedules, starts, what a teacher weighs, what another scheme takes over."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import FileFormatError, TrainingError
from bitwright.scheme import Precision, Scheme
from bitwright.task import classification
from bitwright.training import (
    Distillation,
    DivergenceScale,
    Epoch,
    Hooks,
    Schedule,
    Start,
    Step,
    Trained,
    TrainSettings,
    load_quantized,
    load_trained,
    quantize,
    save_quantized,
    train,
    transfer_scales,
)
from bitwright.training.optimizer import parameter_groups
from training.small import SmallResidual, few, small_quantized


def test_the_rate_is_written_out() -> None:
    """A tenth each thirty epochs by absolute epochs, constant within; or one cosine over all steps."""
    stepped = TrainSettings(epochs=100, learning_rate=0.3, schedule=Schedule.STEP)
    smooth = TrainSettings(epochs=100, learning_rate=0.3)
    for step in range(0, 700, 13):
        assert stepped.rate(step, 7) == 0.3 * 0.1 ** (step // 7 // 30)
        assert smooth.rate(step, 7) == pytest.approx(0.3 * (1 + math.cos(math.pi * step / 700)) / 2)


class Logits(nn.Module):
    """Ignores its images; its logits are its parameter."""

    def __init__(self, values: Tensor | None = None, classes: int = 10) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes) if values is None else values)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay_all", [True, False])
def test_the_published_optimizer_is_written_out(nesterov: bool, decay_all: bool) -> None:
    """Plain momentum, and decay of tensors of one axis too, as SGD written out; ours looks ahead and spares them."""
    settings = TrainSettings(
        epochs=2, learning_rate=0.5, schedule=Schedule.STEP, nesterov=nesterov, decay_all=decay_all, weight_decay=0.01
    )
    model = Logits(torch.linspace(-1, 1, 10))
    literal, velocity = torch.linspace(-1, 1, 10).double(), torch.zeros(10).double()
    for labels in [labels for _ in range(2) for _, labels in list(loader)] if (loader := few(256)) else []:
        gradient = literal.softmax(0) - torch.bincount(labels, minlength=10).double() / len(labels)
        gradient = gradient + 0.01 * literal * decay_all
        velocity = 0.9 * velocity + gradient
        literal = literal - 0.5 * (gradient + 0.9 * velocity if nesterov else velocity)
    train(model, few(256), settings)
    torch.testing.assert_close(model.logits.detach().double(), literal, rtol=1e-4, atol=1e-5)


def test_all_parameters_are_decayed_as_published() -> None:
    """With `decay_all` there is one group: weights, biases, batch norm and scales."""
    model = small_quantized()
    (group,) = parameter_groups(model, 0.1, decay_all=True)
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == len(list(model.parameters()))  # type: ignore[arg-type]


def test_a_training_goes_on_from_a_finished_epoch() -> None:
    """With the momenta of its first epoch, a second run ends with the very weights of one run over both."""
    settings = TrainSettings(epochs=2, learning_rate=0.05)
    torch.manual_seed(0)
    whole, parted = SmallResidual(), SmallResidual()
    parted.load_state_dict(whole.state_dict())
    ends, steps = list[Epoch](), list[Step]()
    train(whole, few(), settings, hooks=Hooks(after_step=steps.append))

    class Stopped(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        ends.append(epoch)
        raise Stopped

    with pytest.raises(Stopped):
        train(parted, few(), settings, hooks=Hooks(after_epoch=stop))
    start = Start(1, {name: value.clone() for name, value in ends[0].momenta.items()})
    result = train(parted, few(), settings, start=start)
    assert len(result.losses) == 1
    assert result.steps == len(steps) == 16
    assert [(step.number, step.epoch, step.index, step.per_epoch) for step in steps] == [
        (number, (number - 1) // 8, (number - 1) % 8, 8) for number in range(1, 17)
    ]
    assert all(step.seconds >= step.waited >= 0 and step.outputs.shape == (64, 10) for step in steps)
    assert all(torch.equal(value, parted.state_dict()[name]) for name, value in whole.state_dict().items())
    with pytest.raises(FileFormatError, match="'the start' is of another model: nothing here is called 'other'"):
        train(parted, few(), settings, start=Start(1, {"other.momentum_buffer": torch.zeros(3)}))


@pytest.mark.parametrize("scale", list(DivergenceScale))
def test_what_a_teacher_weighs(scale: DivergenceScale) -> None:
    """Hinton's loss written out; as published, the divergence is divided by the classes, too."""
    teacher, logits = Logits(torch.linspace(-2, 2, 10)), torch.randn(4, 10, dtype=torch.float64)
    loss, images = torch.tensor(1.5), torch.zeros(4, 1, 1, 1)
    found = Distillation(teacher, 0.7, 3.0, scale).combine(classification(), loss, logits, images).detach()
    wanted = (teacher.logits.detach().double() / 3).softmax(0)
    divergence = sum(float((wanted * (wanted.log() - (row / 3).log_softmax(0))).sum()) for row in logits) / 4
    if scale is DivergenceScale.PUBLISHED:
        divergence /= 10
    assert float(found) == pytest.approx(0.3 * 1.5 + 0.7 * 9 * divergence, rel=1e-5)
    with pytest.raises(TrainingError, match="the teacher returns 9 for each image and the student 10"):
        Distillation(Logits(classes=9), scale=scale).combine(classification(), loss, logits, images)


def test_a_checkpoint_says_how_far_it_is(tmp_path: Path) -> None:
    """Epoch, accuracy and momenta come back to the bit; the model is that of a file without them."""
    model = small_quantized()
    trained = Trained(3, 71.25, 0.9, 1e-4, {"network.fc.bias.momentum_buffer": torch.arange(10.0)})
    save_quantized(tmp_path / "with", model, trained)
    save_quantized(tmp_path / "without", model)
    found, kept = load_trained(tmp_path / "with")
    assert kept is not None
    assert (kept.epoch, kept.best_top1, kept.momentum, kept.weight_decay) == (3, 71.25, 0.9, 1e-4)
    assert kept.momenta.keys() == trained.momenta.keys()
    assert all(torch.equal(value, trained.momenta[name]) for name, value in kept.momenta.items())
    assert load_trained(tmp_path / "without")[1] is None
    state = load_quantized(tmp_path / "without").state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())


def test_another_scheme_takes_the_scales_over() -> None:
    """Formats that stay keep their scale to the bit, others their range; weights of another width are calibrated."""
    former = small_quantized("W4A4", ranges="ema")
    graph = former.float_graph()
    layers = {name: Precision(8, 8) if name == "down.0" else bits for name, bits in former.plan.scheme.layers.items()}
    model = quantize(graph, Scheme("other", layers), ranges="ema")
    fresh = model.weight_quantizer("down.0").scale.clone()
    assert transfer_scales(model, former) == len(model.ranges())
    for key, (low, high) in former.ranges().items():
        same = model.plan.formats[key] == former.plan.formats[key]
        scales = model.activation_quantizer(key).scale, former.activation_quantizer(key).scale
        assert torch.equal(*scales) == same
        assert model.ranges()[key] == pytest.approx((low, high), rel=1e-6)
    assert torch.equal(model.weight_quantizer("down.0").scale, fresh)
    assert torch.equal(model.weight_quantizer("fc").scale, former.weight_quantizer("fc").scale)
