# SPDX-License-Identifier: MIT
"""The fast executor: the integers of the reference executor, at the speed of a float network.

Everything that depends on the model alone is done once: weights and multipliers become tensors, and each operation gets the
fastest arithmetic that is exact for its actual weights. Tensors of up to 16 bits travel as integers held in float32, in
channels-last order.

Requantization is one multiplication, one clamp and one rounding, in the first of these that is exact:

- float32, `round(clamp(float32(sum) * float32(b / 2**c)))`, where theorem A or B proves it (they are checked here anew);
- float64, where `|sum| * b <= 2**53`, so that the product is exact;
- int64, as the reference executor does it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from math import prod

import numpy as np
import torch
from torch import Tensor

from bitwright.graph.autocast import full_precision
from bitwright.graph.images import float_images
from bitwright.graph.nodes import Node
from bitwright.integer.execution.blockwise import scale_round_
from bitwright.integer.execution.reference import execute_op, finish
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import Accumulate, Rescale
from bitwright.integer.proof.bounds import Int64Array
from bitwright.integer.proof.certificate import float32_agrees
from bitwright.integer.proof.recheck import certified, recheck
from bitwright.integer.proof.theorems import max_short_shift, reduced
from bitwright.quantizer.formats import MAX_TENSOR_BITS
from bitwright.returned import Returned, by_name, returned

Step = Callable[[list[Tensor]], Tensor]
"""From the inputs of an operation to its result: float32 integers of up to 16 bits, int32 beyond."""

StepOf = Callable[[Node, "PreparedModel"], Step]
"""What makes the step of an operation."""

_FLOAT64_EXACT = 2**53
_TENSOR_BYTES = 2**24  # of the largest tensor at a time: larger ones leave the caches, and memory that malloc keeps
_MOST_THRESHOLDS = 2**8  # of an output that is worth proving: 16-bit ones take longer than they save


class PreparedModel:
    """An IntegerModel made ready to run on one device; its integers are those of `reference.run`, in every tensor.

    `prepare` makes it.

    Args:
        model: The integer model.
        device: Where to run.
        kernels: What `prepare` calls the arithmetic.
        step_of: Makes the step of each operation.

    Attributes:
        arithmetic: How each layer adds: `int8`, `float32` or `float64`, or `triton` and its products, by name.

    Raises:
        LoweringError: If the model is not proved.
    """

    def __init__(self, model: IntegerModel, device: torch.device, kernels: str, step_of: StepOf) -> None:
        recheck(model)
        self.model = model
        self.device = device
        self.kernels = kernels
        self.arithmetic: dict[str, str] = {}
        self.shapes = {op.name: op.shape for op in model}
        self._steps = [step_of(op, self) for op in model]
        last = {name: index for index, op in enumerate(model.ops) for name in op.inputs}
        for name in model.returned:
            last.pop(name, None)
        self._freed: list[list[str]] = [[] for _ in model.ops]
        for name, index in last.items():
            self._freed[index].append(name)
        largest = 4 * max(prod(op.shape) for op in model)
        self._images_at_once = max(1, _TENSOR_BYTES // largest) if self.device.type == "cpu" else 2**31

    def held_in_float32(self, name: str) -> bool:
        """Whether a tensor travels in float32."""
        params = self.model.formats.get(name)
        return params is not None and params.bit_width <= MAX_TENSOR_BITS

    def sole_reader(self, op: Node, name: str) -> bool:
        """Whether the tensor `name` is a layer's own, which nothing but `op` reads, once: its memory may be reused."""
        made = next(other for other in self.model if other.name == name)
        readers = [other for other in self.model for source in other.inputs if source == name]
        return isinstance(made, Accumulate) and readers == [op] and name not in self.model.returned

    @torch.inference_mode()
    @full_precision()
    def run(self, images: Tensor, observe: Callable[[str, Tensor], None] | None = None) -> Returned:
        """The logits: int32, shape (batch, classes), in the units of `model.outputs`; of several outputs, these by name.

        Args:
            images: float32, shape (batch, channels, height, width), normalised as in training.
            observe: Called with the name and the integers of every tensor, of whatever type holds them.

        Raises:
            DataError: If the images have another shape than the model's input, or are not finite.
        """
        images = float_images(images.to(self.device), self.model.input_shape, self.model.model)
        if observe is not None or len(images) <= self._images_at_once:
            return returned(self._run(images, observe))
        parts = [self._run(part, None) for part in images.chunk(-(-len(images) // self._images_at_once))]
        return returned({name: torch.cat([part[name] for part in parts]) for name in self.model.outputs})

    @torch.inference_mode()
    @full_precision()
    def run_unchecked(self, images: Tensor) -> Returned:
        """What `run` returns, for good images that are on the device: without waiting for it, as CUDA graphs demand."""
        return returned(self._run(images, None))

    def _run(self, images: Tensor, observe: Callable[[str, Tensor], None] | None) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for op, step, freed in zip(self.model.ops, self._steps, self._freed, strict=True):
            values[op.name] = step([values[name] for name in op.inputs] if op.inputs else [images])
            if observe is not None:
                observe(op.name, values[op.name].clone())
            for name in freed:
                del values[name]
        return {name: values[output.tensor].to(torch.int32) for name, output in self.model.outputs.items()}

    def logits(self, images: Tensor) -> Returned:
        """Real logits, float64, shape (batch, classes): integers times the unit of each class; of several outputs, by name."""
        return returned(self.model.real(by_name(self.run(images))))


@singledispatch
def prepare_op(op: Node, model: PreparedModel) -> Step:
    """How to compute one operation."""
    raise NotImplementedError(f"no prepared form of {type(op).__name__}")


def as_reference(op: Node, model: PreparedModel) -> Step:
    """The step of the reference executor, for what has no faster one."""
    formats = [model.model.formats[name] for name in op.inputs if name in model.model.formats]
    in_float32 = model.held_in_float32(op.name)

    def step(inputs: list[Tensor]) -> Tensor:
        result = execute_op(op, [values.to(torch.int32) for values in inputs] if op.inputs else inputs, formats)
        return result.float() if in_float32 else result

    return step


def rescaled_step(
    rounded: Callable[[Tensor], Tensor],
    exact: Callable[[Tensor], Tensor],
    op: Node,
    rescale: Rescale | None,
    low: Int64Array,
    high: Int64Array,
    model: PreparedModel,
) -> Step:
    """Sums, requantized in the first arithmetic that is exact for bounds of shape [channels] or [1].

    Args:
        rounded: Makes the sums, each rounded to float32; a tensor that nothing else holds.
        exact: Makes the sums themselves; likewise.
        op: The operation.
        rescale: Its multipliers, or None for accumulators.
        low: Smallest sum.
        high: Largest sum.
        model: What it is a part of.
    """
    if rescale is None:
        return lambda inputs: exact(inputs[0]).to(torch.int32)
    multipliers, in_float32 = rescale.multipliers, model.held_in_float32(op.name)
    largest = np.maximum(np.maximum(-low, high), 1)
    if in_float32 and (certified(op, model.model) or proved(rescale, low, high)):
        ratio = torch.from_numpy(multipliers.as_float32()).to(model.device)
        return lambda inputs: scale_round_(rounded(inputs[0]), ratio, rescale.low, rescale.high)
    if in_float32 and bool((largest <= _FLOAT64_EXACT // multipliers.multiplier).all()):
        ratio = torch.from_numpy(multipliers.real()).to(model.device)
        return lambda inputs: scale_round_(exact(inputs[0]), ratio, rescale.low, rescale.high).float()

    def literal(inputs: list[Tensor]) -> Tensor:
        result = finish(exact(inputs[0]).to(torch.int64), rescale)
        return result.float() if in_float32 else result

    return literal


def proved(rescale: Rescale, low: Int64Array, high: Int64Array) -> bool:
    """Whether float32 gives the integers of the model for all sums within the bounds: by theorem A, or else by theorem B."""
    multipliers = rescale.multipliers
    short = reduced(multipliers.multiplier, multipliers.shift)[1] <= max_short_shift(rescale.low, rescale.high)
    if bool(short.all()) or rescale.high - rescale.low < _MOST_THRESHOLDS:
        if len(multipliers) == 1:
            low, high = low.min(keepdims=True), high.max(keepdims=True)
        return bool(float32_agrees(multipliers, low, high, rescale.low, rescale.high).all())
    return False
