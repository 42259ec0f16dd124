# SPDX-License-Identifier: MIT
"""Each command reads what the one before wrote; mistakes cost one line and a status that is not zero."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from bitwright.cli import app
from bitwright.graph import Graph
from cli.conftest import Command

COMMANDS = sorted(str(command.name or command.callback.__name__) for command in app.registered_commands)
GROUPED = {str(group.name): group.typer_instance.registered_commands for group in app.registered_groups}


def last_line(text: str) -> str:
    """Of what a command printed."""
    return text.rstrip().splitlines()[-1]


def test_help_is_instant_and_complete() -> None:
    """`--help` imports no PyTorch and lists every command."""
    code = (
        "import sys\nfrom bitwright.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\nsys.exit('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [name for name in (*COMMANDS, *GROUPED) if name not in shown] == []


def test_the_versions_of_engines(bitwright: Command) -> None:
    """A report of a fault says with what it happened, without anything being imported for it."""
    shown = bitwright("--version")
    assert shown.status == 0
    for package in ("bitwright", "torch", "onnxruntime"):
        assert f"{package} {version(package)}" in shown.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_with_an_example(name: str, bitwright: Command) -> None:
    """The help of each command ends with a command line that uses it."""
    shown = bitwright(name, "--help")
    assert shown.status == 0
    assert "Example" in shown.out
    assert f"bitwright {name}" in shown.out


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (group, str(command.name or command.callback.__name__).replace("_", "-"))
        for group, commands in GROUPED.items()
        for command in commands
    ],
)
def test_every_grouped_command_teaches_with_an_example(group: str, name: str, bitwright: Command) -> None:
    """So does the help of each command of a group."""
    shown = bitwright(group, name, "--help")
    assert shown.status == 0
    assert f"Example: bitwright {group} " in shown.out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of one way through all commands, made once."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture
def graph(folder: Path, bitwright: Command) -> Path:
    """A small float network, trained on a tenth of the digits for one epoch."""
    path = folder / "digits.graph"
    if not path.exists():
        given = (
            "--data",
            "mnist-5k",
            "--image-size",
            28,
            "--data-fraction",
            0.1,
            "--epochs",
            1,
            "--lr",
            0.1,
            "-o",
            path,
        )
        trained = bitwright("train", "cli.networks:small", *given)
        assert trained.status == 0, trained.err
    return path


def test_the_whole_way(graph: Path, folder: Path, bitwright: Command) -> None:
    """Training, search, quantization, lowering, export; every file evaluates, and ONNX Runtime like the reference."""
    kinds = ("sensitivities", "yaml", "checkpoint", "integer", "onnx")
    sensitivities, scheme, checkpoint, integer, onnx = (folder / f"digits.{kind}" for kind in kinds)
    data = ("--data", "mnist-5k")
    measured = bitwright("sensitivity", graph, *data, "-n", 16, "--max-probes", 10, "-o", sensitivities)
    assert "not converged" in measured.out
    assert "warning: " in measured.err
    found = bitwright("allocate", graph, sensitivities, "size0.5", "--explain", "-o", scheme, "--json")
    (use,) = json.loads(found.out)["budgets"]
    assert use["used"] <= use["limit"]
    options = ("--scheme", scheme, "--epochs", 1, "--data-fraction", 0.1, "-o", checkpoint)
    trained = bitwright("train", graph, *data, *options, "--json")
    assert json.loads(trained.out)["scheme"] == "size0.5"
    assert not list(folder.glob("*.state"))
    lowered = json.loads(bitwright("lower", checkpoint, "-o", integer, "--json").out)
    assert lowered["layers"] == len(Graph.load(graph).layers)
    narrow = folder / "digits.avx2.integer"
    narrowed = json.loads(bitwright("lower", checkpoint, "-o", narrow, "--target", "avx2", *data, "--json").out)
    made_safe = {**narrowed["narrowed"], **narrowed["seven_bit_inputs"]}
    assert (narrowed["layers_unsafe_on_avx2"], set(made_safe)) == ([], set(lowered["layers_unsafe_on_avx2"]))
    assert all("logit_error_by_weights" in fact for fact in made_safe.values())
    assert {when: found["images"] for when, found in narrowed["accuracy"].items()} == {"before": 1000, "after": 1000}
    assert bitwright("export", narrow, "-o", onnx, "--target", "avx2").status == 0
    assert bitwright("export", integer, "-o", onnx, "--target", "avx2").status == bool(lowered["layers_unsafe_on_avx2"])
    assert "unknown target of lowering 'vnni'" in bitwright("lower", checkpoint, "-o", narrow, "--target", "vnni").err
    assert bitwright("export", integer, "-o", onnx).status == 0
    results = {
        path: json.loads(bitwright("evaluate", path, *data, "--json").out)
        for path in (graph, checkpoint, integer, onnx)
    }
    assert all(result["images"] == 1000 for result in results.values())
    assert results[integer]["top1_percent"] == results[onnx]["top1_percent"]
    pixels = folder / "digits.pixels.onnx"
    assert json.loads(bitwright("export", integer, *data, "-o", pixels, "--json").out)["input"] == "uint8"
    results[pixels] = json.loads(bitwright("evaluate", pixels, *data, "--json").out)
    assert results[pixels]["top1_percent"] == results[integer]["top1_percent"]
    baseline = folder / "float.onnx"
    assert json.loads(bitwright("export", graph, "-o", baseline, "--json").out)["scheme"] == "float"
    results[baseline] = json.loads(bitwright("evaluate", baseline, *data, "--json").out)
    assert results[baseline]["top1_percent"] == results[graph]["top1_percent"]
    verified = bitwright("verify", integer, *data, "--engine", "onnxruntime", "--images", 150, "--json")
    assert verified.status == 0
    found = {(row["level"], row["batch"], row["equal_images"]) for row in json.loads(verified.out)["rows"]}
    sizes = ((1, 100), (2, 100), (100, 150))  # the smaller batches are of the first batch's images
    assert found == {(level, *size) for level in ("none", "basic", "extended", "all") for size in sizes}
    timed = json.loads(bitwright("bench", onnx, "--batch", 2, "--rounds", 2, "--json").out)
    assert [(row["batch"], row["speedup"]["median"]) for row in timed["rows"]] == [(2, 1.0)]
    latencies, fast = folder / "latency.json", folder / "fast.yaml"
    measured = json.loads(bitwright("bench", "layers", graph, "--rounds", 2, "-o", latencies, "--json").out)
    assert set(measured["sums"]) == {"W4A4", "W8A8"}
    budget = f"latency={measured['sums']['W8A8']['layers_ms'] + 1}ms"
    assert bitwright("allocate", graph, sensitivities, budget, "--latency-table", latencies, "-o", fast).status == 0


def test_capture_counts(bitwright: Command, tmp_path: Path) -> None:
    """The cost of ResNet18 is that of the formula."""
    captured = bitwright("capture", "pytorchcv:resnet18", "-o", tmp_path / "resnet18.graph", "--json")
    costs = json.loads(captured.out)["costs"]
    assert (round(costs["W8A8"]["size_mb"], 2), round(costs["W8A8"]["bops_g"], 2)) == (11.14, 116.10)
    assert (round(costs["W4A4"]["size_mb"], 2), round(costs["W4A4"]["bops_g"], 2)) == (5.82, 34.71)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("capture", "pytorchcv:resnet1", "-o", "x"),
            r"UnknownNameError: unknown pytorchcv model 'resnet1': did you mean",
        ),
        (("capture", "resnet18", "-o", "x"), "UnknownNameError: expected a model as SOURCE:MODEL"),
        (
            ("capture", "pytorchcv:resnet20_cifar10", "--image-size", "20", "-o", "x"),
            "CaptureError: cannot capture",
        ),
        (
            ("capture", "cli.networks:grouped", "--image-size", "32", "-o", "x"),
            "CaptureError: cli.networks:grouped: ",
        ),
        (("lower", "missing", "-o", "x"), "FileFormatError: cannot read 'missing': No such file or directory."),
        (("evaluate", "missing", "-d", "mnist-5k"), "FileFormatError: cannot read 'missing'"),
    ],
)
def test_mistakes_cost_one_line(
    arguments: tuple[str, ...], message: str, bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what was expected and got; the status is 1, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    result = bitwright(*arguments)
    assert result.status == 1
    assert last_line(result.err).startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scheme", "W9A9"), "SchemeError: expected a scheme's file or a precision such as W4A4, got 'W9A9'"),
        (("--scheme", "bad.yaml"), "FileFormatError: bad.yaml: unknown key 'bits'"),
        (
            ("--scheme", "W4A4", "-d", "mnist-6k"),
            "UnknownNameError: unknown data set 'mnist-6k': did you mean 'mnist-5k'?",
        ),
        (
            ("--scheme", "W4A4", "-d", "."),
            "DataError: '.' is a folder: for the pictures in it, name the data imagefolder:..",
        ),
        (("--scheme", "W4A4", "--data-fraction", "0"), "DataError: expected a fraction above 0"),
        (("--scheme", "W4A4", "--lr", "1e38"), "TrainingError: the loss became"),
    ],
)
def test_mistakes_in_training(
    options: tuple[str, ...],
    message: str,
    graph: Path,
    bitwright: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wrong schemes, data and learning rates are refused, and no checkpoint is left."""
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("name: bad\nbits: 3\n")
    result = bitwright("train", graph, "-d", "mnist-5k", "-o", "x", "--data-fraction", "0.1", *options)
    assert result.status == 1
    assert last_line(result.err).startswith(message)
    assert not Path("x").exists()


def test_a_search_is_explained_and_drawn(graph: Path, folder: Path, bitwright: Command) -> None:
    """Pins hold, the frontier and the plots are written, and the text names use, second best and changes."""
    sensitivities = folder / "all.sensitivities"
    assert bitwright("sensitivity", graph, "-d", "mnist-5k", "-n", 16, "-o", sensitivities).status == 0
    files = [folder / name for name in ("pinned.yaml", "bits.png", "frontier.json", "frontier.png")]
    options = ("--choices", "2-8", "--pin", "body.0=W3A5", "--explain", "--plot", files[1], "--frontier", files[2])
    shown = bitwright("allocate", graph, sensitivities, "bops0.5", "size=1MB", *options, "-o", files[0])
    assert shown.status == 0, shown.err
    assert "W3A5  (pinned)" in shown.out
    assert "+5 % of every budget" in shown.out
    assert all(path.stat().st_size for path in files)


def test_an_interrupted_measurement_goes_on(
    graph: Path, folder: Path, bitwright: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first run computed is in OUTPUT.state, which the second takes up and removes; other settings are refused."""
    from bitwright.sensitivity import table

    output, state = folder / "resumed.sensitivities", folder / "resumed.sensitivities.state"
    given = ("sensitivity", graph, "-d", "mnist-5k", "-n", 16, "--metric", "top_eigenvalue", "-o")

    def fail(path: object, value: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(table, "write_json", fail)
        assert bitwright(*given, output).status == 1
    assert state.exists()
    refused = bitwright(*given, output, "--resume", "--micro-batch", 8)
    assert refused.status == 1
    assert "another measurement: micro_batch was 64, is 8." in last_line(refused.err)
    resumed = bitwright(*given, output, "--resume")
    assert resumed.status == 0
    assert "± residual" in resumed.out
    assert not state.exists()
    assert bitwright(*given, folder / "straight", "--checkpoint", folder / "other.state").status == 0
    assert output.read_bytes() == (folder / "straight").read_bytes()
    assert not list(folder.glob("*.state"))


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (("bops=0.0001G",), "BudgetError: no allocation fits 0.0001 GBOPs: the smallest (all 4-bit) needs"),
        (("weight0.5",), "UnknownNameError: unknown budget 'weight'"),
        (
            ("latency=1ms",),
            "BudgetError: a budget of latency needs a latency table, which `bitwright bench layers` measures",
        ),
        (("size0.5", "--pin", "bodi=W4A4"), "UnknownNameError: unknown layer 'bodi'"),
        (("size0.5", "--pin", "body"), "SchemeError: expected --pin LAYER=PRECISION"),
    ],
)
def test_mistakes_in_a_search(
    budgets: tuple[str, ...], message: str, graph: Path, folder: Path, bitwright: Command
) -> None:
    """An impossible budget says the smallest reachable; unknown words say the known ones."""
    sensitivities = folder / "few.sensitivities"
    if not sensitivities.exists():
        given = ("-d", "mnist-5k", "-n", 16, "--max-probes", 10, "-o", sensitivities)
        assert bitwright("sensitivity", graph, *given).status == 0
    result = bitwright("allocate", graph, sensitivities, *budgets, "-o", folder / "never.yaml")
    assert result.status == 1
    assert last_line(result.err).startswith(message), result.err
    assert not (folder / "never.yaml").exists()


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_costs_one_line(
    device: str, graph: Path, tmp_path: Path, bitwright: Command
) -> None:
    """Neither a GPU of too high a number nor a name that PyTorch does not know ends in a traceback."""
    output = tmp_path / "sensitivities.json"
    result = bitwright("sensitivity", graph, "-d", "mnist-5k", "-n", 16, "--device", device, "-o", output)
    assert result.status == 1
    assert result.err.count("\n") == 1
    assert f"UnknownNameError: cannot compute on the device '{device}': " in result.err
    assert not output.exists()
