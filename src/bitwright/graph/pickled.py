# SPDX-License-Identifier: MIT
"""Reading PyTorch's files without executing code from them, and saying in our own words why one cannot be read."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
import re
import types
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from bitwright.errors import FileFormatError

_UNSUPPORTED = re.compile(r"GLOBAL (\S+)")
"""How PyTorch's restricted unpickler names what it refuses."""


def read_pickled(file: str | Path | IO[bytes], shown: str | Path) -> Any:
    """What `torch.save` wrote: tensors, containers, numbers, and such plain records as training scripts keep beside them.

    Args:
        file: A path, or an open file.
        shown: The file's name, for messages.

    Raises:
        FileFormatError: If it cannot be read, is damaged, or holds objects that only its own code could restore.
    """
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many unrelated types for damaged files
        raise FileFormatError(f"cannot read weights from '{shown}': {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """Never torch's own words: they advise to execute the file's code, with escapes for a terminal."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if "TorchScript" in str(error):
        return "it is a TorchScript archive, which is a program; save the state dict of the Python module instead"
    if isinstance(error, pickle.UnpicklingError):
        found = _UNSUPPORTED.search(str(error))
        what = f"objects of '{found[1]}'" if found else "objects other than tensors"
        return f"it holds {what}, which could run code; save the state dict alone: torch.save(model.state_dict(), FILE)"
    return "it is truncated, or no PyTorch file"


def _harmless() -> list[Any]:
    """Classes whose instances are data and whose construction does nothing else, by the names that pickles give them.

    `argparse.Namespace` and its like hold a script's arguments; NumPy's scalars hold its figures. Nothing here calls a function
    that a file could choose.
    """
    reconstruct, scalar = np._core.multiarray._reconstruct, np._core.multiarray.scalar  # type: ignore[attr-defined]
    named: list[Any] = [
        (found, f"{module}.multiarray.{found.__name__}")
        for module in ("numpy.core", "numpy._core")  # of NumPy 1 and 2
        for found in (reconstruct, scalar)
    ]
    # A Windows path cannot be made elsewhere, and Python 3.13 has moved them all.
    paths = {"PosixPath": pathlib.PurePosixPath, "WindowsPath": pathlib.PureWindowsPath}
    paths |= {found.__name__: found for found in (pathlib.PurePosixPath, pathlib.PureWindowsPath)}
    named += [(found, f"{module}.{name}") for name, found in paths.items() for module in ("pathlib", "pathlib._local")]
    named.append((_without_default, "collections.defaultdict"))
    dtypes = [found for found in vars(np.dtypes).values() if isinstance(found, type)]
    plain = [argparse.Namespace, types.SimpleNamespace, np.ndarray, np.dtype, *dtypes]
    times = [datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone]
    return [*named, *plain, *times, frozenset, range, slice, list, dict, tuple, str, int, float, bool]


def _without_default(factory: object = None) -> dict[Any, Any]:
    """A plain dictionary in place of a `defaultdict`, which PyTorch's unpickler would not fill."""
    return {}
