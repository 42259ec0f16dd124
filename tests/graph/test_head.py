# SPDX-License-Identifier: MIT
"""A model has the classes of its weights, or a new head where other ones are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.errors import BitwrightWarning, FileFormatError
from bitwright.graph import load_model

MODELS = {
    "pytorchcv:resnet18": ["output.weight", "output.bias"],
    "pytorchcv:squeezenet_v1_1": ["output.final_conv.weight", "output.final_conv.bias"],
    "torchvision:mobilenet_v2": ["classifier.1.weight", "classifier.1.bias"],
}


@pytest.mark.parametrize("name", MODELS)
def test_classes_come_from_the_weights(name: str, tmp_path: Path) -> None:
    """A file with 7 classes makes a model of 7, and one of 1,000 a model of 1,000, without a word."""
    for classes in (7, 1000):
        state = load_model(name, num_classes=classes).state_dict()
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w")
        loaded = load_model(name, weights=tmp_path / "w").state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.mark.parametrize("name", MODELS)
def test_a_new_head(name: str, tmp_path: Path) -> None:
    """Asked for 5 classes, it is new and named, and all else comes from the file; asked for 7, all does."""
    state = load_model(name, num_classes=7).state_dict()
    torch.save(state, tmp_path / "w")
    with pytest.warns(BitwrightWarning, match=r"another number of classes: the head \(" + ", ".join(MODELS[name])):
        loaded = load_model(name, weights=tmp_path / "w", num_classes=5).state_dict()
    assert {key for key in state if not torch.equal(loaded[key], state[key])} == set(MODELS[name])
    assert len(loaded[MODELS[name][0]]) == 5
    loaded = load_model(name, weights=tmp_path / "w", num_classes=7).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_other_networks_are_refused(tmp_path: Path) -> None:
    """What differs elsewhere is no head: neither with a number of classes nor without is anything replaced."""
    torch.save(load_model("pytorchcv:resnet18", num_classes=7).state_dict(), tmp_path / "w")
    for options in ({}, {"num_classes": 7}, {"num_classes": 5}):
        with pytest.raises(FileFormatError, match="do not fit the model"):
            load_model("pytorchcv:resnet18_wd2", weights=tmp_path / "w", **options)
