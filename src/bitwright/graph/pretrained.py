# SPDX-License-Identifier: MIT
"""The model sources' own weights: where they come from, where they are kept, and one clear error where they cannot be had."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import torch

from bitwright.errors import DataError, FileFormatError, UnknownNameError
from bitwright.extras import require

_DOWNLOAD = re.compile(r"download|hash", re.IGNORECASE)
"""In the words of sources for a download that failed."""


class Published(NamedTuple):
    """Weights that a source publishes.

    Attributes:
        url: Where they are fetched from.
        path: Where they are kept; a file that lies there is not fetched.
        sha1: The SHA-1 of that file, where the source checks it: a file with another one is fetched again.
    """

    url: str
    path: Path
    sha1: str | None = None


def published_weights(source: str, model: str) -> Published:
    """Where the weights of `SOURCE:MODEL` come from.

    Raises:
        UnknownNameError: If the source publishes none of this model.
    """
    found = _PUBLISHED[source](model)
    if found is None:
        raise UnknownNameError(
            f"{source} publishes no weights of '{model}': leave out --pretrained, or give a state dict of your own."
        )
    return found


def _pytorchcv(model: str) -> Published | None:
    require("pytorchcv", f"pytorchcv:{model}")
    from pytorchcv.models.common import model_store

    try:
        error, digest, release = model_store.get_model_name_suffix_data(model)
    except ValueError:
        return None
    file = f"{model}-{error}-{digest[:8]}.pth"
    url = f"{model_store.imgclsmob_repo_url}/releases/download/{release}/{file}.zip"
    return Published(url, Path("~/.torch/models").expanduser() / file, digest)


def _torchvision(model: str) -> Published | None:
    from torchvision import models

    known = list(models.get_model_weights(model))
    if not known:
        return None
    url = str(models.get_model_weights(model).DEFAULT.url)
    return Published(url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2])


def _timm(model: str) -> Published | None:
    require("timm", f"timm:{model}")
    import timm

    config = timm.get_pretrained_cfg(model)
    if config is None or not config.has_weights:
        return None
    url = (
        f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors" if config.hf_hub_id else config.url
    )
    return Published(str(url), Path(torch.hub.get_dir()) / "checkpoints" / f"timm-{model}{Path(str(url)).suffix}")


_PUBLISHED = {"pytorchcv": _pytorchcv, "torchvision": _torchvision, "timm": _timm}


@contextmanager
def fetching(source: str, model: str) -> Iterator[None]:
    """Turn whatever a source raises while it fetches weights into one error that says what to do instead.

    Of what the source prints meanwhile, the first line goes to stderr: stdout is for results.

    Raises:
        UnknownNameError: If there are no such weights.
        DataError: If they cannot be fetched, or arrive damaged.
        FileFormatError: If they do not fit the model that was asked for.
    """
    try:
        with redirect_stdout(_FirstLine()):
            yield
    except (OSError, BadZipFile, RuntimeError, UserWarning, ValueError) as error:
        root = _root(error)
        reason = " ".join(str(root).split())[:200] or type(root).__name__
        wanted = published_weights(source, model)
        fetched = not isinstance(error, OSError | BadZipFile | UserWarning) and not _DOWNLOAD.search(reason)
        if fetched:
            raise FileFormatError(
                f"the published weights of '{source}:{model}' do not fit the model that was asked for: {reason}. They are for "
                "1,000 classes and images of three channels."
            ) from error
        unpacked = " unpacked" if wanted.url.endswith(".zip") else ""
        raise DataError(
            f"cannot get the weights of '{source}:{model}': {_spoilt(wanted, source)}tried {wanted.url} ({reason}). Fetch that "
            f"file elsewhere and save it{unpacked} as '{wanted.path}', or leave out --pretrained and give a state dict of your "
            "own: --weights FILE (quant_train.py: --resume FILE)."
        ) from error


def _spoilt(wanted: Published, source: str) -> str:
    """Why the file that lies there, if one does, was not taken."""
    if wanted.sha1 is None or not wanted.path.is_file():
        return ""
    with wanted.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha1").hexdigest()
    if found == wanted.sha1:
        return ""
    return (
        f"'{wanted.path}' fails {source}'s checksum (its SHA-1 is {found[:8]}…, expected {wanted.sha1[:8]}…), so it is damaged, "
        "incomplete or another file, and could not be replaced: "
    )


class _FirstLine(StringIO):
    """The first line that is printed, on stderr: the others are repeated tries."""

    def write(self, text: str) -> int:
        if "\n" not in self.getvalue():
            sys.stderr.write(text)
        return super().write(text)


def _root(error: BaseException) -> BaseException:
    """The first of a chain of errors: the others wrap it."""
    while (former := error.__cause__ or error.__context__) is not None:
        error = former
    return error
