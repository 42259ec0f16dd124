# SPDX-License-Identifier: MIT
"""`bitwright export`: an integer model becomes a file for an engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.options import Json, Output
from bitwright.cli.outputs import reserve
from bitwright.cli.preprocessing import HOW, reads_images

EXAMPLES = """
Examples: bitwright export resnet18.w4a4.integer -o resnet18.w4a4.onnx

bitwright export resnet18.graph -o float.onnx
"""

if TYPE_CHECKING:
    from bitwright.data import Preprocessing


@app.command(epilog=EXAMPLES)
@reads_images
def export(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A file that `bitwright lower` wrote; or a graph, for a float ONNX file."),
    ],
    output: Output,
    engine: Annotated[str, typer.Option("--engine", "-e", help="The engine to write for.")] = "onnx",
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="any; vnni: only with 8-bit dot products; avx2: for models lowered so.",
        ),
    ] = "any",
    form: Annotated[
        str | None,
        typer.Option(
            "--form",
            help="Of ONNX files: qoperator, fastest in ONNX Runtime on CPUs; qdq, which TensorRT and other engines read.",
            show_default="qoperator",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="NAME", help="Take uint8 pixels, normalised inside as this data set is."),
    ] = None,
    tvm_target: Annotated[
        str | None,
        typer.Option(
            "--tvm-target",
            metavar="CPU",
            help="What TVM compiles for: an LLVM CPU name, or a target as JSON; this machine.",
        ),
    ] = None,
    tail: Annotated[
        list[str],
        typer.Option(
            "--tail",
            metavar="[OUTPUT=]KIND",
            help="softmax, log_softmax or sigmoid behind the outputs, or behind one by its name, in float: a further output.",
        ),
    ] = [],  # noqa: B006
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Run the file that was written, where its engine is installed."),
    ] = True,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Write an integer model for an engine that is proved to compute the same integers, and run what was written.

    Of a graph it writes the float network as ONNX, for a baseline to compare with.
    """
    from rich.text import Text

    from bitwright.benchmark import checked_export
    from bitwright.cli.models import data_for_model
    from bitwright.errors import DataError, unknown_name
    from bitwright.export import Pixels, Target, companions, exported_bytes, form_of
    from bitwright.export.seal import NOT_CHECKED
    from bitwright.integer import load_integer
    from bitwright.kinds import GRAPH, INTEGER, own_kind, wrong_kind
    from bitwright.reading import require_file

    chosen = form_of(engine, form)
    if target not in list(Target):
        raise unknown_name("target", target, list(Target))
    options: dict[str, Any] = {} if tvm_target is None else {"tvm_target": tvm_target}
    tails = _tails(tail)
    behind: dict[str, Any] = {} if tails is None else {"tail": tails}
    chosen.require_options(options | behind)
    reserve(output, *companions(output), reads=[model])
    require_file(model)
    if (kind := own_kind(model)) not in (GRAPH, INTEGER):
        raise wrong_kind(model, GRAPH, INTEGER)
    if kind is GRAPH:
        _export_float(context, model, output, as_json)
        return
    if data is None:
        refuse_ignored(
            context, "images are given to the file as the network knows them. Name a data set with --data.", *HOW
        )
    loaded = load_integer(model)
    pixels = images = None
    if data is not None:
        found = data_for_model(data, loaded.input_shape, known=loaded.preprocessing, asked=asked)
        if not found.mean or not found.std:
            raise DataError(
                f"a file that reads pixels normalises them, and {data} does not say how: let it return 'mean' and 'std', or "
                "leave out --data for a file that reads float32 images."
            )
        pixels = Pixels(found.mean, found.std)
        images = pixels.nearest(found.test.read(range(min(3, len(found.test))))[0])

    with bar(f"exporting {loaded.model}, {loaded.scheme.name}") as progress:
        write_part = partial(chosen.export, target=Target(target), pixels=pixels, progress=progress, **options)
        write = partial(write_part, **behind)

        if check and tvm_target is None:  # a file for another machine cannot be run on this one
            checked = checked_export(
                write,
                loaded,
                output,
                chosen,
                target=target,
                pixels=pixels,
                images=images,
                tail=tails,
                write_part=write_part,
            )
        else:
            write(loaded, output)
            checked = NOT_CHECKED
    size = exported_bytes(output)
    result: dict[str, object] = {
        "model": loaded.model,
        "scheme": loaded.scheme.name,
        "engine": engine,
        "input": "float32" if pixels is None else "uint8",
        "size_bytes": size,
        "checked": checked,
        "file": str(output),
        **({"form": chosen.name} if chosen.name else {}),
        **chosen.facts(loaded),
    }
    for words in chosen.notes(loaded):
        note(words)
    show(result, as_json, lambda: Text(f"{loaded.model}, {loaded.scheme.name}, for {engine}: {size:,} bytes"))
    note(f"wrote {output}: {checked}")


def _tails(given: list[str]) -> str | dict[str, str] | None:
    """The kind for every output, or kinds by the names of outputs, each of which has one."""
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    if unnamed := next((one for one in given if "=" not in one), None):
        raise typer.BadParameter(f"expected OUTPUT=KIND where --tail is given several times, got '{unnamed}'.")
    found: dict[str, str] = {}
    for name, _, kind in (one.rpartition("=") for one in given):
        if name in found:
            raise typer.BadParameter(f"expected one --tail of the output '{name}', got {found[name]} and {kind}.")
        found[name] = kind
    return found or None


def _export_float(context: typer.Context, path: Path, output: Path, as_json: bool) -> None:
    """A graph's own weights, in float32."""
    from rich.text import Text

    from bitwright.export import export_float_onnx, exported_bytes
    from bitwright.graph import Graph

    options = ("engine", "target", "form", "data", "tvm_target", "tail", "check", *HOW)
    refuse_ignored(context, "of a graph, a float ONNX file is written. Lower it first for integers.", *options)
    graph = Graph.load(path)
    export_float_onnx(graph, output)
    size = exported_bytes(output)
    result = {"model": graph.model, "scheme": "float", "input": "float32", "size_bytes": size, "file": str(output)}
    show(result, as_json, lambda: Text(f"{graph.model} in float, for any engine that reads ONNX: {size:,} bytes"))
    note(f"wrote {output}")
