# SPDX-License-Identifier: MIT
"""Models of timm, an extra, by name."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.errors import BitwrightWarning, DataError, MissingLibraryError, UnknownNameError
from bitwright.graph import capture, load_model
from bitwright.graph.sources import image_size

timm = pytest.importorskip("timm")


def test_a_network_of_timm() -> None:
    """It is made for the classes and channels that were asked for, without weights, and says what images it was made for."""
    model = load_model("timm:resnet10t", num_classes=5, suggested={"in_channels": 1, "in_size": 32})
    assert capture(model, (1, 32, 32)).output_shape == (5,)
    assert not model.training
    assert image_size("timm:resnet10t", model) == 176


def test_unknown_names() -> None:
    """They are refused with the closest one."""
    with pytest.raises(UnknownNameError, match="unknown timm model 'resnet10': did you mean 'resnet10t'"):
        load_model("timm:resnet10")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to install."""
    monkeypatch.setattr("bitwright.extras.find_spec", lambda name: None)
    expected = r"^timm:resnet10t needs timm, which is not installed: pip install 'bitwright\[timm\]'\.$"
    with pytest.raises(MissingLibraryError, match=expected):
        load_model("timm:resnet10t")


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says where they are published and where to place them."""

    def offline(*given: object, **options: object) -> nn.Module:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        DataError, match=r"tried https://huggingface.co/timm/resnet10t.*save it as '.*timm-resnet10t.safetensors'"
    ):
        load_model("timm:resnet10t", pretrained=True)


@pytest.mark.parametrize(
    ("name", "unusual"), [("resnet10t", False), ("mixnet_s", False), ("tf_mobilenetv3_small_075", True)]
)
def test_weights_by_hand(name: str, unusual: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that lie there are taken; a preprocessing that is not the usual one is said."""
    from safetensors.torch import save_file

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    source = timm.create_model(name)
    (tmp_path / "checkpoints").mkdir()
    save_file(source.state_dict(), tmp_path / "checkpoints" / f"timm-{name}.safetensors")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = load_model(f"timm:{name}", pretrained=True)
    assert torch.equal(next(made.parameters()), next(source.parameters()))
    assert any("normalise yours alike" in str(item.message) for item in said) == unusual
    assert all(item.category is BitwrightWarning for item in said if "normalise" in str(item.message))
