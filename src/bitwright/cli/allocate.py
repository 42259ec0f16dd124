# SPDX-License-Identifier: MIT
"""`bitwright allocate`: bits for every layer under budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.options import GraphFile, Json, Output, ResidualBits
from bitwright.cli.outputs import reserve

if TYPE_CHECKING:
    from bitwright.allocation import LatencyTable, Problem
    from bitwright.graph import Graph
    from bitwright.scheme import Budget, Precision, Scheme
    from bitwright.sensitivity import SensitivityTable

T4 = "nvidia-t4"
EXAMPLES = """
Examples: bitwright allocate resnet18.graph resnet18.sensitivities.json size0.5 -o resnet18.size0.5.yaml

bitwright allocate resnet18.graph resnet18.sensitivities.json size=7MB bops=80G --choices 2-8 --explain -o small.yaml

bitwright allocate resnet18.graph resnet18.sensitivities.json --latency-table nvidia-t4 --latency-ms 4.2 -o fast.yaml

bitwright allocate net.graph net.sensitivities.json --least latency --max-loss 0.02 --latency-table latency.json -o fast.yaml
"""


@app.command(epilog=EXAMPLES)
def allocate(
    context: typer.Context,
    graph: GraphFile,
    sensitivities: Annotated[
        Path, typer.Argument(metavar="SENSITIVITIES", help="A file that `bitwright sensitivity` wrote.")
    ],
    output: Output,
    budgets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BUDGET]...",
            help="size0.5 (part of the way from smallest to largest), size=7MB, bops=80G, latency=4.2ms, activation=2MB.",
        ),
    ] = None,
    size_mb: Annotated[
        float | None, typer.Option("--size-mb", metavar="MB", help="Budget of the weights: the same as size=…MB.")
    ] = None,
    bops_g: Annotated[
        float | None, typer.Option("--bops-g", metavar="G", help="Budget of bit operations: the same as bops=…G.")
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option("--latency-ms", metavar="MS", help="Budget of a --latency-table's sum: the same as latency=…ms."),
    ] = None,
    activation_mb: Annotated[
        float | None,
        typer.Option(
            "--activation-mb", metavar="MB", help="Budget of the largest activations: the same as activation=…MB."
        ),
    ] = None,
    accuracy: Annotated[
        str | None,
        typer.Option("--accuracy", metavar="1%", hidden=True, help="What `bitwright auto --max-drop` keeps."),
    ] = None,
    choices: Annotated[
        str, typer.Option("--choices", help="What a layer may have: 2-8, or precisions such as W4A4,W4A8,W8A8.")
    ] = "W4A4,W8A8",
    pins: Annotated[
        list[str] | None,
        typer.Option(
            "--pin", metavar="LAYER=PRECISION", help="Fix a layer; the first and last are at W8A8 if not named."
        ),
    ] = None,
    latency_table: Annotated[
        str | None,
        typer.Option(
            "--latency-table", help="Measured latencies of the layers: a file, or nvidia-t4 (ResNet18 and 50)."
        ),
    ] = None,
    residual_bits: ResidualBits = 8,
    force: Annotated[
        bool, typer.Option("--force", help="Take figures of another network all the same; the result says so.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say what would change first with 5 % less and more budget.")
    ] = False,
    least: Annotated[
        str | None,
        typer.Option(
            "--least", help="Take least of it, size, bops or latency, while no more than --max-loss is expected."
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option("--max-loss", metavar="LOSS", help="Most expected loss, in the unit that this command prints."),
    ] = None,
    frontier: Annotated[
        Path | None,
        typer.Option("--frontier", help="Also write the Pareto frontier over the first budget: JSON and PNG."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Also draw the chosen bits over the sensitivities: PNG.", dir_okay=False),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the scheme; by default the budgets'.")] = None,
    as_json: Json = False,
) -> None:
    """Solve the integer program: the scheme of least expected loss within all budgets, exactly.

    With --least, the scheme that takes least of what is named among those that are expected to lose no more than --max-loss.
    """
    from rich.text import Text

    from bitwright.allocation import allocate as search
    from bitwright.allocation import allocate_least, graph_problem
    from bitwright.extras import require
    from bitwright.graph import Graph
    from bitwright.report import plot_bits
    from bitwright.sensitivity import SensitivityTable

    asked = [] if accuracy is None else [f"accuracy={accuracy}"]  # which is refused there, by naming what keeps it
    limits = budgets_of(
        [*(budgets or []), *asked],
        {"size": size_mb, "bops": bops_g, "latency": latency_ms, "activation": activation_mb},
        or_none=least is not None,
    )
    if least is None:
        refuse_ignored(context, "nothing is asked to be least. Add --least latency, size or bops.", "max_loss")
    else:
        refuse_ignored(context, "it scales budgets, and --least looks for the smallest. Leave it out.", "explain")
    if least != "latency" and all(limit.kind != "latency" for limit in limits):
        refuse_ignored(
            context, "nothing is asked of the latency. Add --latency-ms 4.2, or --least latency.", "latency_table"
        )
    if plot is not None or frontier is not None:
        require("matplotlib", "--plot" if frontier is None else "--frontier, which also draws,")
    picture = None if frontier is None else frontier.with_suffix(".png")
    reserve(output, plot, frontier, picture, reads=[graph, sensitivities, latency_table])
    table = SensitivityTable.load(sensitivities)
    network = Graph.load(graph)
    problem = graph_problem(
        network,
        table,
        choices=parse_choices(choices),
        pinned=parse_pins(pins or []),
        latency=None if latency_table is None else latencies(latency_table, network.model),
        residual_bits=residual_bits,
        force=force,
    )
    if least is None:
        found = search(problem, limits, name, explain=explain)
    else:
        found = allocate_least(problem, least, most_lost(max_loss), limits, name)
    found.scheme.save(output)
    if plot is not None:
        plot_bits(plot, table, [found.scheme], ", ".join(map(str, found.uses)))
    if frontier is not None and picture is not None:
        kind, held = (limits[0].kind, limits[1:]) if least is None else (least, limits)
        write_frontier(frontier, picture, problem, kind, held, table, [found.scheme, *comparable(network, table)])
    show(found.to_dict(), as_json, lambda: Text(str(found)))
    for path in (output, plot, frontier, picture):
        if path is not None:
            note(f"wrote {path}")


def most_lost(max_loss: float | None) -> float:
    """What `--max-loss` says, which `--least` needs."""
    from bitwright.errors import BudgetError

    if max_loss is None:
        raise BudgetError(
            "--least needs the most expected loss, --max-loss: without it every layer would have the fewest bits. A search for a "
            "budget, such as size0.5, prints what it expects."
        )
    return max_loss


def budgets_of(texts: Sequence[str], options: Mapping[str, float | None], *, or_none: bool = False) -> list[Budget]:
    """The budgets that are written as arguments, and as options of their own.

    Args:
        texts: Such as `size0.5` and `bops=80G`.
        options: By kind, in the unit of the option.
        or_none: Whether there may be none.

    Raises:
        BudgetError: If there is none, and must be one.
    """
    from bitwright.errors import BudgetError
    from bitwright.scheme import Budget

    found = [Budget.parse(text) for text in texts]
    found += [Budget(kind, limit) for kind, limit in options.items() if limit is not None]
    if not found and not or_none:
        raise BudgetError("expected a budget, got none: name one, such as size0.5 or --latency-ms 4.2.")
    return found


def write_frontier(
    path: Path,
    picture: Path,
    problem: Problem,
    kind: str,
    budgets: Sequence[Budget],
    table: SensitivityTable,
    schemes: list[Scheme],
) -> None:
    """Trace the Pareto frontier over one kind of budget, within others, and write and draw it beside `schemes`."""
    from bitwright.allocation import pareto_frontier
    from bitwright.report import plot_frontier

    with bar("tracing the Pareto frontier") as progress:
        points = pareto_frontier(problem, kind, budgets=budgets, progress=progress)
    points.save(path)
    plot_frontier(picture, points, table, schemes)


def latencies(name: str, model: str) -> LatencyTable:
    """The table in a file, or the published one of an NVIDIA T4."""
    from bitwright.allocation import LatencyTable
    from bitwright.zoo import published_latency_table

    return published_latency_table(model) if name == T4 else LatencyTable.load(name)


def comparable(graph: Graph, table: SensitivityTable) -> list[Scheme]:
    """The model zoo's schemes of this network, where the table has figures for them."""
    from bitwright.errors import UnknownNameError
    from bitwright.report import expected_loss
    from bitwright.zoo import published_schemes

    found = published_schemes(graph)
    try:
        for scheme in found:
            expected_loss(table, scheme)
    except UnknownNameError:  # a width was not measured
        return []
    return found


def parse_choices(text: str) -> list[Precision]:
    """`2-8` means the same width for weights and activations; otherwise precisions with commas between them."""
    from bitwright.scheme import Precision

    first, dash, last = text.partition("-")
    if dash and first.isdigit() and last.isdigit():
        return [Precision(bits, bits) for bits in range(int(first), int(last) + 1)]
    return [Precision.parse(word) for word in text.split(",")]


def parse_pins(pins: list[str]) -> dict[str, Precision]:
    """`LAYER=PRECISION`, several times.

    Raises:
        SchemeError: If one is written otherwise.
    """
    from bitwright.errors import SchemeError
    from bitwright.scheme import Precision

    found = {}
    for pin in pins:
        layer, equals, precision = pin.rpartition("=")
        if not equals:
            raise SchemeError(f"expected --pin LAYER=PRECISION, such as fc=W8A8, got '{pin}'.")
        found[layer] = Precision.parse(precision)
    return found
