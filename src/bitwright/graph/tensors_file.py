# SPDX-License-Identifier: MIT
"""Safetensors files with a format name, JSON metadata and a checksum, so that damage is refused instead of loaded.

The same content is the same bytes in every process, and names come back in the order in which they were given. The library
promises neither: it writes metadata, and gives tensors back, in the order of a hash table that each process seeds anew. So the
header is written here; what comes after it, the tensors' own bytes, is left as the library arranged it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bitwright.errors import FileFormatError
from bitwright.kinds import kind_of_format, own_kind, wrong_kind
from bitwright.reading import parse_json, read_bytes


def serialize(tensors: Mapping[str, Tensor], format_name: str, metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file whose metadata hold `format_name` and a SHA-256 over tensors and metadata.

    Its header names the tensors in the order of `tensors`, which `read_tensors` keeps.
    """
    owned: dict[str, Tensor] = {}
    pointers: set[int] = set()
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous()
        # The format holds no aliases: a tensor that shares its memory with an earlier one is written as a copy.
        owned[name] = values.clone() if values.data_ptr() in pointers else values
        pointers.add(owned[name].data_ptr())
    fields = {"format": format_name, **(metadata or {})}
    return _with_header(save(owned), {**fields, "sha256": _digest(owned, fields)}, list(owned))


def _with_header(data: bytes, metadata: Mapping[str, str], names: Sequence[str]) -> bytes:
    """The same file with these metadata, and with its tensors listed in the order of `names`."""
    end = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:end])
    header = {"__metadata__": dict(sorted(metadata.items())), **{name: entries[name] for name in names}}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format's own alignment of what follows
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[end:]])


def read_structure(path: str | Path, format_name: str, key: str) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a file made by `serialize`, and the JSON value of one of its metadata.

    Raises:
        FileFormatError: If the file is missing, truncated, altered, of another kind, or without this JSON.
    """
    tensors, metadata = read_tensors(path, format_name)
    if key not in metadata:
        raise FileFormatError(f"'{path}' has no '{key}' in its metadata: write it again.")
    return tensors, parse_json(metadata[key], f"the {key} in '{path}'")


def read_tensors(path: str | Path, format_name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, in their order, and the metadata of a file made by `serialize`.

    Raises:
        FileFormatError: If the file is missing, truncated, altered, or of another kind.
    """
    data = read_bytes(path)
    try:
        found_tensors = load(data)
        header = _header(data[8 : 8 + int.from_bytes(data[:8], "little")], path)
        tensors = {name: found_tensors[name] for name in header if name != "__metadata__"}
        metadata = _metadata(header, path)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        kind = kind_of_format(format_name)
        if own_kind(path) is not kind:
            raise wrong_kind(path, kind) from None
        raise FileFormatError(f"'{path}' is no complete safetensors file ({error}): write it again.") from error
    if metadata.get("format") != format_name:
        raise wrong_kind(path, kind_of_format(format_name))
    stored = metadata.pop("sha256", "")
    if stored != _digest(tensors, metadata):
        raise FileFormatError(f"'{path}' was altered after it was written (its SHA-256 differs): write it again.")
    return tensors, metadata


def _header(text: bytes, path: str | Path) -> dict[str, Any]:
    found = parse_json(text, f"the header of '{path}', which is no complete safetensors file")
    if not isinstance(found, dict):
        raise FileFormatError(f"'{path}' is no safetensors file: write it again.")
    return found


def _metadata(header: Mapping[str, Any], path: str | Path) -> dict[str, str]:
    entries = header.get("__metadata__", {})
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise FileFormatError(f"'{path}' is no safetensors file: write it again.")
    return entries


def _digest(tensors: Mapping[str, Tensor], fields: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(sorted(fields.items()))).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
