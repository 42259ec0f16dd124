# SPDX-License-Identifier: MIT
"""`bitwright lower`: a quantized model becomes integers, with a proof for every channel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import note, show
from bitwright.cli.options import Json, Output


@app.command(epilog="Example: bitwright lower resnet18.w4a4.checkpoint -o resnet18.w4a4.integer")
def lower(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A file that `bitwright train` wrote.")],
    output: Output,
    as_json: Json = False,
) -> None:
    """Make the integer model, prove that float32 engines compute the same integers, write it packed."""
    from bitwright.graph import layer_costs, scheme_cost
    from bitwright.graph.cost import BYTES_PER_MB
    from bitwright.integer import lower as lower_model
    from bitwright.report import lowering_summary, lowering_table
    from bitwright.training import load_quantized

    model = load_quantized(checkpoint)
    integer = lower_model(model)
    integer.save(output)
    cost = scheme_cost(layer_costs(model.plan.source), model.plan.scheme)
    summary = lowering_summary(integer) | {
        "size_mb": cost.size_mb,
        "file_mb": output.stat().st_size / BYTES_PER_MB,
        "file": str(output),
    }
    show(summary, as_json, lambda: lowering_table(summary))
    note(f"wrote {output}")
