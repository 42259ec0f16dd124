# SPDX-License-Identifier: MIT
"""All inputs of all tables of a model, as one small model: engines compute functions each in its own way."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bitwright.graph.nodes import Concat, Node, Slice
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import Multipliers
from bitwright.integer.operations.table import IntegerTable
from bitwright.integer.ops import IntegerRequantize, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.quant_params import QuantParams

_SIDE = 16
_WIDE = QuantParams.symmetric(16, 1.0)
_ONE = Multipliers(np.ones(1, np.int64), np.zeros(1, np.int32))


def table_probe(model: IntegerModel) -> tuple[IntegerModel, Tensor] | None:
    """A model of the tables that engines may compute, one channel each, and an image of all integers that each can read.

    The image is of 16-bit integers, of which each table reads its channel in its own format; the results stand side by side.

    Returns:
        None where the model has no such table.
    """
    found = {
        (op.program, model.formats[op.inputs[0]], model.formats[op.name]): op
        for op in model
        if isinstance(op, IntegerTable) and op.computable
    }
    if not found:
        return None
    shape = (1, _SIDE, _SIDE)
    first = Quantize(
        name="integers", inputs=(), shape=(len(found), _SIDE, _SIDE), scale=1.0, low=_WIDE.quant_min, high=_WIDE.quant_max
    )  # fmt: skip
    ops: list[Node] = [first]
    formats = {"integers": _WIDE}
    image = []
    for channel, ((_, source, result), op) in enumerate(found.items()):
        part, read, table, made = (f"{name}{channel}" for name in ("channel", "read", "table", "made"))
        ops += [
            Slice(name=part, inputs=("integers",), shape=shape, start=channel, stop=channel + 1),
            _same(read, part, source, shape),
            IntegerTable(
                name=table, inputs=(read,), shape=shape, program=op.program, computable=True, entries=op.entries
            ),
            _same(made, table, _WIDE, shape),
        ]
        formats |= {part: _WIDE, read: source, table: result, made: _WIDE}
        # Formats of fewer bits have fewer integers, which are repeated.
        image.append(np.resize(np.arange(source.quant_min, source.quant_max + 1), (_SIDE, _SIDE)))
    made_of_all = tuple(f"made{channel}" for channel in range(len(found)))
    ops.append(Concat(name="all", inputs=made_of_all, shape=first.shape))
    formats["all"] = _WIDE
    probe = IntegerModel(f"tables of {model.model}", model.scheme, tuple(ops), formats, single_output("all"))
    return probe, torch.from_numpy(np.stack(image)[None].astype(np.float32))


def _same(name: str, source: str, params: QuantParams, shape: tuple[int, ...]) -> Node:
    """The same integers in another format."""
    rescale = Rescale(_ONE, params.quant_min, params.quant_max)
    return IntegerRequantize(name=name, inputs=(source,), shape=shape, rescale=rescale)
