# SPDX-License-Identifier: MIT
"""How images are made stands in every file made from them, and no command takes others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bitwright.benchmark import ENGINES, predictor
from bitwright.data import Preprocessing, load_data
from bitwright.graph import Graph
from bitwright.sensitivity import SensitivityTable
from cli.conftest import Command

HOW = ("--mean", "0.25", "--std", "0.5")
KNOWN = Preprocessing((0.25,), (0.5,), crop=28)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of this module are made, once."""
    return tmp_path_factory.mktemp("preprocessing")


@pytest.fixture
def graph(folder: Path, bitwright: Command) -> Path:
    """A network trained a little on digits with constants of its own."""
    path = folder / "net.graph"
    if not path.exists():
        given = ("-d", "mnist-5k", "--image-size", 28, "--data-fraction", 0.1, "--lr", 0.1)
        made = bitwright("train", "cli.networks:small", *given, *HOW, "-o", path)
        assert made.status == 0, made.err
        assert "images of mnist-5k: 28 x 28 pixels, mean 0.25, std 0.5" in made.err
    return path


@pytest.fixture
def integer(graph: Path, folder: Path, bitwright: Command) -> Path:
    """Its integers, which no command was told of their images again."""
    path, checkpoint = folder / "net.integer", folder / "net.checkpoint"
    if not path.exists():
        given = ("-d", "mnist-5k", "--scheme", "W4A4", "--epochs", 0)
        assert bitwright("train", graph, *given, "-o", checkpoint).status == 0
        assert bitwright("lower", checkpoint, "-o", path).status == 0
    return path


def test_every_file_knows_its_images(graph: Path, integer: Path, folder: Path, bitwright: Command) -> None:
    """Graphs, sensitivities, checkpoints, integer models and exported files, which read the images that were trained on."""
    table = folder / "sensitivities.json"
    assert bitwright("sensitivity", graph, "-d", "mnist-5k", "-n", 16, "--max-probes", 10, "-o", table).status == 0
    assert SensitivityTable.load(table).preprocessing == KNOWN
    assert Graph.load(graph).preprocessing == KNOWN
    pixels = folder / "pixels.onnx"
    assert bitwright("export", integer, "-d", "mnist-5k", "-o", pixels).status == 0
    paths = [graph, integer, folder / "net.checkpoint", pixels]
    assert [predictor(path).preprocessing for path in paths] == [KNOWN] * len(paths)

    asked = load_data("mnist-5k", preprocessing=Preprocessing((0.25,), (0.5,)))
    images, labels = asked.test.read(range(len(asked.test)))
    for path in (graph, integer, pixels):
        right = int((predictor(path).predict(images).argmax(1) == labels).sum())
        found = json.loads(bitwright("evaluate", path, "-d", "mnist-5k", "--json").out)
        assert found["top1_percent"] == pytest.approx(100 * right / len(labels))


@pytest.mark.slow
def test_files_of_all_engines_know_their_images(graph: Path, integer: Path, folder: Path, bitwright: Command) -> None:
    """Whatever their format, and float files too."""
    paths = [folder / "float.onnx"]
    assert bitwright("export", graph, "-o", paths[0]).status == 0
    for name, engine in ENGINES.items():
        if engine.installed:
            paths.append(folder / f"{name}{engine.form.suffix}")
            assert bitwright("export", integer, "-e", engine.form.engine, "--no-check", "-o", paths[-1]).status == 0
    assert [predictor(path).preprocessing for path in paths] == [KNOWN] * len(paths)


@pytest.mark.parametrize(
    ("data", "how", "message"),
    [
        ("mnist-5k", ("--mean", "0.1307"), "the command line has mean 0.1307, not 0.25"),
        ("data.own_data:digits", (), "data.own_data:digits has std 0.5, not 0.75"),
        ("mnist-5k", ("--resize", "40"), "it cannot be made so: shorter side to 40"),
        ("mnist-5k", ("--crop", "32"), "the network reads images of 28 x 28, got --crop 32"),
        ("mnist-5k", ("--std", "0"), "expected standard deviations above 0"),
        ("mnist-5k", ("--mean", "0.1,0.2"), "expected one mean or one for each of 1 channels"),
        ("mnist-5k", ("--mean", "a"), "expected a number"),
    ],
)
def test_other_images_are_refused(
    data: str, how: tuple[str, ...], message: str, graph: Path, integer: Path, folder: Path, bitwright: Command
) -> None:
    """By every command that would read them, in one line, and nothing is written."""
    other = ("-o", folder / "never")
    if data == "data.own_data:digits":  # normalised otherwise than it was asked for
        graph_or_none = replace_known(graph, folder / "other.graph")
        commands = [("evaluate", graph_or_none), ("sensitivity", graph_or_none, *other)]
    else:
        commands = [("evaluate", graph), ("evaluate", integer), ("export", integer, *other), ("verify", integer)]
        commands += [("sensitivity", graph, *other), ("train", graph, "--scheme", "W4A4", *other)]
    for command in commands:
        result = bitwright(*command, "-d", data, *how)
        assert result.status != 0, command
        assert message in result.err.splitlines()[-1], result.err
    assert not (folder / "never").exists()


def test_constants_that_nothing_would_read_are_refused(
    graph: Path, integer: Path, folder: Path, bitwright: Command
) -> None:
    """Without a data set these commands make no images: options that say how would be ignored in silence."""
    other = ("-o", folder / "never")
    commands = [("export", integer, *other), ("export", graph, *other), ("verify", integer, "--stress", 2)]
    for command in [*commands, ("lower", folder / "net.checkpoint", *other)]:
        result = bitwright(*command, "--mean", "0.25")
        assert result.status != 0, command
        assert "--mean" in result.err, result.err
    assert not (folder / "never").exists()


def replace_known(graph: Path, path: Path) -> Path:
    """The same network, trained with another standard deviation than the factory's."""
    from dataclasses import replace

    replace(Graph.load(graph), preprocessing=Preprocessing((0.125,), (0.75,))).save(path)
    return path


def test_sensitivities_of_other_images_are_refused(graph: Path, folder: Path, bitwright: Command) -> None:
    """A search takes no figures that were measured on images made otherwise."""
    table, other = folder / "other.json", replace_known(graph, folder / "changed.graph")
    assert bitwright("sensitivity", graph, "-d", "mnist-5k", "-n", 16, "--max-probes", 10, "-o", table).status == 0
    refused = bitwright("allocate", other, table, "size0.5", "-o", folder / "never.yaml")
    assert refused.status == 1
    assert "the sensitivities were measured on other images than" in refused.err
    assert "mean 0.25, not 0.125" in refused.err


def test_data_of_the_users_own(folder: Path, bitwright: Command) -> None:
    """A factory's size and channels make the model; what it does not say of its images is not assumed; the way goes on."""
    graph, checkpoint = folder / "own.graph", folder / "own.checkpoint"
    own = ("-d", "data.own_data:silent_digits")
    made = bitwright("capture", "cli.networks:small", *own, "-o", graph)
    assert made.status == 0, made.err
    assert Graph.load(graph).input_shape == (1, 28, 28)
    trained = bitwright("train", graph, *own, "--scheme", "W4A4", "--epochs", 0, "-o", checkpoint)
    assert trained.status == 0, trained.err
    assert "images of data.own_data:silent_digits: as they are given" in trained.err
    found = json.loads(bitwright("evaluate", checkpoint, *own, "--json").out)
    same = json.loads(bitwright("evaluate", checkpoint, "-d", "mnist-5k", "--json").out)
    assert found["top1_percent"] == same["top1_percent"]
    integer, pixels = folder / "own.integer", folder / "own.onnx"
    assert bitwright("lower", checkpoint, "-o", integer).status == 0
    refused = bitwright("export", integer, *own, "-o", pixels)
    assert refused.status == 1
    assert "data.own_data:silent_digits does not say how: let it return 'mean' and 'std'" in refused.err
    assert not pixels.exists()


def test_weights_of_a_library(folder: Path, bitwright: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a library states how its weights' images are made, the network knows it; the command line goes before."""
    from torchvision import models

    made = models.resnet18()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: made.state_dict())
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: made.state_dict())
    path = folder / "published.graph"
    given = ("capture", "torchvision:resnet18", "--pretrained", "--image-size", 64, "-o", path)
    assert bitwright(*given, "--mean", "0.5").status == 0
    assert Graph.load(path).preprocessing == Preprocessing((0.5,) * 3, (0.229, 0.224, 0.225), 73, 64, "bilinear")


@pytest.mark.parametrize(
    ("model", "given", "side"),
    [
        ("cli.networks:small", (), 28),
        ("cli.networks:small", ("--image-size", 32), 32),
        ("cli.networks:tiny", (), 32),  # which says so itself
    ],
)
def test_a_network_of_ones_own_reads_the_size_of_the_data(
    model: str, given: tuple[object, ...], side: int, bitwright: Command, tmp_path: Path
) -> None:
    """Unless it, or who runs the command, says another; a line says what was taken."""
    made = bitwright("capture", model, "-d", "mnist-5k", *given, "-o", tmp_path / "net.graph")
    assert made.status == 0, made.err
    assert Graph.load(tmp_path / "net.graph").input_shape == (1, side, side)
    assert ("reads images of 28 x 28, as mnist-5k has them" in made.err) == (side == 28)
