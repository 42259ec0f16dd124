# SPDX-License-Identifier: MIT
"""Products of two tensors of bytes: `clamp(round_half_even(a * b * m))`, with m such that no order of multiplication matters.

A result of at most 8 bits has a margin (`proof.margins`): every product of an integer of one format and one of the other, times
m, keeps away from halves by 4e-7 of their size and 20 steps: 8e-6 near zero, 1.1e-4 at 255.5. A result of more bits has too many
halves for it. There m is proved like any requantization of the exact integer a * b, and engines must multiply in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.nodes import Node, Pair
from bitwright.graph.operations.product import Product
from bitwright.integer.execution.prepared import PreparedModel, Step, prepare_op
from bitwright.integer.execution.reference import execute_op, finish
from bitwright.integer.execution.triton_steps import as_prepared, triton_op
from bitwright.integer.lowering.lower import Lowering, lower_node
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import MAX_SHIFT, Multipliers, dyadic, requantize
from bitwright.integer.ops import Rescale
from bitwright.integer.placeholder import params_of, placeholder_op
from bitwright.integer.proof.certificate import certify_requantize, float32_agrees
from bitwright.integer.proof.margins import (
    PRODUCT_FREEDOM,
    PRODUCT_MARGIN,
    PRODUCT_STEPS,
    Int64Array,
    distinct_products,
    margin,
    nearby,
)
from bitwright.integer.proof.ranges import Range, result_range
from bitwright.integer.proof.recheck import check_op
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import shape_of
from bitwright.quantizer.plan import QuantPlan
from bitwright.scheme import MAX_BITS
from bitwright.training.quantized import Certificate


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerProduct(Node):
    """`clamp(round_half_even(a * b * multiplier / 2**shift), low, high)`, a or b repeated along axes of one element.

    Attributes:
        multiplier: An integer of at most 24 bits: `multiplier / 2**shift` is a float32 number.
        shift: From 0 to 62.
        low: Smallest result.
        high: Largest result.
    """

    reads: ClassVar[Pair] = (2, 2)

    multiplier: int
    shift: int
    low: int
    high: int

    @property
    def factor(self) -> float:
        """`multiplier / 2**shift`, a float32 number."""
        return float(self.rescale_of_products.multipliers.as_float32()[0])

    @property
    def rescale_of_products(self) -> Rescale:
        """What is done to a * b."""
        multipliers = Multipliers(np.array([self.multiplier], np.int64), np.array([self.shift], np.int32))
        return Rescale(multipliers, self.low, self.high)


@lower_node.register
def _(node: Product, lowering: Lowering) -> Node:
    inputs = lowering.inputs(node)
    first, second = (lowering.formats[name] for name in inputs)
    output, (low, high) = lowering.params(node), lowering.limits(node)
    multipliers = find_multiplier(node.name, first, second, output, low, high)
    lowering.formats[node.name] = output
    lowering.facts[node.name] = {
        "products": len(distinct_products(first, second)),
        "relative_change": float(multipliers.real()[0] / (first.scale * second.scale / output.scale) - 1),
    }
    device = lowering.source.activation_quantizer(node.name).scale.device
    lowering.certificates[node.name] = Certificate(torch.from_numpy(multipliers.as_float32()).to(device))
    return IntegerProduct(
        name=node.name, inputs=inputs, shape=node.shape, place=node.place,
        multiplier=int(multipliers.multiplier[0]), shift=int(multipliers.shift[0]), low=low, high=high,
    )  # fmt: skip


def find_multiplier(
    name: str, first: QuantParams, second: QuantParams, output: QuantParams, low: int, high: int
) -> Multipliers:
    """The nearest provable multiplier to the ratio of the scales."""
    ratio, products = first.scale * second.scale / output.scale, distinct_products(first, second)
    if output.bit_width > MAX_BITS:
        try:
            return certify_requantize(ratio, int(products[0]), int(products[-1]), low, high).multipliers
        except LoweringError as error:
            raise LoweringError(f"product '{name}': {error}") from error
    for factor in nearby(ratio, PRODUCT_FREEDOM):
        found = dyadic(factor)
        if _has_margin(products, found, low, high):
            return found
    raise LoweringError(
        f"product '{name}': expected a multiplier within {PRODUCT_FREEDOM:.1g} of {ratio:.6g} with which no product of "
        f"{first.bit_width} and {second.bit_width} bits comes near a half, found none. "
        "Calibrate the network again, with another method or other images."
    )


def _has_margin(products: Int64Array, multipliers: Multipliers, low: int, high: int) -> bool:
    return margin(products * multipliers.real()[0], low, high, relative_to=PRODUCT_STEPS) >= PRODUCT_MARGIN


@placeholder_op.register
def _(node: Product, plan: QuantPlan) -> Node:
    params = params_of(node.name, plan)
    return IntegerProduct(
        name=node.name, inputs=node.inputs, shape=node.shape, place=node.place, multiplier=1, shift=0,
        low=params.quant_min, high=params.quant_max,
    )  # fmt: skip


@shape_of.register
def _(op: IntegerProduct, inputs: list[Tensor]) -> Tensor:
    first, second = inputs
    if not 0 <= op.shift <= MAX_SHIFT or op.low > op.high or first.dim() != second.dim():
        raise ValueError("two tensors of as many axes, a shift of 0 to 62 and a range are needed")
    return first * second


@result_range.register
def _(op: IntegerProduct, sources: list[Range], model: IntegerModel) -> Range:
    corners = np.multiply.outer(*(np.array(ends, np.int64) for ends in sources))
    rescale = op.rescale_of_products
    ends = requantize(np.array([corners.min(), corners.max()]), rescale.multipliers, op.low, op.high)
    return int(ends[0]), int(ends[1])


@check_op.register
def _(op: IntegerProduct, sources: list[Range], model: IntegerModel) -> None:
    if not all(name in model.formats for name in (*op.inputs, op.name)):
        raise LoweringError(f"product '{op.name}': expected tensors with formats, got accumulators.")
    first, second, output = (model.formats[name] for name in (*op.inputs, op.name))
    if max(first.bit_width, second.bit_width) > MAX_BITS:
        raise LoweringError(
            f"product '{op.name}': expected operands of at most {MAX_BITS} bits, got {first.bit_width} and {second.bit_width}."
        )
    multipliers, products = op.rescale_of_products.multipliers, distinct_products(first, second)
    multipliers.as_float32()
    if output.bit_width > MAX_BITS:
        proved = bool(float32_agrees(multipliers, products[0], products[-1], op.low, op.high).all())
    else:
        proved = _has_margin(products, multipliers, op.low, op.high)
    if not proved:
        raise LoweringError(
            f"product '{op.name}': its multiplier {op.multiplier} / 2**{op.shift} is not proved: engines may round some of its "
            f"{len(products)} products otherwise. Lower the model again."
        )
    wanted = first.scale * second.scale / output.scale
    if op.name in model.facts and abs(op.factor - wanted) > 1.001 * PRODUCT_FREEDOM * wanted:
        raise LoweringError(
            f"product '{op.name}': expected a multiplier near {wanted:.6g}, the ratio of its scales, got {op.factor:.6g}."
        )


@execute_op.register
def _(op: IntegerProduct, inputs: list[Tensor], formats: Sequence[QuantParams]) -> Tensor:
    return finish(inputs[0].long() * inputs[1].long(), op.rescale_of_products)


@prepare_op.register
def _(op: IntegerProduct, model: PreparedModel) -> Step:
    # a * b has at most 16 bits; times the float32 factor it is rounded once, as was proved.
    factor, low, high = op.factor, op.low, op.high
    return lambda inputs: torch.mul(*inputs).mul_(factor).clamp_(low, high).round_()


triton_op.register(IntegerProduct, as_prepared)
