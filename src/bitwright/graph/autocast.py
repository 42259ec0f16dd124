# SPDX-License-Identifier: MIT
"""Integers held in floats do not survive half precision: whatever computes with them leaves autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def full_precision() -> Iterator[None]:
    """Outside of every autocast that the caller is in; also a decorator."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def autocast_ignored() -> Iterator[None]:
    """With `torch.autocast` of no effect: a forward() that opens it computes in the type of its weights."""
    entering, leaving = torch.autocast.__enter__, torch.autocast.__exit__
    try:
        torch.autocast.__enter__ = lambda self: self  # type: ignore[method-assign]
        torch.autocast.__exit__ = lambda self, *raised: None  # type: ignore[method-assign]
        yield
    finally:
        torch.autocast.__enter__, torch.autocast.__exit__ = entering, leaving  # type: ignore[method-assign]
