# SPDX-License-Identifier: MIT
"""Damaged files of every format of ours are refused when they are loaded, by name, or work."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from reliability.formats import FORMATS, Format, write_all
from reliability.mutations import damaged

LONGEST = 2000  # characters of a message, whatever a file holds
SHORT, LONG = 15, 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each format."""
    found = tmp_path_factory.mktemp("formats")
    write_all(found)
    return found


def check(found: Format, folder: Path, count: int) -> None:
    """Damage a file in `count` ways: an error of any other type than its own, then or at the first use, fails."""
    path, copy, counts = folder / found.name, folder / f"damaged {found.name}" / found.name, Counter[str]()
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(path.read_bytes())
    found.use(found.load(copy))
    for number in range(count):
        what, data = damaged(path, found.metadata, random.Random(f"{found.name} {number}"))
        copy.write_bytes(data)
        try:
            loaded = found.load(copy)
        except found.refusals as error:
            counts["refused"] += 1
            message = str(error)
            assert copy.name in message, what
            assert "\n" not in message, what
            assert len(message) < LONGEST, what
        except Exception as error:
            raise AssertionError(f"{found.name} {number}: {what}: loading raised {error!r}") from error
        else:
            counts["harmless"] += 1
            try:
                found.use(loaded)
            except Exception as error:
                raise AssertionError(f"{found.name} {number}: {what}: the first use raised {error!r}") from error
    print(f"{found.name}: {dict(counts)}")
    assert counts["refused"] > count / 2


@pytest.mark.parametrize("found", FORMATS, ids=lambda found: found.name)
def test_damage_is_refused(found: Format, folder: Path) -> None:
    """Missing and unknown keys, wrong types, wrong tensors, changed bytes; a checksum is made to fit, where there is one."""
    check(found, folder, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("found", FORMATS, ids=lambda found: found.name)
def test_much_damage_is_refused(found: Format, folder: Path) -> None:
    """The same, many times over."""
    check(found, folder, LONG)
