# SPDX-License-Identifier: MIT
"""`--data none`: images are made from the network where no label is read, and every other command says where."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import bitwright.reconstruction
from bitwright.cli.data_free import HELD_OUT, data_for_graph, kept_in, made_images
from bitwright.cli.interruption import Interrupted, resumable
from bitwright.graph import Graph, capture
from bitwright.integer import lower
from bitwright.reconstruction import ReconstructionSettings, reconstruct, synthesised
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity import SensitivityTable
from bitwright.training import calibrated, load_quantized, save_quantized
from cli.conftest import Command
from reliability.formats import sensitivities
from training.small import small_graph, small_quantized

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


def test_made_images_wait_for_who_wants_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted while the second part is made: no part is made again, and the images are the same in the end."""
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
    source = data_for_graph("none", graph, kept, label_free=True, count=8 + HELD_OUT)
    assert not kept.exists()
    with pytest.raises(Interrupted) as stopped, resumable(tmp_path / "made.state", kept):
        source.images()
    assert stopped.value.advice(["bitwright", "x"]) == "interrupted: go on with: bitwright x --resume"
    data = source.images()
    assert begun == [1, 2, 3, 3, 4, 5, 6]
    assert torch.equal(data.train.read(range(8 + HELD_OUT))[0], whole[: 8 + HELD_OUT])
    assert torch.equal(data.test.read(range(HELD_OUT))[0], whole[8 + HELD_OUT :])


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_images_outlive_work_that_kept_nothing_else(
    bitwright: Command, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: tuple[str, ...]
) -> None:
    """Ctrl-C after they were made, and before the work wrote a state: it says how to go on, and both ways do, with them."""
    made: list[int] = []

    def counted(*given: object, **named: object) -> torch.Tensor:
        def told(done: int, total: int, **_: float) -> None:
            made.append(done)

        return synthesised(*given, **named | {"steps": 2, "progress": told})

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bitwright.reconstruction.synthesised", counted)
    works: dict[str, tuple[object, ...]] = {
        "reconstruction.reconstruct": ("reconstruct", network, "--scheme", "W4A4", *QUICK),
        "sensitivity.measure_sensitivity": ("sensitivity", network, "--task", "agreement", "-n", 8),
        "training.fine_tune": ("train", network, "--task", "agreement", "-s", "W8A8", "--epochs", 0),
    }
    for work, command in works.items():
        output = tmp_path / work
        given = (*command, "-d", "none", "-o", output)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(f"bitwright.{work}", stop)
            stopped = bitwright(*given)
        assert stopped.status == 130
        assert stopped.err.splitlines()[-1].startswith("interrupted: go on with: bitwright ")
        assert stopped.err.splitlines()[-1].endswith(" --resume")
        assert kept_in(output).exists()
        made.clear()
        done = bitwright(*given, *resume)
        assert done.status == 0, done.err
        assert made == []
        assert output.exists()
        assert not kept_in(output).exists()


WRONG = {
    "reconstruct net.graph --scheme nowhere.yaml": "expected a scheme's file or a precision such as W4A4",
    "reconstruct net.graph --scheme W4A4 --activations odd": "odd",
    "reconstruct net.checkpoint --reference other.graph": "the weights lack",
    "sensitivity net.graph --task agreement --metric nothing": "unknown metric 'nothing'",
    "sensitivity net.graph --task agreement --of-output nothing": "unknown output 'nothing'",
    "sensitivity net.graph --task agreement --checkpoint left.state": "holds the state of an interrupted run",
    "train net.graph --task agreement --scheme nowhere.yaml": "expected a scheme's file or a precision such as W4A4",
    "train net.graph --task agreement --scheme W4A4 --teacher nowhere.graph": "nowhere.graph",
    "train net.graph --task agreement --scheme W4A4 --teacher other.graph": "the teacher",
    "train net.graph --task agreement --scheme W4A4 --layerwise nowhere.json": "nowhere.json",
    "train net.graph --task agreement --scheme W4A4 --layerwise net.json --rung W9": "W9",
}


def test_whatever_can_be_refused_is_refused_before_images_are_made(
    bitwright: Command, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, and no file is left, of images neither."""
    save_quantized(tmp_path / "net.checkpoint", small_quantized())
    sensitivities(small_graph()).save(tmp_path / "net.json")
    other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()
    capture(other, (1, 4, 4), name="other").save(tmp_path / "other.graph")
    (tmp_path / "left.state").touch()

    def made(*_: object, **__: object) -> None:
        pytest.fail("images were made")

    monkeypatch.setattr("bitwright.reconstruction.synthesised", made)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for command, words in WRONG.items():
        refused = bitwright(*command.split(), "-d", "none", "-o", "made")
        assert refused.status != 0, command
        assert words in refused.err, command
        assert len(refused.err.splitlines()) == 1, (command, refused.err)
        assert sorted(tmp_path.iterdir()) == before, command


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
