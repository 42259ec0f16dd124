# SPDX-License-Identifier: MIT
"""A demonstration touches no file but its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.demo.folder import FORMAT, RECORD, open_folder
from bitwright.demo.job import file_names
from bitwright.errors import DataError, FileFormatError, OutputError

SETTINGS = {"seed": 0, "sizes": (1, 2)}
FILES = ("table.md", "float.graph")


def content(folder: Path) -> dict[str, bytes]:
    """All that is in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_new_folder_says_what_is_its_own(tmp_path: Path) -> None:
    """The record is there before anything else."""
    open_folder(tmp_path / "new" / "demo", SETTINGS, FILES, resume=False)
    record = json.loads((tmp_path / "new" / "demo" / RECORD).read_text())
    assert record == {"format": FORMAT, "settings": {"seed": 0, "sizes": [1, 2]}, "files": sorted(FILES)}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("foreign", ["thesis.tex", "settings.json", ".git", "table.md"])
def test_a_folder_of_something_else_is_refused(foreign: str, resume: bool, tmp_path: Path) -> None:
    """Whatever no demonstration wrote stays, byte for byte, and so does all beside it; a name alone makes nothing its own."""
    if foreign == ".git":
        (tmp_path / foreign).mkdir()
    else:
        (tmp_path / foreign).write_text('{"model": "x"}')
    (tmp_path / "float.graph").write_text("weights")
    before = content(tmp_path)
    with pytest.raises((OutputError, FileFormatError), match=r"no demonstration wrote|unknown key 'model'"):
        open_folder(tmp_path, SETTINGS, FILES, resume=resume)
    assert content(tmp_path) == before


def test_a_file_put_into_a_demonstrations_folder_is_kept(tmp_path: Path) -> None:
    """One file more, or a link under one of its names, and nothing is removed."""
    open_folder(tmp_path, SETTINGS, FILES, resume=False)
    (tmp_path / "table.md").write_text("a table")
    (tmp_path / "notes.txt").write_text("mine")
    before = content(tmp_path)
    with pytest.raises(OutputError, match=r"holds 'notes.txt', which no demonstration wrote"):
        open_folder(tmp_path, SETTINGS, FILES, resume=False)
    assert content(tmp_path) == before
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "float.graph").symlink_to("/etc/hostname")
    with pytest.raises(OutputError, match=r"holds 'float.graph'"):
        open_folder(tmp_path, SETTINGS, FILES, resume=True)


def test_a_record_names_no_files_elsewhere(tmp_path: Path) -> None:
    """A record that claims other folders' files gets none of them removed."""
    (tmp_path / "precious").write_text("kept")
    folder = tmp_path / "demo"
    open_folder(folder, SETTINGS, FILES, resume=False)
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | {"files": ["../precious", "table.md"]}))
    open_folder(folder, SETTINGS, FILES, resume=False)
    assert (tmp_path / "precious").read_text() == "kept"


def test_its_own_files_go_or_stay(tmp_path: Path) -> None:
    """Without `resume` its own files are removed, what killed saves left too; with it they stay, if the settings are the same."""
    open_folder(tmp_path, SETTINGS, FILES, resume=False)
    names = ("table.md", ".float.graph.abcd_123.tmp")
    for name in names:
        (tmp_path / name).write_text(name)
    open_folder(tmp_path, SETTINGS, FILES, resume=True)
    assert set(content(tmp_path)) == {RECORD, *names}
    with pytest.raises(DataError, match="holds a job with other settings: seed was 0, is 1"):
        open_folder(tmp_path, SETTINGS | {"seed": 1}, FILES, resume=True)
    open_folder(tmp_path, SETTINGS | {"seed": 1}, FILES, resume=False)
    assert set(content(tmp_path)) == {RECORD}


def test_the_job_knows_its_files() -> None:
    """The names are flat: a record can only speak of its own folder."""
    assert {"W8A8.onnx", "size0.5.yaml", "float.state"} <= file_names()
    assert all("/" not in name for name in file_names())
