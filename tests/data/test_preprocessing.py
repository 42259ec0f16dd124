# SPDX-License-Identifier: MIT
"""How images are made, as a value: what is asked for, what is known, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode

from bitwright.data import Preprocessing, load_data
from bitwright.data.preprocessing import INTERPOLATIONS, require_same
from bitwright.errors import DataError, FileFormatError
from bitwright.graph.stated import published_preprocessing

channels = st.lists(st.floats(0.01, 2), min_size=1, max_size=3).map(tuple)
sizes = st.integers(1, 400)
values = st.builds(
    Preprocessing,
    st.none() | channels,
    st.none() | channels,
    st.none() | sizes,
    st.none() | sizes,
    st.none() | st.sampled_from(INTERPOLATIONS),
)


@given(values, values)
def test_what_is_said_last_counts(said: Preprocessing, known: Preprocessing) -> None:
    """What is put over something does not differ from it, is there where nothing was said, and is read as it is written."""
    both = said.over(known)
    assert not list(said.differences(both))
    assert not list(both.differences(said))
    assert both.over(both) == both
    assert bool(both) == (bool(said) or bool(known))
    assert Preprocessing.from_text(both.to_text(), "a file") == both
    for name, value in known.to_dict().items():
        assert both.to_dict()[name] == said.to_dict().get(name, value)


def test_what_differs_is_named() -> None:
    """Only of what both say."""
    known = Preprocessing((0.5,), (0.25,), 256, 224)
    require_same(Preprocessing((0.5,), interpolation="bicubic"), known, "net", "data")
    with pytest.raises(
        DataError, match=r"net was made with images of .*; data has std 0\.5, not 0\.25; resize 232, not"
    ):
        require_same(Preprocessing((0.5,), (0.5,), 232), known, "net", "data")


@pytest.mark.parametrize(
    "fields", [{"std": [0.0]}, {"mean": [float("inf")]}, {"crop": 0}, {"interpolation": "best"}, {"size": 3}]
)
def test_what_is_no_preprocessing(fields: dict[str, object]) -> None:
    """Values out of range, and unknown ones, are refused in files and in Python."""
    with pytest.raises(FileFormatError):
        Preprocessing.from_text(str(fields).replace("'", '"'), "a file")


def test_image_folders_are_made_as_asked(photographs: Path) -> None:
    """Other constants, sizes and interpolation: torchvision's own steps, to the last bit."""
    asked = Preprocessing((0.5,), (0.25, 0.5, 0.75), 40, interpolation="bicubic")
    data = load_data(f"imagefolder:{photographs}", image_size=32, preprocessing=asked)
    how = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.5, 0.75), 40, 32, "bicubic")
    assert data.preprocessing == how
    normalize = transforms.Normalize(how.mean, how.std)
    resize = transforms.Resize(40, InterpolationMode.BICUBIC)
    steps = transforms.Compose([resize, transforms.CenterCrop(32), transforms.ToTensor(), normalize])
    expected = ImageFolder(str(photographs / "val"), steps)
    images, _ = data.test.read(range(len(expected)))
    assert torch.equal(images, torch.stack([image for image, _ in expected]))
    with pytest.raises(DataError, match="expected to resize to at least the 32 pixels that are cut out, got 20"):
        load_data(f"imagefolder:{photographs}", image_size=32, preprocessing=Preprocessing(resize=20))


def test_splits_of_any_name(photographs: Path) -> None:
    """Usual names are found, others are given; what is not there is named, and how to name it."""
    expected, _ = load_data(f"imagefolder:{photographs}", image_size=32).test.read(range(4))
    (photographs / "train").rename(photographs / "Training")
    (photographs / "val").rename(photographs / "held-out")
    named = f"imagefolder:{photographs}:Training,held-out"
    assert torch.equal(load_data(named, image_size=32).test.read(range(4))[0], expected)
    with pytest.raises(DataError, match=r"no split 'val' in .*, which has Training, held-out: .*:TRAIN,TEST"):
        load_data(f"imagefolder:{photographs}")
    with pytest.raises(DataError, match="no split 'test' in"):
        load_data(f"imagefolder:{photographs}:Training,test")
    (photographs / "held-out").rename(photographs / "test")
    assert torch.equal(load_data(f"imagefolder:{photographs}", image_size=32).test.read(range(4))[0], expected)


def test_what_libraries_state() -> None:
    """The transforms of torchvision and the data configuration of timm, at any size; pytorchcv states nothing."""
    from torchvision.models import ResNet50_Weights

    steps = ResNet50_Weights.DEFAULT.transforms()
    stated = published_preprocessing("torchvision:resnet50")
    assert (stated.mean, stated.std) == (tuple(steps.mean), tuple(steps.std))
    assert (stated.resize, stated.crop) == (*steps.resize_size, *steps.crop_size) == (232, 224)
    assert (published_preprocessing("torchvision:resnet50", 112).resize, stated.interpolation) == (116, "bilinear")
    assert not published_preprocessing("pytorchcv:resnet18")
    data = pytest.importorskip("timm.data")
    import timm

    config = data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("resnet18").to_dict())
    stated = published_preprocessing("timm:resnet18")
    assert (stated.mean, stated.std, stated.interpolation) == (config["mean"], config["std"], config["interpolation"])
    resize = data.create_transform(**config).transforms[0]
    assert stated.resize == resize.size
