# SPDX-License-Identifier: MIT
"""From JSON values to frozen dataclasses, by their type hints: what does not fit is refused by name, all faults together."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from bitwright.errors import BitwrightError, FileFormatError, shown, unknown_name

Record = TypeVar("Record")

MAX_INTEGER = 2**63 - 1
"""What any of the libraries underneath can count to."""


def decode(kind: type[Record], value: Any, where: str, given: Mapping[str, Any] | None = None) -> Record:
    """Make a dataclass from a mapping of JSON values.

    Hints may be object (whatever JSON has), bool, int, float, str, None, enumerations of texts, unions, tuples, lists,
    mappings with names for keys, and dataclasses. Numbers are finite, whole ones are those of 64 bits, and true is no number.

    Args:
        kind: The dataclass.
        value: What JSON gave for it.
        where: It stands, for the message.
        given: Fields that are made already, from something else than JSON: whatever `value` has for them is not looked at.

    Raises:
        FileFormatError: If a key is missing or unknown, or a value is of another type or out of the dataclass's range.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Window:
    ...     kernel: tuple[int, int]
    ...     eps: float | None = None
    >>> decode(Window, {"kernel": [3, 3]}, "pool")
    Window(kernel=(3, 3), eps=None)
    >>> decode(Window, {"kernel": [3], "eps": True}, "pool")
    Traceback (most recent call last):
    bitwright.errors.FileFormatError: pool: 'kernel' must be a list of 2 values, got [3]; 'eps' must be a finite number or null,
    got True
    """
    if not isinstance(value, Mapping):
        raise FileFormatError(f"{where}: expected a mapping, got {shown(value)}")
    hints, ready = _hints(kind), dict(given or {})  # type: ignore[arg-type]
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    faults = [str(unknown_name("key", str(key), fields)).removesuffix(".") for key in value if key not in fields]
    for name, item in fields.items():
        if name in ready:
            continue
        if name in value:
            try:
                ready[name] = value_of(hints[name], value[name], f"'{name}'")
            except FileFormatError as error:
                faults.append(str(error))
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            faults.append(f"missing key '{name}'")
    if faults:
        raise FileFormatError(f"{where}: " + "; ".join(faults))
    try:
        return kind(**ready)
    except BitwrightError as error:  # the dataclass's own checks
        raise FileFormatError(f"{where}: {str(error).removesuffix('.')}") from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def value_of(hint: Any, value: Any, where: str) -> Any:
    """A value of the type that `hint` is; see `decode`.

    Raises:
        FileFormatError: If it is none.

    >>> value_of(tuple[float, ...], [1, 2.5], "'losses'")
    (1, 2.5)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        plain = [choice for choice in arguments if _plain(choice, value) is not _NONE]
        if plain:
            return _plain(plain[0], value)
        others = [choice for choice in arguments if choice not in _PLAIN]
        if len(others) == 1 and isinstance(value, list | Mapping):
            return value_of(others[0], value, where)
    elif origin is tuple:
        return _items(arguments, value, where)
    elif origin is list:
        return list(_items((arguments[0], ...), value, where))
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {str(key): value_of(arguments[1], entry, f"{where} of {shown(key)}") for key, entry in value.items()}
    elif dataclasses.is_dataclass(hint):
        return decode(hint, value, where)  # type: ignore[arg-type]
    elif hint is object or (found := _plain(hint, value)) is not _NONE:
        return value if hint is object else found
    raise FileFormatError(f"{where} must be {_expected(hint)}, got {shown(value)}")


def _items(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    any_number = len(hints) == 2 and hints[1] is ...
    if not isinstance(value, list) or not (any_number or len(value) == len(hints)):
        count = "" if any_number else f" of {len(hints)} values"
        raise FileFormatError(f"{where} must be a list{count}, got {shown(value)}")
    each = [hints[0]] * len(value) if any_number else hints
    return tuple(
        value_of(hint, item, f"{where}[{place}]") for place, (hint, item) in enumerate(zip(each, value, strict=True))
    )


_NONE = object()


def _plain(hint: Any, value: Any) -> Any:
    """`value` as a plain value of the type `hint`, or `_NONE`."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next((choice for choice in hint if choice.value == value and type(value) is str), _NONE)
    if hint is type(None):
        return None if value is None else _NONE
    if hint is float and type(value) in (int, float):
        # As it was written: 6 stays 6, whose text and digest differ from those of 6.0.
        return value if abs(value) <= MAX_INTEGER or (type(value) is float and math.isfinite(value)) else _NONE
    if hint is int and type(value) is int:
        return value if abs(value) <= MAX_INTEGER else _NONE
    return value if hint in (bool, str) and type(value) is hint else _NONE


_PLAIN = {
    bool: "true or false",
    int: "a whole number of 64 bits",
    float: "a finite number",
    str: "a text",
    type(None): "null",
}


def _expected(hint: Any) -> str:
    """A type in words."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_expected, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"'{choice.value}'" for choice in hint)
    return _PLAIN.get(hint, "a list" if origin in (tuple, list) else "a mapping")
