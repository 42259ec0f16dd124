# SPDX-License-Identifier: MIT
"""Every wrong command ends at once with one line that says what is wrong, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from bitwright.cli import app, main
from bitwright.cli.quant_train import main as quant_train
from bitwright.export import export_onnx
from bitwright.graph import Graph
from bitwright.integer.reader import load_integer
from reliability.formats import write_all
from reliability.wrong_commands import RIGHT, Cell, cells

CELLS = cells()
WIDE = 3000  # characters of a line
SHARE = 10  # one cell in so many is in the default run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that right commands read, and some that none can."""
    found = tmp_path_factory.mktemp("commands")
    write_all(found)
    save_file({"weight": Graph.load(found / "tiny.graph").parameters["side.weight"]}, found / "tiny.safetensors")
    export_onnx(load_integer(found / "tiny.integer"), found / "tiny.onnx")
    (found / "text").write_text("what a pity\n")
    (found / "empty").touch()
    (found / "folder").mkdir()
    os.mkfifo(found / "pipe")
    (found / "link").symlink_to(found / "tiny.graph")
    (found / "cut").write_bytes((found / "tiny.graph").read_bytes()[:1000])
    altered = bytearray((found / "tiny.integer").read_bytes())
    altered[-100] ^= 1
    (found / "altered").write_bytes(altered)
    (found / "other").write_bytes((found / "tiny.allocation.json").read_bytes())
    for split in ("train", "val"):
        (found / "oneclass" / split / "cat").mkdir(parents=True)
        for name in ("cat", "dog"):
            (found / "nopictures" / split / name).mkdir(parents=True)
    return found


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """All names below a folder, with sizes and times."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir()
    } | {str(path.relative_to(folder)): (0, 0) for path in folder.rglob("*") if path.is_dir()}


def written(cell: Cell, folder: Path) -> list[str]:
    """The command line, with the paths that its marks stand for."""
    words = (word.removeprefix("=").replace(":@", f":{folder}/") for word in cell.arguments)
    return [f"{folder}/{word[1:]}" if word[:1] in ("@", "+") else word for word in words]


def one_line(error: str) -> bool:
    """Whether it is one line that says something, and no traceback."""
    return error.count("\n") == 1 and error.endswith("\n") and error.strip() != "" and len(error) < WIDE


PROGRAMS = {"bitwright": main, "quant_train.py": quant_train}
MODULES = {"bitwright": "bitwright", "quant_train.py": "quant_train"}


def test_the_table_is_whole() -> None:
    """There are enough cells, of all commands."""
    assert len(CELLS) >= 400
    assert len({cell.arguments for cell in CELLS}) == len(CELLS)
    commands = {str(command.name or command.callback.__name__) for command in app.registered_commands}
    assert commands <= {line.split()[0] for line in RIGHT.values()}


@pytest.mark.parametrize(
    "cell",
    [pytest.param(cell, marks=() if number % SHARE == 0 else pytest.mark.slow) for number, cell in enumerate(CELLS)],
    ids=str,
)
def test_a_wrong_command(
    cell: Cell, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A status that is not 0, one line on stderr, nothing on stdout, and no file made, changed or removed."""
    monkeypatch.chdir(tmp_path)
    before = content(folder)
    with pytest.raises(SystemExit) as stopped:
        PROGRAMS[cell.program](written(cell, folder))
    printed = capfd.readouterr()
    assert stopped.value.code in (1, 2)
    if cell.arguments not in HELP:
        assert one_line(printed.err), printed.err
        assert printed.out == ""
    assert content(folder) == before
    assert list(tmp_path.iterdir()) == []


HELP = ((), ("bench",))
"""What is given nothing shows its help."""


@pytest.mark.parametrize("cell", CELLS[:: len(CELLS) // 6], ids=str)
@pytest.mark.slow
def test_a_wrong_command_in_a_process_of_its_own(cell: Cell, folder: Path, tmp_path: Path) -> None:
    """What holds in this process holds for the program."""
    arguments = [word.replace("\0", "") for word in written(cell, folder)]
    before = content(folder)
    program = [sys.executable, "-m", MODULES[cell.program], *arguments]
    ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode in (1, 2)
    assert one_line(ended.stderr), ended.stderr
    assert content(folder) == before
    assert list(tmp_path.iterdir()) == []
