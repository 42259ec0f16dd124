# SPDX-License-Identifier: MIT
"""The published model zoo: its table, its schemes, its checkpoints, and how to reproduce a row."""

from bitwright.zoo.download import archive_path, download
from bitwright.zoo.importing import import_checkpoint
from bitwright.zoo.names import layer_name, model_name, row_name, scheme_name
from bitwright.zoo.notes import import_notes
from bitwright.zoo.registry import (
    Network,
    Row,
    configurations,
    networks,
    published_modules,
    published_scheme,
    row,
    rows,
)
from bitwright.zoo.search import (
    SearchResult,
    published_latency_table,
    published_losses,
    published_problem,
    repeat_search,
)
from bitwright.zoo.table import Comparison, TableRow, zoo_table
from bitwright.zoo.verify import verify

__all__ = [
    "Comparison",
    "Network",
    "Row",
    "SearchResult",
    "TableRow",
    "archive_path",
    "configurations",
    "download",
    "import_checkpoint",
    "import_notes",
    "layer_name",
    "model_name",
    "networks",
    "published_latency_table",
    "published_losses",
    "published_modules",
    "published_problem",
    "published_scheme",
    "repeat_search",
    "row",
    "row_name",
    "rows",
    "scheme_name",
    "verify",
    "zoo_table",
]
