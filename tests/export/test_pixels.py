# SPDX-License-Identifier: MIT
"""Pixels become the integers that training's own normalisation gives, for all 256 values, however an engine evaluates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.errors import ExportError
from bitwright.export import Pixels
from bitwright.export.pixels import affine
from bitwright.integer.ops import Quantize

IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def quantize_op(scale: float, bits: int = 8, channels: int = 3) -> Quantize:
    """The first operation of a model."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return Quantize(name="input", inputs=(), shape=(channels, 4, 4), scale=scale, low=low, high=high)


def test_the_table_is_that_of_the_data() -> None:
    """Entry p of channel c is what a data set's image of that pixel gives."""
    from bitwright.data.in_memory import InMemoryImages

    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    images = InMemoryImages(pixels, torch.zeros(1), mean=IMAGENET.mean, std=IMAGENET.std).read([0])[0]
    scale = torch.tensor(0.0207)
    expected = (images / scale).round().clamp(-128, 127).reshape(3, 256)
    assert np.array_equal(IMAGENET.table(quantize_op(0.0207)), expected.numpy())
    assert torch.equal(IMAGENET.normalise(pixels), images)


@given(st.floats(0.004, 0.5), st.integers(2, 8))
def test_an_affine_form_is_exact_however_it_is_evaluated(scale: float, bits: int) -> None:
    """Rounded after each step, fused, or in float64: the integers are the table's."""
    op = quantize_op(scale, bits)
    table = IMAGENET.table(op)
    found = affine(table, op.low, op.high)
    if found is None:
        return
    levels = np.arange(256, dtype=np.float32)
    gain, offset = found.gain[:, None], found.offset[:, None]
    product = gain.astype(np.float64) * levels + offset
    for real in (gain * levels + offset, product.astype(np.float32), product):
        assert np.array_equal(np.clip(np.rint(real), op.low, op.high), table)


def test_nearly_every_scale_has_an_affine_form() -> None:
    """The fast form is the rule: of 200 scales, at least 190 have one."""
    scales = np.linspace(0.015, 0.03, 200)
    found = [affine(IMAGENET.table(quantize_op(float(scale))), -128, 127) for scale in scales]
    assert sum(form is not None for form in found) >= 190


def test_a_table_without_an_affine_form() -> None:
    """Halves that go to even make steps of 0 and 2 in turn, which no straight line gives."""
    table = np.array([[round(level / 2) - 64 for level in range(256)]], dtype=np.int32)
    assert affine(table, -128, 127) is None


def test_channels_must_match() -> None:
    """A mean for each channel, or an error that says how many were expected."""
    with pytest.raises(ExportError, match="each of 1 channels, got 3 and 3"):
        IMAGENET.table(quantize_op(0.02, channels=1))
