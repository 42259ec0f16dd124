# SPDX-License-Identifier: MIT
"""`bitwright zoo`: each of its commands, on the library's results."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorchcv.models.common import model_store

from bitwright.cli.zoo import zoo
from bitwright.graph import Graph, load_model
from bitwright.graph.pretrained import published_weights
from bitwright.integer import load
from bitwright.scheme import Scheme
from bitwright.sensitivity import LayerSensitivity, SensitivityTable
from bitwright.zoo import published_losses, published_scheme
from bitwright.zoo.downloads import archive_path
from bitwright.zoo.reproduction import STATE
from cli.conftest import Command
from zoo.networks import imported

COMMANDS = sorted(str(command.name) for command in zoo.registered_commands)


def test_commands() -> None:
    """All that the zoo can do."""
    assert COMMANDS == ["check", "download", "import", "list", "reproduce", "show", "table"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name: str, bitwright: Command) -> None:
    """The help of each command ends with a command line that uses it."""
    shown = bitwright("zoo", name, "--help")
    assert shown.status == 0
    assert f"bitwright zoo {name}" in re.sub(r"\s+", " ", shown.out)


def test_list(bitwright: Command) -> None:
    """27 rows, and bits without a row."""
    result = json.loads(bitwright("zoo", "list", "--json").out)
    assert len(result["rows"]) == 27
    assert "mobilenetv2_w1-bops0.5" in result["bits_without_row"]
    assert "resnet50-latency0.25" in bitwright("zoo", "list").out


def test_show(bitwright: Command, tmp_path: Path) -> None:
    """Published figures and bits, in any spelling; the scheme can be written."""
    shown = bitwright("zoo", "show", "ResNet18_modelsize_0.5", "-o", tmp_path / "scheme.yaml")
    assert "features.stage4.unit1.body.conv2.conv" in shown.out
    assert "70.50" in shown.out
    assert Scheme.load(tmp_path / "scheme.yaml") == published_scheme("resnet18", "size0.5")
    assert "W4A4" in bitwright("zoo", "show", "resnet101-w4a4").out
    assert "resnet18_baseline.tar.gz" in bitwright("zoo", "show", "resnet18").out
    refused = bitwright("zoo", "show", "resnet18-bops0.9")
    assert refused.status == 1
    assert refused.err.startswith("UnknownNameError: unknown published scheme of resnet18 'bops0.9'")


def test_table_and_check(bitwright: Command) -> None:
    """Side by side, with reasons; and a check that exits with 0 while nothing has changed."""
    result = json.loads(bitwright("zoo", "table", "--model", "resnet18", "--json").out)
    figures = {row["row"]: row for row in result["rows"]}
    assert len(figures) == 12
    assert round(figures["resnet18-bops0.5"]["bops_g"]["recomputed"], 2) == 74.17
    assert figures["resnet18-bops0.5"]["bops_g"]["reason"].startswith("unexplained")
    shown = bitwright("zoo", "table", "--model", "resnet18").out
    assert "[1] interior in 2**20 bytes, plus 0.672 (fitted)" in shown
    assert "computed from the stored counts" in bitwright("zoo", "check").out
    recomputed = bitwright("zoo", "table", "--model", "resnet18", "--recompute", "--json")
    assert json.loads(recomputed.out) == result
    assert "counted anew" in bitwright("zoo", "check", "--model", "resnet18", "--recompute").out
    assert bitwright("zoo", "table", "--model", "vgg16").status == 1


def test_check_fails_on_a_regression(bitwright: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure that changed is named, and the exit status is not zero."""
    monkeypatch.setattr("bitwright.zoo.regression.stored_figures", lambda: {"resnet18": {"macs": 20}})
    failed = bitwright("zoo", "check", "--model", "resnet18")
    assert failed.status == 1
    assert "resnet18: macs: expected 20, got 1814073344." in failed.err


def test_what_needs_no_network_imports_none() -> None:
    """The commands that show constants do so without PyTorch, which takes ten times as long to import."""
    commands = [["list"], ["show", "resnet18-bops0.5"], ["table"], ["check"]]
    code = "import sys\nfrom bitwright.cli import main\n"
    code += "".join(
        f"try:\n    main({['zoo', *words]})\nexcept SystemExit as end:\n    assert not end.code\n" for words in commands
    )
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'scipy', 'matplotlib', 'onnx')))"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_download_finds_what_was_placed_by_hand(
    bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the cache is not fetched; its path is printed."""
    monkeypatch.setenv("BITWRIGHT_CACHE", str(tmp_path))
    path = archive_path("resnet18-uniform8")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x1f\x8b1234")
    assert bitwright("zoo", "download", "resnet18_uniform8").out.strip() == str(path)


def test_import(bitwright: Command, tmp_path: Path) -> None:
    """Float weights become a graph; what is no checkpoint costs one line."""
    torch.manual_seed(3)
    weights = load_model("pytorchcv:resnet18").state_dict()
    torch.save(weights, tmp_path / "file")
    options = ("--model", "resnet18", "-o", tmp_path / "out")
    assert bitwright("zoo", "import", tmp_path / "file", *options, "--float").status == 0
    graph = Graph.load(tmp_path / "out")
    assert torch.equal(graph.parameters["output.weight"], weights["output.weight"])
    refused = bitwright("zoo", "import", tmp_path / "file", *options)
    assert refused.status == 2
    assert "which scheme it was trained with" in re.sub(r"[\s│]+", " ", refused.err)
    refused = bitwright("zoo", "import", tmp_path / "file", *options, "--scheme", "w8a8")
    assert refused.status == 1
    assert refused.err.splitlines()[-1].startswith("FileFormatError: ")
    assert "quant_input" in refused.err


@pytest.mark.parametrize(
    ("model", "side"),
    [
        ("resnet18", 32),
        *(pytest.param(model, 224, marks=pytest.mark.slow) for model in ("resnet18", "resnet50")),
    ],
)
def test_imported_models(model: str, side: int, photographs: Path, bitwright: Command, tmp_path: Path) -> None:
    """`evaluate`, `export`, `verify` and `bench` take an imported model as they take a lowered one."""
    made, _ = imported(model, "bops_0.5", side, tmp_path)
    file, data = tmp_path / "model.integer", ("--data", f"imagefolder:{photographs}")
    made.save(file)
    reference = json.loads(bitwright("evaluate", file, *data, "--json").out)
    assert reference["images"] == 4
    exported = json.loads(bitwright("export", file, "--engine", "onnx", "-o", tmp_path / "model.onnx", "--json").out)
    assert exported["size_bytes"] == (tmp_path / "model.onnx").stat().st_size
    engine = json.loads(bitwright("evaluate", tmp_path / "model.onnx", *data, "--json").out)
    figures = ("images", "top1_percent", "top5_percent")
    assert [engine[name] for name in figures] == [reference[name] for name in figures]
    shown = bitwright("verify", file, *data, "--engine", "onnxruntime", "--json")
    assert shown.status == 0
    verified = json.loads(shown.out)
    assert verified["exact"]
    assert len({row["level"] for row in verified["rows"]}) == 4
    assert {row["batch"] for row in verified["rows"]} == {1, 2, 4}
    timed = json.loads(bitwright("bench", tmp_path / "model.onnx", "--batch", 1, "--rounds", 1, "--json").out)
    assert timed["rows"][0]["latency_ms"]["median"] > 0


@pytest.mark.slow
def test_reproduce(photographs: Path, bitwright: Command, tmp_path: Path) -> None:
    """A row from float weights in a file to the integer model; it ends with the row, published beside measured."""
    weights, folder = tmp_path / "weights.pth", tmp_path / "run"
    torch.manual_seed(0)
    torch.save(load_model("pytorchcv:resnet18", num_classes=2).state_dict(), weights)
    command = ("zoo", "reproduce", "resnet18-bops0.5", "--data", f"imagefolder:{photographs}", "--weights", weights)
    changes = ("epochs=1", "batch_size=3")
    ended = bitwright(*command, *changes, "-o", folder)
    assert ended.status == 0, ended.err
    for part in ("resnet18-bops0.5", "70.22", "6.7", "published", "measured"):
        assert part in ended.out
    result = json.loads(bitwright(*command, *changes, "-o", folder, "--json").out)
    assert result["training_images"] == [6, 6]
    assert result["published"] == {"size_mb": 6.7, "bops_g": 72, "top1_percent": 70.22}
    assert len(result["losses"]) == 1
    assert result["measured"]["images"] == 4
    evaluated = json.loads(
        bitwright("evaluate", folder / "integer.safetensors", "--data", f"imagefolder:{photographs}", "--json").out
    )
    assert evaluated["top1_percent"] == result["measured"]["top1_percent"]
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "quantized.safetensors", "integer.safetensors"}


def test_the_state_of_a_reproduction_is_not_overwritten(photographs: Path, bitwright: Command, tmp_path: Path) -> None:
    """Without --resume it is refused in one line, before anything is loaded, and stays."""
    state = tmp_path / "run" / STATE
    state.parent.mkdir()
    state.write_text("what was computed")
    command = ("zoo", "reproduce", "resnet18-bops0.5", "--data", f"imagefolder:{photographs}", "-o", state.parent)
    refused = bitwright(*command)
    assert refused.status == 1
    assert f"'{state}' holds the state of an interrupted run: add --resume to go on" in refused.err
    assert refused.err.count("\n") == 1
    assert state.read_text() == "what was computed"
    assert list(state.parent.iterdir()) == [state]


@pytest.mark.slow
def test_reproduce_from_published_weights(
    imagenette: Path, bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented line, on ten classes of photographs, with weights of 1,000: each class is the output of its synset."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "weights"
    torch.manual_seed(0)
    torch.save(load_model("pytorchcv:resnet18").state_dict(), path)
    digest = hashlib.sha1(path.read_bytes()).hexdigest()
    monkeypatch.setattr(model_store, "get_model_name_suffix_data", lambda name: ("0822", digest, "v0.0.1"))
    place = published_weights("pytorchcv", "resnet18").path
    place.parent.mkdir(parents=True)
    path.rename(place)
    command = ("zoo", "reproduce", "resnet18-bops0.5", "--data", f"imagefolder:{imagenette}")
    ended = bitwright(*command, "epochs=1", "data_fraction=0.1", "--workers", 2, "--json")
    assert ended.status == 0, ended.err
    assert "are 10 of the model's 1,000, by their synsets" in ended.err
    result = json.loads(ended.out)
    assert (result["training_images"], result["measured"]["images"]) == ([3, 30], 30)
    folder = tmp_path / "runs" / "resnet18-bops0.5"
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "quantized.safetensors", "integer.safetensors"}
    assert load(folder / "integer.safetensors").output_shape == (1000,)
    refused = bitwright(*command, "data_fraction=0.01")
    assert refused.status == 1
    assert "0.01 of 30 images leave none: the least that works is 0.0167" in refused.err


def test_latencies_of_a_t4(bitwright: Command, tmp_path: Path) -> None:
    """The published sensitivities and latencies give the published scheme, and any other budget another one."""
    graph, sensitivities, scheme = (tmp_path / name for name in ("graph", "sensitivities", "scheme.yaml"))
    assert bitwright("capture", "pytorchcv:resnet18", "-o", graph).status == 0
    losses = published_losses("resnet18")
    entries = [
        LayerSensitivity(
            layer, 1, 0.0, 0.0, 1, True, {}, increase={p.weight_bits: (loss, 0.0) for p, loss in row.items()}
        )
        for layer, row in losses.items()
    ]
    SensitivityTable(tuple(entries), "published", "resnet18", "ImageNet", 1, 0).save(sensitivities)
    command = ("allocate", graph, sensitivities, "--latency-table", "nvidia-t4", "-o", scheme, "--json")
    assert bitwright(*command, "--latency-ms", 4.2462).status == 0
    assert Scheme.load(scheme).layers == published_scheme("resnet18", "latency0.5").layers
    found = json.loads(bitwright(*command, "--latency-ms", 4.2).out)
    (use,) = found["budgets"]
    assert 4.0 < use["used"] <= 4.2 == use["limit"]
    assert Scheme.load(scheme).layers != published_scheme("resnet18", "latency0.5").layers
    assert json.loads(bitwright(*command, "latency=4.2ms").out) == found
    both = json.loads(bitwright(*command, "bops0.5", "--latency-ms", 4.2, "--size-mb", 7, "--activation-mb", 3).out)
    given = [use["budget"] for use in both["budgets"]]
    assert given == ["bops0.5", "size=7MB", "latency=4.2ms", "activation=3MB"]
    refused = bitwright(*command, "--bops-g", 60)
    assert "--latency-table would be ignored: nothing is asked of the latency." in refused.err
    without = ("allocate", graph, sensitivities, "--bops-g", 60, "-o", scheme, "--json")
    assert json.loads(bitwright(*without).out)["budgets"][0]["used"] <= 60
    for budgets, message in (
        ((), "BudgetError: expected a budget, got none: name one"),
        (("--latency-ms", 1), "BudgetError: no allocation fits 1 ms"),
        (("--latency-ms", 4, "--size-mb", -1), "BudgetError: a budget of size must be a number of at least 0"),
    ):
        refused = bitwright(*command, *budgets)
        assert refused.status == 1
        assert refused.err.splitlines()[-1].startswith(message)
    other = bitwright("capture", "pytorchcv:resnet20_cifar10", "--image-size", 32, "-o", graph)
    assert other.status == 0
    refused = bitwright(*command, "--latency-ms", 4.2)
    assert refused.err.startswith("UnknownNameError: unknown network with published sensitivities 'resnet20_cifar10'")
