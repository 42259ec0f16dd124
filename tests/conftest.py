# SPDX-License-Identifier: MIT
"""What all tests have in common: fixed seeds, few threads, and reproducible Hypothesis examples."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("reproducible")


def pytest_configure() -> None:
    """Two threads (or OMP_NUM_THREADS) on every machine, and leave the others to whoever shares it."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests whose data or device is absent, and say why."""
    skips = {}
    if not FASHION_MNIST.is_dir():
        skips["data"] = f"no {FASHION_MNIST}: install Debian's package dataset-fashion-mnist"
    if not torch.cuda.is_available():
        skips["gpu"] = "no CUDA device"
    for item in items:
        for marker, reason in skips.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same global seeds, for libraries that use them."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - only the legacy generator has a global state


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of its own for each test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def fashion_mnist_folder() -> Path:
    """The folder of Debian's dataset-fashion-mnist; mark tests that use it with `data`."""
    return FASHION_MNIST
