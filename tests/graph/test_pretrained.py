# SPDX-License-Identifier: MIT
"""Published weights are taken from where they lie, or the one error says where to put them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from bitwright.errors import BitwrightError, BitwrightWarning, DataError, FileFormatError, UnknownNameError
from bitwright.graph import load_model
from bitwright.graph.pretrained import published_weights

SOURCES = ["pytorchcv", "torchvision"]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder without weights, on a machine without a network."""

    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.mark.parametrize("source", SOURCES)
def test_offline(source: str, offline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what was tried and where to put it; nothing is printed among the results."""
    wanted = published_weights(source, "resnet18")
    assert wanted.path.is_relative_to(offline)
    with pytest.raises(DataError) as caught:
        load_model(f"{source}:resnet18", pretrained=True)
    message = str(caught.value)
    for part in (f"tried {wanted.url} (", "Name or service not known", f"as '{wanted.path}'", "--weights FILE"):
        assert part in message
    assert "\n" not in message
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("Downloading")


@pytest.mark.parametrize("source", SOURCES)
def test_a_file_placed_by_hand_is_taken(source: str, offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the message says works; a new head is made for other classes; and weights for other images are refused."""
    state = load_model(
        f"{source}:squeezenet1_1" if source == "torchvision" else f"{source}:squeezenet_v1_1"
    ).state_dict()
    model = "squeezenet1_1" if source == "torchvision" else "squeezenet_v1_1"
    content = offline / "content"
    torch.save(state, content)
    if source == "pytorchcv":  # checks the content against a digest, part of which is the name
        from pytorchcv.models.common import model_store

        digest = hashlib.sha1(content.read_bytes()).hexdigest()
        monkeypatch.setattr(model_store, "get_model_name_suffix_data", lambda name: ("1739", digest, "v0.0.1"))
    path = published_weights(source, model).path
    path.parent.mkdir(parents=True)
    content.rename(path)
    loaded = load_model(f"{source}:{model}", pretrained=True).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    with pytest.warns(BitwrightWarning, match=f"the published weights of '{source}:{model}' are for another number"):
        other = load_model(f"{source}:{model}", pretrained=True, num_classes=7).state_dict()
    assert all(torch.equal(other[name], value) for name, value in state.items() if len(value) != 1000)
    if source == "pytorchcv":
        with pytest.raises(FileFormatError, match=f"the published weights of '{source}:{model}' do not fit"):
            load_model(f"{source}:{model}", pretrained=True, in_channels=1)


def test_a_file_that_fails_the_checksum(offline: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a network, a damaged file of pytorchcv's is named as what it is, with both checksums."""
    wanted = published_weights("pytorchcv", "resnet18")
    wanted.path.parent.mkdir(parents=True)
    wanted.path.write_bytes(b"half a download")
    found = hashlib.sha1(b"half a download").hexdigest()
    with pytest.raises(DataError) as caught:
        load_model("pytorchcv:resnet18", pretrained=True)
    assert f"'{wanted.path}' fails pytorchcv's checksum (its SHA-1 is {found[:8]}…, expected" in str(caught.value)
    assert f"save it unpacked as '{wanted.path}'" in str(caught.value)
    assert wanted.path.read_bytes() == b"half a download"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("pytorchcv:resnet19", UnknownNameError, "unknown pytorchcv model 'resnet19'"),
        ("torchvision:resnet19", UnknownNameError, "unknown torchvision model 'resnet19'"),
        ("pytorchcv:resnet20_svhn_none", UnknownNameError, "unknown pytorchcv model"),
        ("pytorchcv:resnet1001_svhn", DataError, "tried http"),
    ],
)
def test_names(name: str, error: type[BitwrightError], message: str, offline: Path) -> None:
    """Unknown models are unknown with and without weights."""
    with pytest.raises(error, match=message):
        load_model(name, pretrained=True)


def test_models_without_weights(offline: Path) -> None:
    """Some of pytorchcv's models have none."""
    from pytorchcv.model_provider import _models
    from pytorchcv.models.common.model_store import get_model_metainfo_dict

    name = next(model for model in sorted(_models) if model not in get_model_metainfo_dict() and "resnet" in model)
    with pytest.raises(UnknownNameError, match=f"pytorchcv publishes no weights of '{name}'"):
        load_model(f"pytorchcv:{name}", pretrained=True)
