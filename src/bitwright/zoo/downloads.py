# SPDX-License-Identifier: MIT
"""Fetching published archives from Google Drive into the cache: resumable, atomic, checksummed from the first download on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from bitwright.data.cache import cache_folder
from bitwright.errors import DataError, FileFormatError
from bitwright.extras import require
from bitwright.files import write_text
from bitwright.progress import Progress, silent
from bitwright.zoo.archive import looks_like
from bitwright.zoo.registry import row

TIMEOUT_S = (10.0, 60.0)
"""For a connection, and for the next bytes."""


def archive_path(name: str, folder: str | Path | None = None) -> Path:
    """Where the archive of a row is kept: `zoo` in the cache folder, unless another folder is given."""
    return Path(folder or cache_folder() / "zoo") / row(name).archive


def download(
    name: str, *, folder: str | Path | None = None, url: str | None = None, progress: Progress = silent
) -> Path:
    """The archive of a row, downloaded unless it is there already.

    The publisher gives no checksums. The first download, or the first look at a file placed by hand, writes the SHA-256 beside
    the archive; from then on the file must have it. A download that broke off goes on where it stopped.

    Args:
        name: The name of a row, in any spelling.
        folder: Where to keep it; None means the cache folder.
        url: Another place to fetch it from, for instance a mirror.
        progress: Told about bytes.

    Raises:
        UnknownNameError: If there is no such row.
        MissingLibraryError: If gdown is not installed, and the archive not there.
        DataError: If the file cannot be fetched; says how to place it by hand.
        FileFormatError: If the file is no archive, or not the one that was downloaded first.
    """
    target = archive_path(name, folder)
    if not target.exists():
        _fetch(name, target, url, progress)
    _check(target)
    return target


def checksum_path(archive: Path) -> Path:
    """Where the SHA-256 of an archive is written."""
    return archive.with_name(archive.name + ".sha256")


def _fetch(name: str, target: Path, url: str | None, progress: Progress) -> None:
    require("gdown", "the download")
    import gdown
    from gdown.exceptions import DownloadError, FileURLRetrievalError

    published = row(name)
    arriving = target.with_name(target.name + ".arriving")
    target.parent.mkdir(parents=True, exist_ok=True)
    source = {"url": url} if url else {"id": published.drive_id}
    try:
        gdown.download(
            **source,  # type: ignore[arg-type]
            output=str(arriving),
            quiet=True,
            resume=True,
            use_cookies=False,
            timeout=TIMEOUT_S,
            retries=2,
            progress=lambda done, total: progress(done, total or done),
        )
    except (OSError, DownloadError, FileURLRetrievalError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"cannot download {published.archive} ({reason}). Try again later, which goes on where it stopped; or open "
            f"{published.link} in a browser and save the file as '{target}'."
        ) from error
    try:
        looks_like(arriving, ("gzip", "tar"))
    except FileFormatError as error:
        arriving.unlink()
        raise DataError(
            f"Google Drive sent something else than {published.archive} ({error}). Open {published.link} in a browser and "
            f"save the file as '{target}'."
        ) from error
    write_text(checksum_path(target), f"{_sha256(arriving)}  {target.name}\n")
    os.replace(arriving, target)


def _check(target: Path) -> None:
    looks_like(target, ("gzip", "tar"))
    found, beside = _sha256(target), checksum_path(target)
    if not beside.exists():
        write_text(beside, f"{found}  {target.name}\n")
        return
    expected = (beside.read_text(encoding="utf-8").split() or [""])[0]
    if expected != found:
        raise FileFormatError(
            f"'{target}' has changed since it was downloaded (SHA-256 {found[:12]}…, expected {expected[:12]}…): remove it and "
            f"'{beside.name}', and download it again."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
