# SPDX-License-Identifier: MIT
"""`benchmarks/accuracy.py`: which float weights rows are of, and which images they are judged on."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.data import ImageData, load_data
from bitwright.graph import Graph
from bitwright.graph.digest import network_digest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
accuracy = importlib.import_module("accuracy")
fashion = importlib.import_module("fashion")


def digits() -> ImageData:
    """Images of the shape and with as many classes as those of the study."""
    return load_data("mnist-5k", image_size=fashion.IMAGE_SIZE)


@pytest.mark.parametrize("network", ["resnet20", "mobilenetv2-small"])
def test_weights_beside_are_those_that_rows_are_of(network: str) -> None:
    """Who measures a row anew begins with the float network of the others."""
    graph = fashion.with_weights(network, digits(), fashion.WEIGHTS / f"{network}.safetensors")
    known = json.loads((BENCHMARKS / "results" / "accuracy.json").read_text())["networks"]
    assert network_digest(graph) == known[network]


def test_weights_beside_are_taken_before_any_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in place of those that a folder has already, but of a training."""
    monkeypatch.setattr(accuracy.Place, "images", lambda place: digits())
    place = accuracy.Place(tmp_path, None, "cpu")
    monkeypatch.setattr(fashion, "fit", lambda *args, **settings: pytest.fail("trained"))
    graph = accuracy.ready("resnet20", place, None, 1, False)
    assert network_digest(graph) == network_digest(Graph.load(tmp_path / "resnet20.graph"))
    own = graph.with_parameters({name: 2 * value for name, value in graph.parameters.items()})
    own.save(tmp_path / "resnet20.graph")
    assert network_digest(accuracy.ready("resnet20", place, None, 1, False)) == network_digest(own)


def test_a_row_and_its_trial_are_of_one_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once, judged on the test images and on training images apart, each kind what it would be alone."""
    monkeypatch.setattr(accuracy, "HELD_OUT", 300)
    monkeypatch.setattr(accuracy.Place, "images", lambda place: digits())
    graph = fashion.with_weights("resnet20", digits(), fashion.WEIGHTS / "resnet20.safetensors")
    graph.save(tmp_path / "resnet20.graph")
    asked = []

    def peer(
        question: object, place: object, data: object, graph: object, images: Tensor
    ) -> tuple[Tensor, dict[str, str]]:
        asked.append(len(images))
        return images.flatten(1)[:, 300:310], {"peer": "1.0"}

    monkeypatch.setattr(accuracy, "peer_answer", peer)
    row = accuracy.Row("resnet20", "W4A4", "peer-x", 0)
    made = {
        kinds: accuracy.measured(row, kinds, accuracy.Place(tmp_path, None, "cpu"))
        for kinds in (("rows",), ("trials",), ("rows", "trials"))
    }
    assert asked == [1000, 300, 1300]
    both = made["rows", "trials"]
    for kind in ("rows", "trials"):
        alone = made[kind,][kind]
        assert {**alone, "seconds": 0} == {**both[kind], "seconds": 0}
    assert both["rows"].keys() < both["trials"].keys()
    assert both["rows"]["top1_percent"] != both["trials"]["top1_percent"]
    assert (both["rows"]["images"], both["trials"]["images"]) == (1000, 300)


def test_a_row_that_fails_fails_for_every_kind(tmp_path: Path) -> None:
    """And says why."""
    row = accuracy.Row("resnet20", "W4A4", "calibrated", 0)
    _, found = accuracy.measure((row, ("rows", "trials"), accuracy.Place(tmp_path, str(tmp_path), "cpu")))
    assert found["rows"] == found["trials"]
    assert str(tmp_path) in found["rows"]["failed"]


def test_what_is_known_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row lacks its trial, the trial alone is asked for: a failure of it costs nothing that was there."""
    name, known = "resnet20/W4A4/calibrated/0", {"top1_percent": 93.0}
    digest = network_digest(fashion.with_weights("resnet20", digits(), fashion.WEIGHTS / "resnet20.safetensors"))
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"networks": {"resnet20": digest}, "rows": {name: known}}))
    arguments = ["--json", str(results), "--folder", str(tmp_path), "--rows", name, "--both", "--data", str(tmp_path)]
    monkeypatch.setattr(accuracy.Place, "images", lambda place: digits())  # in this process: those of rows find none
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *arguments])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as the benchmark does, and leaves it
    threads = torch.get_num_threads()
    try:
        accuracy.main()
    finally:
        torch.set_num_threads(threads)
    found = json.loads(results.read_text())
    assert found["rows"] == {name: known}
    assert str(tmp_path) in found["trials"][name]["failed"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("resnet99=x", "expected NETWORK=FILE of resnet20, "),
        ("nonsense", "got 'nonsense'"),
        ("resnet20=absent.pth", "cannot read weights from 'absent.pth'"),
    ],
)
def test_weights_that_are_none(
    weights: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, a status that is not zero, and no results."""
    monkeypatch.setattr(accuracy.Place, "images", lambda place: digits())
    monkeypatch.setattr(accuracy, "begin", lambda device: None)
    asked = ["--json", str(tmp_path / "x.json"), "--folder", str(tmp_path), "--rows", "resnet20/float/float/0"]
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *asked, "--weights", weights])
    with pytest.raises(SystemExit) as stopped:
        accuracy.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
