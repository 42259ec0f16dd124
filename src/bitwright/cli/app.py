# SPDX-License-Identifier: MIT
"""The application that every command enters itself in, and its entry point."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Annotated, Any, NoReturn

import typer

from bitwright.cli.announced import announced
from bitwright.cli.interruption import STATUS, Interrupted
from bitwright.errors import BitwrightError, BitwrightWarning

MAX_LINE = 2000
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
"""What a name from a file or a message of a library could tell a terminal to do."""

ENGINES = ("torch", "onnxruntime", "openvino", "ai-edge-litert", "apache-tvm", "qonnx")
"""Packages of what runs networks."""

app = typer.Typer(
    name="bitwright",
    help="Mixed-precision integer quantization of convolutional networks: what you evaluate is what you deploy.",
    epilog="Start with: bitwright demo. Every command has an example: bitwright COMMAND --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        # Without what computes, so that it is instant; each engine's own package says its version.
        found = {name: _version(name) for name in ENGINES}
        engines = ", ".join(f"{name} {number}" for name, number in found.items() if number is not None)
        typer.echo(f"bitwright {version('bitwright')}\nengines: {engines}; Python {python_version()}")
        absent = [name for name, number in found.items() if number is None]
        if absent:
            typer.echo(f"not installed: {', '.join(absent)}")
        raise typer.Exit


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the versions, of engines too, and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options of no command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that the user can cause becomes one line on stderr and an exit status that is not 0.

    It is 2 where the command line is wrong in itself, and 1 otherwise.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    with reported(["bitwright", *given]):
        status = app(args=given, standalone_mode=False)
        sys.stdout.flush()  # lest a full disk be found when nothing can be said any more
    sys.exit(status or 0)


@contextmanager
def reported(command: Sequence[str]) -> Iterator[None]:
    """Errors that a user can cause end the program with one line; so does Ctrl-C, with how `command` goes on."""
    announced()  # by a command of this process that was refused
    try:
        with _warnings_in_one_line():
            yield
    except Interrupted as stop:
        fail(stop.advice(command), STATUS)
    except typer.TyperException as error:
        fail(usage(error), error.exit_code)
    except typer.Abort:
        fail("interrupted.", STATUS)
    except BitwrightError as error:
        fail(f"{type(error).__name__}: {error}")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        fail(f"not enough memory{_asked_for(error)}: choose smaller images or batches.")
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        fail(f"cannot read or write{where}: {error.strerror or error}.")


def _out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether that is what it says: PyTorch has a type of its own for GPUs, and none for processors."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _asked_for(error: BaseException) -> str:
    """How much was asked for, where the message tells.

    >>> _asked_for(RuntimeError("can't allocate memory: you tried to allocate 4096 bytes. Error code 12"))
    ' for 4096 bytes'
    """
    found = re.search(r"(?:tried|trying|unable) to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
    return f" for {found[1]}" if found else ""


def usage(error: typer.TyperException) -> str:
    """What is wrong with a command line, and where its help is; nothing where the help was asked for by giving nothing."""
    context = getattr(error, "ctx", None)
    where = "" if context is None else f" See: {context.command_path} --help"
    return f"UsageError: {error.format_message().rstrip('.')}.{where}" if error.format_message() else ""


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Our own warnings as they are, without the line of code that raised them."""
    show = warnings.showwarning

    def shown(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, BitwrightWarning):
            print(_one_line(f"warning: {message}"), file=sys.stderr)
        else:
            show(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", BitwrightWarning)
        warnings.showwarning = shown
        yield


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line on stderr and exit."""
    line = _one_line(message)
    if line:
        print(line, file=sys.stderr)
    sys.exit(status)


def _one_line(message: str) -> str:
    line = " ".join(_CONTROLS.sub(" ", message).split())
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…"
