# SPDX-License-Identifier: MIT
"""How each ATen operation becomes a node: one handler each, in one registry."""

# The handlers enter themselves in the registry when their modules are imported.
from bitwright.graph.aten import arithmetic as _arithmetic
from bitwright.graph.aten import elementwise as _elementwise
from bitwright.graph.aten import filled as _filled
from bitwright.graph.aten import functions as _functions
from bitwright.graph.aten import layers as _layers
from bitwright.graph.aten import moves as _moves
from bitwright.graph.aten import pooling as _pooling
from bitwright.graph.aten import prelu as _prelu
from bitwright.graph.aten import resizing as _resizing
from bitwright.graph.aten import shapes as _shapes
from bitwright.graph.aten import softmax as _softmax
from bitwright.graph.aten import transposed as _transposed
from bitwright.graph.aten.refused import why_refused
from bitwright.graph.aten.registry import HANDLERS, IGNORED, supported

del (
    _arithmetic,
    _elementwise,
    _filled,
    _functions,
    _layers,
    _moves,
    _pooling,
    _prelu,
    _resizing,
    _shapes,
    _softmax,
    _transposed,
)

__all__ = ["HANDLERS", "IGNORED", "supported", "why_refused"]
