# SPDX-License-Identifier: MIT
"""`bitwright zoo`: the published models, their table, their files, and how to reproduce a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.interruption import require_resumed, resumable
from bitwright.cli.numbers import one_of
from bitwright.cli.options import Classes, Data, Json, Output, ReplaceHead, Weights, Workers
from bitwright.cli.outputs import reserve, try_folder
from bitwright.cli.preprocessing import reads_images
from bitwright.progress import Progress

if TYPE_CHECKING:
    from bitwright.data import Preprocessing

zoo = typer.Typer(
    help="The published model zoo: rows, table, downloads, imports, reproductions.",
    epilog="Example: bitwright zoo table",
    no_args_is_help=True,
)
app.add_typer(zoo, name="zoo")

RowName = Annotated[str, typer.Argument(metavar="NAME", help="A row, for instance resnet18-bops0.5; see `zoo list`.")]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Capture the networks and count anew, instead of taking what is stored.")
]
Models = Annotated[list[str] | None, typer.Option("--model", help="Only this network; may be repeated.")]


@zoo.command("list", epilog="Example: bitwright zoo list")
def list_rows(as_json: Json = False) -> None:
    """All rows, and the published bits without a row."""
    from dataclasses import asdict

    from bitwright.report.zoo import rows_table
    from bitwright.zoo import configurations, rows

    known = {row.name for row in rows()}
    others = [f"{model}-{scheme}" for model, scheme in configurations() if f"{model}-{scheme}" not in known]
    result = {"rows": [asdict(row) | {"name": row.name} for row in rows()], "bits_without_row": others}
    show(result, as_json, lambda: rows_table(rows(), others))


@zoo.command("show", epilog="Example: bitwright zoo show resnet18-bops0.5 -o bops0.5.yaml")
def show_row(
    context: typer.Context,
    name: RowName,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the scheme as YAML.")] = None,
    residual_bits: Annotated[
        int, typer.Option("--residual-bits", parser=one_of(8, 16), help="Of the scheme written: 8 or 16.")
    ] = 8,
    as_json: Json = False,
) -> None:
    """One row: published figures, archive, and the bits of every layer."""
    from dataclasses import asdict

    from bitwright.errors import SchemeError
    from bitwright.report.zoo import row_table
    from bitwright.zoo import published_scheme, row_name, rows

    if output is None:
        refuse_ignored(context, "no scheme is written. Add -o FILE.", "residual_bits")
    reserve(output)
    wanted = row_name(name)
    model, scheme_text = wanted.rsplit("-", 1)
    row = next((row for row in rows() if row.name == wanted), None)
    scheme = None
    if row is None or not row.is_float:
        scheme = published_scheme(model, scheme_text, residual_bits=residual_bits)
    result: dict[str, Any] = {} if row is None else asdict(row) | {"link": row.link}
    result |= {"name": wanted, "layers": {} if scheme is None else scheme.to_dict()["layers"]}
    if output is not None:
        if scheme is None:
            raise SchemeError(f"{wanted} is float: it has no scheme to write.")
        scheme.save(output)
        note(f"wrote {output}")
    show(result, as_json, lambda: row_table(result))


@zoo.command("table", epilog="Example: bitwright zoo table --model resnet18")
def table(model: Models = None, recompute: Recompute = False, as_json: Json = False) -> None:
    """Published and recomputed size and bit operations side by side, with the reason wherever they differ."""
    from bitwright.report.zoo import comparison_dict, comparison_table
    from bitwright.zoo import zoo_table

    with _counting(recompute) as (counts, progress):
        entries = zoo_table(_rows(model), counts=counts, progress=progress)
    show({"rows": [comparison_dict(entry) for entry in entries]}, as_json, lambda: comparison_table(entries))


@contextmanager
def _counting(recompute: bool) -> Iterator[tuple[Any, Progress]]:
    """Where counts come from, and who is told: reading what is stored takes no time worth a bar."""
    from bitwright.progress import silent
    from bitwright.zoo.counts import stored_counts

    if not recompute:
        yield stored_counts, silent
        return
    from bitwright.zoo.counting import count_network

    with bar("capturing networks") as progress:
        yield count_network, progress


def _rows(models: list[str] | None) -> Any:
    from bitwright.errors import unknown_name
    from bitwright.zoo import model_name, networks, rows

    if not models:
        return rows()
    wanted = {model_name(model) for model in models}
    for name in sorted(wanted - set(networks())):
        raise unknown_name("network of the table", name, networks())
    return [row for row in rows() if row.model in wanted]


@zoo.command("check", epilog="Example: bitwright zoo check")
def check(
    context: typer.Context,
    model: Models = None,
    recompute: Recompute = False,
    write: Annotated[
        Path | None, typer.Option("--write", help="Count anew, and write the figures instead of comparing them.")
    ] = None,
) -> None:
    """Compute every row's figures from the layers' counts; any difference to the committed figures is an error."""
    from bitwright.zoo.counts import all_models
    from bitwright.zoo.regression import check_zoo, write_figures

    if write is not None:
        refuse_ignored(
            context, "the figures of all networks are counted and written. Leave it out.", "model", "recompute"
        )
    reserve(write)
    with _counting(recompute or write is not None) as (counts, progress):
        if write is not None:
            write_figures(write, counts, progress=progress)
            note(f"wrote {write}")
            return
        check_zoo(model, counts=counts, progress=progress)
    how = "counted anew from the captured networks" if recompute else "computed from the stored counts of their layers"
    typer.echo(f"all figures of {', '.join(model or all_models())}, {how}, are as committed")


@zoo.command("download", epilog="Example: bitwright zoo download resnet18-bops0.5")
def fetch(
    name: RowName,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where to keep it; by default the cache.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="Fetch it from a mirror.")] = None,
) -> None:
    """Fetch the archive of a row from Google Drive; goes on where a former try stopped."""
    from bitwright.zoo import download

    with bar(f"downloading {name}") as progress:
        path = download(name, folder=folder, url=url, progress=progress)
    typer.echo(str(path))


@zoo.command(
    "import",
    epilog="Example: bitwright zoo import resnet18_bops0.5.tar.gz --model resnet18 --scheme bops_0.5 -o r18.integer",
)
def import_file(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A published checkpoint, or the archive around it.")],
    model: Annotated[
        str, typer.Option("--model", help="resnet18, resnet50, resnet50b or resnet101; with --float, any of pytorchcv.")
    ],
    output: Output,
    scheme: Annotated[
        str | None,
        typer.Option("--scheme", help="What it was trained with, for instance bops_0.5; not needed with --float."),
    ] = None,
    floats: Annotated[
        bool, typer.Option("--float", help="Write the float weights as a graph, to train further, instead of integers.")
    ] = False,
) -> None:
    """Read a published checkpoint into an integer model with the published arithmetic."""
    from bitwright.zoo import import_checkpoint, import_floats, import_notes

    if floats:
        refuse_ignored(context, "float weights have no scheme. Leave out one of the two.", "scheme")
    reserve(output, reads=[file])
    if floats:
        import_floats(file, model).save(output)
    elif scheme is None:
        raise typer.BadParameter("the file does not say which scheme it was trained with: name it, or import --float.")
    else:
        made = import_checkpoint(file, model, scheme)
        made.save(output)
        for line in import_notes(made):
            note(f"note: {line}")
    note(f"wrote {output}")


@zoo.command("reproduce", epilog="Example: bitwright zoo reproduce resnet18-bops0.5 --data imagefolder:/data/imagenet")
@reads_images
def reproduce(
    context: typer.Context,
    name: RowName,
    data: Data,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the recipe.")
    ] = None,
    weights: Weights = None,
    classes: Classes = None,
    replace_head: ReplaceHead = False,
    workers: Workers = None,
    folder: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for models and state.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Run the recipe of a row from float weights to the integer model; ends with the row, published beside measured."""
    from bitwright.cli.models import data_for_model, make_model, match, refuse_two_heads
    from bitwright.graph import capture
    from bitwright.report.zoo import reproduction_table
    from bitwright.zoo import recipe, row
    from bitwright.zoo.counts import image_size_of
    from bitwright.zoo.reproduction import STATE
    from bitwright.zoo.reproduction import reproduce as run

    refuse_two_heads(context)
    kept = folder or Path("runs") / row(name).name
    try_folder(kept, kept)
    require_resumed(kept / STATE, resume)
    published = row(name)
    chosen = recipe(name).changed(changes or [])
    shape = (3, image_size_of(published.model), image_size_of(published.model))
    source = f"pytorchcv:{published.model}"
    images = data_for_model(data, shape, asked=asked)  # before weights are fetched for them
    made, _ = make_model(
        source,
        pretrained=weights is None,
        weights=weights,
        data=data,
        image_size=shape[1],
        channels=shape[0],
        classes=classes,
        replace_head=replace_head,
        seed=chosen.seed,
    )
    graph = capture(made, shape, name=source)
    images = match(images, graph.output_shape[0])
    with resumable(kept / STATE), bar(f"reproducing {published.name}") as progress:
        result = run(chosen, graph, images, folder=kept, resume=resume, workers=workers, progress=progress)
    note(f"wrote {kept}")
    show(result.to_dict(), as_json, lambda: reproduction_table(result))
