# SPDX-License-Identifier: MIT
"""Interrupted commands say how to go on, and nothing overwrites what they kept without a word."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from bitwright.cli.console import Bar
from bitwright.graph import Graph
from cli.conftest import Command, Result

MAKE = ("train", "cli.networks:small", "-d", "mnist-5k", "--image-size", 28)
TRAIN = (*MAKE, "--data-fraction", 0.1, "--batch-size", 50)


def interrupted_at(step: int, bitwright: Command, *arguments: object) -> Result:
    """Run a command until its bar comes to `step`, where Ctrl-C is pressed."""

    def move(self: Bar, done: int, total: int, /, **figures: float) -> None:
        if done == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Bar, "__call__", move)
        return bitwright(*arguments)


def test_ctrl_c_says_how_to_go_on(bitwright: Command, tmp_path: Path) -> None:
    """The command that is printed ends with the file of an uninterrupted run; status 130, one line, no traceback."""
    whole, parted = tmp_path / "whole.graph", tmp_path / "in parts.graph"
    common = (*TRAIN, "--epochs", 2, "--checkpoint-steps", 3, "-o")
    assert bitwright(*common, whole).status == 0
    first = interrupted_at(2, bitwright, *common, parted)
    assert (first.status, first.err.splitlines()[-1]) == (130, "interrupted before anything was kept: start again.")
    second = interrupted_at(5, bitwright, *common, parted)
    line = second.err.splitlines()[-1]
    assert second.status == 130
    words = shlex.split(line.removeprefix("interrupted: go on with: "))
    assert words == ["bitwright", *map(str, common), str(parted), "--resume"]
    again = interrupted_at(9, bitwright, *words[1:])
    assert again.err.splitlines()[-1] == line
    assert bitwright(*words[1:]).status == 0
    assert parted.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.state"))


def test_a_state_is_neither_overwritten_nor_misused(bitwright: Command, tmp_path: Path) -> None:
    """Without --resume, without epochs, or with other settings, the command is refused in one line, and the state stays."""
    output = tmp_path / "digits.graph"
    interrupted_at(5, bitwright, *TRAIN, "--epochs", 1, "--checkpoint-steps", 3, "-o", output)
    state = Path(f"{output}.state")
    kept = state.read_bytes()
    cases = {
        TRAIN: f"'{state}' holds the state of an interrupted run: add --resume to go on, or delete it to start anew.",
        (*MAKE, "--epochs", 0): "holds the state of an interrupted run",
        (*TRAIN, "--lr", 0.1, "--resume"): "belongs to another training: learning_rate was 0.01, is 0.1. Give what",
        (*TRAIN, "--seed", 1, "--resume"): "belongs to another training: seed was 0, is 1. Give what",
    }
    for command, message in cases.items():
        refused = bitwright(*command, "-o", output)
        assert refused.status == 1
        assert message in refused.err.splitlines()[-1]
        assert state.read_bytes() == kept
        assert not output.exists()


def test_equal_commands_give_equal_weights(bitwright: Command, tmp_path: Path) -> None:
    """The weights that a training begins with come from --seed, wherever PyTorch's own generator is."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert bitwright(*MAKE, "--epochs", 0, "--seed", seed, "-o", tmp_path / name).status == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    weights = [Graph.load(tmp_path / name).parameters["head.2.weight"] for name in ("a", "c")]
    assert not weights[0].equal(weights[1])
