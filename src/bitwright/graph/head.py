# SPDX-License-Identifier: MIT
"""How many classes a model tells apart: as many as its weights, unless a new head is asked for.

A head is what differs between two models of one family that are made for different numbers of classes: tensors whose first axis
has one entry for each class, mostly the weight and bias of the last layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from bitwright.errors import BitwrightError, BitwrightWarning
from bitwright.graph.weights_file import FoundWeights


class Heads(NamedTuple):
    """How the heads of weights and of a model differ.

    Attributes:
        names: The names of the tensors.
        weights: Classes of the weights.
        model: Classes of the model.
    """

    names: tuple[str, ...]
    weights: int
    model: int


def differing_heads(state: Mapping[str, Tensor], model: nn.Module) -> Heads | None:
    """The heads of weights and of a model, if the weights fit but for the number of classes; None if they fit, or not at all.

    Args:
        state: The weights, by the model's names.
        model: For any number of classes.
    """
    own = model.state_dict()
    names = tuple(name for name in own if name in state and state[name].shape != own[name].shape)
    heads = {(state[name].shape[:1], own[name].shape[:1]) for name in names}
    if len(heads) != 1 or any(state[name].shape[1:] != own[name].shape[1:] for name in names):
        return None
    theirs, ours = heads.pop()
    return Heads(names, theirs[0], ours[0]) if theirs and ours else None


def with_weights(
    made: nn.Module, found: FoundWeights, make: Callable[[int, bool], nn.Module], classes: int | None
) -> nn.Module:
    """A model with weights, of as many classes as these have; or of `classes`, with a new head where these are others.

    Args:
        made: The model; for its source's own number of classes where `classes` is None.
        found: The weights.
        make: Makes the model for a number of classes, without its source's weights where the second argument is false.
        classes: How many were asked for.

    Returns:
        `made`, or another one for the classes of the weights. A `BitwrightWarning` says where a head is new: it knows nothing.

    Raises:
        FileFormatError: If the weights do not fit.
    """
    heads = differing_heads(found.state, made)
    if heads is not None and classes is None:
        with suppress(BitwrightError):  # of a factory that takes no number of classes: what does not fit is said below
            made = make(heads.weights, False)
    elif heads is not None and classes == heads.model:
        own = made.state_dict()
        found = replace(found, state={**found.state, **{name: own[name] for name in heads.names}})
        warnings.warn(new_head_of(found.where, heads.names), BitwrightWarning, stacklevel=3)
    found.load_into(made)
    return made


def new_head_of(where: str, names: Iterable[str]) -> str:
    """What is said of a head that was not taken from the weights."""
    return (
        f"{where} are for another number of classes: the head ({', '.join(names)}) is new, and knows nothing before it is "
        "trained."
    )
