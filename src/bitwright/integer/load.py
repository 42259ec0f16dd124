# SPDX-License-Identifier: MIT
"""Any file of Bitwright's own, whatever it holds."""

from __future__ import annotations

from pathlib import Path

from bitwright.graph.graph import Graph
from bitwright.integer.model import IntegerModel
from bitwright.integer.reader import load_integer
from bitwright.kinds import GRAPH, INTEGER, QUANTIZED, own_kind, wrong_kind
from bitwright.reading import require_file
from bitwright.training.checkpoint import load_quantized
from bitwright.training.model import QuantizedModel


def load(path: str | Path) -> Graph | QuantizedModel | IntegerModel:
    """Read a network from what `Graph.save`, `save_quantized` or `IntegerModel.save` wrote.

    Raises:
        FileFormatError: If the file is missing, damaged, or of another kind.
    """
    require_file(path)
    kind = own_kind(path)
    if kind is GRAPH:
        return Graph.load(path)
    if kind is QUANTIZED:
        return load_quantized(path)
    if kind is INTEGER:
        return load_integer(path)
    raise wrong_kind(path, GRAPH, QUANTIZED, INTEGER)
