# SPDX-License-Identifier: MIT
"""`bitwright lower`: a quantized model becomes integers, with a proof for every channel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.numbers import whole
from bitwright.cli.options import Json, Output
from bitwright.cli.outputs import reserve

if TYPE_CHECKING:
    from bitwright.integer import IntegerModel

_BATCH = 100
_CHOOSING = 32  # images that show what costs less: more than that change no choice that matters


@app.command(epilog="Example: bitwright lower resnet18.w4a4.checkpoint -o resnet18.w4a4.integer")
def lower(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A file that `bitwright train` wrote.")],
    output: Output,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="any, or avx2: narrow weights or inputs where CPUs without 8-bit dot products saturate.",
        ),
    ] = "any",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            metavar="NAME",
            help="With --target avx2: choose on its training images (else weights); count accuracy before and after.",
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", parser=whole(1), help="To count on; by default, all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the integer model, prove that float32 engines compute the same integers, write it packed."""
    from bitwright.cli.models import load_data
    from bitwright.cost import BYTES_PER_MB
    from bitwright.errors import unknown_name
    from bitwright.export import Target
    from bitwright.graph import layer_costs, scheme_cost
    from bitwright.integer import lower as lower_model
    from bitwright.report import lowering_summary, lowering_table
    from bitwright.training import load_quantized

    if target not in (Target.ANY, Target.AVX2):
        raise unknown_name("target of lowering", target, [Target.ANY, Target.AVX2])
    if target != Target.AVX2:
        refuse_ignored(context, "it is for --target avx2. Evaluate with: bitwright evaluate.", "data", "images")
    elif data is None:
        refuse_ignored(context, "there is nothing to count on. Name a data set with --data.", "images")
    reserve(output, reads=[checkpoint])
    model = load_quantized(checkpoint)
    name = f"{model.plan.graph.model}, {model.plan.scheme.name}"
    before, chosen_on = None, None
    if target == Target.AVX2 and data is not None:
        found = load_data(data, model.plan.graph.input_shape)
        chosen_on, _ = found.calibration(min(_CHOOSING, len(found.train)))
        with bar(f"lowering {name} as it is") as progress:
            before = lower_model(model, progress=progress)
    with bar(f"lowering {name}") as progress:
        integer = lower_model(model, avoid_saturation=target == Target.AVX2, images=chosen_on, progress=progress)
    integer.save(output)
    cost = scheme_cost(layer_costs(model.plan.source), model.plan.scheme)
    summary = lowering_summary(integer) | {
        "size_mb": cost.size_mb,
        "file_mb": output.stat().st_size / BYTES_PER_MB,
        "file": str(output),
    }
    if before is not None and data is not None:
        summary["accuracy"] = {"before": _accuracy(before, data, images), "after": _accuracy(integer, data, images)}
    show(summary, as_json, lambda: lowering_table(summary))
    note(f"wrote {output}")


def _accuracy(model: IntegerModel, data: str, count: int | None) -> dict[str, float]:
    """Right guesses on the first `count` test images."""
    from bitwright.cli.models import load_data
    from bitwright.integer import prepare
    from bitwright.training import evaluate

    found = load_data(data, model.input_shape, outputs=model.output_shape[0]).test
    total = min(count or len(found), len(found))
    starts = range(0, total, _BATCH)
    batches = (found.read(range(start, min(start + _BATCH, total))) for start in starts)
    with bar(f"evaluating {model.scheme.name} on {data}") as progress:
        accuracy = evaluate(prepare(model).logits, batches, progress=progress)
    return accuracy.to_dict()
