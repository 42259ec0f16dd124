# SPDX-License-Identifier: MIT
"""The published model zoo: its table, its schemes, its checkpoints, and how to reproduce a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.lazy import lazily

if TYPE_CHECKING:
    from bitwright.zoo.checkpoint import Checkpoint, load_checkpoint
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
    from bitwright.zoo.regression import changed_figures
    from bitwright.zoo.reproduction import Reproduction, reproduce
    from bitwright.zoo.resuming import PublishedTraining, published_ranges, published_training
    from bitwright.zoo.search import (
        SearchResult,
        published_latency_table,
        published_losses,
        published_problem,
        repeat_search,
    )
    from bitwright.zoo.table import Comparison, TableRow, zoo_table

_SOURCES = {
    "Checkpoint": "checkpoint",
    "Comparison": "table",
    "Network": "registry",
    "PublishedTraining": "resuming",
    "Recipe": "recipes",
    "Reproduction": "reproduction",
    "Row": "registry",
    "SearchResult": "search",
    "TableRow": "table",
    "archive_path": "downloads",
    "changed_figures": "regression",
    "configurations": "registry",
    "download": "downloads",
    "import_checkpoint": "importing",
    "import_floats": "importing",
    "import_notes": "notes",
    "layer_name": "names",
    "load_checkpoint": "checkpoint",
    "model_name": "names",
    "networks": "registry",
    "published_latency_table": "search",
    "published_losses": "search",
    "published_modules": "registry",
    "published_problem": "search",
    "published_ranges": "resuming",
    "published_scheme": "registry",
    "published_schemes": "registry",
    "published_training": "resuming",
    "recipe": "recipes",
    "repeat_search": "search",
    "reproduce": "reproduction",
    "row": "registry",
    "row_name": "names",
    "rows": "registry",
    "scheme_name": "names",
    "zoo_table": "table",
}

__all__ = [
    "Checkpoint",
    "Comparison",
    "Network",
    "PublishedTraining",
    "Recipe",
    "Reproduction",
    "Row",
    "SearchResult",
    "TableRow",
    "archive_path",
    "changed_figures",
    "configurations",
    "download",
    "import_checkpoint",
    "import_floats",
    "import_notes",
    "layer_name",
    "load_checkpoint",
    "model_name",
    "networks",
    "published_latency_table",
    "published_losses",
    "published_modules",
    "published_problem",
    "published_ranges",
    "published_scheme",
    "published_schemes",
    "published_training",
    "recipe",
    "repeat_search",
    "reproduce",
    "row",
    "row_name",
    "rows",
    "scheme_name",
    "zoo_table",
]

__getattr__ = lazily(__name__, _SOURCES)


def __dir__() -> list[str]:
    return __all__
