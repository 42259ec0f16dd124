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
from bitwright.cli.options import Json, Output, TaskName
from bitwright.cli.outputs import reserve
from bitwright.cli.preprocessing import HOW, reads_images

if TYPE_CHECKING:
    from bitwright.data import Preprocessing
    from bitwright.integer import IntegerModel
    from bitwright.task import Scores, Task

_BATCH = 100
_CHOOSING = 32  # images that show what costs less: more than that change no choice that matters


@app.command(epilog="Example: bitwright lower resnet18.w4a4.checkpoint -o resnet18.w4a4.integer")
@reads_images
def lower(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A file that `bitwright train` wrote.")],
    output: Output,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="any, or avx2: reduce the range of weights or inputs where CPUs without 8-bit dot products saturate.",
        ),
    ] = "any",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            metavar="NAME",
            help="With --target avx2: choose on its training images (else weights); judge before and after.",
        ),
    ] = None,
    task: TaskName = "classification",
    images: Annotated[
        int | None, typer.Option("--images", parser=whole(1), help="To count on; by default, all.")
    ] = None,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Make the integer model, prove that float32 engines compute the same integers, write it packed."""
    from bitwright.cli.models import data_for_model, task_for
    from bitwright.cost import BYTES_PER_MB
    from bitwright.errors import unknown_name
    from bitwright.export import Target
    from bitwright.graph import FloatModel, layer_costs, scheme_cost
    from bitwright.integer import lower as lower_model
    from bitwright.report import lowering_summary, lowering_table
    from bitwright.training import load_quantized

    if target not in (Target.ANY, Target.AVX2):
        raise unknown_name("target of lowering", target, [Target.ANY, Target.AVX2])
    if target != Target.AVX2:
        refuse_ignored(
            context, "it is for --target avx2. Evaluate with: bitwright evaluate.", "data", "task", "images", *HOW
        )
    elif data is None:
        refuse_ignored(context, "there is nothing to judge by. Name a data set with --data.", "task", "images", *HOW)
    reserve(output, reads=[checkpoint])
    model = load_quantized(checkpoint)
    name = f"{model.plan.graph.model}, {model.plan.scheme.name}"
    before, chosen_on, purpose = None, None, None
    scores: dict[str, Scores] = {}
    if target == Target.AVX2 and data is not None:
        source = model.plan.source
        purpose = task_for(task, source.output_shape, source.model).towards(FloatModel(model.float_graph()).eval())
        found = data_for_model(data, source.input_shape, known=source.preprocessing, asked=asked)
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
    if before is not None and purpose is not None and data is not None:
        scores = {
            "before": _judged(before, purpose, data, images, asked),
            "after": _judged(integer, purpose, data, images, asked),
        }
        summary["accuracy"] = {when: found.to_dict() for when, found in scores.items()}
    show(summary, as_json, lambda: lowering_table(summary, scores))
    note(f"wrote {output}")


def _judged(model: IntegerModel, task: Task, data: str, count: int | None, asked: Preprocessing) -> Scores:
    """Scores on the first `count` test images."""
    from bitwright.cli.models import class_outputs, data_for_model
    from bitwright.integer import prepare
    from bitwright.training import evaluate

    found = data_for_model(
        data, model.input_shape, known=model.preprocessing, asked=asked, outputs=class_outputs(task, model.output_shape)
    ).test
    total = min(count or len(found), len(found))
    starts = range(0, total, _BATCH)
    batches = (found.read(range(start, min(start + _BATCH, total))) for start in starts)
    with bar(f"evaluating {model.scheme.name} on {data}") as progress:
        return evaluate(prepare(model).logits, batches, task=task, model=model.model, progress=progress)
