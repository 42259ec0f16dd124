# SPDX-License-Identifier: MIT
"""Errors: one tree, and unknown names answered with the known ones."""

from __future__ import annotations

import pytest

from bitwright import errors
from bitwright.errors import BitwrightError, UnknownNameError, unknown_name

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
ERRORS = [kind for kind in KINDS if not issubclass(kind, Warning)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_a_bitwright_error(kind: type[Exception]) -> None:
    """Whoever catches BitwrightError catches every error that a user can cause."""
    assert issubclass(kind, BitwrightError)
    assert kind.__doc__


def test_there_are_errors() -> None:
    """The test above looks at the whole tree, which is flat: no error hides another."""
    assert len(ERRORS) >= 14
    assert all(kind.__base__ is BitwrightError for kind in ERRORS if kind is not BitwrightError)


def test_a_close_name_is_suggested() -> None:
    """A misspelt name is answered with the closest known one, then all of them in order."""
    error = unknown_name("layer", "features.conv0", ["output", "features.conv1"])
    assert isinstance(error, UnknownNameError)
    assert str(error) == (
        "unknown layer 'features.conv0': did you mean 'features.conv1'? Known: features.conv1, output."
    )


def test_a_far_name_gets_no_suggestion() -> None:
    """A name that resembles none is not guessed at."""
    assert str(unknown_name("key", "zzz", ["layers", "name"])) == "unknown key 'zzz': Known: layers, name."


def test_many_known_names_are_cut() -> None:
    """A list of hundreds of names stays readable, and says how many there are."""
    message = str(unknown_name("model", "resnet", (f"net{number:03}" for number in range(300))))
    assert message.count("net0") == 40
    assert message.endswith("net039, … (300 in all).")
