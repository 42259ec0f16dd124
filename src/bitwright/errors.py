# SPDX-License-Identifier: MIT
"""The exception tree. Every message says what was expected, what was got, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 80  # characters of a value in a message
_REASON = 300  # characters of what another library said


class BitwrightError(Exception):
    """Base of every error that a user can cause. The command line prints it as one line and exits with 1."""


class CaptureError(BitwrightError):
    """The model cannot be captured: `torch.export` failed, or an operation has no integer form."""


class ModelError(BitwrightError):
    """A factory that makes no model: it raises, cannot be called so, or returns something else."""


class UnknownNameError(BitwrightError):
    """A model, layer, data set, scheme or key that does not exist."""


class SchemeError(BitwrightError):
    """A scheme that does not fit its model, or is malformed."""


class BudgetError(BitwrightError):
    """No allocation fits the budget."""


class DataError(BitwrightError):
    """A data set that is missing, or does not fit the model."""


class TaskError(BitwrightError):
    """What a network is for does not fit its outputs, or is no task."""


class TrainingError(BitwrightError):
    """Training cannot go on, for instance because the loss is not finite."""


class LoweringError(BitwrightError):
    """No proved integer form exists for a layer."""


class ExportError(BitwrightError):
    """An engine cannot be guaranteed to compute the integers of the model."""


class EngineError(BitwrightError):
    """An engine that cannot load a file, fails at it, or ends."""


class FileFormatError(BitwrightError):
    """A file that is truncated, tampered with, or of another kind."""


class MissingLibraryError(BitwrightError):
    """A library that not everybody needs, and that is not installed."""


class OutputError(BitwrightError):
    """A file or folder that cannot be written, or must not be."""


class ZooError(BitwrightError):
    """Recomputed figures of the zoo that are no longer those committed."""


class BitwrightWarning(UserWarning):
    """What is no error, but should not happen in silence. The command line prints it as one line."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for `name`, with the closest known names first.

    >>> str(unknown_name("scheme", "unifrom8", ["uniform8", "uniform4"]))
    "unknown scheme 'unifrom8': did you mean 'uniform8'? Known: uniform4, uniform8."
    """
    names = sorted(known)
    name = _shortened(name)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" did you mean '{close[0]}'?" if close else ""
    shown = ", ".join(names[:40]) + (f", … ({len(names)} in all)" if len(names) > 40 else "")
    return UnknownNameError(f"unknown {kind} '{name}':{hint} Known: {shown}.")


def shown(value: object) -> str:
    """A value in a message: as Python writes it, but never long, whatever a file holds.

    >>> shown([2, 4]), shown("x" * 1000)
    ('[2, 4]', "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…")
    """
    try:
        return _shortened(repr(value))
    except (ValueError, RecursionError):  # Python writes no integer of thousands of digits
        return f"a {type(value).__name__} too long to be shown"


def reason(error: BaseException) -> str:
    """What an exception says, in one line that is never long; with its type, where that tells what the text leaves open.

    >>> reason(KeyError("points")), reason(ValueError("too long."))
    ("KeyError: 'points'", 'too long')
    """
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    kind = "" if text and isinstance(error, BitwrightError | OSError | ValueError) else f"{type(error).__name__}: "
    line = " ".join(f"{kind}{text}".split()).rstrip(".: ")
    return line if len(line) <= _REASON else f"{line[:_REASON]}…"


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
