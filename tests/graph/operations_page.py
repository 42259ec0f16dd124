# SPDX-License-Identifier: MIT
"""The page of supported operations, from the registry of handlers and the examples that test them.

`python tests/graph/operations_page.py` (with `tests` on PYTHONPATH) writes docs/operations.md.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bitwright.graph import Graph
from bitwright.graph.aten import HANDLERS
from bitwright.graph.aten.refused import REASONS
from graph import examples
from graph.examples import ALIASES, ENDS, EXAMPLES
from graph.networks import Then, captured, kinds

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"

INTRODUCTION = """\
# Supported operations

<!-- Written by `python tests/graph/operations_page.py`; a test fails while it is not what the code says. -->

`torch.export` turns a network into some hundred operations of ATen, whatever modules and functions it was written with.
These are the ones that `capture` knows, each with an example that its tests run, and with what is left of it in the graph:
the kinds of operations that the integer model is made of. Nothing is left (–) of what becomes part of an operation before or
behind it, or only views a tensor; `Conv2d` and `Linear` have weights, and get bits by the scheme. In-place forms (`relu_`)
are the same operations. [What goes in](inputs.md#models) says more, of networks as a whole.
"""

REFUSED = """\
## What is refused

At capture, in one line with its name, its place in your code, and the reason:

| Operation | Reason |
| --- | --- |
"""

TITLES = {
    "layers": "Convolution, matrix product, batch norm",
    "transposed": "Transposed convolution",
    "arithmetic": "Sums, differences, products with constants",
    "elementwise": "Clamps, maxima, concatenation, dropout",
    "functions": "Functions of one tensor",
    "prelu": "PReLU",
    "pooling": "Pooling and reductions",
    "resizing": "Interpolation",
    "moves": "Moves of values",
    "shapes": "Views and casts",
    "filled": "Constants",
    "softmax": "Softmax",
    "product": "Products of tensors",
    "translate": "Parts of results",
}
"""Of the modules that hold handlers, in the order of the page."""

ENDING = "left out where it ends the network; within, over at most 8 branches: `Add` `Table`"


@cache
def sources() -> Mapping[str, str]:
    """The code of every example, as it stands in the tests."""
    tree = ast.parse(inspect.getsource(examples))
    (table,) = (
        statement.value
        for statement in tree.body
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "EXAMPLES"
    )
    assert isinstance(table, ast.Dict)
    return {
        str(ast.literal_eval(key)): _shown(value) for key, value in zip(table.keys, table.values, strict=True) if key
    }


def _shown(example: ast.expr) -> str:
    """Only what is done, of a function that is called on a tensor."""
    if isinstance(example, ast.Call) and ast.unparse(example.func) in ("Then", "Called"):
        (function, *_) = example.args
        return ast.unparse(function.body if isinstance(function, ast.Lambda) else function)
    return ast.unparse(example)


def becomes(name: str, graph: Graph) -> str:
    """What is left of an example: the kinds of nodes, without the convolution that images go through before."""
    left = kinds(graph)[2 if isinstance(EXAMPLES[name], Then) else 1 :]
    return " ".join(f"`{kind}`" for kind in dict.fromkeys(left)) or "–"


def row(name: str, left: str) -> str:
    """An operation on the page."""
    example = ""
    if name in EXAMPLES:
        example = f"`{sources()[name]}`".replace("|", "\\|")
    elif name in ALIASES:
        example = f"as `{ALIASES[name]}`"
    return f"| `{name}` | {example} | {left} |"


def page(left: Mapping[str, str]) -> str:
    """The page, given what is left of each example."""
    sections: dict[str, list[str]] = {title: [] for title in TITLES.values()}
    for name, handler in sorted(HANDLERS.items()):
        title = TITLES[handler.__module__.rpartition(".")[2]]
        kept = ENDING if name in ENDS else left[name if name in EXAMPLES else ALIASES[name]]
        sections[title].append(row(name, kept))
    head = "| Operation | For instance | What is left |\n| --- | --- | --- |\n"
    found = [f"## {title}\n\n{head}" + "\n".join(rows) + "\n" for title, rows in sections.items() if rows]
    return "\n".join([INTRODUCTION, *found, REFUSED + _refused()])


def _refused() -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in REASONS.items():
        if name not in HANDLERS:
            by_reason.setdefault(reason, []).append(f"`{name}`")
    return "".join(f"| {', '.join(names)} | {reason} |\n" for reason, names in by_reason.items())


def written() -> dict[str, str]:
    """What the page says is left of each operation."""
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {cells[0].strip("| `"): cells[-1].removesuffix(" |") for cells in rows if len(cells) > 2}


if __name__ == "__main__":
    graphs = {name: captured(example) for name, example in EXAMPLES.items()}
    PAGE.write_text(page({name: becomes(name, graph) for name, graph in graphs.items()}), encoding="utf-8")
