# SPDX-License-Identifier: MIT
"""Real images for the tests of the data sets."""

from __future__ import annotations

import pytest

from bitwright.data import ImageData, load_data


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """The embedded digits."""
    return load_data("mnist-5k")
