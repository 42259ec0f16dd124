# SPDX-License-Identifier: MIT
"""Shards of pictures, which are tar files: where each picture lies in its shard, and its label, from the headers alone.

Nothing is extracted, and nothing is unpickled: pictures are read by their place. The headers of a shard are read once, and what
was found is kept in the cache folder, for millions of pictures take minutes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from bitwright.data.cache import cache_folder
from bitwright.data.pictures import EXTENSIONS
from bitwright.errors import BitwrightError, DataError, reason
from bitwright.files import write_bytes
from bitwright.reading import parse_json, require_file

VERSION = 1
"""Of what is kept of a shard: another one is not read, so that a change of what counts as a picture or a label is felt."""
MAX_LABEL_BYTES = 2**20
"""Of a member that holds a label."""


@dataclass(frozen=True, eq=False)
class Shard:
    """What is in one file.

    Attributes:
        path: Of the file.
        offsets: int64 [pictures], where each begins.
        sizes: int64 [pictures], in bytes.
        labels: int64 [pictures].
    """

    path: str
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def read_shard(path: Path) -> Shard:
    """The index of a shard.

    Raises:
        DataError: If it is missing, compressed, cut off, or has a picture without a label; names it.
    """
    try:
        require_file(path, "images")
    except BitwrightError as error:
        raise DataError(str(error)) from error
    facts = path.stat()
    key = hashlib.sha256(f"{VERSION}:{path.resolve()}:{facts.st_size}:{facts.st_mtime_ns}".encode()).hexdigest()[:32]
    kept = cache_folder() / "shards" / f"{key}.npz"
    found = _kept(kept)
    if found is None:
        samples = list(_samples(path))
        if not samples:
            raise DataError(f"no images in '{path}': expected members such as 0001.jpg and 0001.cls.")
        found = np.array(samples, np.int64).T
        stream = io.BytesIO()
        np.savez(stream, index=found)
        with suppress(BitwrightError, OSError):  # without it, the headers are read again the next time
            write_bytes(kept, stream.getvalue())
    return Shard(str(path), found[0], found[1], found[2])


def _kept(path: Path) -> npt.NDArray[np.int64] | None:
    """What was found before; None where it is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = stored["index"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return found if found.ndim == 2 and found.shape[0] == 3 and found.dtype == np.int64 else None


def _samples(path: Path) -> Iterator[tuple[int, int, int]]:
    """Offset, size and label of each picture."""
    name, place, label = "", None, None
    for member, value in _members(path):
        own = _sample_of(member.name)
        if own != name:
            if place is not None:
                yield (*place, _require_label(label, path, name))
            name, place, label = own, None, None
        if member.name.lower().endswith(EXTENSIONS):
            if place is not None:
                raise DataError(f"expected one picture a sample, got several of '{name}' in '{path}'.")
            place = member.offset_data, member.size
        label = value if value is not None else label
    if place is not None:
        yield (*place, _require_label(label, path, name))


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, int | None]]:
    """The members of a shard, and the label of those that hold one."""
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined] # which would otherwise grow with every picture
                if not member.isreg() or member.issparse() or PurePosixPath(member.name).name.startswith("."):
                    continue
                if member.offset_data + member.size > size:
                    raise DataError(f"'{path}' is cut off within '{member.name}'.")
                yield member, _label(archive, member, path)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"cannot read '{path}': {reason(error)}. Shards are plain tar files, whose images are read by their place: unpack "
            "compressed ones, with gunzip for instance."
        ) from error


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int | None:
    end = member.name.rpartition(".")[2].lower()
    if end not in ("cls", "json"):
        return None
    where = f"'{member.name}' in '{path}'"
    file = archive.extractfile(member)
    if file is None or member.size > MAX_LABEL_BYTES:
        raise DataError(f"expected a label in {where}, got {member.size:,} bytes.")
    text = file.read().decode("utf-8", "replace").strip()
    try:
        value = int(text) if end == "cls" else parse_json(text, where).get("label")
    except (ValueError, AttributeError, BitwrightError) as error:
        raise DataError(f"expected the number of a class in {where}, got '{text[:40]}'.") from error
    if value is not None and (type(value) is not int or not 0 <= value < 2**31):
        raise DataError(f"expected the number of a class from 0 in {where}, got {json.dumps(value)[:40]}.")
    return value


def _require_label(label: int | None, path: Path, name: str) -> int:
    if label is None:
        raise DataError(
            f"no label of '{name}' in '{path}': expected '{name}.cls' beside it, or a 'label' in '{name}.json'."
        )
    return label


def _sample_of(member: str) -> str:
    """The name of a sample: up to the first dot of the last part, as WebDataset has it.

    >>> _sample_of("n01440764/a.b.jpg")
    'n01440764/a'
    """
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]
