# SPDX-License-Identifier: MIT
"""A clamp goes before what only selects values, so that the layer before that takes it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn.functional as F
from torch import Tensor

from graph.networks import Then, captured, kinds


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: F.relu(F.pixel_shuffle(F.max_pool2d(x, 2), 2)), "MaxPool2d Take DepthToSpace"),
        (lambda x: F.relu6(x[:, :, ::2].flip(3).flatten(1)), "Take Take Flatten"),
        (lambda x: F.relu(F.pad(x, (1, 0))), "Pad"),
        # zeros would be clamped, and others read the selection as well
        (lambda x: F.pad(x, (1, 0)).clamp(0.5, 2), "Pad Clamp"),
        (lambda x: F.relu(y := x.flip(3)) + y, "Take Clamp Add"),
    ],
)
def test_where_a_clamp_goes(function: Callable[[Tensor], Tensor], expected: str) -> None:
    """The network computes the same; the convolution clamps where it can."""
    assert kinds(captured(Then(function))) == ["Input", "Conv2d", *expected.split()]
