# SPDX-License-Identifier: MIT
"""The file of an integer model, read: nothing is taken on trust, and the model is proved again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.data.preprocessing import Preprocessing
from bitwright.decode import decode, value_of
from bitwright.errors import FileFormatError, LoweringError, shown
from bitwright.graph.nodes import Node, node_kinds
from bitwright.graph.tensors_file import read_structure
from bitwright.integer.model import FORMAT, IntegerModel, unit_name
from bitwright.integer.multipliers import Multipliers
from bitwright.integer.ops import Rescale, instructions
from bitwright.integer.outputs import Output
from bitwright.integer.packing import unpack, unpack_bytes
from bitwright.integer.proof.recheck import recheck
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import check_shapes
from bitwright.scheme import Scheme


def load_integer(path: str | Path) -> IntegerModel:
    """Read what `IntegerModel.save` wrote, and prove it again.

    Raises:
        FileFormatError: If the file is missing, truncated, altered, no integer model, or one that is not proved.
    """
    tensors, structure = read_structure(path, FORMAT, "structure")
    where = f"'{path}'"
    found = decode(_Structure, structure, where)
    ops = tuple(_op(entry, tensors, f"{where}: operation {number}") for number, entry in enumerate(found.ops))
    outputs = {name: Output(tensor, _unit(tensors, unit_name(name), where)) for name, tensor in found.outputs.items()}
    check_shapes(ops, found.formats, outputs, where)
    scheme = Scheme.from_dict(found.scheme, where)
    model = IntegerModel(found.model, scheme, ops, found.formats, outputs, found.facts, found.preprocessing)
    try:
        recheck(model)
    except LoweringError as error:
        raise FileFormatError(f"{where} holds a model that is not proved: {error}") from error
    return model


def _unit(tensors: Mapping[str, Tensor], name: str, where: str) -> npt.NDArray[np.float64]:
    """What the integers of an output are worth."""
    unit = tensors.get(name)
    if unit is None or unit.dtype != torch.float64 or not bool(unit.isfinite().all()):
        raise FileFormatError(f"{where}: expected the array '{name}', finite float64 numbers.")
    return np.asarray(unit.numpy())


@dataclass(frozen=True)
class _Structure:
    """The JSON in the file."""

    model: str
    scheme: Mapping[str, object]
    ops: tuple[Mapping[str, object], ...]
    formats: Mapping[str, QuantParams]
    outputs: Mapping[str, str]
    facts: Mapping[str, Mapping[str, object]]
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True)
class _Range:
    """What the JSON says of a rescaling."""

    low: int
    high: int


@dataclass(frozen=True)
class _Shaped:
    """What the JSON says of weights."""

    shape: tuple[int, ...]


def _op(entry: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> Node:
    """The inverse of `_entry`."""
    op, name = entry.get("op"), entry.get("name")
    kind = (instructions() | node_kinds()).get(op) if isinstance(op, str) else None
    if kind is None or not isinstance(name, str):
        raise FileFormatError(f"{where}: unknown operation {shown(op)} with the name {shown(name)}.")
    held = {item.name for item in dataclasses.fields(kind)} & set(_READERS) & set(entry)
    try:
        arrays = {item: _READERS[item](entry, lambda part: _array(tensors, f"{name}.{part}")) for item in held}
    except (FileFormatError, LoweringError) as error:
        raise FileFormatError(f"{where}, {shown(name)}: {error}") from error
    return decode(kind, {key: value for key, value in entry.items() if key != "op"}, where, arrays)


Find = Callable[[str], npt.NDArray[Any]]
"""An array of an operation, by what it is."""


def _read_rescale(entry: Mapping[str, Any], find: Find) -> Rescale | None:
    if entry["rescale"] is None:
        return None
    limits = decode(_Range, entry["rescale"], "'rescale'")
    multiplier, shift = (unpack_bytes(find(part), signed=False) for part in ("multiplier", "shift"))
    _require_int32(shift)
    return Rescale(Multipliers(multiplier, shift.astype(np.int32)), limits.low, limits.high)


def _read_weight(entry: Mapping[str, Any], find: Find) -> npt.NDArray[np.integer[Any]]:
    shape = decode(_Shaped, entry["weight"], "'weight'").shape
    bits = value_of(int, entry.get("weight_bits"), "'weight_bits'")
    return unpack(find("weight"), shape, bits, signed=True)


def _read_int32(part: str, entry: Mapping[str, Any], find: Find) -> npt.NDArray[np.int32]:
    values = unpack_bytes(find(part), signed=True)
    _require_int32(values)
    return values.astype(np.int32)


_READERS: Mapping[str, Callable[[Mapping[str, Any], Find], Any]] = {
    "rescale": _read_rescale, "weight": _read_weight,
    **{part: partial(_read_int32, part) for part in ("bias", "entries")},
}  # fmt: skip
"""The fields of operations that have arrays in the file."""


def _require_int32(values: npt.NDArray[np.int64]) -> None:
    limits = np.iinfo(np.int32)
    if values.size and not (limits.min <= values.min() and values.max() <= limits.max):
        raise FileFormatError(f"expected 32-bit integers, got {values.min()} to {values.max()}.")


def _array(tensors: Mapping[str, Tensor], name: str) -> npt.NDArray[Any]:
    """An array of the file."""
    if name not in tensors or tensors[name].dtype != torch.uint8:
        raise FileFormatError(f"the array '{name}' is missing, or of another type than bytes.")
    return np.asarray(tensors[name].numpy())
