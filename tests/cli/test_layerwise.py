# SPDX-License-Identifier: MIT
"""`bitwright train --layerwise`: one command from sensitivities to a network of few bits, which goes on where it was stopped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest
from torch import Tensor

from bitwright.cli.console import Bar
from bitwright.training import QuantizedModel, correct_norm, load_quantized
from cli.conftest import Command

DATA = ("--data", "mnist-5k")


@pytest.fixture
def measured(bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a captured network and its sensitivities."""
    monkeypatch.chdir(tmp_path)
    assert bitwright("capture", "cli.networks:small", *DATA, "--image-size", 28, "-o", "net.graph").status == 0
    few = ("-n", 16, "--max-probes", 2, "--weights-only")
    assert bitwright("sensitivity", "net.graph", *DATA, *few, "-o", "net.json").status == 0
    return tmp_path


def test_one_command_and_resumable(measured: Path, bitwright: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in a middle stage it says how to go on, and then writes the very file that it would have written."""
    given = (
        "train",
        "net.graph",
        *DATA,
        "--scheme",
        "W2A4",
        "--layerwise",
        "net.json",
        "--rung",
        "W8A8",
        "--rung",
        "W4A4",
    )
    given += ("-b", 16, "--data-fraction", 0.008, "--seed", 3)
    whole = bitwright(*given, "-o", "whole", "--json")
    assert whole.status == 0, whole.err
    assert len(json.loads(whole.out)["losses"]) == 2  # the one inner layer falls to W4A4, then to W2A4
    assert sorted(path.name for path in measured.iterdir()) == ["net.graph", "net.json", "whole", "whole.metrics.jsonl"]
    call, calls = Bar.__call__, 0

    def stopping(bar: Bar, done: int, total: int, /, **figures: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        call(bar, done, total, **figures)

    with monkeypatch.context() as patched:
        patched.setattr(Bar, "__call__", stopping)
        stopped = bitwright(*given, "-o", "parted")
    assert stopped.status == 130
    again = bitwright(*given, "-o", "parted")
    assert again.status == 1
    assert "add --resume to go on" in again.err
    words = shlex.split(stopped.err.splitlines()[-1].removeprefix("interrupted: go on with: "))
    assert bitwright(*words[1:]).status == 0
    assert (measured / "parted").read_bytes() == (measured / "whole").read_bytes()
    assert sorted(path.name for path in measured.iterdir()) == [
        "net.graph", "net.json", "parted", "parted.metrics.jsonl", "whole", "whole.metrics.jsonl",
    ]  # fmt: skip
    assert [str(precision) for precision in load_quantized("parted").plan.scheme.layers.values()] == [
        "W8A8",
        "W2A4",
        "W8A8",
    ]


REFUSALS = {
    "--scheme W2A4 --rung W4A4": "--rung would be ignored: it is about layers that fall one after another",
    "--scheme W2A4 --layerwise net.json --epochs 0": "--layerwise would be ignored: nothing is trained in 0 epochs",
    "--scheme W2A4 --layerwise net.json --rung W4A4 --rung W8A8": "expected rungs of fewer and fewer bits",
    "--scheme W2A4 --layerwise other.json": "the sensitivities are those of",
}


def test_what_makes_no_sense_is_refused(measured: Path, bitwright: Command) -> None:
    """In one line, before anything is trained."""
    table = json.loads((measured / "net.json").read_text())
    (measured / "other.json").write_text(json.dumps({**table, "network": "0" * 64}))
    for given, message in REFUSALS.items():
        refused = bitwright("train", "net.graph", *DATA, *given.split(), "-o", "out")
        assert refused.status != 0
        assert message in refused.err
    assert not list(measured.glob("out*"))


def test_batch_norm_is_corrected_by_networks_in_float_alone(
    measured: Path, bitwright: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a training of integers left is none: a training from a checkpoint, or a later stage, settles batch norm instead."""
    fine_tune, corrected = import_module("bitwright.training.fine_tune"), []

    def correct(model: QuantizedModel, batches: Iterable[Tensor]) -> int:
        corrected.append(model.plan.scheme.name)
        return correct_norm(model, batches)

    monkeypatch.setattr(fine_tune, "correct_norm", correct)
    given = (*DATA, "-b", 16, "--data-fraction", 0.008)
    assert bitwright("train", "net.graph", *given, "--scheme", "W8A8", "-o", "first").status == 0
    assert corrected == ["W8A8"]
    assert bitwright("train", "first", *given, "--scheme", "W4A4", "-o", "second").status == 0
    assert corrected == ["W8A8"]
    stages = ("--scheme", "W2A4", "--layerwise", "net.json", "--rung", "W8A8", "--rung", "W4A4")
    assert bitwright("train", "net.graph", *given, *stages, "-o", "third").status == 0
    assert len(corrected) == 2
