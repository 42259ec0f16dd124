# SPDX-License-Identifier: MIT
"""`bitwright auto` writes what the commands that it names write."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from auto.test_quantize import graph
from bitwright import reconstruction
from bitwright.auto import quantize as auto_module
from bitwright.auto.measured import Measured
from bitwright.cli import console
from bitwright.reconstruction import ReconstructionSettings
from bitwright.reconstruction.unseen import Change
from bitwright.scheme import Scheme
from cli.conftest import Command


# Names of operations, in an .xml file, are those of their place in a process: its weights are compared.
@pytest.mark.parametrize(("output", "stored"), [("small.onnx", "small.onnx"), ("small.xml", "small.bin")])
def test_the_commands_that_it_names_make_the_same(
    output: str, stored: str, bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step, the integers and what the file holds are the same, byte for byte, at any seed and for any engine."""
    monkeypatch.chdir(tmp_path)
    graph().save("net.graph")
    asked = ("--bops-g", "0.01", "--choices", "W4A4,W8A8", "--seed", 3, "-o", output, "--json")
    made = bitwright("auto", "net.graph", "-d", "mnist-5k", *asked)
    assert made.status == 0, made.err
    result = json.loads(made.out)
    assert result["equal_images"] == result["compared_images"] == 1000
    files = {name: Path(name).read_bytes() for name in ("small.integer", "small.sensitivities.json", stored)}
    for name in {*files, output}:
        Path(name).unlink()
    for step in result["commands"]:
        done = bitwright(*shlex.split(step)[1:])
        assert done.status == 0, done.err
    assert {name: Path(name).read_bytes() for name in files} == files
    assert f"top-1 {100 * result['integers']['top1']:.2f} %" in done.out
    page = bitwright("explain", "small.integer", "--graph", "net.graph", "-o", "small.html")
    assert page.status == 0, page.err
    assert f"{100 * result['integers']['top1']:.2f} ± " in Path("small.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("limit", "blocks", "way"),
    [
        (("--bops-g", "0.01"), True, "reconstructed"),
        (("--max-drop", "60%"), True, "reconstructed by blocks"),
        (("--max-drop", "60%"), False, "reconstructed"),
    ],
)
def test_the_commands_of_a_reconstruction_make_the_same(
    limit: tuple[str, str], blocks: bool, way: str, bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--reconstruct` has a command of its own, and the same integers come out of it: by blocks alone where these do."""
    monkeypatch.chdir(tmp_path)
    quick = partial(ReconstructionSettings, steps=3, batch_size=16)
    monkeypatch.setattr(reconstruction, "ReconstructionSettings", quick)
    monkeypatch.setattr(auto_module, "ReconstructionSettings", quick)
    monkeypatch.setattr(Change, "worse", False)  # steps stay, good or bad
    measure = auto_module._Search.measure
    if not blocks:  # no scheme is good by them but the dearest

        def measured(search: Any, scheme: Scheme, way: str) -> Measured:
            found = measure(search, scheme, way)
            inner = [layer for layer in scheme.layers.values() if layer.weight_bits < 8]
            return replace(found, lost=found.images, gained=0) if inner and way == "reconstructed by blocks" else found

        monkeypatch.setattr(auto_module._Search, "measure", measured)
    graph().save("net.graph")
    asked = (*limit, "--choices", "W4A4,W8A8", "--reconstruct", "--seed", 3, "-o", "small.onnx", "--json")
    made = bitwright("auto", "net.graph", "-d", "mnist-5k", *asked)
    assert made.status == 0, made.err
    written, result = Path("small.integer").read_bytes(), json.loads(made.out)
    assert result["way"] == way
    steps = [shlex.split(step)[1:] for step in result["commands"]]
    assert [step[0] for step in steps] == ["sensitivity", "reconstruct", "lower", "export", "evaluate"]
    assert ("--network-steps" in steps[1]) == (way == "reconstructed by blocks")
    for step in steps[1:3]:
        done = bitwright(*step)
        assert done.status == 0, done.err
    assert Path("small.integer").read_bytes() == written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-drop", "110%"), "expected a part of the whole, such as 1% or 0.01"),
        (("--epochs", "3"), "--epochs would be ignored: nothing is trained"),
        (("--pretrained",), "--pretrained would be ignored: a graph has its weights"),
        (("--least", "size", "--size-mb", "3"), "--least would be ignored: within budgets alone"),
        (("--least", "bops", "--size-mb", "3"), "--least would be ignored: within budgets alone"),
        (("--size-mb", "0.000001"), "no allocation fits 9.537e-07 MB: the smallest (all W2A4) needs"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], message: str, bitwright: Command, tmp_path: Path) -> None:
    """In one line, and nothing is written."""
    graph().save(tmp_path / "net.graph")
    done = bitwright("auto", tmp_path / "net.graph", "-d", "mnist-5k", "-o", tmp_path / "net.onnx", *arguments)
    assert done.status != 0
    assert message in " ".join(done.err.split())
    assert not (tmp_path / "net.onnx").exists()
    assert not list(tmp_path.glob("*.state"))


@pytest.mark.parametrize("output", ["net.onnx", "other.onnx"])
def test_a_file_that_is_missing(output: str, bitwright: Command, tmp_path: Path) -> None:
    """Is what is said of it, whatever is to be written: what has no colon is no model's name."""
    done = bitwright("auto", tmp_path / "net.graph", "-d", "mnist-5k", "-o", tmp_path / output)
    assert done.status == 1
    assert done.err == f"FileFormatError: cannot read '{tmp_path / 'net.graph'}': No such file or directory.\n"
    assert not list(tmp_path.iterdir())


def test_commands_are_printed_whole(bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However narrow the terminal is: they are there to be copied."""
    monkeypatch.chdir(tmp_path)
    graph().save("a_network_of_a_rather_long_name.graph")
    monkeypatch.setattr(console.stdout, "width", 40)
    asked = ("--bops-g", "0.01", "--choices", "W4A4,W8A8", "-o", "a_result_of_a_rather_long_name.onnx")
    made = bitwright("auto", "a_network_of_a_rather_long_name.graph", "-d", "mnist-5k", *asked)
    assert made.status == 0, made.err
    stem, data = "a_result_of_a_rather_long_name", "--data mnist-5k"
    assert f"  bitwright lower {stem}.checkpoint -o {stem}.integer" in made.out.splitlines()
    assert f"  bitwright evaluate {stem}.onnx {data}" in made.out.splitlines()
    assert len(re.findall(r"\d\.\d\d ± \d\.\d\d", made.out)) == 3  # two accuracies, and the drop
    assert "…" not in made.out


@pytest.mark.slow
def test_a_budget_of_latency(bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are timed, the scheme's sum is within the budget, and the page shows how long each takes."""
    monkeypatch.chdir(tmp_path)
    graph().save("net.graph")
    asked = ("--latency-ms", "1000", "--choices", "W4A4,W8A8", "-o", "small.onnx", "--json")
    made = bitwright("auto", "net.graph", "-d", "mnist-5k", *asked)
    assert made.status == 0, made.err
    assert "timing the layers" in made.err
    assert json.loads(made.out)["scheme"]["name"] == "latency=1000ms"
    assert bitwright("explain", "small.integer", "--graph", "net.graph", "-o", "small.html").status == 0
    assert "How long each layer takes" in Path("small.html").read_text(encoding="utf-8")
