# SPDX-License-Identifier: MIT
"""What an exported file says of itself: which integers it holds, that it holds them still, and whether it was run.

Three of the facts in a file's metadata have a fixed length, and are written into its finished bytes:

- `digest`: SHA-256 of the integer model that it was made from;
- `contents`: SHA-256 of the constants that the file holds, read back from it as any reader of its format finds them: types,
  shapes and bytes, whatever their names and order. A library has no such list: there it is that of all bytes but these three;
- `checked`: where and how the file was run and found equal, or that it was not.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from xml.etree import ElementTree

from bitwright.data.preprocessing import Preprocessing
from bitwright.errors import BitwrightWarning, ExportError, FileFormatError, MissingLibraryError
from bitwright.extras import require
from bitwright.files import write_bytes
from bitwright.integer.model import IntegerModel
from bitwright.kinds import require_exported

CHECKED_LENGTH = 160
NOT_CHECKED = "not checked on this machine"
_OPEN = f"sha256:{'-' * 64}"
_UNRUN = NOT_CHECKED.ljust(CHECKED_LENGTH)


Found = TypeVar("Found")


class Constant(NamedTuple):
    """Numbers of a file, as it stores them."""

    kind: str
    shape: tuple[int, ...]
    values: bytes


def model_digest(model: IntegerModel) -> str:
    """SHA-256 of a model's operations, formats, scheme and units: of its file without what lowering noted about them."""
    return f"sha256:{hashlib.sha256(replace(model, facts={}).to_bytes()).hexdigest()}"


def seal_of(model: IntegerModel) -> dict[str, str]:
    """The three facts, before there is a file; and how the images are made that it reads, where that is known."""
    known = {} if model.preprocessing is None else {"preprocessing": model.preprocessing.to_text()}
    return {"digest": model_digest(model), "contents": _OPEN, "checked": _UNRUN, **known}


def stated_preprocessing(path: str | Path) -> Preprocessing | None:
    """What an exported file says of its images, if it does.

    Raises:
        FileFormatError: If the file cannot be read.
    """
    text = stated(path).get("preprocessing")
    return None if text is None else Preprocessing.from_text(text, f"the preprocessing in '{path}'")


def companions(path: str | Path) -> tuple[Path, ...]:
    """The files that an exporter writes beside the one it is given."""
    found = _FORMATS.get(Path(path).suffix)
    return (Path(path).with_suffix(found.weights),) if found is not None and found.weights else ()


def exported_bytes(path: str | Path) -> int:
    """Length of an exported file, with those beside it."""
    return sum(place.stat().st_size for place in (Path(path), *companions(path)) if place.is_file())


def write_sealed(path: str | Path, data: bytes, weights: bytes = b"") -> None:
    """Write an exported file with the digest of its constants, atomically.

    Args:
        path: The path of the file.
        data: What the file is to hold, `seal_of` the model within.
        weights: What the .bin file beside it holds, for OpenVINO.
    """
    open_place = _OPEN.encode()
    if data.count(open_place) != 1:
        raise ExportError(
            f"expected one place for the digest of its constants in '{path}', got {data.count(open_place)}."
        )
    found = _digest(_FORMATS[Path(path).suffix].constants(data, weights)).encode()
    for beside in companions(path):
        write_bytes(beside, weights)
    write_bytes(path, data.replace(open_place, found))


def state_checked(path: str | Path, words: str) -> None:
    """Write into an exported file that it was run: `words`, of which as many are kept as there is room for."""
    plain = re.sub(r"[^\w .,:;()@/+-]", "", words, flags=re.ASCII)  # as it stands in XML and JSON
    stated = plain[:CHECKED_LENGTH].ljust(CHECKED_LENGTH)
    write_bytes(path, Path(path).read_bytes().replace(_UNRUN.encode(), stated.encode(), 1))


def contents(path: str | Path) -> str:
    """The digest of the constants that a file holds now.

    Raises:
        FileFormatError: If the file cannot be read.
    """
    return _digest(constants(path))


def look_for_changes(path: str | Path) -> None:
    """Look whether a file still holds the constants that it was exported with, before its engine is given it.

    Where it does not, a `BitwrightWarning` says so: tools may change them on purpose. Of a library, a program, every byte is
    looked at, and none may be another.

    Raises:
        FileFormatError: If the file cannot be read, or it is a library that was changed.
    """
    if Path(path).suffix not in _FORMATS:  # another program's
        return
    said = stated(path).get("contents")
    if _FORMATS[Path(path).suffix].is_program:
        if said is None or contents(path) != said:
            raise FileFormatError(f"'{path}' is not the library that was exported: it is damaged. Export it anew.")
    elif said is not None and contents(path) != said:
        warnings.warn(
            f"'{path}' holds other constants than it was exported with: it is damaged, or a tool changed it.",
            BitwrightWarning,
            stacklevel=3,
        )


def constants(path: str | Path) -> list[Constant]:
    """The constants that a file holds, in its order.

    Raises:
        FileFormatError: If the file cannot be read.
    """
    place = Path(path)

    def reading() -> list[Constant]:
        weights = b"".join(beside.read_bytes() for beside in companions(place))
        return list(_FORMATS[place.suffix].constants(place.read_bytes(), weights))

    return _read(place, reading)


def stated(path: str | Path) -> dict[str, str]:
    """An exported file's metadata: what it says of itself. Empty where another program wrote it.

    Raises:
        FileFormatError: If the file cannot be read.
    """
    place = Path(path)
    found = _read(place, lambda: _FORMATS[place.suffix].metadata(place.read_bytes()))
    return {key: text.strip() for key, text in found.items()}


def _read(path: Path, reading: Callable[[], Found]) -> Found:
    """What `reading` returns, its failures in words."""
    if path.suffix not in _FORMATS:
        raise ExportError(f"expected a file whose name ends in one of {', '.join(_FORMATS)}, got '{path}'.")
    require_exported(path)
    try:
        return reading()
    except (ExportError, MissingLibraryError):
        raise
    except Exception as error:  # each format's parser raises types of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileFormatError(f"cannot read '{path}': {reason}") from error


def _digest(found: Iterable[Constant]) -> str:
    each = sorted(hashlib.sha256(f"{kind}{list(shape)}:".encode() + values).digest() for kind, shape, values in found)
    return f"sha256:{hashlib.sha256(b''.join(each)).hexdigest()}"


def _onnx_constants(data: bytes, _: bytes) -> Iterable[Constant]:
    import onnx
    from onnx import numpy_helper

    for tensor in onnx.load_model_from_string(data).graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        yield Constant(kind, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())


def _onnx_metadata(data: bytes) -> dict[str, str]:
    import onnx

    return {entry.key: entry.value for entry in onnx.load_model_from_string(data).metadata_props}


def _openvino_constants(data: bytes, weights: bytes) -> Iterable[Constant]:
    for layer in ElementTree.fromstring(data).iter("layer"):
        facts = layer.find("data")
        if layer.get("type") == "Const" and facts is not None:
            offset, size = int(facts.attrib["offset"]), int(facts.attrib["size"])
            if offset + size > len(weights):
                raise FileFormatError(f"the .bin file beside it is cut off at {len(weights)} bytes.")
            shape = tuple(int(axis) for axis in facts.get("shape", "").split(",") if axis.strip())
            yield Constant(facts.attrib["element_type"], shape, weights[offset : offset + size])


def _openvino_metadata(data: bytes) -> dict[str, str]:
    found = ElementTree.fromstring(data).find("rt_info/bitwright")
    return {} if found is None else {entry.tag: entry.get("value", "") for entry in found}


def _litert_model(data: bytes) -> Any:
    require("ai_edge_litert", "a .tflite file")
    schema = import_module("ai_edge_litert.schema_py_generated")
    if data[4:8] != b"TFL3":
        raise FileFormatError("it is no .tflite file.")
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def _litert_constants(data: bytes, _: bytes) -> Iterable[Constant]:
    model = _litert_model(data)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            values = model.buffers[tensor.buffer].data
            if values is not None:
                shape = () if tensor.shape is None else tuple(map(int, tensor.shape))
                yield Constant(str(tensor.type), shape, bytes(values))


def _litert_metadata(data: bytes) -> dict[str, str]:
    model = _litert_model(data)
    return {
        entry.name.decode().removeprefix("bitwright."): bytes(model.buffers[entry.buffer].data).decode()
        for entry in model.metadata or []
        if entry.name.startswith(b"bitwright.")
    }


def _library_constants(data: bytes, _: bytes) -> Iterable[Constant]:
    """The whole library, its three facts blank."""
    facts = _library_metadata(data)
    for key, blank in (("contents", _OPEN), ("checked", _UNRUN)):
        data = data.replace(facts[key].encode(), blank.encode(), 1)
    return [Constant("library", (len(data),), data)]


_LIBRARY_FACTS = b'{"digest": "'
"""How the JSON begins that a library holds."""


def _library_metadata(data: bytes) -> dict[str, str]:
    start = data.find(_LIBRARY_FACTS)
    if start < 0:
        return {}
    end = data.index(b"\0", start)
    found, _ = json.JSONDecoder().raw_decode(data[start:end].decode(errors="replace"))
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        constants: Its constants, from its bytes and those of the weights beside it.
        metadata: From its bytes.
        weights: The end of the name of a file beside it that holds its weights, or nothing.
        is_program: Whether it is run as it is, so that no byte of it may be another.
    """

    constants: Callable[[bytes, bytes], Iterable[Constant]]
    metadata: Callable[[bytes], dict[str, str]]
    weights: str = ""
    is_program: bool = False


_FORMATS = {
    ".onnx": Format(_onnx_constants, _onnx_metadata),
    ".so": Format(_library_constants, _library_metadata, is_program=True),
    ".tflite": Format(_litert_constants, _litert_metadata),
    ".xml": Format(_openvino_constants, _openvino_metadata, ".bin"),
}
