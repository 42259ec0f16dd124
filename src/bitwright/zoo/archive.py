# SPDX-License-Identifier: MIT
"""Opening downloaded files without trusting them: nothing in an archive decides where, or how much, is written.

The published archives are gzip-compressed tar files around PyTorch checkpoints, which in turn are called `.pth.tar` but are
PyTorch's zip files, or its older pickled ones.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from bitwright.errors import FileFormatError
from bitwright.kinds import what_is
from bitwright.reading import require_file

MAX_BYTES = 4 * 2**30
"""Of an unpacked archive: the largest network of the zoo takes 0.2 GB in float32, its checkpoint with momenta four times that."""
MAX_MEMBERS = 1000
MAX_RATIO = 200
"""Unpacked bytes for each packed one: weights in float32 compress by less than 20."""
_ALLOWANCE = 2**20  # bytes that no ratio forbids


@contextmanager
def opened_checkpoint(path: str | Path, preferred: Sequence[str]) -> Iterator[Path]:
    """The PyTorch file that `path` is, or that lies in the archive `path`.

    Args:
        path: A PyTorch file, or a tar archive of such files, compressed by gzip or not.
        preferred: File names to look for in an archive, best first.

    Yields:
        A path that is readable until the context ends.

    Raises:
        FileFormatError: If the file is missing, truncated, of another kind, hostile, or holds none of the names.
    """
    kind = _kind(Path(path))
    if kind in ("zip", "pickle"):
        if kind == "zip":
            _check_zip(Path(path))
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="bitwright-") as folder:
        found = _extract(Path(path), kind, preferred, Path(folder))
        inner = _kind(found)
        if inner not in ("zip", "pickle"):
            raise FileFormatError(f"'{found.name}' in '{path}' is no PyTorch checkpoint: it looks like {inner}.")
        if inner == "zip":
            _check_zip(found)
        yield found


def looks_like(path: Path, kinds: Sequence[str]) -> None:
    """Raise FileFormatError unless the first bytes are those of one of the kinds: gzip, tar, zip, pickle."""
    found = _kind(path)
    if found not in kinds:
        raise FileFormatError(f"expected {' or '.join(kinds)} in '{path}', got {found}.")


def _kind(path: Path) -> str:
    """What the first bytes say: gzip, tar, zip, or pickle."""
    require_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise FileFormatError(f"cannot read '{path}': {error.strerror or error}.") from error
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(b"\x80") and len(head) > 1 and head[1] <= 5:
        return "pickle"
    raise FileFormatError(
        f"expected a PyTorch checkpoint, or a tar.gz of one, in '{path}', got {what_is(path)}. Download it again, or unpack it."
    )


class _Limited:
    """A stream that refuses to give more than `limit` bytes."""

    def __init__(self, stream: IO[bytes], limit: int, path: Path) -> None:
        self._stream, self._left, self._path = stream, limit, path

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise FileFormatError(f"'{self._path}' unpacks to far more than a checkpoint can need: refused as a bomb.")
        return data


def _extract(path: Path, kind: str, preferred: Sequence[str], folder: Path) -> Path:
    """Check every member of an archive and write the best one into `folder`, under its own preferred name."""
    limit = min(MAX_BYTES, MAX_RATIO * path.stat().st_size + _ALLOWANCE)
    ranks = {name: rank for rank, name in enumerate(preferred)}
    seen: list[str] = []
    best: Path | None = None
    try:
        with gzip.open(path) if kind == "gzip" else path.open("rb") as file:
            stream = _Limited(file, limit, path)  # type: ignore[arg-type]
            with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
                for member in archive:
                    _check_member(member, path, folder, len(seen))
                    seen.append(member.name)
                    name = PurePosixPath(member.name).name
                    if not member.isreg() or name not in ranks or name.startswith("._"):
                        continue
                    if best is not None and ranks[best.name] <= ranks[name]:
                        continue
                    source = archive.extractfile(member)
                    assert source is not None
                    if best is not None:
                        best.unlink()
                    best = folder / name
                    with best.open("wb") as target:
                        shutil.copyfileobj(source, target)
            while stream.read(2**20):  # the tail, whose checksum gzip verifies
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise FileFormatError(f"'{path}' is a damaged or truncated archive ({error}): download it again.") from error
    if best is None:
        held = ", ".join(sorted(seen)[:5]) or "nothing"
        raise FileFormatError(f"expected one of {', '.join(preferred)} in '{path}', which holds {held}.")
    return best


def _check_member(member: tarfile.TarInfo, path: Path, folder: Path, index: int) -> None:
    """Refuse what no published archive has, by name."""
    parts = PurePosixPath(member.name.replace("\\", "/"))
    fault = ""
    if index >= MAX_MEMBERS:
        fault = f"more than {MAX_MEMBERS} members"
    elif parts.is_absolute() or PurePosixPath(member.name).drive or member.name[1:2] == ":":
        fault = f"the absolute path '{member.name}'"
    elif ".." in parts.parts:
        fault = f"the path '{member.name}', which leaves its folder"
    elif member.issym() or member.islnk():
        fault = f"the link '{member.name}' to '{member.linkname}'"
    elif not (member.isreg() or member.isdir()):
        fault = f"'{member.name}', which is neither file nor folder"
    elif member.size > MAX_BYTES:
        fault = f"'{member.name}' of {member.size:,} bytes, more than any checkpoint needs"
    if not fault:
        try:
            tarfile.data_filter(member, str(folder))
        except tarfile.FilterError as error:
            fault = f"'{member.name}' ({error})"
    if fault:
        raise FileFormatError(f"'{path}' holds {fault}: refused as hostile.")


def _check_zip(path: Path) -> None:
    """PyTorch stores tensors uncompressed; anything else is damaged, or made to unpack without end."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise FileFormatError(f"'{path}' is a damaged or truncated checkpoint ({error}): download it again.") from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise FileFormatError(f"'{path}' holds the compressed record '{entry.filename}': refused as a bomb.")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise FileFormatError(f"'{path}' holds overlapping records: refused as a bomb.")
