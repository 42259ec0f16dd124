# SPDX-License-Identifier: MIT
"""An integer model as a Relax function: which kernel computes each operation, and with which constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from bitwright.errors import ExportError
from bitwright.export.pixels import Pixels
from bitwright.export.tvm.kernels.elementwise import (
    Logits,
    output,
)
from bitwright.export.tvm.kernels.instructions import Instructions
from bitwright.export.tvm.kernels.rescaling import Constants, Rounding, plan_rounding
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import (
    Rescale,
)
from bitwright.integer.proof.float32_multipliers import certified, in_float32
from bitwright.integer.quant_params import QuantParams

Array = npt.NDArray[Any]


@dataclass
class Network:
    """The Relax function while it grows.

    Attributes:
        model: What is exported.
        pixels: How images were normalised, if the function takes pixels.
        instructions: The instructions of the CPU.
        builder: Relax's.
        images: The function's parameter.
        batch: Its number of images.
        shapes: The shapes of every tensor, without the batch.
        values: Relax variables by tensor.
        kernels: TIR functions by what they compute: layers of one shape share one.
    """

    model: IntegerModel
    pixels: Pixels | None
    instructions: Instructions
    builder: Any
    images: Any
    batch: Any
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    kernels: dict[Any, Any] = field(default_factory=dict)

    def dtype(self, name: str) -> str:
        """The type that holds a tensor."""
        return storage(self.model.formats.get(name))

    def call(
        self,
        spec: Any,
        make: Callable[[Any, str], Any],
        operands: Sequence[Any],
        constants: Sequence[Array],
        shape: Sequence[int],
        dtype: str,
    ) -> Any:
        """Emit a call of the kernel `make(spec, name)`.

        Args:
            spec: What it computes.
            make: Writes its TIR function.
            operands: Relax variables.
            constants: Behind those.
            shape: The shape of the result, without the batch.
            dtype: The type of the result.
        """
        if spec not in self.kernels:
            name = f"{make.__name__}_{len(self.kernels)}"
            self.kernels[spec] = self.builder.add_func(make(spec, name).with_attr("global_symbol", name), name)
        arguments = [*operands, *(relax.const(np.ascontiguousarray(values), str(values.dtype)) for values in constants)]
        kind = relax.TensorType((self.batch, *shape), dtype)
        return self.builder.emit(relax.call_tir(self.kernels[spec], arguments, kind))

    def set(
        self,
        op: Node,
        spec: Any,
        make: Callable[[Any, str], Any],
        operands: Sequence[Any],
        constants: Sequence[Array] = (),
    ) -> None:
        """Compute the tensor of an operation, (batch, elements)."""
        self.values[op.name] = self.call(spec, make, operands, constants, [prod(op.shape)], self.dtype(op.name))

    def rounding(
        self, op: Node, rescale: Rescale | None, largest: Array, channels: int
    ) -> tuple[Rounding | None, Constants | None]:
        """Form and constants of an operation's requantization, if there is one."""
        if rescale is None:
            return None, None
        return plan_rounding(rescale, largest, channels, proved=certified(op, self.model) and in_float32(rescale))


def storage(params: QuantParams | None) -> str:
    """The smallest type that holds a format; None stands for accumulators."""
    if params is None:
        return "int32"
    for dtype in ("uint8", "int8", "int16"):
        limits = np.iinfo(dtype)
        if limits.min <= params.quant_min and params.quant_max <= limits.max:
            return dtype
    return "int32"


@singledispatch
def add_to_tvm(op: Node, network: Network) -> None:
    """Add the calls that compute one operation."""
    raise ExportError(f"no TVM form of {type(op).__name__} ('{op.name}').")


def outputs(network: Network) -> list[Any]:
    """For each output, the integers and the real numbers that the network returns, channels first."""
    made = []
    for returned in network.model.outputs.values():
        name, shape = returned.tensor, network.shapes[returned.tensor]
        unit = returned.unit.astype(np.float32)
        if unit.ndim > 1 or (unit.size > 1 and len(shape) not in (1, 3)):
            unit = np.ascontiguousarray(np.broadcast_to(returned.across(len(shape)), shape).astype(np.float32)).reshape(
                -1
            )
        for units, dtype in ((0, "int32"), (len(unit), "float32")):
            spec = Logits(shape, network.dtype(name), units)
            constants = [unit] if units else []
            made.append(network.call(spec, output, [network.values[name]], constants, shape, dtype))
    return made


def rounding_constants(found: Constants | None, order: Array | None = None) -> list[Array]:
    """The rescaling parameters of a kernel."""
    if found is None:
        return []
    return list((found if order is None else found.at(order)).arrays)
