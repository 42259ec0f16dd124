# SPDX-License-Identifier: MIT
"""Schemes as commands name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from auto.test_quantize import graph
from bitwright.cli.schemes import scheme_for
from bitwright.errors import SchemeError, UnknownNameError
from bitwright.training import load_quantized
from cli.conftest import Command

LAYERS = ("first", "inner", "last")


def test_a_precision_takes_its_options(tmp_path: Path) -> None:
    """A file has its own, apart from what it is deployed to."""
    made = scheme_for("W4A4", LAYERS, 16, "tensorrt", "symmetric")
    assert (made.residual_bits, made.deploy, made.activations) == (16, "tensorrt", "symmetric")
    assert [str(precision) for precision in made.layers.values()] == ["W8A8", "W4A4", "W8A8"]
    plain = scheme_for("W4A4", LAYERS)
    assert (plain.residual_bits, plain.deploy, plain.activations) == (8, "any", "asymmetric")
    made.save(tmp_path / "own.yaml")
    assert scheme_for(str(tmp_path / "own.yaml"), LAYERS) == made


def test_what_is_no_scheme() -> None:
    """Neither a file nor a precision, or no known form."""
    with pytest.raises(SchemeError, match="expected a scheme's file or a precision such as W4A4, got 'W4'"):
        scheme_for("W4", LAYERS)
    with pytest.raises(UnknownNameError, match="did you mean 'symmetric'"):
        scheme_for("W4A4", LAYERS, activations="symetric")


def test_train_takes_the_form_of_activations(bitwright: Command, tmp_path: Path) -> None:
    """Symmetric ones have no window that calibration may place."""
    graph().save(tmp_path / "net.graph")
    for form, asymmetric in (("symmetric", False), ("asymmetric", True)):
        asked = ("--scheme", "W4A4", "--activations", form, "--epochs", 0, "-o", tmp_path / "net.checkpoint")
        done = bitwright("train", tmp_path / "net.graph", "-d", "mnist-5k", *asked)
        assert done.status == 0, done.err
        assert bool(load_quantized(tmp_path / "net.checkpoint").plan.asymmetric) == asymmetric
