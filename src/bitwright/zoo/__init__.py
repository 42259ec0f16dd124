# SPDX-License-Identifier: MIT
"""The published model zoo: its table, its schemes, its checkpoints, and how to reproduce a row."""

from bitwright.zoo.downloads import archive_path, download
from bitwright.zoo.importing import import_checkpoint, import_floats
from bitwright.zoo.names import layer_name, model_name, row_name, scheme_name
from bitwright.zoo.notes import import_notes
from bitwright.zoo.recipes import Recipe, recipe
from bitwright.zoo.registry import (
    Network,
    Row,
    configurations,
    networks,
    published_modules,
    published_scheme,
    published_schemes,
    row,
    rows,
)
from bitwright.zoo.regression import verify
from bitwright.zoo.reproduction import Reproduction, reproduce
from bitwright.zoo.search import (
    SearchResult,
    published_latency_table,
    published_losses,
    published_problem,
    repeat_search,
)
from bitwright.zoo.table import Comparison, TableRow, zoo_table

__all__ = [
    "Comparison",
    "Network",
    "Recipe",
    "Reproduction",
    "Row",
    "SearchResult",
    "TableRow",
    "archive_path",
    "configurations",
    "download",
    "import_checkpoint",
    "import_floats",
    "import_notes",
    "layer_name",
    "model_name",
    "networks",
    "published_latency_table",
    "published_losses",
    "published_modules",
    "published_problem",
    "published_scheme",
    "published_schemes",
    "recipe",
    "repeat_search",
    "reproduce",
    "row",
    "row_name",
    "rows",
    "scheme_name",
    "verify",
    "zoo_table",
]
