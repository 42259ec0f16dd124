# SPDX-License-Identifier: MIT
"""The options that say how images are made, which every command has that reads images; and what becomes of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.announced import announce
from bitwright.cli.numbers import MAX_SIDE, reals, whole

if TYPE_CHECKING:
    from bitwright.data import Preprocessing

_PANEL = "How images are made (by default, as the network knows)"
OPTIONS: dict[str, Any] = {
    "mean": Annotated[
        Any, typer.Option("--mean", parser=reals, metavar="X[,X,X]", help="Of the channels.", rich_help_panel=_PANEL)
    ],
    "std": Annotated[
        Any,
        typer.Option(
            "--std", parser=reals, metavar="X[,X,X]", help="Each channel is divided by it.", rich_help_panel=_PANEL
        ),
    ],
    "resize": Annotated[
        Any,
        typer.Option(
            "--resize", parser=whole(1, MAX_SIDE), metavar="N", help="Of the shorter side.", rich_help_panel=_PANEL
        ),
    ],
    "crop": Annotated[
        Any,
        typer.Option(
            "--crop", parser=whole(1, MAX_SIDE), metavar="N", help="Cut out of the middle.", rich_help_panel=_PANEL
        ),
    ],
    "interpolation": Annotated[
        str | None,
        typer.Option("--interpolation", help="bilinear, bicubic, nearest, lanczos, …", rich_help_panel=_PANEL),
    ],
}

HOW = tuple(OPTIONS)
"""Their names, for commands that read no images where they are given no data."""


def reads_images(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options `--mean --std --resize --crop --interpolation`; it gets what they say as `asked`."""
    # Known to type checkers only, since its package imports PyTorch, for which no help is to wait.
    command.__annotations__ = {name: hint for name, hint in command.__annotations__.items() if name != "asked"}
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "asked"]
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, kind, default=None, annotation=hint) for name, hint in OPTIONS.items()]

    @wraps(command)
    def run(**given: Any) -> None:
        from bitwright.data import Preprocessing

        said = {name: given.pop(name) for name in OPTIONS}
        command(**given, asked=Preprocessing(**said))

    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
    return run


def network_preprocessing(name: str, pretrained: bool, size: int, asked: Preprocessing) -> Preprocessing | None:
    """What a network that is made now knows of its images: what was asked for, and what its library says of its own weights.

    Args:
        name: Of the model.
        pretrained: Whether it has its library's own weights.
        size: Height and width of its images.
        asked: On the command line.

    Returns:
        It; None where nothing is said.

    Raises:
        DataError: If another crop was asked for.
    """
    from bitwright.errors import DataError
    from bitwright.graph.stated import published_preprocessing

    if asked.crop not in (None, size):
        raise DataError(
            f"{name} reads images of {size} x {size}, got --crop {asked.crop}: leave it out, or make the network for "
            "others, where a command has --image-size."
        )
    found = asked.over(published_preprocessing(name, size) if pretrained else None)
    if not found:
        return None
    announce(f"{name} reads images made so: {found}")
    return found
