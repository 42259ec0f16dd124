# SPDX-License-Identifier: MIT
"""Options that a command would not look at are refused: whoever gives one expects something of it."""

from __future__ import annotations

import typer


def given(context: typer.Context, name: str) -> bool:
    """Whether a parameter was given on the command line.

    Args:
        context: The context of the command.
        name: The name of the command's parameter, in Python.
    """
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_ignored(context: typer.Context, reason: str, *names: str) -> None:
    """Refuse options that would be ignored, all together.

    Args:
        context: The context of the command.
        reason: Why they would be, and what to do instead.
        names: The names of the command's parameters, in Python.

    Raises:
        typer.BadParameter: Names the options as they are written.
    """
    options = {str(option.name): option for option in context.command.params}
    written = [
        "/".join([*options[name].opts[:1], *options[name].secondary_opts[:1]]) for name in names if given(context, name)
    ]
    if written:
        raise typer.BadParameter(f"{', '.join(written)} would be ignored: {reason}", ctx=context)
