# SPDX-License-Identifier: MIT
"""Accuracies, their difference, and the standard errors of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.auto.measured import compared


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_against_the_images_one_by_one(pairs: list[tuple[bool, bool]]) -> None:
    """The drop is the mean difference of the two networks, and its error that of a mean of so many."""
    right, whole = (torch.tensor(column) for column in zip(*pairs, strict=True))
    found = compared(right, whole)
    differences = np.array([before - after for after, before in np.array(pairs, dtype=int)])
    assert found.top1 == pytest.approx(right.double().mean().item())
    assert found.drop == pytest.approx(differences.mean())
    assert found.drop_error == pytest.approx(differences.std() / np.sqrt(len(pairs)))
    assert found.top1_error == pytest.approx(right.double().numpy().std() / np.sqrt(len(pairs)))
