# SPDX-License-Identifier: MIT
"""Whoever evaluates waits for nobody."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitwright.task import agreement
from bitwright.training import evaluate


def test_one_of_several_processes_judges_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun the first process evaluates alone: metrics must not gather counts that no other process sends."""

    def gathered(*_: object, **__: object) -> None:
        raise AssertionError("waits for other processes")

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(torch.distributed, "barrier", gathered)
    monkeypatch.setattr(torch.distributed, "all_gather", gathered)
    batches = [(torch.eye(4), torch.arange(4)), (torch.eye(4), torch.zeros(4, dtype=torch.long))]
    assert evaluate(lambda images: images, batches)["top1_percent"] == 62.5


class Elsewhere(nn.Module):
    """A network on a device that has no values: its classes come from where it can see."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, device="meta"))
        self.seen: set[str] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.add(images.device.type)
        return torch.eye(4)


def test_images_come_to_the_network() -> None:
    """Training leaves a network on the GPU, and its teacher or reference with it; images are read by the processor."""
    judged, imitated = Elsewhere(), Elsewhere()
    batches = [(torch.eye(4), torch.arange(4))]
    assert evaluate(judged, batches)["top1_percent"] == 100
    evaluate(judged, batches, task=agreement().towards(imitated))
    assert judged.seen == imitated.seen == {"meta"}
