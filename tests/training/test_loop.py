# SPDX-License-Identifier: MIT
"""The training loop: it learns, resumes to the bit, stops at a loss that is not finite, and refuses wrong data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitwright.data import InMemoryImages, batches
from bitwright.errors import DataError, FileFormatError, TrainingError
from bitwright.training import Checkpointing, Distillation, Hooks, Ranges, TrainSettings, evaluate, train
from bitwright.training.optimizer import parameter_groups
from training.small import SmallResidual, digits, few, small_quantized


def test_a_float_network_learns_digits() -> None:
    """The loss falls from epoch to epoch and held-out digits are told apart far better than by chance."""
    torch.manual_seed(0)
    network = SmallResidual()
    seen: list[tuple[int, int]] = []
    result = train(
        network,
        few(1024),
        TrainSettings(epochs=5, learning_rate=0.1),
        progress=lambda done, total, **figures: seen.append((done, total)),
    )
    assert result.steps == 80
    assert seen == [(step + 1, 80) for step in range(80)]
    assert len(result.losses) == 5
    assert result.losses[-1] < 0.5 * result.losses[0]
    accuracy = evaluate(network.eval(), digits().batches("test", 250))
    assert accuracy.images == 1000
    assert accuracy["top1_percent"] > 60


@pytest.mark.parametrize("ranges", list(Ranges))
@pytest.mark.parametrize("free_norm", [True, False])
def test_a_quantized_network_learns_digits(ranges: Ranges, free_norm: bool) -> None:
    """Every kind of range, under batch norm of either kind, lowers the loss at 4 bits; learned scales move, fixed ones stay."""
    model = small_quantized("W4A4", ranges=ranges, free_norm=free_norm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = train(model, few(256), TrainSettings(epochs=4, learning_rate=0.1))
    assert result.losses[-1] < (0.95 if free_norm else 1.0) * result.losses[0]
    after = model.state_dict()
    # All digits reach from black to white: the moving range of the images stays where it is.
    scales = {name for name in before if name.endswith(".scale")} - {"activations.input.scale"}
    activations = [name for name in scales if name.startswith("activations.")]
    weights = [name for name in before if name.startswith("weights.")]
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert activations
    assert weights
    assert len(statistics) == 8
    assert all(torch.equal(before[name], after[name]) == (ranges is Ranges.FIXED) for name in activations)
    assert all(torch.equal(before[name], after[name]) == (ranges is Ranges.FIXED) for name in weights)
    assert all(torch.equal(before[name], after[name]) != free_norm for name in statistics)


class Logits(nn.Module):
    """Ignores its images; its logits are its parameter, of one row."""

    def __init__(self, classes: int = 10, value: float = 0.0) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((1, classes), value))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def test_the_steps_are_literal_sgd_on_a_cosine() -> None:
    """Weights follow Nesterov's SGD, written out, with rates on one cosine that ends near zero."""
    model, literal = Logits(), torch.zeros(1, 10, dtype=torch.float64)
    velocity = torch.zeros_like(literal)
    loader = few(256, augment=False)
    labels = [labels for _ in range(2) for _, labels in few_passes(loader)]
    rate, momentum, decay = 0.5, 0.9, 0.01
    for step, wanted in enumerate(labels):
        here = rate * (1 + torch.cos(torch.tensor(torch.pi * step / len(labels), dtype=torch.float64))) / 2
        gradient = literal.softmax(1) - torch.bincount(wanted, minlength=10).double() / len(wanted) + decay * literal
        velocity = momentum * velocity + gradient
        literal = literal - here * (gradient + momentum * velocity)
    result = train(
        model,
        few(256, augment=False),
        TrainSettings(epochs=2, learning_rate=rate, momentum=momentum, weight_decay=decay),
    )
    assert result.steps == len(labels) == 8
    torch.testing.assert_close(model.logits.detach().double(), literal, rtol=1e-4, atol=1e-5)


def few_passes(loader: object) -> list[tuple[Tensor, Tensor]]:
    """The batches of the next epoch."""
    return list(loader)  # type: ignore[call-overload, no-any-return]


def test_weight_decay_spares_biases_norms_and_scales() -> None:
    """Only tensors of two axes or more are decayed, and none is forgotten."""
    model = small_quantized()
    decayed, plain = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert {parameter.dim() for parameter in decayed["params"]} == {2, 4}  # type: ignore[attr-defined]
    assert {parameter.dim() for parameter in plain["params"]} == {0, 1}  # type: ignore[attr-defined]
    together = {id(parameter) for group in (decayed, plain) for parameter in group["params"]}  # type: ignore[attr-defined]
    assert together == {id(parameter) for parameter in model.parameters()}


class Interrupted(Exception):
    """A stand-in for whatever ends a process."""


@pytest.mark.parametrize(("dropout", "checkpoint_steps"), [(0.0, None), (0.3, None), (0.3, 5)])
def test_resuming_ends_bit_identical(tmp_path: Path, dropout: float, checkpoint_steps: int | None) -> None:
    """Interrupted within an epoch and resumed from the last state, training ends with the weights and losses of a whole run."""
    whole = small_quantized(dropout=dropout)
    expected = train(whole, few(), TrainSettings(epochs=3, learning_rate=0.05))

    def interrupt(done: int, total: int, /, **figures: float) -> None:
        if done == 13:
            raise Interrupted

    path = tmp_path / "state.safetensors"
    first = small_quantized(dropout=dropout)
    with pytest.raises(Interrupted):
        train(
            first,
            few(),
            TrainSettings(epochs=3, learning_rate=0.05),
            checkpoint=Checkpointing(path, steps=checkpoint_steps),
            progress=interrupt,
        )
    torch.rand(7)  # the state of the global generator must not matter
    second = small_quantized(dropout=dropout)
    resumed = train(
        second, few(), TrainSettings(epochs=3, learning_rate=0.05), checkpoint=Checkpointing(path, resume=True)
    )
    assert resumed == expected
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    again = train(
        second, few(), TrainSettings(epochs=3, learning_rate=0.05), checkpoint=Checkpointing(path, resume=True)
    )
    assert again == expected


def test_training_leaves_the_global_generator_alone() -> None:
    """Dropout draws from the seed of the run: another gives other weights, and torch's own state does not move."""
    ends = []
    for seed in (0, 0, 1):
        model = small_quantized(dropout=0.5)
        before = torch.get_rng_state()
        train(model, few(128), TrainSettings(epochs=1, learning_rate=0.05, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(model.state_dict()["network.fc.weight"])
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


class Poisoned(nn.Module):
    """A network whose logits become infinite after some calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.network = SmallResidual()
        self.calls = calls

    def forward(self, images: Tensor) -> Tensor:
        self.calls -= 1
        logits: Tensor = self.network(images)
        return logits * (torch.inf if self.calls < 0 else 1.0)


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    """The error says where; the checkpoint still holds the last good epoch, to the bit."""
    path = tmp_path / "state.safetensors"
    model = Poisoned(calls=12)
    with pytest.raises(TrainingError, match=r"became nan in epoch 2, step 13: .* last good state is in .*state"):
        train(model, few(), TrainSettings(epochs=3, learning_rate=0.05), checkpoint=Checkpointing(path))
    healthy, steps = Poisoned(calls=1000), list[int]()
    result = train(
        healthy,
        few(),
        TrainSettings(epochs=3, learning_rate=0.05),
        checkpoint=Checkpointing(path, resume=True),
        hooks=Hooks(after_step=lambda step: steps.append(step.number)),
    )
    assert steps == list(range(9, 25))
    assert result.steps == 24
    assert all(bool(value.isfinite().all()) for value in healthy.state_dict().values())


def test_a_loss_that_is_not_finite_at_once(tmp_path: Path) -> None:
    """Without a complete epoch, the error says so, and no file is left."""
    path = tmp_path / "state.safetensors"
    with pytest.raises(TrainingError, match="nothing was complete yet"):
        train(
            Logits(value=torch.inf), few(64), TrainSettings(epochs=1, learning_rate=0.1), checkpoint=Checkpointing(path)
        )
    assert not path.exists()


def test_labels_must_be_classes() -> None:
    """Labels beyond the classes are refused in one line, before any weight moved, wherever in the data they stand."""
    pixels = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    labels = torch.zeros(64, dtype=torch.int64)
    labels[-1] = 10
    loader = batches(InMemoryImages(pixels, labels, mean=[0.0], std=[1.0]), 8)
    model = Logits()
    with pytest.raises(DataError, match=r"the model has 10 classes, but labels go from 0 to 10: .*num_classes=11"):
        train(model, loader, TrainSettings(epochs=1, learning_rate=0.1))
    assert int(model.logits.count_nonzero()) == 0
    with pytest.raises(DataError, match="the model has 10 classes, but labels go from 0 to 10"):
        evaluate(model, loader)


def test_images_must_fit_and_be_finite() -> None:
    """Images of another size, and ones with NaN, are refused in one line."""
    model = small_quantized()
    large = batches(
        InMemoryImages(torch.zeros(8, 1, 32, 32, dtype=torch.uint8), torch.zeros(8), mean=[0.0], std=[1.0]), 8
    )
    with pytest.raises(DataError, match="small reads images of batch x 1 x 28 x 28, got 8 x 1 x 32 x 32"):
        train(model, large, TrainSettings(epochs=1, learning_rate=0.1))
    broken = [(torch.full((8, 1, 28, 28), torch.nan), torch.zeros(8, dtype=torch.int64))]
    with pytest.raises(DataError, match="NaN or infinity in image 0"):
        evaluate(model.eval(), broken)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    """Resuming from the state of another network names what does not fit."""
    path = tmp_path / "state.safetensors"
    train(Logits(), few(64), TrainSettings(epochs=1, learning_rate=0.1), checkpoint=Checkpointing(path))
    with pytest.raises(FileFormatError, match="is of another model: Missing key"):
        train(
            SmallResidual(),
            few(64),
            TrainSettings(epochs=2, learning_rate=0.1),
            checkpoint=Checkpointing(path, resume=True),
        )


def test_a_teacher_takes_part() -> None:
    """With all weight on the teacher, labels do not matter: the student's logits come to those of the teacher."""
    teacher = Logits()
    with torch.no_grad():
        teacher.logits.copy_(torch.linspace(-2, 2, 10))
    student = Logits()
    train(
        student,
        few(512),
        TrainSettings(epochs=20, learning_rate=1.0, weight_decay=0.0),
        distillation=Distillation(teacher.eval(), alpha=1.0, temperature=2.0),
    )
    torch.testing.assert_close(
        student.logits.softmax(1).detach(), teacher.logits.softmax(1).detach(), rtol=0, atol=0.01
    )


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """Torchrun with two gloo processes: both end with the same weights, half the steps, a falling loss and a whole cosine."""
    script = Path(__file__).parent / "two_processes.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script), str(tmp_path),
    ]  # fmt: skip
    subprocess.run(command, check=True, env=environment, timeout=250)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["losses"] == second["losses"]
    assert first["losses"][-1] < first["losses"][0]
    assert first["steps"] == second["steps"] == 2 * 4  # two epochs of 512 images in batches of 64, divided by two
    assert len(first["state"]) > 20
    for name in first["state"]:
        assert torch.equal(first["state"][name], second["state"][name]), name
    assert first["left"] == [7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0]
