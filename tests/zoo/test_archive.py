# SPDX-License-Identifier: MIT
"""Checkpoints open wherever the zoo puts them; damaged and hostile files are refused by name."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitwright.errors import FileFormatError
from bitwright.zoo import archive
from bitwright.zoo.checkpoint import load_checkpoint

FULL, QUANTIZED = "checkpoint.pth.tar", "quantized_checkpoint.pth.tar"


def content(value: float = 1.0, prefix: str = "module.") -> dict:
    """A training checkpoint with two tensors."""
    names = ("quant_input.act_scaling_factor", "quant_output.weight")
    return {"epoch": 3, "arch": "x", "state_dict": {prefix + name: torch.full((1,), value) for name in names}}


def quantized(value: float = 2.0) -> dict:
    """A checkpoint of integers."""
    parts = ("convbn_scaling_factor", "fc_scaling_factor", "weight_integer", "bias_integer", "act_scaling_factor")
    return {part: {f"module.x.{part}": torch.full((1,), value)} for part in parts}


def saved(value: dict, **options: bool) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def packed(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    """A tar archive with files by name, or prepared members."""
    with tarfile.open(path, mode) as made:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                made.addfile(data)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("mode", [None, "w", "w:gz"])
def test_all_ways_to_keep_a_checkpoint(legacy: bool, prefix: str, mode: str | None, tmp_path: Path) -> None:
    """New and old PyTorch files, with and without DataParallel's prefix, alone or in an archive."""
    data = saved(content(prefix=prefix), _use_new_zipfile_serialization=not legacy)
    path = tmp_path / "file"
    if mode is None:
        path.write_bytes(data)
    else:
        packed(path, {f"./resnet18_uniform8/{FULL}": data, "resnet18_uniform8/log.txt": b"text"}, mode)
    checkpoint = load_checkpoint(path)
    assert checkpoint.has_floats
    assert checkpoint.tensor("quant_input.act_scaling_factor", ()).item() == 1.0


@pytest.mark.parametrize("names", [(FULL, QUANTIZED), (QUANTIZED, FULL)])
def test_the_better_of_two(names: tuple[str, str], tmp_path: Path) -> None:
    """Of two checkpoints in an archive, in either order, integers are preferred unless floats are wanted."""
    data = {FULL: saved(content()), QUANTIZED: saved(quantized())}
    path = packed(tmp_path / "file", {f"folder/{name}": data[name] for name in names} | {f"a/._{FULL}": b"mac"})
    assert not load_checkpoint(path).has_floats
    assert load_checkpoint(path, floats=True).has_floats


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    """A member without data."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size
    return made


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (member("/etc/cron.d/x"), "the absolute path '/etc/cron.d/x'"),
        (member("C:\\x"), "the absolute path"),
        (member("a/../../x"), r"the path 'a/../../x', which leaves its folder"),
        (member("a\\..\\x"), "which leaves its folder"),
        (member(FULL, tarfile.SYMTYPE, "/etc/passwd"), f"the link '{FULL}' to '/etc/passwd'"),
        (member(FULL, tarfile.LNKTYPE, "../x"), f"the link '{FULL}'"),
        (member("pipe", tarfile.FIFOTYPE), "'pipe', which is neither file nor folder"),
        (member("disk", tarfile.BLKTYPE), "'disk', which is neither file nor folder"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_hostile_members(hostile: tarfile.TarInfo, message: str, first: bool, tmp_path: Path) -> None:
    """Wherever it stands, a member that no published archive has makes the whole archive refused; nothing is written."""
    good = {f"folder/{FULL}": saved(content())}
    bad = {hostile.name: hostile}
    path = packed(tmp_path / "file.tar.gz", bad | good if first else good | bad)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileFormatError, match=f"{message}.*refused as hostile"):
        load_checkpoint(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros without end, members without end, declared sizes beyond reason, and compressed records inside the checkpoint."""
    path = packed(tmp_path / "zeros.tar.gz", {FULL: bytes(40 * 2**20)})
    with pytest.raises(FileFormatError, match=r"zeros.tar.gz' unpacks to far more .*: refused as a bomb"):
        load_checkpoint(path)
    path.write_bytes(gzip.compress(b"\x1f" * 40 * 2**20))
    with pytest.raises(FileFormatError, match=r"bomb|damaged"):
        load_checkpoint(path)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    packed(path, {f"{index}": b"" for index in range(6)})
    with pytest.raises(FileFormatError, match="holds more than 5 members: refused"):
        load_checkpoint(path)
    header = member(FULL, size=2**33).tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(gzip.compress(header + os.urandom(2**12)))
    with pytest.raises(FileFormatError, match="of 8,589,934,592 bytes, more than any checkpoint needs"):
        load_checkpoint(path)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("archive/data.pkl", bytes(2**20))
    path.write_bytes(inner.getvalue())
    with pytest.raises(FileFormatError, match=r"holds the compressed record 'archive/data.pkl': refused as a bomb"):
        load_checkpoint(path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("whole", [False, True])
def test_truncated_files(kept: float, whole: bool, tmp_path: Path) -> None:
    """A download that broke off is refused, wherever it did."""
    data = saved({"state_dict": {"quant_output.weight": torch.randn(100, 100)}})
    path = tmp_path / "file"
    if whole:
        data = packed(path, {FULL: data}).read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(FileFormatError, match=r"damaged or truncated|got an empty file"):
        load_checkpoint(path)


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/bitwright-was-here",)


def test_code_is_not_run(tmp_path: Path) -> None:
    """Objects other than tensors are refused, in all three kinds of files."""
    files = {
        "new": saved({"state_dict": {"a": Evil()}}),
        "old": saved({"state_dict": {"a": Evil()}}, _use_new_zipfile_serialization=False),
        "bare": pickle.dumps({"state_dict": Evil()}),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileFormatError, match=f"cannot read weights from '.*{name}'"):
            load_checkpoint(tmp_path / name)
    assert not Path("/tmp/bitwright-was-here").exists()
    with pytest.raises(FileFormatError, match=r"it holds objects of 'posix\.system', which could run code"):
        load_checkpoint(tmp_path / "new")


def test_other_files(tmp_path: Path) -> None:
    """What is no checkpoint is named: a web page, text, another dictionary, an archive of other things, nothing."""
    path = tmp_path / "file"
    for data, message in (
        (b"<!DOCTYPE html>", "got a web page"),
        (b"hello", "got text"),
        (saved({"epoch": 1}), r"got a dictionary with 'epoch'"),
        (saved({}), "got a dictionary with nothing"),
        (saved([1]), "got an object of type list"),
        (saved({"state_dict": {"a": 1}}), "expected a checkpoint with 'state_dict'"),
    ):
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match=message):
            load_checkpoint(path)
    packed(path, {"readme.txt": b"x"})
    with pytest.raises(
        FileFormatError, match=r"expected one of quantized_checkpoint.pth.tar, checkpoint.pth.tar in .* readme.txt"
    ):
        load_checkpoint(path)
    packed(path, {FULL: gzip.compress(b"x")})
    with pytest.raises(FileFormatError, match=f"'{FULL}' in '.*' is no PyTorch checkpoint: it looks like gzip"):
        load_checkpoint(path)
    with pytest.raises(FileFormatError, match=r"cannot read '.*absent': No such file"):
        load_checkpoint(tmp_path / "absent")
