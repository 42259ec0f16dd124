# SPDX-License-Identifier: MIT
"""The open functions, one a phase, and the kinds of nodes that each of them meets.

`python tests/phases.py` prints the table that CONTRIBUTING shows.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from bitwright.graph import Product, Table, nodes
from bitwright.graph import operations as graph_operations
from bitwright.graph.nodes import node_kinds
from bitwright.integer import operations as integer_operations
from bitwright.integer import ops

_ABSTRACT = {nodes.Node, nodes.Bytewise, nodes.Selection, nodes.Move, ops.Accumulate, ops.IntegerLayer}


def _kinds(module: Any, operations: Any) -> tuple[type[nodes.Node], ...]:
    """The kinds of a module, in its order, then those that are modules of their own."""
    found = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, nodes.Node)]
    own = [kind for kind in found if kind.__module__ == module.__name__ and kind not in _ABSTRACT]
    return (*own, *node_kinds(operations.__name__).values())


UNRESOLVED = (nodes.Affine, nodes.BatchNorm, nodes.Probabilities, nodes.Reshape, nodes.Permute)
"""What passes fuse or resolve: no graph that leaves capture has one."""
CAPTURED = tuple(kind for kind in _kinds(nodes, graph_operations) if kind not in (nodes.Requantize, *UNRESOLVED))
PLANNED = (*CAPTURED, nodes.Requantize)
"""The nodes of a quantization plan, which places `Requantize`."""
EVERY = _kinds(nodes, graph_operations)
LAYERS = (nodes.Conv2d, nodes.Linear)
SELECTIONS = tuple(kind for kind in CAPTURED if issubclass(kind, nodes.Selection))
INTEGER = (*_kinds(ops, integer_operations), nodes.Concat, *(kind for kind in SELECTIONS if kind is not nodes.Dropout))
"""The instruction set: lowering leaves dropout out."""
SUMS = (ops.IntegerConv2d, ops.IntegerLinear, ops.IntegerAvgPool2d)
RESCALED = (ops.IntegerConv2d, ops.IntegerLinear, ops.IntegerAvgPool2d, ops.IntegerRequantize)

_RESOLVED = dict.fromkeys((nodes.Reshape, nodes.Permute), "passes resolve it first")
_IMAGES = {nodes.Input: "exporters are shown images instead"}
_PUBLISHED = dict.fromkeys(
    (ops.ReciprocalQuantize, ops.IntegerFloorAvgPool2d), "imported models are refused as a whole"
)
_FLOAT_DROPPED = {nodes.Dropout: "float networks write an identity"}
_AT_THE_DOOR = dict.fromkeys((ops.Quantize, ops.ReciprocalQuantize), "images become integers before the operations")
_NOT_PUBLISHED = dict.fromkeys(
    (
        nodes.Clamp,
        nodes.Concat,
        nodes.Dropout,
        nodes.Slice,
        nodes.ChannelShuffle,
        nodes.Take,
        nodes.Pad,
        nodes.DepthToSpace,
        nodes.Rearrange,
        Product,
        Table,
    ),
    "no published checkpoint has it",
)


@dataclass(frozen=True)
class Phase:
    """An open function, and what it must know.

    Attributes:
        meaning: What it says of a node.
        where: Its module below `bitwright`, and its name.
        kinds: The nodes that reach it.
        without: Why some of them have no entry.
    """

    meaning: str
    where: str
    kinds: tuple[type[nodes.Node], ...]
    without: Mapping[type[nodes.Node], str] = field(default_factory=dict)

    @cached_property
    def function(self) -> Any:
        module, _, name = self.where.partition(":")
        operations = f"bitwright.{module.rpartition('.')[0]}.operations"
        if find_spec(operations):
            importlib.import_module(operations)  # entries that are modules of their own
        return getattr(importlib.import_module(f"bitwright.{module}"), name)

    def knows(self, kind: type[nodes.Node]) -> bool:
        """Whether a kind, or one that it is a case of, has an entry."""
        return self.function.dispatch(kind) is not self.function.dispatch(object)


PHASES = (
    Phase("float result", "graph.evaluate:float_result", EVERY, _RESOLVED),
    Phase("linear part of a layer", "graph.evaluate:convolve", LAYERS),
    Phase("what is selected", "graph.evaluate:select", SELECTIONS),
    Phase("multiply-accumulates", "graph.cost:macs", PLANNED),
    Phase("sign", "graph.signs:makes_negative", EVERY),
    Phase("bits it wants of what it reads", "quantizer.demand:demand", PLANNED, {nodes.Input: "it reads nothing"}),
    Phase("refusals before training", "quantizer.refusals:_refused", PLANNED),
    Phase("gradient norms of weights", "sensitivity.gradient_norms:weight_gradient_norms", LAYERS),
    Phase("shape of a layer", "allocation.shapes:_shape", LAYERS),
    Phase("integers in training", "training.fake_quantize:fake_quantize", PLANNED),
    Phase("integer operation, proved", "integer.lowering.lower:lower_node", PLANNED),
    Phase("integer operation, without values", "integer.placeholder:placeholder_op", PLANNED, _IMAGES),
    Phase("convolution that it is", "integer.convolution:as_convolution", SUMS),
    Phase("shape", "integer.shapes:shape_of", INTEGER),
    Phase("accumulators", "integer.proof.ranges:accumulators", RESCALED),
    Phase("range", "integer.proof.ranges:result_range", INTEGER),
    Phase("the proof again", "integer.proof.recheck:check_op", INTEGER),
    Phase("reference executor", "integer.execution.reference:execute_op", INTEGER),
    Phase("fast executor", "integer.execution.prepared:prepare_op", INTEGER),
    Phase("Triton", "integer.execution.triton_steps:triton_op", INTEGER),
    Phase("ONNX", "export.onnx.exporter:add_to_onnx", INTEGER),
    Phase("ONNX, selections", "export.onnx.graph:move_in_onnx", (*SELECTIONS, nodes.Concat), _FLOAT_DROPPED),
    Phase("ONNX, float network", "export.onnx.float_network:add_float", CAPTURED),
    Phase("QDQ and QONNX", "export.onnx.float32:add_in_float32", INTEGER, _PUBLISHED),
    Phase(
        "OpenVINO",
        "export.openvino.exporter:add_to_openvino",
        INTEGER,
        {ops.IntegerFloorAvgPool2d: "its multipliers of 31 bits are refused"},
    ),
    Phase("LiteRT", "export.litert.exporter:add_to_litert", INTEGER, _AT_THE_DOOR),
    Phase("TVM", "export.tvm.network:add_to_tvm", INTEGER),
    Phase("published arithmetic", "zoo.importing:import_node", CAPTURED, _NOT_PUBLISHED),
)

_SETS = {
    EVERY: "all",
    PLANNED: "planned",
    CAPTURED: "captured",
    INTEGER: "integer",
    LAYERS: "layers",
    SUMS: "sums",
    RESCALED: "rescaled",
    SELECTIONS: "selections",
    (*SELECTIONS, nodes.Concat): "selections, `Concat`",
}


def table() -> str:
    """The phases in Markdown, one a row."""

    def names(kinds: Iterable[type[nodes.Node]]) -> str:
        return ", ".join(f"`{kind.__name__}`" for kind in kinds)

    rows = ["| phase | function | nodes | has none for |", "| --- | --- | --- | --- |"]
    for phase in PHASES:
        module, _, function = phase.where.rpartition(":")
        reasons = dict.fromkeys(phase.without.values())
        absent = "; ".join(
            f"{names(kind for kind, why in phase.without.items() if why == given)}: {given}" for given in reasons
        )
        rows.append(
            f"| {phase.meaning} | `{module.replace('.', '/')}.py` `{function}` | {_SETS[phase.kinds]} | {absent} |"
        )
    sets = [
        f"*{name}*: {names(kinds)}."
        for kinds, name in _SETS.items()
        if name in ("captured", "integer", "sums", "rescaled", "selections")
    ]
    return "\n".join([*rows, "", *sets])


if __name__ == "__main__":
    print(table())
