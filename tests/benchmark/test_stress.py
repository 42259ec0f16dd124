# SPDX-License-Identifier: MIT
"""Images that look for differences reach the limits of the format, and what lies between its integers."""

from __future__ import annotations

import torch

from bitwright.benchmark import stress_images
from bitwright.benchmark.stress import DRAWN
from bitwright.export import Pixels
from random_networks import random_model


def test_every_kind_comes_in_turn() -> None:
    """Flat ones at both limits, a checkerboard, ties; the same for the same seed."""
    model = random_model(0).model
    params = model.formats[model.ops[0].name]
    count = 2 * len(DRAWN)
    images = stress_images(model, count)
    assert images.shape == (count, *model.input_shape)
    assert images.dtype == torch.float32
    integers = images / params.scale
    assert torch.equal(integers[0].round(), torch.full(model.input_shape, float(params.quant_min)))
    assert torch.equal(integers[1].round(), torch.full(model.input_shape, float(params.quant_max)))
    assert len(images[2].unique()) == 2
    assert ((integers[len(DRAWN) :] % 1 - 0.5).abs() < 1e-3).all()
    assert integers.max() > params.quant_max + 1
    assert torch.equal(images, stress_images(model, count))
    assert not torch.equal(images, stress_images(model, count, seed=1))
    assert stress_images(model, 0).shape == (0, *model.input_shape)


def test_pixels() -> None:
    """All black, all white, and the rest between."""
    model = random_model(0).model
    channels = model.input_shape[0]
    pixels = Pixels([0.5] * channels, [0.25] * channels)
    images = stress_images(model, len(DRAWN), pixels)
    assert images.dtype == torch.uint8
    assert [int(images[index].min()) for index in (0, 1)] == [0, 255]
    assert torch.equal(pixels.nearest(pixels.normalise(images)), images)
