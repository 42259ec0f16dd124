# SPDX-License-Identifier: MIT
"""Damage: to what a file says, with its checksum made to fit, and to its bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from bitwright.graph.tensors_file import read_tensors, serialize

WRONG = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**62, 10**30, 10**400, 0.5, -1.5, 1e300, float("nan"), float("inf"), "", "0", "W4A4",
    "size0.5", "a name", "x" * 20_000, [], {}, [0], [1, 2], ["a"], [[]], {"a": 1}, {"bits": {"4": 1}},
)  # fmt: skip
"""Values that stand in place of others."""


def damaged(path: Path, metadata: tuple[str, ...], chooser: random.Random) -> tuple[str, bytes]:
    """What was done, and the bytes of the damaged file."""
    if chooser.random() < 0.25:
        return changed_bytes(path.read_bytes(), chooser)
    if not metadata and path.suffix == ".yaml":
        what, value = _value(yaml.safe_load(path.read_text(encoding="utf-8")), chooser)
        return what, yaml.safe_dump(value, sort_keys=False).encode()
    if not metadata:
        what, value = _value(json.loads(path.read_text(encoding="utf-8")), chooser)
        return what, json.dumps(value).encode()
    name = read_format_name(path)
    tensors, entries = read_tensors(path, name)
    entries.pop("format")
    if chooser.random() < 0.3:
        what = _tensors(tensors, chooser)
    elif chooser.random() < 0.05:
        what = f"metadata without {metadata[0]}"
        del entries[metadata[0]]
    else:
        key = chooser.choice(metadata)
        what, value = _value(json.loads(entries[key]), chooser)
        entries[key] = json.dumps(value)
    return what, serialize(tensors, name, entries)


def read_format_name(path: Path) -> str:
    """The format of a safetensors file."""
    data = path.read_bytes()
    return str(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["format"])


def _value(value: Any, chooser: random.Random) -> tuple[str, Any]:
    """One change anywhere in a JSON value."""
    value = copy.deepcopy(value)
    container, key, place = chooser.choice([("", None, "all"), *_places(value, "")][1:])
    kind = chooser.choice(("delete", "replace", "replace", "replace", "add", "twice", "swap", "deep"))
    if kind == "delete":
        del container[key]
    elif kind == "add" and isinstance(container, dict):
        container["another"] = chooser.choice(WRONG)
    elif kind == "twice" and isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    elif kind == "swap" and isinstance(container, list):
        other = chooser.randrange(len(container))
        container[key], container[other] = container[other], container[key]
    elif kind == "deep":
        for _ in range(200):
            container[key] = [container[key]]
    else:
        kind = "replace"
        wrong = chooser.choice(WRONG)
        place = f"{place} by {str(wrong)[:30]!r}"
        container[key] = wrong
    return f"{kind} {place}", value


def _places(value: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    """Every entry of every list and mapping."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in entries:
        yield value, key, f"{path}/{key}"
        yield from _places(child, f"{path}/{key}")


def _tensors(tensors: dict[str, torch.Tensor], chooser: random.Random) -> str:
    """One change of the tensors."""
    name = chooser.choice(sorted(tensors))
    tensor = tensors[name]
    kind = chooser.choice(("drop", "rename", "flatten", "grow", "shrink", "dtype", "empty", "values"))
    if kind == "drop":
        del tensors[name]
    elif kind == "rename":
        tensors[f"{name}.other"] = tensors.pop(name)
    elif kind == "flatten":
        tensors[name] = tensor.reshape(-1, 1)
    elif kind == "grow":
        tensors[name] = torch.cat([tensor.reshape(-1)] * 2)
    elif kind == "shrink":
        tensors[name] = tensor.reshape(-1)[1:]
    elif kind == "dtype":
        tensors[name] = tensor.to(chooser.choice((torch.int64, torch.float16, torch.bfloat16, torch.uint8, torch.bool)))
    elif kind == "empty":
        tensors[name] = tensor.new_zeros((0, *tensor.shape[1:]))
    else:
        flipped = bytearray(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        if flipped:
            flipped[chooser.randrange(len(flipped))] ^= 1 << chooser.randrange(8)
            tensors[name] = torch.frombuffer(flipped, dtype=tensor.dtype).reshape(tensor.shape)
    return f"{kind} {name}"


def changed_bytes(data: bytes, chooser: random.Random) -> tuple[str, bytes]:
    """One change of the bytes."""
    kind = chooser.choice(("flip", "cut", "insert", "remove", "zero", "noise", "empty"))
    at = chooser.randrange(len(data))
    if kind == "flip":
        return f"flip {at}", data[:at] + bytes([data[at] ^ 1 << chooser.randrange(8)]) + data[at + 1 :]
    if kind == "cut":
        return f"cut {at}", data[:at]
    if kind == "insert":
        return f"insert {at}", data[:at] + chooser.randbytes(chooser.randrange(1, 9)) + data[at:]
    if kind == "remove":
        return f"remove {at}", data[:at] + data[at + chooser.randrange(1, 9) :]
    if kind == "zero":
        return f"zero {at}", data[:at] + bytes(min(16, len(data) - at)) + data[at + 16 :]
    return (kind, b"") if kind == "empty" else (kind, chooser.randbytes(len(data)))
