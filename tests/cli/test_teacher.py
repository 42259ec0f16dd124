# SPDX-License-Identifier: MIT
"""`bitwright train --teacher`: any network teaches, as a `Distillation` in Python does; what cannot is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.data import load_data
from bitwright.graph import FloatModel, Graph, capture
from bitwright.integer import lower
from bitwright.scheme import Precision, Scheme
from bitwright.task import agreement
from bitwright.training import Distillation, TrainSettings, fine_tune, load_quantized, save_quantized
from cli.conftest import Command
from cli.networks import Small
from training.small import small_graph, small_quantized

SETTINGS = TrainSettings(data_fraction=0.05, batch_size=64)
OPTIONS = ("-d", "mnist-5k", "--scheme", "W4A4", "--data-fraction", "0.05", "-b", "64")


def other() -> nn.Module:
    """A network of another kind, with weights of its own."""
    torch.manual_seed(5)
    return Small(1, 10).eval()


def test_any_network_teaches(bitwright: Command, tmp_path: Path) -> None:
    """A graph, a checkpoint, a model by name with a file of weights, and where none is named the float network itself."""
    graph = small_graph()
    graph.save(tmp_path / "net.graph")
    capture(other(), graph.input_shape).save(tmp_path / "teacher.graph")
    quantized = small_quantized("W8A8").eval()
    save_quantized(tmp_path / "teacher.checkpoint", quantized)
    torch.save(other().state_dict(), tmp_path / "teacher.pth")
    named = ("cli.networks:small", "--teacher-weights", tmp_path / "teacher.pth")
    teachers: list[tuple[nn.Module, tuple[object, ...], float]] = [
        (FloatModel(Graph.load(tmp_path / "teacher.graph")), ("--teacher", tmp_path / "teacher.graph"), 0.5),
        (quantized, ("--teacher", tmp_path / "teacher.checkpoint", "--distill", "0.9"), 0.9),
        (other(), ("--teacher", *named), 0.5),
        (FloatModel(graph), ("--distill", "0.3"), 0.3),
    ]
    data = load_data("mnist-5k", channels=1, image_size=28)
    scheme = Scheme.uniform(graph.layers, Precision(4, 4))
    for number, (teacher, given, alpha) in enumerate(teachers):
        done = bitwright("train", tmp_path / "net.graph", *OPTIONS, *given, "-o", tmp_path / f"made{number}")
        assert done.status == 0, done.err
        model, _ = fine_tune(graph, scheme, data, SETTINGS, distillation=Distillation(teacher.eval(), alpha))
        read = load_quantized(tmp_path / f"made{number}").state_dict()
        assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items())


def test_the_float_network_teaches_by_default(bitwright: Command, tmp_path: Path) -> None:
    """A graph that is quantized; but no checkpoint whose weights were trained, and none where --task has no such distance."""
    graph = small_graph()
    graph.save(tmp_path / "net.graph")
    save_quantized(tmp_path / "trained", small_quantized("W4A4").eval())
    trained = load_quantized(tmp_path / "trained").float_graph()
    data = load_data("mnist-5k", channels=1, image_size=28)
    scheme = Scheme.uniform(graph.layers, Precision(4, 4))
    for number, (start, given, teacher, task) in enumerate(
        (
            ("net.graph", (), graph, None),
            ("net.graph", ("--distill", 0), None, None),
            ("trained", (), None, None),
            ("trained", ("--distill", 0.5), trained, None),
            ("net.graph", ("--task", "agreement"), None, agreement()),
        )
    ):
        done = bitwright("train", tmp_path / start, *OPTIONS, *given, "-o", tmp_path / f"made{number}")
        assert done.status == 0, done.err
        distillation = None if teacher is None else Distillation(FloatModel(teacher).eval())
        network = graph if start == "net.graph" else trained
        model, _ = fine_tune(network, scheme, data, SETTINGS, distillation=distillation, task=task)
        read = load_quantized(tmp_path / f"made{number}").state_dict()
        assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items()), given


def test_who_cannot_teach_is_refused(bitwright: Command, tmp_path: Path) -> None:
    """Before anything is trained, with status 2 or 1, and nothing is written."""
    graph = small_graph()
    graph.save(tmp_path / "net.graph")
    lower(small_quantized("W4A4").eval()).save(tmp_path / "net.integer")
    capture(Small(1, 7).eval(), graph.input_shape).save(tmp_path / "seven.graph")
    capture(other(), (1, 32, 32)).save(tmp_path / "larger.graph")
    for given, message in (
        (("--teacher", tmp_path / "net.integer"), "is an integer model, which does not teach"),
        (("--teacher", tmp_path / "seven.graph"), "makes 7 outputs of images of 1 x 28 x 28, the student 10"),
        (("--teacher", tmp_path / "larger.graph"), "of images of 1 x 32 x 32, the student 10 of 1 x 28 x 28"),
        (("--teacher", "nowhere.graph"), "nowhere.graph"),
        (("--teacher", tmp_path / "net.graph", "--distill", "0"), "--teacher would be ignored"),
        (("--teacher-weights", tmp_path / "net.graph"), "--teacher-weights would be ignored"),
        (("--teacher", tmp_path / "net.graph", "--epochs", "0"), "--teacher would be ignored"),
    ):
        refused = bitwright("train", tmp_path / "net.graph", *OPTIONS[:4], *given, "-o", tmp_path / "never")
        assert refused.status in (1, 2)
        assert message in refused.err
        assert "Traceback" not in refused.err
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("option", [("--teacher", "x.graph"), ("--teacher-weights", "x.pth")])
def test_a_float_training_has_no_teacher(bitwright: Command, tmp_path: Path, option: tuple[str, str]) -> None:
    """The options are about quantized training."""
    refused = bitwright("train", "cli.networks:small", "-d", "mnist-5k", *option, "-o", tmp_path / "never")
    assert refused.status == 2
    assert f"{option[0]} would be ignored" in refused.err
