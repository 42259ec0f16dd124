# SPDX-License-Identifier: MIT
"""What all ONNX files have in common: nodes, shared constants, and the operations that only move values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from bitwright.errors import ExportError
from bitwright.graph.nodes import MaxPool2d, Node, Pair
from bitwright.integer.ops import IntegerConv2d

OPSET = 21
IR_VERSION = 10
BATCH = "batch"


@dataclass
class OnnxGraph:
    """Nodes and constants of an ONNX graph so far."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """An initializer; one of that name is used again."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def scalar(self, value: float) -> str:
        """A float32 scalar, shared by all that use the value."""
        exact = np.float32(value)
        return self.constant(f"float.{exact.item()!r}", np.array(exact))

    def integers(self, *values: int) -> str:
        """An int64 vector, shared by all that use it."""
        return self.constant("int64." + ".".join(map(str, values)), np.array(values, dtype=np.int64))

    def node(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node, named after its one output."""
        self.nodes.append(helper.make_node(operation, inputs, [output], name=output, **attributes))
        return output

    def stored_zero(self, name: str) -> str:
        """The constant that a tensor stores for zero; empty where it is zero."""
        return ""

    def make_room(self, names: Collection[str]) -> Mapping[str, str]:
        """Rename the tensors so far that bear `names`, those of the graph's outputs, as a layer may; returns their new names."""
        new = {name: f"{name}:inner" for name in names}
        for node in self.nodes:
            node.name = new.get(node.name, node.name)
            for places in (node.input, node.output):
                places[:] = [new.get(name, name) for name in places]
        for name in new.keys() & self.constants.keys():
            self.constants[name].name = new[name]
        return new

    def finish(
        self,
        name: str,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        properties: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The model, checked by ONNX's own checker."""
        used = {name for node in self.nodes for name in node.input}
        constants = [tensor for tensor in self.constants.values() if tensor.name in used]
        graph = helper.make_graph(self.nodes, identifier(name), inputs, outputs, constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        made.producer_name = "bitwright"
        helper.set_model_props(made, dict(properties))
        onnx.checker.check_model(made, full_check=True)
        return made


def identifier(name: str) -> str:
    """`name` with letters, digits and underscores only."""
    return "".join(character if character.isalnum() else "_" for character in name) or "model"


def window(kernel: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> dict[str, Any]:
    """The attributes of convolutions and pooling."""
    return {
        "kernel_shape": [int(size) for size in kernel],
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
    }


def convolution_attributes(op: IntegerConv2d) -> dict[str, Any]:
    """All attributes of a convolution of integers."""
    return {**window(op.weight.shape[2:], op.stride, op.padding, op.dilation), "group": op.groups}


@singledispatch
def move_in_onnx(op: Node, graph: OnnxGraph) -> None:
    """Add a node that only selects or moves values: the same in float and in integers."""
    raise ExportError(f"no ONNX form of {type(op).__name__} ('{op.name}').")


def may_end_behind(op: MaxPool2d) -> bool:
    """Whether the last window of a pool may begin behind the image.

    Rounded up, it ends behind the padding by less than a stride, so it begins behind the image only where a stride is longer than
    a window without its padding.
    """
    reach = [step * (taps - 1) + 1 for taps, step in zip(op.kernel, op.dilation, strict=True)]
    return op.ceil_mode and any(s > have - pad for s, have, pad in zip(op.stride, reach, op.padding, strict=True))
