# SPDX-License-Identifier: MIT
"""Files: the old one or the new one, never half of either, whatever happens during a save."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitwright.errors import OutputError
from bitwright.files import write_atomically, write_bytes, write_json, write_text

OLD = "the old file\n"

SLOW_WRITER = """
import sys, time
from pathlib import Path
from bitwright.files import write_atomically

def write(temporary):
    with open(temporary, "wb") as file:
        file.write(b"half of the new file")
        file.flush()
        Path(sys.argv[2]).touch()
        time.sleep(60)
        file.write(b"the other half")

write_atomically(sys.argv[1], write)
"""


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_a_kill_during_a_save_leaves_the_old_file(tmp_path: Path) -> None:
    """A process that is killed between two halves of a write leaves the former file as it was."""
    target, marker = tmp_path / "saved" / "model.bin", tmp_path / "halfway"
    write_text(target, OLD)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writer = subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(target), str(marker)], env=environment)
    try:
        deadline = time.monotonic() + 60
        while not marker.exists() and writer.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert marker.exists(), "the writer did not get halfway"
    finally:
        writer.kill()
    assert writer.wait() == -signal.SIGKILL
    halves = [path for path in target.parent.iterdir() if path != target]
    assert [path.read_bytes() for path in halves] == [b"half of the new file"]
    assert target.read_text() == OLD
    write_text(target.with_name("another"), OLD)
    assert halves[0].exists()  # not its file
    write_text(target, "the new file\n")
    assert _files(target.parent) == ["another", "model.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")
def test_a_save_leaves_another_that_is_under_way_alone(tmp_path: Path) -> None:
    """Two processes save one file: the second neither removes the first one's temporary file nor waits for it."""
    target, marker = tmp_path / "model.bin", tmp_path / "halfway"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = SLOW_WRITER.replace("time.sleep(60)", "input()")
    command = [sys.executable, "-c", code, str(target), str(marker)]
    writer = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not marker.exists() and writer.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        write_text(target, "ours")
        assert target.read_text() == "ours"
        writer.communicate("\n", timeout=60)
    finally:
        writer.kill()
    assert writer.returncode == 0
    assert target.read_text() == "half of the new filethe other half"
    assert _files(tmp_path) == ["halfway", "model.bin"]


def test_a_failing_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    """An exception halfway keeps the former file, and leaves no temporary one beside it."""
    target = tmp_path / "model.bin"
    write_text(target, OLD)

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(target, fail)
    assert target.read_text() == OLD
    assert _files(tmp_path) == ["model.bin"]


FULL = re.escape(os.strerror(errno.ENOSPC))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """The kernel's own refusal, which is of a temporary file or of none, is told of the file that was asked for."""
    target = tmp_path / "model.bin"
    write_text(target, OLD)
    with pytest.raises(OutputError, match=f"^cannot write '{target}': {FULL}\\.$"):
        write_atomically(target, lambda temporary: Path("/dev/full").write_bytes(b"new"))
    assert target.read_text() == OLD
    assert _files(tmp_path) == ["model.bin"]


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
def test_a_disk_that_is_full_at_the_end_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Some file systems find out only when the data is flushed, or when its name is written."""
    target = tmp_path / "model.bin"
    write_text(target, OLD)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        with pytest.raises(OutputError, match=f"^cannot write '{target}': {FULL}\\.$"):
            write_text(target, "new")
    assert target.read_text() == OLD
    assert _files(tmp_path) == ["model.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few users make links")
def test_links_are_followed(tmp_path: Path) -> None:
    """What a link points to is replaced, in its own folder; the links of a chain stay, also where there is no file yet."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "model.bin").write_text(OLD)
    (there / "second").symlink_to("model.bin")
    (here / "first").symlink_to(Path("..") / "there" / "second")
    (here / "to nothing yet").symlink_to(there / "new" / "model.bin")
    seen = []

    def write(temporary: Path) -> None:
        seen.append(temporary.parent)
        temporary.write_text("new")

    write_atomically(here / "first", write)
    write_atomically(here / "to nothing yet", write)
    assert seen == [there, there / "new"]
    assert (there / "model.bin").read_text() == (there / "new" / "model.bin").read_text() == "new"
    assert not (there / "model.bin").is_symlink()
    assert all(link.is_symlink() for link in (here / "first", here / "to nothing yet", there / "second"))
    assert _files(here) == ["first", "to nothing yet"]
    assert _files(there) == ["model.bin", "new", "second"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few users make links")
@pytest.mark.parametrize(
    ("points_to", "fault"),
    [(".", "it is a folder. Name a file"), ("/dev/null", "it is a device"), ("link", "Too many levels of symbolic")],
)
def test_links_to_what_is_no_file(tmp_path: Path, points_to: str, fault: str) -> None:
    """A link to a folder, to a device or to itself is refused before anything is written, and stays."""
    (tmp_path / "link").symlink_to(points_to)
    written = []
    with pytest.raises(OutputError, match=f"^cannot write '{tmp_path / 'link'}': {fault}"):
        write_atomically(tmp_path / "link", written.append)
    assert written == []
    assert _files(tmp_path) == ["link"]
    assert (tmp_path / "link").is_symlink()


def test_the_target_changes_only_at_the_end(tmp_path: Path) -> None:
    """While a writer works, readers find the former file; the temporary one is in the same folder, so a rename does."""
    target = tmp_path / "model.bin"
    write_text(target, OLD)
    seen = []

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"new")
        seen.append((target.read_text(), temporary.parent))

    write_atomically(target, write)
    assert seen == [(OLD, tmp_path)]
    assert target.read_bytes() == b"new"
    assert _files(tmp_path) == ["model.bin"]


def test_a_writer_may_replace_the_temporary_file(tmp_path: Path) -> None:
    """Libraries that rename a file of their own into place work as well."""

    def write(temporary: Path) -> None:
        other = tmp_path / "other"
        other.write_bytes(b"new")
        os.replace(other, temporary)

    write_atomically(tmp_path / "model.bin", write)
    assert (tmp_path / "model.bin").read_bytes() == b"new"
    assert _files(tmp_path) == ["model.bin"]


def test_text_and_bytes_arrive_in_new_folders(tmp_path: Path) -> None:
    """Missing folders are made; text is UTF-8."""
    write_text(tmp_path / "a" / "b" / "text", "W4A8 – é\n")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "W4A8 – é\n".encode()
    write_bytes(str(tmp_path / "c" / "bytes"), bytes(range(256)))
    assert (tmp_path / "c" / "bytes").read_bytes() == bytes(range(256))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    """Others may read the file where the umask lets them, though temporary files are private."""
    write_text(tmp_path / "ours", "")
    (tmp_path / "plain").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")]
    assert modes[0] == modes[1]


def test_json_round_trip(tmp_path: Path) -> None:
    """JSON is written indented, with a final newline, and read back equal."""
    value = {"name": "bops0.5", "bits": [2, 4, 8], "nested": {"loss": 0.1, "none": None}}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.startswith('{\n  "name"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path: Path, number: float) -> None:
    """A number that JSON cannot hold is refused before anything is written."""
    write_text(tmp_path / "value.json", OLD)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "value.json", {"loss": number})
    assert (tmp_path / "value.json").read_text() == OLD
