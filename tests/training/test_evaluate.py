# SPDX-License-Identifier: MIT
"""Whoever evaluates waits for nobody."""

from __future__ import annotations

import pytest
import torch

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
