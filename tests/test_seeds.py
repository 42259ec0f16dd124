# SPDX-License-Identifier: MIT
"""Random numbers of a test file are the same in every order of tests and in every worker."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

FIRST = torch.rand(4, generator=torch.Generator().manual_seed(0))
IMPORTED = torch.rand(4)


@pytest.fixture(scope="module")
def shared() -> Tensor:
    """What several tests use."""
    return torch.rand(4)


@pytest.fixture(scope="module")
def unrelated() -> Tensor:
    """What would take the first numbers, where one generator served all."""
    return torch.rand(4)


def test_of_what_is_made_while_a_file_is_imported() -> None:
    """Networks in a module, for instance."""
    assert torch.equal(IMPORTED, FIRST)


def test_of_what_tests_share(unrelated: Tensor, shared: Tensor) -> None:
    """Fixtures of a module or a session, whichever test makes them first."""
    assert torch.equal(unrelated, FIRST)
    assert torch.equal(shared, FIRST)
