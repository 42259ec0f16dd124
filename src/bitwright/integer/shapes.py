# SPDX-License-Identifier: MIT
"""Whether the operations of an integer model make a network: tensors, arrays and formats are there, and shapes agree.

What the integers are worth, and that no sum overflows, is another question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch

from torch import Tensor

from bitwright.errors import FileFormatError, reason
from bitwright.graph.nodes import Concat, Node, Selection
from bitwright.graph.outputs import fault_of_names
from bitwright.integer.ops import Accumulate, Quantize, ReciprocalQuantize, Rescale
from bitwright.integer.outputs import Output
from bitwright.integer.quant_params import QuantParams


def check_shapes(
    ops: Sequence[Node],
    formats: Mapping[str, QuantParams],
    outputs: Mapping[str, Output],
    where: str,
) -> None:
    """Run a model on shapes alone, without computing a number.

    Raises:
        FileFormatError: If the first operation is not the only one that reads images, a tensor or its format is missing or
            named twice, an operation makes another shape than it says, or an output has other units; names it.
    """
    made: dict[str, Tensor] = {}
    accumulators: set[str] = set()  # which have no format
    for number, op in enumerate(ops):
        here = f"{where}: operation {number}, '{op.name}'"
        if isinstance(op, Quantize | ReciprocalQuantize) != (number == 0) or op.name in made:
            raise FileFormatError(f"{here}: expected one operation that reads images, the first, and each name once.")
        missing = [name for name in op.inputs if name not in made]
        if missing:
            raise FileFormatError(f"{here} reads '{missing[0]}' before it is made.")
        reads_accumulators = not accumulators.isdisjoint(op.inputs)
        if reads_accumulators and not isinstance(op, Selection | Concat):
            raise FileFormatError(f"{here} reads accumulators, which have no format.")
        if reads_accumulators or (isinstance(op, Accumulate) and op.rescale is None):
            accumulators.add(op.name)
        elif op.name not in formats:
            raise FileFormatError(f"{here} has no format.")
        try:
            made[op.name] = shape_of(op, [made[name] for name in op.inputs])
        except Exception as error:  # PyTorch has many types for values that make no sense
            raise FileFormatError(f"{here} does not fit its inputs or arrays ({reason(error)}).") from error
        if tuple(made[op.name].shape[1:]) != op.shape:
            raise FileFormatError(f"{here} makes {tuple(made[op.name].shape[1:])}, but says {op.shape}.")
    wrong = fault_of_names(outputs)
    if wrong is not None:
        raise FileFormatError(f"{where}: {wrong}.")
    for name, output in outputs.items():
        if output.tensor not in made:
            raise FileFormatError(f"{where}: its output '{name}', '{output.tensor}', is no operation.")
        if not output.fits(tuple(made[output.tensor].shape[1:])):
            raise FileFormatError(
                f"{where}: expected one unit of its output '{name}', or one a channel, got shape {output.unit.shape}."
            )


@singledispatch
def shape_of(op: Node, inputs: list[Tensor]) -> Tensor:
    """The result of an operation on tensors without values."""
    raise NotImplementedError(f"{type(op).__name__} is no operation on integers")


def rescaled(values: Tensor, rescale: Rescale | None) -> Tensor:
    """What a rescaling makes: the same shape, if there is one multiplier, or one a channel."""
    if rescale is not None and len(rescale.multipliers) not in (1, values.shape[1]):
        raise ValueError(f"{len(rescale.multipliers)} multipliers for {values.shape[1]} channels")
    if rescale is not None and rescale.low > rescale.high:
        raise ValueError(f"a range from {rescale.low} to {rescale.high}")
    return values
