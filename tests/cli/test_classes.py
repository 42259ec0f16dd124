# SPDX-License-Identifier: MIT
"""One rule for the classes of a model, in every command: those of its weights, or a new head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bitwright.cli.quant_flags import parse
from bitwright.graph import Graph
from cli.conftest import Command
from cli.networks import small

MODEL = "cli.networks:small"
BY_SYNSET = "are 10 of the model's 1,000, by their synsets: 'n01440764' is output 0, 'n03888257' is output 701"
BY_INDEX = "has 2 classes, the model 1,000 outputs: they are taken for outputs 0 to 1, in the order of their names"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a small network for 1,000 classes."""
    torch.manual_seed(0)
    torch.save(small(3, 1000).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("named_by_synset", [True, False])
def test_all_commands_take_classes_from_the_weights(
    named_by_synset: bool, imagenette: Path, photographs: Path, weights: Path, bitwright: Command, tmp_path: Path
) -> None:
    """Every command that looks at labels says how it matched them, and all in the same way."""
    data = ("--data", f"imagefolder:{imagenette if named_by_synset else photographs}")
    said = BY_SYNSET if named_by_synset else BY_INDEX
    graph, trained, table, checkpoint, integer, narrow, onnx = (
        tmp_path / name for name in ["g", "t", "s", "c", "i", "n", "o.onnx"]
    )
    loaded = ("--weights", weights, "--image-size", 28)

    def run(*arguments: object, told: bool = True) -> str:
        ended = bitwright(*arguments)
        assert ended.status == 0, ended.err
        assert (said in ended.err) == told
        return ended.out

    run("capture", MODEL, *loaded, *data, "-o", graph, told=False)
    run("train", MODEL, *loaded, *data, "-b", 4, "-o", trained)
    assert {Graph.load(path).output_shape for path in (graph, trained)} == {(1000,)}
    run("sensitivity", graph, *data, "-n", 4, "--max-probes", 2, "-o", table)
    run("train", graph, *data, "--scheme", "W8A8", "-b", 4, "-o", checkpoint)
    run("lower", checkpoint, "-o", integer, told=False)
    run("lower", checkpoint, "--target", "avx2", *data, "-o", narrow)
    run("export", integer, *data, "-o", onnx, told=False)
    run("export", integer, "-o", onnx, told=False)
    run("verify", integer, *data, "--engine", "onnxruntime", told=False)
    accuracies = [json.loads(run("evaluate", path, *data, "--workers", 0, "--json")) for path in (integer, onnx)]
    assert accuracies[0]["top1_percent"] == accuracies[1]["top1_percent"]
    run("evaluate", graph, *data, "--workers", 64)  # more than there are processors: warnings are errors here


def test_labels_are_outputs(imagenette: Path, weights: Path, bitwright: Command, tmp_path: Path) -> None:
    """A model that always says 701, the parachute, is right for the parachutes, a tenth of the images."""
    state = torch.load(weights)
    state["head.2.bias"][701] = 1000
    torch.save(state, weights)
    graph, data = tmp_path / "graph", ("--data", f"imagefolder:{imagenette}")
    bitwright("capture", MODEL, "--weights", weights, "--channels", 3, "--image-size", 28, "-o", graph)
    result = json.loads(bitwright("evaluate", graph, *data, "--json").out)
    assert (result["images"], result["top1_percent"]) == (30, 10)


@pytest.mark.parametrize("command", ["capture", "train"])
def test_a_new_head_is_asked_for(
    command: str, imagenette: Path, weights: Path, bitwright: Command, tmp_path: Path
) -> None:
    """`--classes N` and `--replace-head` keep all other weights, and say that the head is new."""
    given = (command, MODEL, "--weights", weights, "--data", f"imagefolder:{imagenette}", "--image-size", 28)
    given += ("-o", tmp_path / "graph", *(("--epochs", 0) if command == "train" else ()))
    for asked in (("--replace-head",), ("--classes", 10)):
        made = bitwright(*given, *asked)
        assert made.status == 0, made.err
        assert "the head (head.2.weight, head.2.bias) is new, and knows nothing before it is trained" in made.err
        graph = Graph.load(tmp_path / "graph")
        assert graph.output_shape == (10,)
        assert torch.equal(graph.parameters["stem.0.weight"], torch.load(weights)["stem.0.weight"])
    refused = bitwright(*given, "--replace-head", "--classes", 10)
    assert refused.status == 2
    assert "--classes would be ignored: --replace-head takes the number of the images' classes" in refused.err


def test_more_classes_than_the_model_has(imagenette: Path, weights: Path, bitwright: Command, tmp_path: Path) -> None:
    """They are refused before anything is evaluated, with what to do."""
    graph, torchs = tmp_path / "graph", small(3, 7).state_dict()
    torch.save(torchs, weights)
    bitwright("capture", MODEL, "--weights", weights, "--channels", 3, "--image-size", 28, "-o", graph)
    refused = bitwright("evaluate", graph, "--data", f"imagefolder:{imagenette}")
    assert refused.status == 1
    assert "the model has 7 outputs, but" in refused.err
    assert "with --classes 10 or --replace-head" in refused.err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--classes 5 --replace-head", "leave out --classes"),
        ("--classes 5 -e", "a new head is for the start of a training"),
        ("--replace-head --resume c.safetensors", "a new head is for the start of a training"),
    ],
)
def test_the_documented_command_refuses_heads_that_it_would_not_make(
    given: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new head without training, twice, or in a quantized model."""
    with pytest.raises(SystemExit):
        parse(["--data", "somewhere", *given.split()])
    assert message in capsys.readouterr().err
