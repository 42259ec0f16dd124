# SPDX-License-Identifier: MIT
"""Engines say where the time of a file goes, and what is no convolution is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitwright.benchmark import ENGINES, profile
from bitwright.benchmark.profiles import PRODUCTS, PROFILERS, conspicuous, described
from bitwright.errors import UnknownNameError
from bitwright.integer import QuantParams
from export.one_layer import convolution


@pytest.mark.parametrize("engine", [name for name, found in ENGINES.items() if found.installed and name != "qonnx"])
def test_shares_by_operator(engine: str, tmp_path: Path) -> None:
    """They add up to one, the products among them; LiteRT does not tell."""
    weight = np.random.default_rng(0).integers(-7, 8, (32, 32, 3, 3)).astype(np.int8)
    model = convolution(weight, np.zeros(32, np.int32), QuantParams.unsigned(4, 1.0), (14, 14), padding=(1, 1))
    path = tmp_path / f"model{ENGINES[engine].form.suffix}"
    ENGINES[engine].form.export(model, path)
    shares = profile(engine, path, np.zeros((2, 32, 14, 14), np.float32))
    if engine not in PROFILERS:
        assert shares is None
        return
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert set(shares) & PRODUCTS
    assert not set(conspicuous(shares)) & PRODUCTS


def test_unknown_engines_are_refused() -> None:
    """By name."""
    with pytest.raises(UnknownNameError, match="unknown engine 'tvn'"):
        profile("tvn", "model", np.zeros(1))


def test_what_stands_out_is_named() -> None:
    """From a tenth on, whatever it is called: a conversion is no convolution."""
    shares = {"Convolution": 0.6, "Convert": 0.15, "Bucketize": 0.1, "Add": 0.0999, "MaxPool": 0.0501}
    assert conspicuous(shares) == ["Convert", "Bucketize"]
    assert described(shares).endswith("without being a convolution: Convert, Bucketize")
    assert described({"Convolution": 1.0}).endswith("without being a convolution: nothing")
