# SPDX-License-Identifier: MIT
"""Scenes of digits: what their masks and boxes say is on them, alike in every process and batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.data import ImageData, batches, load_data
from bitwright.data.digit_scenes import DigitScenes
from bitwright.data.mnist import divided_digits
from bitwright.data.scene import draw_scene


@pytest.fixture(scope="module")
def scenes() -> ImageData:
    """With masks."""
    return load_data("digit-scenes")


@pytest.fixture(scope="module")
def boxes() -> ImageData:
    """The same scenes with boxes."""
    return load_data("digit-scenes:boxes")


def test_masks_and_boxes_are_of_what_was_drawn() -> None:
    """A box is the least one around its strokes; a mask has the classes of the boxes, and in a lonely box only its own."""
    (pixels, labels), _ = divided_digits()
    alone = 0
    for index in range(60):
        size = 32 + index
        scene = draw_scene(pixels, labels, index, size, 3, index)
        assert scene.pixels.shape == scene.mask.shape == (size, size)
        assert 1 <= len(scene.digits) <= 5
        assert scene.digits[0][0] == int(labels[index])
        present = set(np.unique(scene.mask).tolist())
        assert present - {0, 255} <= {digit + 1 for digit, _ in scene.digits}
        drawn = np.zeros((size, size), dtype=int)
        for _, (left, top, right, bottom) in scene.digits:
            assert 0 <= left < right <= size
            assert 0 <= top < bottom <= size
            drawn[top:bottom, left:right] += 1
        assert not scene.mask[drawn == 0].any()
        for digit, (left, top, right, bottom) in scene.digits:
            if (drawn[top:bottom, left:right] == 1).all():
                alone += 1
                inside = scene.mask[top:bottom, left:right]
                assert set(np.unique(inside).tolist()) <= {0, digit + 1, 255}
                assert digit + 1 in inside
                assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    assert alone > 60


def test_training_and_test_scenes_share_no_digit(scenes: ImageData) -> None:
    """Those held out of mnist-5k are on the test's scenes, all others on those that train."""
    seen = []
    for images, (pixels, labels) in zip((scenes.train, scenes.test), divided_digits(), strict=True):
        assert isinstance(images, DigitScenes)
        assert torch.equal(images._pixels, pixels)
        assert torch.equal(images.labels, labels[images._leading] + 1)
        seen.append({bytes(pixel) for pixel in pixels.flatten(1).numpy()})
    assert not seen[0] & seen[1]
    assert (len(scenes.train), len(scenes.test)) == (2000, 500)


def test_images_are_normalised_and_as_asked_for(scenes: ImageData, boxes: ImageData) -> None:
    """Mean and deviation are near 0 and 1; other sizes and three channels; masks and boxes are of one scene."""
    images, masks = scenes.train.read(range(300))
    assert abs(float(images.mean())) < 0.03
    assert abs(float(images.std()) - 1) < 0.03
    assert masks.dtype == torch.int64
    assert sorted(masks.unique().tolist()) == [*range(11), 255]
    same, found = boxes.train.read(range(300))
    assert torch.equal(images, same)
    assert found.shape == (300, 5, 5)
    counted = found[found[:, :, 0] >= 0]
    assert torch.equal(counted[:, 0].unique(), torch.arange(10.0))
    assert bool((counted[:, 1:3] < counted[:, 3:]).all())
    assert 0 <= float(counted[:, 1:].min()) < float(counted[:, 1:].max()) <= 1
    assert (boxes.classes, scenes.classes[:2]) == (tuple("0123456789"), ("ground", "0"))
    other = load_data("digit-scenes", image_size=96, channels=3)
    image, mask = other.test[7]
    assert isinstance(mask, torch.Tensor)
    assert (image.shape, mask.shape) == (other.shape, (96, 96)) == ((3, 96, 96), (96, 96))
    assert torch.equal(image[0], image[2])
    assert str(scenes) == "digit-scenes:masks: 2,000 training and 500 test images of 1x64x64 in 10 of 11 classes"


def test_augmentation_draws_other_scenes_around_the_same_digits(boxes: ImageData) -> None:
    """By its seed alone."""
    plain, drawn, again, other = (boxes.train.read([5, 6], seed) for seed in (None, 1, 1, 2))
    assert torch.equal(drawn[0], again[0])
    assert not torch.equal(drawn[0], plain[0])
    assert not torch.equal(drawn[0], other[0])
    assert torch.equal(drawn[1][:, 0, 0], plain[1][:, 0, 0])


def test_scenes_are_alike_in_every_process_and_batch(scenes: ImageData) -> None:
    """A scene depends on its number alone."""
    images, masks = scenes.test.read(range(500))
    read = list(batches(scenes.test, 60, workers=1))
    assert torch.equal(torch.cat([part for part, _ in read]), images)
    assert torch.equal(torch.cat([part for _, part in read]), masks)
    few, their_masks = scenes.test.read([3, 499, 0])
    assert torch.equal(few, images[[3, 499, 0]])
    assert torch.equal(their_masks, masks[[3, 499, 0]])
