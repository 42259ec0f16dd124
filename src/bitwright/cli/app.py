# SPDX-License-Identifier: MIT
"""The application that every command enters itself in, and its entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated

import typer

from bitwright.cli.interruption import STATUS, Interrupted
from bitwright.errors import BitwrightError

app = typer.Typer(
    name="bitwright",
    help="Mixed-precision integer quantization of convolutional networks: what you evaluate is what you deploy.",
    epilog="Start with: bitwright demo. Every command has an example: bitwright COMMAND --help.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bitwright {version('bitwright')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of no command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that the user can cause becomes one line on stderr and exit status 1."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    with reported(["bitwright", *given]):
        app(args=given)


@contextmanager
def reported(command: Sequence[str]) -> Iterator[None]:
    """Errors that a user can cause end the program with one line; so does Ctrl-C, with how `command` goes on."""
    try:
        yield
    except Interrupted as stop:
        fail(stop.advice(command), STATUS)
    except BitwrightError as error:
        fail(f"{type(error).__name__}: {error}")
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        fail(f"cannot read or write{where}: {error.strerror or error}.")


def fail(message: str, status: int = 1) -> None:
    """Print one line on stderr and exit."""
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(status)
