# SPDX-License-Identifier: MIT
"""Batches in a seeded order, alone and divided by Accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader

from bitwright.data import FolderImages, ImageData, InMemoryImages, batches
from bitwright.errors import DataError


@pytest.fixture
def numbered() -> InMemoryImages:
    """103 images whose label is their position."""
    pixels = torch.arange(103, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 6, 6)
    return InMemoryImages(pixels, torch.arange(103), mean=[0.0], std=[1.0])


def _labels(loader: object) -> Iterator[list[int]]:
    for _, labels in loader:  # type: ignore[attr-defined]
        yield labels.tolist()


def test_unshuffled_batches_go_in_order(numbered: InMemoryImages) -> None:
    """Without shuffling, batches are consecutive, the last one smaller or left out."""
    loader = batches(numbered, 10)
    assert list(chain(*_labels(loader))) == list(range(103))
    assert len(loader) == 11
    assert len(batches(numbered, 10, drop_last=True)) == 10
    assert len(list(_labels(batches(numbered, 10, drop_last=True)))) == 10


def test_each_pass_is_a_new_seeded_permutation(numbered: InMemoryImages) -> None:
    """Shuffled, each pass has all images once in an order of its own, the same in a run with the same seed."""
    loader = batches(numbered, 10, shuffle=True, seed=4)
    first, second = (list(_labels(loader)) for _ in range(2))
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(103))
    assert first != second
    again = batches(numbered, 10, shuffle=True, seed=4)
    assert [list(_labels(again)), list(_labels(again))] == [first, second]
    assert list(_labels(batches(numbered, 10, shuffle=True, seed=5))) != first


def test_augmentation_differs_between_passes_and_not_between_runs(digits: ImageData) -> None:
    """Each pass crops anew; the global generator of torch plays no part and is left as it was."""
    runs = []
    for _ in range(2):
        torch.rand(3)
        before = torch.get_rng_state()
        loader = digits.batches("train", 1000, shuffle=True, augment=True, seed=7)
        passes = [list(loader) for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), before)
        runs.append(passes)
    for one, other in zip(runs[0], runs[1], strict=True):
        for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
            assert torch.equal(images, other_images)
            assert torch.equal(labels, other_labels)
    assert not torch.equal(runs[0][0][0][0], runs[0][1][0][0])


def test_batches_of_no_images_are_refused(digits: ImageData) -> None:
    """A batch has at least one image."""
    with pytest.raises(DataError, match="batch size of at least 1, got 0"):
        digits.batches("test", 0)


@pytest.mark.parametrize("workers", [None, 0, 1, 2, 64])
def test_workers_are_bounded_by_the_processors_at_hand(
    numbered: InMemoryImages, monkeypatch: pytest.MonkeyPatch, workers: int | None
) -> None:
    """On one processor of a larger machine, one worker reads, and PyTorch has nothing to warn about."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert FolderImages(["a.png"], torch.zeros(1)).workers == 1
    assert batches(numbered, 10, workers=workers).num_workers == min(workers or 0, 1)


def test_accelerate_prepares_the_loader(numbered: InMemoryImages) -> None:
    """In one process, a prepared loader gives the same batches, epoch by epoch, and `set_epoch` goes to any."""
    plain = batches(numbered, 10, shuffle=True)
    prepared = Accelerator(cpu=True).prepare(batches(numbered, 10, shuffle=True))
    epochs = [list(_labels(plain)) for _ in range(3)]
    assert [list(_labels(prepared)) for _ in range(3)] == epochs
    resumed = Accelerator(cpu=True).prepare(batches(numbered, 10, shuffle=True))
    resumed.set_epoch(2)
    assert list(_labels(resumed)) == epochs[2]


def test_accelerate_divides_the_batches_between_processes(numbered: InMemoryImages) -> None:
    """Each of two processes reads every other batch of the same order; together they read all images."""
    Accelerator(cpu=True)
    whole = list(_labels(batches(numbered, 10, shuffle=True)))
    for epoch in range(2):
        shards = []
        for rank in range(2):
            loader = prepare_data_loader(
                batches(numbered, 10, shuffle=True), num_processes=2, process_index=rank, put_on_device=False
            )
            loader.set_epoch(epoch)
            shards.append(list(_labels(loader)))
        assert [len(shard) for shard in shards] == [6, 6]
        assert set(chain(*shards[0], *shards[1])) == set(range(103))
        if epoch == 0:
            assert shards[0][:5] == whole[0:10:2]
            assert shards[1][:5] == whole[1:10:2]
        else:
            assert shards[0][:5] != whole[0:10:2]
