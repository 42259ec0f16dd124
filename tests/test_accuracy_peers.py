# SPDX-License-Identifier: MIT
"""`benchmarks/accuracy_peers.py`: what a peer is asked and what it answers, without its environment and without a network."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitwright.data import ImageData
from bitwright.data.in_memory import InMemoryImages
from bitwright.errors import BitwrightError
from bitwright.graph import FloatModel, capture
from bitwright.training import Distillation, TrainSettings, fit

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
peers = importlib.import_module("accuracy_peers")
network_file = importlib.import_module("peers.network_file")
accuracy = importlib.import_module("accuracy")
Besides = importlib.import_module("accuracy_training").Besides

HELPERS = ("exchange", "network_file", "training_loop")
SCRIPT = """
from exchange import answer, question

asked = question()
assert (asked.weight_bits, asked.act_bits, asked.recipe, asked.seed) == (4, 8, "a recipe", 7)
assert [len(images) for images, _ in asked.batches(2)] == [2, 1]
answer(asked, asked.network, ["torch"], {"mean": float(asked.calibration.mean())})
"""

TRAINING = """
from copy import deepcopy
from exchange import answer, question
from training_loop import train

asked = question()
train(asked.network, deepcopy(asked.network), asked)
answer(asked, asked.network, ["torch"], {"training": asked.training})
"""


def network() -> nn.Module:
    """Two layers and batch norm."""
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).eval()


def question(folder: Path) -> tuple[nn.Module, Any]:
    """A network, and a question about it that has its weights from the graph alone."""
    torch.manual_seed(0)
    module = network()
    images = torch.rand(3, 1, 4, 4), torch.rand(5, 1, 4, 4)
    return module, peers.Question(capture(module, (1, 4, 4)), network(), *images, "W4A8", 7, folder)


def script(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer `trivial` whose environment is this interpreter's."""
    (folder / "trivial.py").write_text(text)
    for name in HELPERS:
        (folder / f"{name}.py").write_text((BENCHMARKS / "peers" / f"{name}.py").read_text())
    monkeypatch.setattr(peers, "SCRIPTS", folder)
    monkeypatch.setattr(peers, "environment_of", lambda folder, requirements: Path(sys.executable))


class Again(nn.Module):
    """One activation called three times, beside another of the name that its second call would have, and one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.act_1 = nn.ReLU6(), nn.Conv2d(2, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.act(self.act_1(self.act(self.act_1(self.act(images)))))


def test_an_activation_called_again_is_another_module(tmp_path: Path) -> None:
    """What has weights stays one; the network computes what it did."""
    module, images = Again().eval(), torch.randn(2, 2, 3, 3)
    network_file.write_network(module, tmp_path)
    read = network_file.read_network(tmp_path)
    assert torch.equal(read(images), module(images))
    called = [node.target for node in read.graph.nodes if node.op == "call_module"]
    assert called == ["act", "act_1", "act_2", "act_1", "act_3"]


def test_a_peer_answers_with_logits_of_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does nothing has the float network's logits; settings have versions."""
    script(tmp_path, SCRIPT, monkeypatch)
    module, asked = question(tmp_path)
    logits, settings = peers.Elsewhere("trivial", (), "a recipe")(asked)
    assert torch.allclose(logits, module(asked.judged), atol=1e-6)
    assert settings == {"torch": version("torch"), "mean": pytest.approx(float(asked.calibration.mean()))}


def test_a_peer_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line that it printed; a width that it refuses never starts it."""
    script(tmp_path, "print('a start')\nraise ValueError('no such width')\n", monkeypatch)
    _, asked = question(tmp_path)
    with pytest.raises(BitwrightError, match=r"^ValueError: no such width$"):
        peers.Elsewhere("trivial", ())(asked)
    with pytest.raises(BitwrightError, match="only 8 bits"):
        peers.Elsewhere("absent", (), refusals={"W4A8": "only 8 bits"})(asked)


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other requirements it is made anew; one that could not be made is tried again."""
    commands: list[list[str]] = []

    def run(command: list[str]) -> None:
        commands.append(command)
        (tmp_path / "peer").mkdir(exist_ok=True)
        if "impossible" in command:
            raise BitwrightError("No matching distribution found for impossible")

    monkeypatch.setattr(peers, "run", run)
    for _ in range(2):
        peers.environment_of(tmp_path / "peer", ("numpy", "torch==2.13.0"))
    assert [command[-1] for command in commands] == [str(tmp_path / "peer"), "torch==2.13.0"]
    for _ in range(2):
        with pytest.raises(BitwrightError, match="No matching"):
            peers.environment_of(tmp_path / "peer", ("impossible",))
    assert [command[-1] for command in commands[2:]] == 2 * [str(tmp_path / "peer"), "impossible"]


def test_every_script_has_a_peer() -> None:
    """And every peer has a script."""
    scripts = {path.stem for path in peers.SCRIPTS.glob("*.py")} - set(HELPERS)
    assert scripts == {peer.script for peer in peers.PEERS.values() if isinstance(peer, peers.Elsewhere)}


class Residual(nn.Module):
    """A sum, a product, a clamp, a call that is no module's, and a shape that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding="same", bias=False), nn.BatchNorm2d(4), nn.ReLU6())
        self.second = nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=4)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.last = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        found = self.first(images)
        found = self.pool(found + self.second(found) * found)
        found = nn.functional.adaptive_avg_pool2d(found, (1, 1))
        return self.last(found.view(found.size(0), -1))  # type: ignore[no-any-return]


def test_a_file_of_a_network_has_its_modules_calls_and_weights(tmp_path: Path) -> None:
    """What is read computes the same to the last bit, with modules of the same names and classes, and has no code."""
    torch.manual_seed(0)
    written = Residual()
    written.first(torch.rand(8, 1, 6, 6))  # statistics that are not those of new modules
    network_file.write_network(written, tmp_path)
    read = network_file.read_network(tmp_path)
    images = torch.rand(3, 1, 6, 6)
    assert torch.equal(read(images), written(images))
    assert [(name, type(module)) for name, module in written.named_modules() if not list(module.children())] == [
        (name, type(module)) for name, module in read.named_modules() if not list(module.children())
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.json", "network.npz"]


def test_a_file_of_a_network_calls_nothing_else(tmp_path: Path) -> None:
    """Neither when it is written nor when it is read."""

    class Calls(nn.Module):
        def __init__(self, call: Any) -> None:
            super().__init__()
            self.call = call

        def forward(self, images: Tensor) -> Tensor:
            return self.call(images)  # type: ignore[no-any-return]

    for call in (torch.exp, lambda images: images.sqrt()):
        with pytest.raises(ValueError, match="no file of networks has 'call_"):
            network_file.write_network(Calls(call), tmp_path)
    network_file.write_network(nn.Sequential(nn.ReLU(), nn.Flatten()), tmp_path)
    path = tmp_path / "network.json"
    kept = json.loads(path.read_text())
    for change in (
        lambda: kept["modules"].update({"0": ["Parameter", {}]}),
        lambda: kept["nodes"].__setitem__(1, ["x", "call_method", "__reduce__", [{"node": kept["nodes"][0][0]}], {}]),
    ):
        change()
        path.write_text(json.dumps(kept))
        with pytest.raises(ValueError, match=r"is no module|calls the method"):
            network_file.read_network(tmp_path)
        kept["modules"]["0"] = ["ReLU", {}]


def pictures() -> ImageData:
    """Eleven random images for training."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (11, 1, 4, 4), dtype=torch.uint8, generator=generator)
    images = InMemoryImages(pixels, torch.arange(11) % 2, mean=(0.5,), std=(0.3,), flip=True)
    return ImageData("noise", ("even", "odd"), (1, 4, 4), images, images, (0.5,), (0.3,), "drawn here")


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_a_peer_trains_as_bitwright_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distill: float) -> None:
    """A network without quantizers ends where `fit` leaves it: the same batches, steps, rates, decay and loss."""
    script(tmp_path, TRAINING, monkeypatch)
    module, asked = question(tmp_path)
    with pytest.raises(BitwrightError, match="nothing was asked to be trained on"):
        peers.Elsewhere("trivial", ())(asked)
    settings = TrainSettings(epochs=3, learning_rate=0.1, weight_decay=0.3, batch_size=4, seed=5)
    training = peers.Training(pictures(), settings, Besides(distill=distill, temperature=2.0))
    logits, kept = peers.Elsewhere("trivial", ())(replace(asked, training=training))
    assert kept["training"] == {**asdict(settings), "besides": asdict(training.besides)}
    before = module(asked.judged)
    teacher = FloatModel(asked.graph).eval().requires_grad_(False)
    fit(module, pictures(), settings, distillation=Distillation(teacher, distill, 2.0) if distill else None)
    after = module.eval()(asked.judged)
    assert torch.allclose(logits, after, atol=1e-5)
    assert not torch.allclose(before, after, atol=0.1)


def test_a_peer_trains_from_its_own_calibration_alone(tmp_path: Path) -> None:
    """What else Bitwright's trainings have is refused, with what a peer's is."""
    for besides, settings in (
        (Besides(reconstruct=True), TrainSettings()),
        (Besides(average=0.9), TrainSettings()),
        (Besides(), TrainSettings(drop_last=False)),
    ):
        with pytest.raises(BitwrightError, match="starts from its calibration"):
            peers.Training(pictures(), settings, besides).write(tmp_path)


def test_a_way_has_the_settings_of_a_peers_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of Bitwright's own training; other peers are asked for none."""
    asked = []

    def peer(question: Any) -> tuple[Tensor, dict[str, Any]]:
        asked.append(question)
        return torch.zeros(1), {}

    monkeypatch.setattr(accuracy, "IMAGES", 4)
    monkeypatch.setattr(accuracy, "NETWORKS", {"net": lambda data: network()})
    monkeypatch.setattr(accuracy, "PEERS", {"x": peer, "x:gptq": peer, "x:qat2": peer})
    place = accuracy.Place(Path("runs"), None, "cpu")
    graph, images = capture(network(), (1, 4, 4)), torch.rand(2, 1, 4, 4)
    for way in ("peer-x:qat2:learning_rate=0.5:distill=0", "peer-x", "peer-x:gptq"):
        accuracy.peer_answer(accuracy.Row("net", "W2A2", way, 3), place, pictures(), graph, images)
    trains, *others = (question.training for question in asked)
    assert (trains.settings.epochs, trains.settings.learning_rate, trains.settings.seed) == (2, 0.5, 3)
    assert trains.settings.weight_decay == accuracy.QAT.weight_decay
    assert trains.besides == Besides(distill=0.0)
    assert others == [None, None]


def test_a_peer_that_is_killed_says_so() -> None:
    """It has no last words; one that fails has, and one that fails in silence is named."""
    with pytest.raises(BitwrightError, match=r"-c was killed \(signal 9\), for want of memory perhaps"):
        peers.run([sys.executable, "-c", "import os; print('working', flush=True); os.kill(os.getpid(), 9)"])
    with pytest.raises(BitwrightError, match=r"^no such width$"):
        peers.run([sys.executable, "-c", "raise SystemExit('no such width')"])
    with pytest.raises(BitwrightError, match="ended with 3 and said nothing"):
        peers.run([sys.executable, "-c", "raise SystemExit(3)"])
