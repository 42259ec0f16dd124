# SPDX-License-Identifier: MIT
"""Calling a factory of models: whatever it raises becomes one line that says what was raised, where, and for which arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from bitwright.errors import BitwrightError, ModelError
from bitwright.imported import import_factory
from bitwright.raised import described


def find_factory(module: str, name: str, sources: Mapping[str, object]) -> Callable[..., object]:
    """The factory `name` of a Python module, which is imported; the working directory is on the path.

    Raises:
        UnknownNameError: If there is no such module or factory.
        ModelError: If the module cannot be imported, or what was named makes no models.
    """
    found = import_factory(
        module, name, makes="a torch.nn.Module", kind="model source", known=sources, error=ModelError
    )
    if isinstance(found, nn.Module):
        raise ModelError(f"'{module}:{name}' is a network already: give a function that returns it, or its class.")
    return found


def call_factory(
    name: str, factory: Callable[..., object], options: Mapping[str, Any], suggested: Mapping[str, Any]
) -> nn.Module:
    """The model that a factory makes.

    Args:
        name: The name of the factory, for messages.
        factory: What is called.
        options: What it is called with; it must accept all of them.
        suggested: What it is called with besides, where it names such a parameter.

    Raises:
        ModelError: If it does not accept `options`, needs other arguments, raises, or makes no module.
    """
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some built-in callables have none
        signature = inspect.Signature()
    given = {key: value for key, value in suggested.items() if key in signature.parameters} | dict(options)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    unknown = [key for key in options if key not in signature.parameters and not open_ended]
    if unknown:
        raise ModelError(
            f"{name} has no parameter {' or '.join(map(repr, unknown))}, which would be ignored: leave "
            f"{_shown({key: options[key] for key in unknown})} out, or give it that parameter."
        )
    try:
        signature.bind(**given)
    except TypeError as error:
        raise ModelError(f"{name} cannot be called with {_shown(given)}: {error}. Give the others defaults.") from error
    try:
        made = factory(**given)
    except BitwrightError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name}, called with {_shown(given)}, raised {described(error)}.") from error
    if not isinstance(made, nn.Module):
        what = "the class itself" if isinstance(made, type) else type(made).__name__
        raise ModelError(f"{name} returned {what}, expected a torch.nn.Module.")
    return made


def _shown(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no arguments"
