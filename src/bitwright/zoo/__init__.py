# SPDX-License-Identifier: MIT
"""The published model zoo: its table, its schemes, its checkpoints, and how to reproduce a row."""

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
from bitwright.zoo.table import Comparison, TableRow, zoo_table
from bitwright.zoo.verify import verify

__all__ = [
    "Comparison",
    "Network",
    "Row",
    "TableRow",
    "configurations",
    "import_checkpoint",
    "import_notes",
    "layer_name",
    "model_name",
    "networks",
    "published_modules",
    "published_scheme",
    "row",
    "row_name",
    "rows",
    "scheme_name",
    "verify",
    "zoo_table",
]
