# SPDX-License-Identifier: MIT
"""Element-wise functions of one tensor, whatever they are made of: with inputs of a byte, a table of 256 entries."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from bitwright.graph.builder import Builder
from bitwright.graph.evaluate import Tensors, float_result
from bitwright.graph.functions import can_be_negative, check_program, compute
from bitwright.graph.nodes import Bytewise
from bitwright.graph.signs import makes_negative


@dataclass(frozen=True, kw_only=True)
class Table(Bytewise):
    """An element-wise function of one tensor.

    Attributes:
        program: The function, as `graph.functions` writes it.
    """

    program: tuple[str | float, ...]

    def __post_init__(self) -> None:
        check_program(self.program)


def table_of(builder: Builder, fx_node: fx.Node, source: str, *program: str | float) -> str:
    """Add a function of an activation; `program` is what comes behind its `x`."""
    return builder.add(
        Table(
            name=builder.node_name(fx_node, str(program[-1])),
            inputs=(source,),
            shape=builder.shape_of(source),
            place=builder.place(fx_node),
            program=("x", *program),
        )
    )


@float_result.register
def _(node: Table, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return compute(node.program, inputs[0])


@makes_negative.register
def _(node: Table, inputs: list[bool]) -> bool:
    return can_be_negative(node.program, inputs[0])
