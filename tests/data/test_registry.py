# SPDX-License-Identifier: MIT
"""Data sets by name."""

from __future__ import annotations

import pytest

from bitwright.data import ImageData, Request, load_data, names, source
from bitwright.errors import DataError, UnknownNameError


def test_unknown_name_lists_the_known_ones() -> None:
    """A misspelt name is refused in one line, with the closest name and all names."""
    with pytest.raises(UnknownNameError, match=r"'mnist5k': did you mean 'mnist-5k'\? Known: .*imagefolder") as caught:
        load_data("mnist5k")
    assert "\n" not in str(caught.value)


def test_names_are_the_documented_ones() -> None:
    """The data sets are those that the documentation of `load_data` names."""
    assert names() == ("digit-scenes", "fashion-mnist", "hfds", "imagefolder", "mnist-5k", "wds")
    assert all(name in (load_data.__doc__ or "") for name in names())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("imagefolder", {}, "needs a folder"),
        ("imagefolder:", {}, "folder after the colon"),
        ("mnist-5k:/tmp", {}, "takes no folder, got '/tmp'"),
        ("mnist-5k", {"image_size": 0}, "image size of at least 1 pixel, got 0"),
        ("mnist-5k", {"channels": 2}, "expected 1 or 3 channels, got 2"),
        ("digit-scenes:polygons", {}, "come with masks or boxes, got 'polygons': name digit-scenes:boxes"),
        ("digit-scenes", {"image_size": 16}, "at least 32 pixels high and wide, got 16"),
        ("imagefolder:/tmp", {"channels": 1}, "3 channels, not 1"),
    ],
)
def test_bad_arguments_are_refused(name: str, arguments: dict[str, int], message: str) -> None:
    """What a data set cannot be is refused, with what was got."""
    with pytest.raises(DataError, match=message):
        load_data(name, **arguments)


def test_a_name_is_taken_once() -> None:
    """Two data sets cannot have one name, and no name can have a colon."""

    def loader(request: Request) -> ImageData:
        raise AssertionError

    for name in ("mnist-5k", "a:b"):
        with pytest.raises(ValueError, match=name):
            source(name)(loader)
