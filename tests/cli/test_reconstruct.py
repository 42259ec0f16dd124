# SPDX-License-Identifier: MIT
"""`bitwright reconstruct` does with its options what the functions of Python do."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bitwright.data import load_data
from bitwright.data.sampling import spread
from bitwright.reconstruction import ReconstructionSettings, compensate_rounding, correct_biases, equalised, reconstruct
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrated, load_quantized
from cli.conftest import Command
from training.small import small_graph

QUICK = ReconstructionSettings(steps=2, batch_size=16)
OPTIONS = ("--scheme", "W4A4", "--steps", 2, "-b", 16, "-n", 64)


def same(model: QuantizedModel, path: Path) -> bool:
    """Whether a file holds this model."""
    read = load_quantized(path).state_dict()
    return all(torch.equal(value, read[name]) for name, value in model.state_dict().items())


def test_biases_are_corrected_last(bitwright: Command, tmp_path: Path) -> None:
    """By the images of the reconstruction, towards the same float network."""
    graph = small_graph()
    graph.save(tmp_path / "net.graph")
    done = bitwright(
        "reconstruct", tmp_path / "net.graph", "-d", "mnist-5k", *OPTIONS, "--correct-biases", "-o", tmp_path / "made"
    )
    assert done.status == 0, done.err
    images, labels = load_data("mnist-5k", channels=1, image_size=28).calibration(64, 0)
    model, _ = calibrated(graph, Scheme.uniform(graph.layers, Precision(4, 4)), images)
    images = images[spread(labels, 0)]
    reconstruct(model, images, QUICK, reference=graph)
    assert not same(model, tmp_path / "made")
    assert same(correct_biases(model, images, reference=graph), tmp_path / "made")


def test_no_steps_compensate_alone(bitwright: Command, tmp_path: Path) -> None:
    """A graph; what that made has other weights than its graph, so that nothing would be left to do, which is refused."""
    graph = small_graph()
    graph.save(tmp_path / "net.graph")
    alone = ("-d", "mnist-5k", "--steps", 0, "-n", 64)
    done = bitwright("reconstruct", tmp_path / "net.graph", *alone, "--scheme", "W3A8", "-o", tmp_path / "made")
    assert done.status == 0, done.err
    images, labels = load_data("mnist-5k", channels=1, image_size=28).calibration(64, 0)
    model, _ = calibrated(graph, Scheme.uniform(graph.layers, Precision(3, 8)), images)
    assert same(compensate_rounding(model, images[spread(labels, 0)], reference=graph), tmp_path / "made")
    again = ("reconstruct", tmp_path / "made", "--reference", tmp_path / "net.graph", *alone)
    refused = bitwright(*again, "-o", tmp_path / "never")
    assert refused.status == 1
    assert "only steps can reconstruct it: expected 1 or more, got 0." in refused.err
    assert not (tmp_path / "never").exists()


def test_steps_that_are_taken_back_are_told(bitwright: Command, tmp_path: Path) -> None:
    """With how much larger they made the error on images unseen; what is written is that of `--steps 0`."""
    graph = small_graph()
    graph.save(tmp_path / "net.graph")
    wild = ("-d", "mnist-5k", *OPTIONS, "--network-steps", 0, "--lr", 30, "--json", "-o", tmp_path / "made")
    done = bitwright("reconstruct", tmp_path / "net.graph", *wild)
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert told["unseen_error"] > 1
    assert told["taken_back"] is True
    assert "the steps of blocks were taken back: on images that they were not shown" in done.err
    assert "network_unseen_error" not in told
    images, labels = load_data("mnist-5k", channels=1, image_size=28).calibration(64, 0)
    model, _ = calibrated(graph, Scheme.uniform(graph.layers, Precision(4, 4)), images)
    assert same(compensate_rounding(model, images[spread(labels, 0)], reference=graph), tmp_path / "made")


def test_all_layers_descend_by_as_many_steps_as_are_asked_for(bitwright: Command, tmp_path: Path) -> None:
    """Behind no step of a block, too; where they are taken back, that is told."""
    graph = small_graph()
    graph.save(tmp_path / "net.graph")
    options = ("-d", "mnist-5k", "--scheme", "W4A4", "--steps", 0, "--network-steps", 3, "-b", 16, "-n", 64, "--json")
    done = bitwright("reconstruct", tmp_path / "net.graph", *options, "-o", tmp_path / "made")
    assert done.status == 0, done.err
    told = json.loads(done.out)
    assert told["network_unseen_error"] > 0
    assert ("the steps of all layers at once were taken back" in done.err) == told["network_taken_back"]
    images, labels = load_data("mnist-5k", channels=1, image_size=28).calibration(64, 0)
    model, _ = calibrated(graph, Scheme.uniform(graph.layers, Precision(4, 4)), images)
    settings = ReconstructionSettings(steps=0, network_steps=3, batch_size=16)
    assert same(reconstruct(model, images[spread(labels, 0)], settings, reference=graph), tmp_path / "made")


def test_a_graph_is_equalised_first(bitwright: Command, tmp_path: Path) -> None:
    """The command writes what it writes of the equalised graph."""
    graph = small_graph()
    graph.save(tmp_path / "net.graph")
    equalised(graph).save(tmp_path / "equal.graph")
    for name, more, output in (("net", ("--equalise",), "a"), ("equal", (), "b"), ("net", (), "c")):
        done = bitwright(
            "reconstruct", tmp_path / f"{name}.graph", "-d", "mnist-5k", *OPTIONS, *more, "-o", tmp_path / output
        )
        assert done.status == 0, done.err
    made = load_quantized(tmp_path / "b")
    assert same(made, tmp_path / "a")
    assert not same(made, tmp_path / "c")


def test_options_that_say_nothing_are_refused(bitwright: Command, tmp_path: Path) -> None:
    """A scheme's file has its own formats, and a checkpoint is no float network: each refusal says why."""
    graph = small_graph()
    graph.save(tmp_path / "net.graph")
    Scheme.uniform(graph.layers, Precision(4, 4)).save(tmp_path / "own.yaml")
    made = ("reconstruct", tmp_path / "net.graph", "-d", "mnist-5k", "-o", tmp_path / "made")
    for option, value in (("--residual-bits", 16), ("--activations", "symmetric")):
        refused = bitwright(*made, "--scheme", tmp_path / "own.yaml", option, value)
        assert refused.status == 2
        assert f"{option} would be ignored: the file of a scheme has its own." in refused.err
    assert bitwright(*made, *OPTIONS).status == 0
    given = ("reconstruct", tmp_path / "made", "--reference", tmp_path / "net.graph", "-d", "mnist-5k")
    refused = bitwright(*given, "--equalise", "-o", tmp_path / "never")
    assert refused.status == 2
    assert "--equalise would be ignored: it balances a float network before that is quantized." in refused.err
    assert not (tmp_path / "never").exists()
