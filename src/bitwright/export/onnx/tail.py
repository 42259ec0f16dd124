# SPDX-License-Identifier: MIT
"""A softmax or sigmoid behind an output, in float: what training leaves to the loss, and who reads a file may want in it.

Integers end before it: `NAME_int32` and `NAME` are proved equal as ever, and what the tail makes of `NAME` is as exact as the
engine's own float operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx
from onnx import TensorProto, helper

from bitwright.errors import ExportError, unknown_name
from bitwright.export.onnx.graph import BATCH
from bitwright.integer.model import IntegerModel

TAILS = MappingProxyType({"log_softmax": "LogSoftmax", "sigmoid": "Sigmoid", "softmax": "Softmax"})
"""The operator of each; over the classes, the axis behind the batch, where it is over any."""

Tail = str | Mapping[str, str] | None
"""One for every output, or one for some by their names."""


def tail_name(output: str, tail: str) -> str:
    """The tensor that a tail makes of an output.

    >>> tail_name("logits", "softmax")
    'logits_softmax'
    """
    return f"{output}_{tail}"


def tails_of(model: IntegerModel, tail: Tail) -> dict[str, str]:
    """The tail of each output that has one.

    Raises:
        UnknownNameError: If there is no such output or tail.
    """
    if tail is None:
        return {}
    found = dict.fromkeys(model.outputs, tail) if isinstance(tail, str) else dict(tail)
    for name, kind in found.items():
        if name not in model.outputs:
            raise unknown_name("output", name, model.outputs)
        if kind not in TAILS:
            raise unknown_name("tail", kind, TAILS)
    return found


def add_tails(made: onnx.ModelProto, model: IntegerModel, tail: Tail) -> onnx.ModelProto:
    """The file with a further output `NAME_softmax` for each output that has a tail.

    Raises:
        UnknownNameError: If there is no such output or tail.
        ExportError: If a tensor of the file has that name already.
    """
    taken = {name for node in made.graph.node for name in node.output}
    for name, kind in tails_of(model, tail).items():
        named = tail_name(name, kind)
        if named in taken:
            raise ExportError(f"the {kind} of the output '{name}' would be called '{named}', as another tensor is.")
        node = helper.make_node(TAILS[kind], [name], [named])
        if kind != "sigmoid":
            node.attribute.append(helper.make_attribute("axis", 1))
        made.graph.node.append(node)
        shape: list[str | int | None] = [BATCH, *model.output_shapes[name]]
        made.graph.output.append(helper.make_tensor_value_info(named, TensorProto.FLOAT, shape))
    return made
