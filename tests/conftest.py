# SPDX-License-Identifier: MIT
"""What all tests have in common: fixed seeds, few threads, and reproducible Hypothesis examples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

# PyTorch and matplotlib are imported where they are used: pytest's first process, which only hands tests to its workers, needs
# neither, and all workers wait for it.
if TYPE_CHECKING:
    import torch

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

# Generation is called too slow where the machine is: the examples are the same on all.
settings.register_profile("reproducible", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("reproducible")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests whose data or device is absent, and say why."""
    import torch

    skips = {}
    if not FASHION_MNIST.is_dir():
        skips["data"] = f"no {FASHION_MNIST}: install Debian's package dataset-fashion-mnist"
    if not torch.cuda.is_available():
        skips["gpu"] = "no CUDA device"
    for item in items:
        for marker, reason in skips.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def _seed() -> None:
    """Start global generators, which PyTorch and other libraries draw from, where they always start."""
    import numpy as np
    import torch

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - only the legacy generator has a global state


def pytest_collectstart(collector: pytest.Collector) -> None:
    """What a file makes while it is imported, networks say, is the same on every machine and whatever was imported before.

    Two threads (or OMP_NUM_THREADS) on every machine; one in each of several workers.
    """
    if isinstance(collector, pytest.Session):
        import torch

        threads = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", threads)))
    if isinstance(collector, pytest.Module):
        _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """So is what tests share, whichever of them comes first in this worker."""
    if fixturedef.scope != "function":
        _seed()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same seeds."""
    _seed()


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of its own for each test."""
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def fashion_mnist_folder() -> Path:
    """The folder of Debian's dataset-fashion-mnist; mark tests that use it with `data`."""
    return FASHION_MNIST


def _photograph(name: str) -> Image.Image:
    """A picture that matplotlib ships, in RGB."""
    import matplotlib as mpl

    return Image.open(Path(mpl.get_data_path()) / "sample_data" / name).convert("RGB")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """An image folder of two classes, cut from pictures that matplotlib ships: 3 + 3 to train, 2 + 2 to test."""
    sources = {"flower": "Minduka_Present_Blue_Pack.png", "person": "grace_hopper.jpg"}
    for name, file in sources.items():
        picture = _photograph(file)
        for split, count in (("train", 3), ("val", 2)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                width, height = picture.width - 10 * number, picture.height - 20 * number
                picture.crop((0, 0, width, height)).save(folder / f"{number}.jpg", quality=90)
    return tmp_path


SYNSETS = (
    *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
    *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
)
"""Imagenette's classes: outputs 0, 217, 482, 491, 497, 566, 569, 571, 574 and 701 of ImageNet's."""


@pytest.fixture
def imagenette(tmp_path: Path) -> Path:
    """A folder of ten classes named as Imagenette's: parts of two photographs, 3 + 3 in each class to train and test."""
    root = tmp_path / "imagenette"
    pictures = [_photograph(name).resize((640, 640)) for name in ("Minduka_Present_Blue_Pack.png", "grace_hopper.jpg")]
    for label, synset in enumerate(SYNSETS):
        left, top = 100 * (label // 2), 80 * (label // 2)
        for split, shift in (("train", 0), ("val", 5)):
            folder = root / split / synset
            folder.mkdir(parents=True)
            for number in range(3):
                x, y = left + 7 * number + shift, top + 3 * number + shift
                pictures[label % 2].crop((x, y, x + 128, y + 128)).save(folder / f"{number}.jpg", quality=90)
    return root
