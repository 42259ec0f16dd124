# SPDX-License-Identifier: MIT
"""`benchmarks/accuracy_peers.py`: what a peer is asked and what it answers, without its environment and without a network."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from bitwright.errors import BitwrightError
from bitwright.graph import capture

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = """
from exchange import answer, question

asked = question()
assert (asked.weight_bits, asked.act_bits, asked.recipe, asked.seed) == (4, 8, "a recipe", 7)
assert [len(images) for images, _ in asked.batches(2)] == [2, 1]
answer(asked, asked.network, ["torch"], {"mean": float(asked.calibration.mean())})
"""


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    """The module, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("accuracy_peers", BENCHMARKS / "accuracy_peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy_peers"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def network() -> nn.Module:
    """Two layers and batch norm."""
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).eval()


def question(peers: ModuleType, folder: Path) -> tuple[nn.Module, object]:
    """A network, and a question about it that has its weights from the graph alone."""
    torch.manual_seed(0)
    module = network()
    images = torch.rand(3, 1, 4, 4), torch.rand(5, 1, 4, 4)
    return module, peers.Question(capture(module, (1, 4, 4)), network(), *images, "W4A8", 7, folder)


def script(peers: ModuleType, folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer `trivial` whose environment is this interpreter's."""
    (folder / "trivial.py").write_text(text)
    (folder / "exchange.py").write_text((BENCHMARKS / "peers" / "exchange.py").read_text())
    monkeypatch.setattr(peers, "SCRIPTS", folder)
    monkeypatch.setattr(peers, "environment_of", lambda folder, requirements: Path(sys.executable))


def test_a_peer_answers_with_logits_of_the_same_network(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that does nothing has the float network's logits; settings have versions."""
    script(peers, tmp_path, SCRIPT, monkeypatch)
    module, asked = question(peers, tmp_path)
    logits, settings = peers.Elsewhere("trivial", (), "a recipe")(asked)
    assert torch.allclose(logits, module(asked.judged), atol=1e-6)
    assert settings == {"torch": version("torch"), "mean": pytest.approx(float(asked.calibration.mean()))}


def test_a_peer_that_fails_says_why(peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line that it printed; a width that it refuses never starts it."""
    script(peers, tmp_path, "print('a start')\nraise ValueError('no such width')\n", monkeypatch)
    _, asked = question(peers, tmp_path)
    with pytest.raises(BitwrightError, match=r"^ValueError: no such width$"):
        peers.Elsewhere("trivial", ())(asked)
    with pytest.raises(BitwrightError, match="only 8 bits"):
        peers.Elsewhere("absent", (), refusals={"W4A8": "only 8 bits"})(asked)


def test_an_environment_is_made_once(peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_every_script_has_a_peer(peers: ModuleType) -> None:
    """And every peer has a script."""
    scripts = {path.stem for path in peers.SCRIPTS.glob("*.py")} - {"exchange"}
    assert scripts == {peer.script for peer in peers.PEERS.values() if isinstance(peer, peers.Elsewhere)}
