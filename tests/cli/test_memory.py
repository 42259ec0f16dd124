# SPDX-License-Identifier: MIT
"""Too little memory costs one line, whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from bitwright.cli.app import reported

HUGE = 2**45
"""Values of float32: 128 TiB, the whole address space of a process."""


def _on_a_gpu() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.77 GiB"
    )


def _somewhere() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("work", "amount"),
    [
        (lambda: torch.empty(HUGE), " for 140737488355328 bytes"),
        (lambda: np.empty(HUGE, np.float32), " for 128. TiB"),
        (_on_a_gpu, " for 20.00 GiB"),
        (_somewhere, ""),
    ],
    ids=["torch", "numpy", "gpu", "python"],
)
def test_too_little_memory(work: Callable[[], object], amount: str, capsys: pytest.CaptureFixture[str]) -> None:
    """PyTorch's allocators raise RuntimeErrors: they are no traceback either."""
    with pytest.raises(SystemExit) as stopped, reported(["bitwright"]):
        work()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == f"not enough memory{amount}: choose smaller images or batches.\n"


def test_other_errors_of_the_runtime_are_faults_of_ours() -> None:
    """They keep their traceback."""
    with pytest.raises(RuntimeError, match="a fault"), reported(["bitwright"]):
        raise RuntimeError("a fault")
