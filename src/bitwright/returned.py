# SPDX-License-Identifier: MIT
"""What a network returns: tensors by name. A module says the names; a single tensor is called `logits`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from bitwright.errors import CaptureError
from bitwright.overview import shape_text

SINGLE = "logits"
"""The name of the only output of a network."""

Returned = Any
"""What a network gives its caller: a Tensor if it has one output, else a dict of them by name. Only a network can say which."""


def returned(values: Mapping[str, Any]) -> Returned:
    """The tensor alone where there is one, else all by name.

    Args:
        values: The outputs by name, in their order.
    """
    return dict(values) if len(values) > 1 else next(iter(values.values()))


def by_name(given: Returned) -> dict[str, Any]:
    """The inverse of `returned`, for tensors and arrays."""
    return dict(given) if isinstance(given, Mapping) else {SINGLE: given}


def first(given: Returned) -> Any:
    """The first of what a network returns: what a classifier is judged by."""
    return next(iter(by_name(given).values()))


def named_leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """What a module returns, each part with its name; None is nothing.

    Keys of a mapping and fields of a dataclass or a named tuple are names; the parts of other sequences are counted, as
    `output0`, `output1`. Names of nested parts are joined with dots. A part that is none of these is a leaf.

    >>> [name for name, _ in named_leaves({"boxes": 1, "heads": (2, {"near": 3}), "none": None})]
    ['boxes', 'heads.0', 'heads.1.near']
    >>> [name for name, _ in named_leaves((1, [2, 3]))]
    ['output0', 'output1.0', 'output1.1']
    """
    parts: Iterable[tuple[object, object]]
    if value is None:
        return
    if isinstance(value, Mapping):
        parts = value.items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        parts = ((number if path else f"output{number}", part) for number, part in enumerate(value))
    else:
        yield path, value
        return
    for key, part in parts:
        yield from named_leaves(part, f"{path}.{key}" if path else str(key))


def named_tensors(value: object, model: str) -> dict[str, Tensor]:
    """The tensors that a module returns, by name; a single one is called `logits`, whatever it is in.

    Raises:
        CaptureError: If there is none, a part is no tensor, or two have one name; names the part.
    """
    found: dict[str, Tensor] = {}
    for name, leaf in named_leaves(value):
        if not isinstance(leaf, Tensor):
            where = f" as '{name}'" if name else ""
            raise CaptureError(
                f"{model} returns an object of type {type(leaf).__name__}{where}, but a network returns tensors, alone or in a "
                "tuple, list, dict or dataclass: wrap the model in a module that returns these alone."
            )
        if name in found:
            raise CaptureError(f"{model} returns two tensors that are both called '{name}': rename one.")
        found[name] = leaf
    if not found:
        raise CaptureError(f"{model} returns no tensor in evaluation mode, but a network returns one or several.")
    return {SINGLE: next(iter(found.values()))} if len(found) == 1 else found


def as_returned(value: object, model: str) -> Returned:
    """What a module returned, in whatever form, as a network gives it: a tensor, or several by name.

    Raises:
        CaptureError: See `named_tensors`.
    """
    return value if isinstance(value, Tensor) else returned(named_tensors(value, model))


def shapes_of(given: Returned) -> dict[str, tuple[int, ...]]:
    """The shape of each output, by name, with that of the batch in front."""
    return {name: tuple(made.shape) for name, made in by_name(given).items()}


def shown_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Shapes for a message.

    >>> shown_shapes({"logits": (10,)}), shown_shapes({"boxes": (4, 8, 8), "count": ()})
    ('10', 'boxes 4 x 8 x 8, count one number')
    """
    texts = {name: shape_text(shape) or "one number" for name, shape in shapes.items()}
    return texts[SINGLE] if [*texts] == [SINGLE] else ", ".join(f"{name} {text}" for name, text in texts.items())


def differences(given: Returned, wanted: Returned) -> tuple[str, str] | None:
    """What two networks return of the same images, in words, where it is not of the same names and shapes.

    It is of each image, but where only their number differs of the whole batch.

    >>> import torch
    >>> differences(torch.zeros(4, 10), torch.zeros(4, 1))
    ('10', '1')
    >>> differences(torch.zeros(4, 10), torch.ones(4, 10))
    """
    batches = shapes_of(given), shapes_of(wanted)
    if batches[0] == batches[1]:
        return None
    images = tuple({name: shape[1:] for name, shape in shapes.items()} for shapes in batches)
    one, other = batches if images[0] == images[1] else images
    return shown_shapes(one), shown_shapes(other)
