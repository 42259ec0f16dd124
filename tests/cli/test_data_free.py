# SPDX-License-Identifier: MIT
"""`--data none`: images are made from the network where no label is read, and every other command says where."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import bitwright.reconstruction
from bitwright.cli.data_free import HELD_OUT, kept_in, made_images
from bitwright.cli.interruption import Interrupted
from bitwright.errors import FileFormatError
from bitwright.graph import Graph, capture
from bitwright.integer import lower
from bitwright.reconstruction import ReconstructionSettings, reconstruct, synthesised
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity import SensitivityTable
from bitwright.training import calibrated, load_quantized
from cli.conftest import Command
from training.small import small_graph

QUICK = ("--steps", 2, "-b", 8, "-n", 8)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are made in two steps, and not in hundreds."""
    monkeypatch.setattr(bitwright.reconstruction, "synthesised", partial(synthesised, steps=2))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A file of a float network with batch norm."""
    small_graph().save(tmp_path / "net.graph")
    return tmp_path / "net.graph"


@pytest.mark.usefixtures("few_steps")
def test_a_network_is_reconstructed_on_its_own_images(bitwright: Command, network: Path, tmp_path: Path) -> None:
    """On those that `synthesised` makes, with the integers that the functions of Python give; nothing of them is left."""
    made = ("reconstruct", network, "-d", "none", "--scheme", "W4A4", *QUICK, "-o", tmp_path / "made")
    done = bitwright(*made)
    assert done.status == 0, done.err
    assert "reconstructed on 8 made images" in done.out
    assert f"no data: 8 images were made from what the batch norm of small remembers, {HELD_OUT} more" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "net.graph"]
    graph = Graph.load(network)
    images = synthesised(graph, 8 + HELD_OUT, steps=2)[:8]
    model, _ = calibrated(graph, Scheme.uniform(graph.layers, Precision(4, 4)), images)
    reconstruct(model, images, ReconstructionSettings(steps=2, batch_size=8), reference=graph)
    expected, read = model.state_dict(), load_quantized(tmp_path / "made").state_dict()
    assert all(torch.equal(value, read[name]) for name, value in expected.items())


@pytest.mark.usefixtures("few_steps")
def test_sensitivities_and_calibration_need_no_data_either(bitwright: Command, network: Path, tmp_path: Path) -> None:
    """With the task that reads no label; what comes of it can be lowered."""
    given = ("-d", "none", "--task", "agreement")
    assert bitwright("sensitivity", network, *given, "-n", 8, "-o", tmp_path / "table.json").status == 0
    assert SensitivityTable.load(tmp_path / "table.json").batch == 8
    done = bitwright("train", network, *given, "--scheme", "W8A8", "--epochs", 0, "-o", tmp_path / "made")
    assert done.status == 0, done.err
    assert lower(load_quantized(tmp_path / "made")).layers
    assert not list(tmp_path.glob("*.images"))


def test_made_images_wait_for_the_command_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted while the second part is made: --resume makes no part again, and ends with the same images."""
    graph, kept = small_graph(), kept_in(tmp_path / "made")
    whole = synthesised(graph, 8 + 2 * HELD_OUT, steps=2)
    begun: list[int] = []

    def interrupted(*given: object, **named: object) -> torch.Tensor:
        def told(done: int, total: int, **_: float) -> None:
            begun.append(done)
            if done == 3 and len(begun) == 3:
                raise KeyboardInterrupt

        return synthesised(*given, **named | {"steps": 2, "progress": told})

    monkeypatch.setattr(bitwright.reconstruction, "synthesised", interrupted)
    from bitwright.cli.data_free import data_for_graph

    with pytest.raises(Interrupted):
        data_for_graph("none", graph, kept, label_free=True, count=8 + HELD_OUT)
    with pytest.raises(FileFormatError, match="--resume"):
        data_for_graph("none", graph, kept, label_free=True, count=8 + HELD_OUT)
    data = data_for_graph("none", graph, kept, label_free=True, count=8 + HELD_OUT, resume=True)
    assert begun == [1, 2, 3, 3, 4, 5, 6]
    assert torch.equal(data.train.read(range(8 + HELD_OUT))[0], whole[: 8 + HELD_OUT])
    assert torch.equal(data.test.read(range(HELD_OUT))[0], whole[8 + HELD_OUT :])


@pytest.mark.usefixtures("few_steps")
def test_images_of_another_network_or_seed_are_made_anew(tmp_path: Path) -> None:
    """What an interrupted run left is taken for the same arguments only."""
    kept = tmp_path / "made.images"
    first = made_images(small_graph(), kept, 8, 0).train.read(range(8))[0]
    assert not torch.equal(first, made_images(small_graph(), kept, 8, 1).train.read(range(8))[0])
    assert torch.equal(first, made_images(small_graph(), kept, 8, 0).train.read(range(8))[0])


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (b"junk", "expected images that were made without data, got text, in"),
        (b"", "expected images that were made without data, got an empty file, in"),
        (None, "expected images that were made without data, got a graph, in"),
    ],
)
def test_what_lies_where_images_are_kept(
    bitwright: Command, network: Path, tmp_path: Path, left: bytes | None, words: str
) -> None:
    """Is refused in one line where it is something else, and stays as it is."""
    kept = kept_in(tmp_path / "made")
    kept.write_bytes(network.read_bytes() if left is None else left)
    before = kept.read_bytes()
    made = ("reconstruct", network, "-d", "none", "--scheme", "W4A4", *QUICK, "-o", tmp_path / "made", "--resume")
    refused = bitwright(*made)
    assert refused.status == 1
    assert f"{words} '{kept}'" in refused.err.splitlines()[-1]
    assert "delete it" in refused.err.splitlines()[-1]
    assert kept.read_bytes() == before


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        ("sensitivity", (), "--data none has no labels: add --task agreement"),
        ("train", ("--scheme", "W8A8"), "--data none has no labels: add --task agreement"),
        ("reconstruct", ("--scheme", "W8A8", "--mean", "0.5"), "--data none makes images as the network reads them"),
        ("auto", (), "images can be made without data (none) only where"),
    ],
)
def test_what_makes_no_sense_is_refused(
    bitwright: Command, network: Path, tmp_path: Path, command: str, more: tuple[str, ...], words: str
) -> None:
    """In one line that says what does, and no file is left."""
    refused = bitwright(command, network, "-d", "none", *more, "-o", tmp_path / "made.onnx")
    assert refused.status != 0
    assert words in refused.err
    assert len(refused.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [network]


def test_networks_without_batch_norm_are_refused(bitwright: Command, tmp_path: Path) -> None:
    """Nothing is known of their images."""
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    capture(plain, (1, 4, 4), name="plain").save(tmp_path / "net.graph")
    refused = bitwright("reconstruct", tmp_path / "net.graph", "-d", "none", "-s", "W8A8", "-o", tmp_path / "made")
    assert refused.status == 1
    assert "plain has no batch norm" in refused.err
