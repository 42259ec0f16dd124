# SPDX-License-Identifier: MIT
"""Any file of Bitwright's own, whatever it holds."""

from __future__ import annotations

from pathlib import Path

from bitwright.errors import FileFormatError
from bitwright.graph.graph import FORMAT as GRAPH_FORMAT
from bitwright.graph.graph import Graph
from bitwright.graph.tensors_file import read_format, same_kind
from bitwright.integer.model import FORMAT as INTEGER_FORMAT
from bitwright.integer.model import IntegerModel
from bitwright.integer.reader import load_integer
from bitwright.training.checkpoint import MODEL_FORMAT, load_quantized
from bitwright.training.model import QuantizedModel


def load(path: str | Path) -> Graph | QuantizedModel | IntegerModel:
    """Read a network from what `Graph.save`, `save_quantized` or `IntegerModel.save` wrote.

    Raises:
        FileFormatError: If the file is missing, damaged, or of another kind.
    """
    found = read_format(path)
    if same_kind(found, GRAPH_FORMAT):
        return Graph.load(path)
    if same_kind(found, MODEL_FORMAT):
        return load_quantized(path)
    if same_kind(found, INTEGER_FORMAT):
        return load_integer(path)
    raise FileFormatError(
        f"expected a graph, a quantized model or an integer model, got '{found or 'an unmarked file'}', in '{path}'."
    )
