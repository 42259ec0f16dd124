# SPDX-License-Identifier: MIT
"""The state of a training: by the names of parameters, with the settings that it belongs to, written from time to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitwright.data import ImageData
from bitwright.errors import FileFormatError
from bitwright.graph import FloatModel, Graph
from bitwright.graph.tensors_file import read_tensors
from bitwright.scheme import Precision, Scheme
from bitwright.training import Checkpointing, Distillation, Hooks, Step, TrainSettings, fine_tune, train
from bitwright.training.state import FORMAT
from training.small import digits, few, small_graph


class Twins(nn.Module):
    """Three linear layers of one shape, registered in any order, used in one."""

    def __init__(self, order: tuple[str, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        made = {name: nn.Linear(10, 10) for name in ("zeta", "alpha", "mid")}
        for name in order:
            setattr(self, name, made[name])

    def forward(self, images: Tensor) -> Tensor:
        features = nn.functional.adaptive_avg_pool2d(images, (2, 5)).flatten(1)
        return self.mid(self.alpha(self.zeta(features).relu()).relu())


def test_momenta_find_their_weights_by_name(tmp_path: Path) -> None:
    """A model that lists the same parameters in another order goes on with each one's own momentum."""
    path, first = tmp_path / "state", ("zeta", "alpha", "mid")
    settings = TrainSettings(learning_rate=0.5, epochs=2)
    expected = Twins(first)
    train(expected, few(256), settings)

    def stop(step: Step) -> None:
        if step.number == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(Twins(first), few(256), settings, checkpoint=Checkpointing(path, steps=3), hooks=Hooks(after_step=stop))
    resumed = Twins(first[::-1])
    train(resumed, few(256), settings, checkpoint=Checkpointing(path, steps=3, resume=True))
    assert list(dict(resumed.named_parameters())) != list(dict(expected.named_parameters()))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in expected.state_dict().items())
    names = [name for name in read_tensors(path, FORMAT)[0] if name.startswith("optimizer.")]
    assert sorted(names) == sorted(f"optimizer.{name}.momentum_buffer" for name, _ in expected.named_parameters())


SETTINGS = TrainSettings(epochs=1, learning_rate=0.01, data_fraction=0.02, batch_size=20)


@cache
def network() -> Graph:
    """What is fine-tuned."""
    return small_graph()


def scheme(precision: str = "W4A8") -> Scheme:
    """One precision for its inner layers."""
    return Scheme.uniform(network().layers, Precision.parse(precision))


def tuned(path: Path, **changes: Any) -> None:
    """A short fine-tuning that goes on with the state in `path`, with some arguments changed."""
    graph = changes.pop("graph", None) or network()
    data: ImageData = changes.pop("data", digits())
    settings = replace(SETTINGS, **changes.pop("settings", {}))
    chosen = changes.pop("scheme", None) or scheme()
    checkpoint = changes.pop("checkpoint", Checkpointing(path, resume=True))
    fine_tune(graph, chosen, data, settings, checkpoint=checkpoint, **{"calibration_images": 96, **changes})


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The state of a finished short fine-tuning."""
    path = tmp_path_factory.mktemp("state") / "state"
    tuned(path)
    return path.read_bytes()


def other_graph() -> Graph:
    """With one other weight."""
    graph = network()
    weight = graph.parameters["fc.weight"].clone()
    weight[0, 0] += 1
    return graph.with_parameters({**graph.parameters, "fc.weight": weight})


CHANGES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "learning rate": (lambda: {"settings": {"learning_rate": 0.1}}, "learning_rate was 0.01, is 0.1"),
    "seed": (lambda: {"settings": {"seed": 1}}, "seed was 0, is 1"),
    "batch size": (lambda: {"settings": {"batch_size": 16}}, "batches was 4, is 5; batch_size was 20, is 16"),
    "data fraction": (lambda: {"settings": {"data_fraction": 0.021}}, "data_fraction was 0.02, is 0.021"),
    "momentum": (lambda: {"settings": {"momentum": 0.5}}, "momentum was 0.9, is 0.5"),
    "weight decay": (lambda: {"settings": {"weight_decay": 0.0}}, "weight_decay was 0.0001, is 0.0"),
    "label smoothing": (lambda: {"settings": {"label_smoothing": 0.1}}, "label_smoothing was 0.0, is 0.1"),
    "augmentation": (lambda: {"settings": {"augment": False}}, "augment was True, is False"),
    "fewer epochs": (lambda: {"settings": {"epochs": 0}}, "epochs was 1, is 0"),
    "scheme": (lambda: {"scheme": scheme("W2A8")}, "scheme.layers.down.0 was W4A8, is W2A8; scheme.layers"),
    "residual bits": (lambda: {"scheme": replace(scheme(), residual_bits=16)}, "scheme.residual_bits was 8, is 16"),
    "ranges": (lambda: {"ranges": "ema"}, "quantizing.ranges was learned, is ema"),
    "range momentum": (lambda: {"act_range_momentum": 0.5}, "quantizing.momentum was 0.99, is 0.5"),
    "norm mode": (lambda: {"free_norm": False}, "free_norm was True, is False"),
    "calibration": (lambda: {"calibration": "minmax"}, "calibration was mse, is minmax"),
    "percentile": (lambda: {"percentile": 90.0}, r"percentile was 99.\d+, is 90.0"),
    "calibration images": (lambda: {"calibration_images": 64}, "calibration_images was 96, is 64"),
    "graph": (lambda: {"graph": other_graph()}, "network differs"),
    "images": (lambda: {"data": replace(digits(), train=digits().test), "settings": {"data_fraction": 0.08}}, "images differs"),
    "teacher": (lambda: {"distillation": Distillation(FloatModel(network()).eval())}, "distillation differs"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_are_refused_by_name(state: bytes, change: str, tmp_path: Path) -> None:
    """Whatever decides the weights is in the file; a training with another one neither goes on nor touches it."""
    make, message = CHANGES[change]
    path = tmp_path / "state"
    path.write_bytes(state)
    with pytest.raises(FileFormatError, match=rf"'{path}' belongs to another training: .*{message}.* Give what it was"):
        tuned(path, **make())
    assert path.read_bytes() == state


def test_a_state_is_not_written_over(state: bytes, tmp_path: Path) -> None:
    """By the first training that does not go on from it, whatever its settings."""
    path = tmp_path / "state"
    path.write_bytes(state)
    with pytest.raises(FileFormatError, match="give resume=True to go on with this training, or delete it"):
        tuned(path, checkpoint=Checkpointing(path))
    assert path.read_bytes() == state


def test_more_epochs_and_other_workers_go_on(state: bytes, tmp_path: Path) -> None:
    """Epochs may grow, from one run to the next; how images are read, and how often the state is written, does not matter."""
    path = tmp_path / "state"
    path.write_bytes(state)
    tuned(path, settings={"epochs": 2, "workers": 0}, checkpoint=Checkpointing(path, minutes=5.0, steps=2, resume=True))
    assert path.read_bytes() != state
    with pytest.raises(FileFormatError, match="epochs was 2, is 1"):
        tuned(path)


def test_the_state_is_written_from_time_to_time(tmp_path: Path) -> None:
    """Within an epoch, after the minutes that were asked for; by default no epoch of a second is worth a write before its end."""
    for minutes, early in ((0.0, True), (1.0, False)):
        path, seen = tmp_path / f"state.{minutes}", []
        model = Twins(("zeta", "alpha", "mid"))

        def look(step: Step, path: Path = path, seen: list[bool] = seen) -> None:
            seen.append(path.exists())

        train(
            model,
            few(1024),
            TrainSettings(epochs=1, learning_rate=0.1),
            checkpoint=Checkpointing(path, minutes=minutes),
            hooks=Hooks(after_step=look),
        )
        assert any(seen) == early
        assert path.exists()
