# SPDX-License-Identifier: MIT
"""Kinds of files, in users' words: which one was expected, which one it is, and which command writes the right one."""

from __future__ import annotations

import re
import zipfile
from codecs import getincrementaldecoder
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.errors import FileFormatError
from bitwright.reading import parse_json, read_text, require_file

_BEGINNING = 2**16
"""Bytes that are looked at: the header of a file of ours names its format among the first."""
_LARGEST_JSON = 2**26
"""Bytes of JSON that are worth reading for a message."""


@dataclass(frozen=True)
class Kind:
    """A kind of file that is Bitwright's own.

    Attributes:
        words: What it is, with its article.
        made_by: The command that writes one.
        format: The name that its files have in their header (safetensors) or as `format` (JSON), without the version.
        keys: Of JSON and YAML: what no other kind has.
    """

    words: str
    made_by: str
    format: str = ""
    keys: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.words


GRAPH = Kind("a graph", "bitwright capture MODEL -o FILE", "bitwright.graph")
QUANTIZED = Kind("a quantized model", "bitwright train GRAPH --scheme SCHEME -o FILE", "bitwright.quantized")
INTEGER = Kind("an integer model", "bitwright lower CHECKPOINT -o FILE", "bitwright.integer")
SENSITIVITIES = Kind(
    "sensitivities",
    "bitwright sensitivity GRAPH -o FILE",
    "bitwright.sensitivities",
    frozenset({"metric", "layers", "images"}),
)
SCHEME = Kind("a scheme", "bitwright allocate GRAPH SENSITIVITIES BUDGET -o FILE", keys=frozenset({"layers"}))
ALLOCATION = Kind(
    "an allocation", "bitwright allocate GRAPH SENSITIVITIES BUDGET --json", keys=frozenset({"scheme", "objective"})
)
FRONTIER = Kind(
    "a frontier", "bitwright allocate GRAPH SENSITIVITIES BUDGET --frontier FILE", keys=frozenset({"kind", "points"})
)
LATENCIES = Kind("a latency table", "bitwright bench layers GRAPH -o FILE", keys=frozenset({"device", "entries"}))
SEARCHED = Kind(
    "what `bitwright auto` measured", "bitwright auto MODEL -o FILE.onnx", keys=frozenset({"tried", "scheme", "way"})
)
TRAINING = Kind("the state of an interrupted training", "bitwright train", "bitwright.training")
LAYERWISE = Kind(
    "the state of an interrupted layer-wise training", "bitwright train --layerwise", "bitwright.layerwise"
)
MEASURING = Kind("the state of an interrupted measurement", "bitwright sensitivity", "bitwright.sensitivity")
SEARCHING = Kind("the state of an interrupted search", "bitwright auto", "bitwright.auto")
RECONSTRUCTING = Kind("the state of an interrupted reconstruction", "bitwright reconstruct", "bitwright.reconstruction")
MADE_IMAGES = Kind("images that were made without data", "bitwright reconstruct --data none", "bitwright.made_images")
DEMONSTRATION = Kind("a demonstration's record", "bitwright demo", "bitwright.demo", frozenset({"settings", "files"}))

KINDS = (
    GRAPH, QUANTIZED, INTEGER, TRAINING, LAYERWISE, MEASURING, SEARCHING, RECONSTRUCTING,
    MADE_IMAGES, SEARCHED, ALLOCATION, FRONTIER, LATENCIES, SENSITIVITIES, DEMONSTRATION, SCHEME,
)  # fmt: skip
"""All; where one has the keys of another and more, it comes first."""

SAFETENSORS = "weights (safetensors)"
"""Tensors of others."""

_PYTORCH, _PROGRAM, _OBJECTS = (
    "weights (PyTorch)",
    "a TorchScript archive, which is a program",
    "pickled Python objects",
)
_CUT_ZIP, _TAR = "a damaged zip archive", "an archive (tar)"
PICKLED = (_PYTORCH, _PROGRAM, _OBJECTS, _CUT_ZIP)
"""What PyTorch may have written: its own reader says the rest. Its tar archives of before 2017 are read with their code alone."""

_FORMAT = re.compile(rb'"format":\s*"([\w.]+)\.\d+"')
_DAMAGED, _TEXT, _UNREADABLE = "JSON that is damaged", "text", "a file that cannot be read"
_BYTES, _XML = "bytes of no kind that is known here", "XML"
_ONNX_VERSIONS = range(1, 64)

EXPORTED = {
    ".onnx": "an ONNX model",
    ".so": "a compiled library",
    ".tflite": "a LiteRT model",
    ".xml": "an OpenVINO model",
}
"""What exported files are, by the ends of their names."""

_SIGNATURES = (
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"\x1f\x8b", "a compressed file (gzip)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x7fELF", EXPORTED[".so"]),
    (b"%PDF", "a PDF"),
    (b"\x80\x02", _OBJECTS),
    (b"\x80\x03", _OBJECTS),
    (b"\x80\x04", _OBJECTS),
    (b"\x80\x05", _OBJECTS),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself (fetch that with: git lfs pull)"),
)


def kind_of_format(name: str) -> Kind:
    """The kind whose files have this format, whatever the version.

    Raises:
        ValueError: If no kind has it: each that is written must be among `KINDS`, so that messages can name it.

    >>> print(kind_of_format("bitwright.graph.2"))
    a graph
    """
    found = _of_format(name.rpartition(".")[0])
    if found is None:
        raise ValueError(f"no kind of file has the format '{name}': add one to KINDS.")
    return found


def own_kind(path: str | Path) -> Kind | None:
    """The kind of a file, if it is one of ours, damaged or not; None of others, and of what cannot be read."""
    found = _look(path)
    return found if isinstance(found, Kind) else None


def what_is(path: str | Path) -> str:
    """What a file is, in words, by what it begins with: "a graph", "a web page (HTML)", "an ONNX model", "text".

    >>> what_is(__file__)
    'text'
    """
    return str(_look(path))


def wrong_kind(path: str | Path, *expected: Kind) -> FileFormatError:
    """The error for a file that is something else."""
    found = _look(path)
    wanted = " or ".join(kind.words for kind in expected)
    if found in expected:
        return FileFormatError(f"'{path}' is damaged, or another version of Bitwright wrote it: make it again.")
    made = " or ".join(f"`{kind.made_by}`" for kind in expected)
    return FileFormatError(f"expected {wanted}, got {found}, in '{path}'. {made} writes one.")


def require_exported(path: str | Path) -> None:
    """Refuse a file that is named as an exported one, and is clearly something else: engines say it in words of their own.

    Raises:
        FileFormatError: It says what it is.
    """
    expected = EXPORTED.get(Path(path).suffix)
    found = _look(path)
    unclear = (_BYTES, _UNREADABLE, *([_XML] if expected == EXPORTED[".xml"] else []))
    if expected is not None and found not in (expected, *unclear):
        raise FileFormatError(
            f"expected {expected}, got {found}, in '{path}'. `bitwright export MODEL -o FILE{Path(path).suffix}` writes one."
        )


def read_own_json(path: str | Path, kind: Kind) -> Any:
    """The value of a JSON file of ours.

    Raises:
        FileFormatError: If the file is missing, is no JSON, or is another kind of ours.
    """
    try:
        text = read_text(path, kind.words)
        found = parse_json(text, f"{kind.words} from '{path}'")
    except FileFormatError:
        if is_another(path, kind) or what_is(path) == _TEXT:
            raise wrong_kind(path, kind) from None
        raise
    if _of_keys(found) not in (None, kind):
        raise wrong_kind(path, kind)
    return found


def is_another(path: str | Path, kind: Kind) -> bool:
    """Whether a file is clearly something else than `kind`: not what may be text or JSON that was damaged, and not missing."""
    return _look(path) not in (kind, _DAMAGED, _TEXT, _UNREADABLE)


def _look(path: str | Path) -> Kind | str:
    try:
        require_file(path)  # to open a pipe waits for who writes to it
        with open(path, "rb") as file:
            begin = file.read(_BEGINNING)
    except (FileFormatError, OSError):
        return _UNREADABLE
    if not begin:
        return "an empty file"
    if begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") < 2**27:
        return _of_header(begin)
    if begin[:4] == b"PK\x03\x04":
        return _of_zip(path)
    if begin[4:8] == b"TFL3":
        return EXPORTED[".tflite"]
    if begin[257:262] == b"ustar":
        return _TAR
    for signature, words in _SIGNATURES:
        if begin.startswith(signature):
            return words
    if begin[:1] == b"\x08" and begin[2:3] in (b"\x12", b"\x3a", b"\x42", b"\x72") and begin[1] in _ONNX_VERSIONS:
        return EXPORTED[".onnx"]
    return _of_text(path, begin)


def _of_header(begin: bytes) -> Kind | str:
    found = _FORMAT.search(begin)
    name = "" if found is None else found[1].decode()
    return _of_format(name) or SAFETENSORS


def _of_format(name: str) -> Kind | None:
    """The kind of this format, without the version."""
    return next((kind for kind in KINDS if kind.format and kind.format == name), None)


def _of_zip(path: str | Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return _CUT_ZIP
    leaves = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in leaves:
        return _PROGRAM
    return _PYTORCH if "data.pkl" in leaves else "a zip archive"


def _of_text(path: str | Path, begin: bytes) -> Kind | str:
    whole = len(begin) < _BEGINNING  # else a letter may be cut in two at the end
    try:
        text = getincrementaldecoder("utf-8")().decode(begin, final=whole).removeprefix("\ufeff").lstrip()
    except UnicodeDecodeError:
        return _BYTES
    if "\0" in text:
        return _BYTES
    lower = text[:400].lower()
    if lower.startswith(("<!doctype html", "<html")):
        return "a web page (HTML)"
    if lower.startswith("<"):
        return EXPORTED[".xml"] if "<net" in lower else _XML
    if text.startswith(("{", "[")):
        return _of_json(path)
    keys = set(re.findall(r"^([\w]+):", text, re.MULTILINE))
    return SCHEME if SCHEME.keys <= keys else _TEXT


def _of_json(path: str | Path) -> Kind | str:
    try:
        if Path(path).stat().st_size > _LARGEST_JSON:
            return "JSON"
        found = parse_json(Path(path).read_bytes(), "")
    except (OSError, FileFormatError):
        return _DAMAGED
    return _of_keys(found) or "JSON"


def _of_keys(value: Any) -> Kind | None:
    if not isinstance(value, Mapping):
        return None
    said = _of_format(str(value.get("format")).rpartition(".")[0])  # what another version wrote may have other keys
    found = said or next((kind for kind in KINDS if kind.keys and kind.keys <= value.keys()), None)
    # A scheme maps layers to bits. The first versions wrote sensitivities with neither a format nor today's keys.
    return SENSITIVITIES if found is SCHEME and isinstance(value["layers"], list) else found
