# SPDX-License-Identifier: MIT
"""Exported files, and damage to what they say: operators, attributes, shapes and wiring, in the terms of each format."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bitwright.benchmark.engines import Engine
from bitwright.export.seal import _litert_model
from reliability.mutations import changed_bytes
from reliability.networks import tiny_graph, tiny_integer

NUMBERS = (0, 1, -1, 2, 3, 7, 255, -(2**31), 2**31 - 1, 2**40)
UNREAD = (
    "debugMetadataIndex", "customOptionsFormat", "largeCustomOptionsOffset", "largeCustomOptionsSize", "offset", "size",
    "detailsType", "deprecatedBuiltinCode", "isVariable",
)  # fmt: skip
"""Fields of LiteRT's format that nobody reads in files like these: to damage them would be no damage."""
WORDS = ("", "Add", "Conv", "Relu", "input", "0", "-1", "1e30", "nan", "float32", "x" * 1000)


def export(engine: Engine, folder: Path) -> Path:
    """A file of the small network for an engine."""
    path = folder / f"{engine.name}{engine.form.suffix}"
    engine.form.export(tiny_integer(tiny_graph()), path)
    return path


def damage(path: Path, copy: Path, chooser: random.Random) -> str:
    """Write a damaged copy of an exported file, with what lies beside it; returns what was done."""
    beside = path.with_suffix(".bin")
    if path.suffix == ".xml":
        copy.with_suffix(".bin").write_bytes(beside.read_bytes())
        if chooser.random() < 0.2:
            what, data = changed_bytes(beside.read_bytes(), chooser)
            copy.write_bytes(path.read_bytes())
            copy.with_suffix(".bin").write_bytes(data)
            return f"{what} of the weights"
    structural = {".onnx": _onnx, ".xml": _xml, ".tflite": _tflite}.get(path.suffix)
    if structural is None or chooser.random() < 0.3:
        what, data = changed_bytes(path.read_bytes(), chooser)
    else:
        what, data = structural(path.read_bytes(), chooser)
    copy.write_bytes(data)
    return what


def _onnx(data: bytes, chooser: random.Random) -> tuple[str, bytes]:
    """Change one field of one message."""
    import onnx

    model = onnx.load_model_from_string(data)
    message, field = chooser.choice(list(_fields(model)))
    value = getattr(message, field.name)
    if field.is_repeated:
        at = chooser.randrange(len(value))
        kind = chooser.choice(("drop", "twice", "change"))
        if kind == "drop" or (kind == "change" and field.message_type is not None):
            kind = "drop"
            del value[at]
        elif kind == "twice":
            value.append(value[at])
        else:
            value[at] = _other(value[at], field, chooser)
    elif field.message_type is not None or chooser.random() < 0.3:
        kind = "clear"
        message.ClearField(field.name)
    else:
        kind = "change"
        setattr(message, field.name, _other(value, field, chooser))
    return f"{kind} {type(message).__name__}.{field.name}", model.SerializeToString()


def _fields(message: Any) -> Iterator[tuple[Any, Any]]:
    """Every field that is set, in every message below this one."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for child in value if field.is_repeated else [value]:
                yield from _fields(child)


def _other(value: Any, field: Any, chooser: random.Random) -> Any:
    """Another value of the same type, within what 32 bits hold."""
    if field.enum_type is not None:
        return chooser.choice([known.number for known in field.enum_type.values])
    if isinstance(value, bytes):
        return changed_bytes(value, chooser)[1] if value else b"x"
    if isinstance(value, str):
        return chooser.choice(WORDS)
    if isinstance(value, float):
        return chooser.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    return chooser.choice(NUMBERS[:-1])


def _xml(data: bytes, chooser: random.Random) -> tuple[str, bytes]:
    """Change one attribute or text, or remove or repeat one element."""
    root = ElementTree.fromstring(data)
    parent, child = chooser.choice([(parent, child) for parent in root.iter() for child in parent])
    kind = chooser.choice(("remove", "repeat", "change", "change", "change"))
    if kind == "remove":
        parent.remove(child)
    elif kind == "repeat":
        parent.append(child)
    elif child.attrib:
        key = chooser.choice(sorted(child.attrib))
        child.attrib[key] = str(chooser.choice(NUMBERS + WORDS))
        kind = f"change {key} of"
    else:
        child.text = str(chooser.choice(NUMBERS + WORDS))
    return f"{kind} {child.tag}", ElementTree.tostring(root)


def _tflite(data: bytes, chooser: random.Random) -> tuple[str, bytes]:
    """Change one number, list or table of the FlatBuffer."""
    flatbuffers = import_module("flatbuffers")
    model = _litert_model(data)
    places = [place for place in _tables(model) if place[2] is not None and place[1] not in UNREAD]
    while True:
        table, name, value = chooser.choice(places)
        if isinstance(value, int):
            new: Any = chooser.choice(NUMBERS)
        elif isinstance(value, list) and value:
            new = chooser.choice((value[1:], value[::-1], [*value, value[0]], None))
        elif hasattr(value, "__dict__"):
            new = None
        else:
            continue
        setattr(table, name, new)
        builder = flatbuffers.Builder(1024)
        try:
            builder.Finish(model.Pack(builder), b"TFL3")
        except Exception:  # a number that its field cannot hold: the format itself excludes it
            setattr(table, name, value)
            continue
        return f"{name} of {type(table).__name__}", bytes(builder.Output())


def _tables(table: Any) -> Iterator[tuple[Any, str, Any]]:
    """Every field of every table below this one."""
    for name, value in sorted(vars(table).items()):
        yield table, name, value
        for child in value if isinstance(value, list) else [value]:
            if hasattr(child, "__dict__"):
                yield from _tables(child)
