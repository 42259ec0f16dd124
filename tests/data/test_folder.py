# SPDX-License-Identifier: MIT
"""Image folders, on real photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder

from bitwright.data import load_data
from bitwright.errors import DataError

NORMALIZE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(("image_size", "resized"), [(None, 256), (224, 256), (299, 342)])
def test_test_images_are_torchvisions(photographs: Path, image_size: int | None, resized: int) -> None:
    """Test images are resized, cut and normalised as torchvision's ImageNet evaluation does, to the last bit."""
    size = image_size or 224
    data = load_data(f"imagefolder:{photographs}", image_size=image_size)
    steps = [transforms.Resize(resized), transforms.CenterCrop(size), transforms.ToTensor(), NORMALIZE]
    expected = ImageFolder(str(photographs / "val"), transforms.Compose(steps))
    assert data.classes == tuple(expected.classes) == ("flower", "person")
    assert data.shape == (3, size, size)
    assert len(data.test) == 4
    assert len(data.train) == 6
    images, labels = next(iter(data.batches("test", batch_size=4, workers=0)))
    for index, (image, label) in enumerate(expected):
        assert torch.equal(images[index], image)
        assert labels[index] == label
        assert torch.equal(data.test[index][0], image)


def test_training_images_are_torchvisions_random_crops(photographs: Path) -> None:
    """Augmented images are torchvision's RandomResizedCrop and flip, a function of the seed; the global one stays."""
    data = load_data(f"imagefolder:{photographs}", image_size=64)
    before = torch.get_rng_state()
    images, _ = data.train.read([0, 4], augment_seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    steps = [transforms.RandomResizedCrop(64), transforms.RandomHorizontalFlip(), transforms.ToTensor(), NORMALIZE]
    reference = ImageFolder(str(photographs / "train"), transforms.Compose(steps))
    torch.manual_seed(5)
    assert torch.equal(images, torch.stack([reference[0][0], reference[4][0]]))
    assert not torch.equal(images, data.train.read([0, 4], augment_seed=6)[0])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 and later
def test_workers_change_nothing(photographs: Path) -> None:
    """Batches that other processes decode are those that this one would have made."""
    data = load_data(f"imagefolder:{photographs}", image_size=32)
    assert data.train.workers > 0
    here, there = (
        list(data.batches("train", 2, shuffle=True, augment=True, seed=3, workers=workers)) for workers in (0, 2)
    )
    assert len(here) == len(there) == 3
    for (images, labels), (other_images, other_labels) in zip(here, there, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_unusable_folders_are_refused(photographs: Path, tmp_path: Path) -> None:
    """A missing folder, one without val/, without classes, with other classes or without images: each is named."""
    with pytest.raises(DataError, match=r"no folder '.*absent'"):
        load_data(f"imagefolder:{tmp_path / 'absent'}")

    for image in (photographs / "val" / "person").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"no images in '.*val/person': expected files ending in \.jpg"):
        load_data(f"imagefolder:{photographs}")

    (photographs / "val" / "person").rename(photographs / "val" / "persons")
    with pytest.raises(DataError, match=r"same classes in .* got 2 and 2: 'person' is only in one"):
        load_data(f"imagefolder:{photographs}")

    shutil.rmtree(photographs / "val")
    (photographs / "val").mkdir()
    with pytest.raises(DataError, match=r"no class folders in '.*val'"):
        load_data(f"imagefolder:{photographs}")

    (photographs / "val").rmdir()
    with pytest.raises(
        DataError, match=r"no split 'val' in imagefolder:.*, which has train: name the two as imagefolder:.*:TRAIN,TEST"
    ):
        load_data(f"imagefolder:{photographs}")


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("damage", ["truncate", "text"])
def test_damaged_images_are_refused(photographs: Path, damage: str) -> None:
    """An image that cannot be decoded is named in one line when it is read, here or in another process."""
    path = photographs / "val" / "person" / "1.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "truncate" else b"no image at all")
    data = load_data(f"imagefolder:{photographs}")
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^cannot read the image '.*val/person/1\.jpg': .*\.$") as caught:
            list(data.batches("test", 4, workers=workers))
        assert "\n" not in str(caught.value)
