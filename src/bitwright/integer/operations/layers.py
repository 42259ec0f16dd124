# SPDX-License-Identifier: MIT
"""Convolutions and matrix products: accumulators that stay within int32, and a proved multiplier for each channel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.nodes import Layer, Linear, Node
from bitwright.integer.convolution import as_convolution
from bitwright.integer.execution.exact_sums import ExactSums
from bitwright.integer.execution.prepared import PreparedModel, Step, prepare_op, rescaled_step
from bitwright.integer.execution.reference import execute_op, finish
from bitwright.integer.execution.triton_layer import TritonLayer
from bitwright.integer.execution.triton_steps import as_prepared, triton_op
from bitwright.integer.lowering.layer_weights import LayerWeights, layer_weights
from bitwright.integer.lowering.lower import Lowering, lower_node
from bitwright.integer.lowering.saturation import fit_pairs, pair_limit
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import INT32_MAX
from bitwright.integer.ops import IntegerConv2d, IntegerLayer, IntegerLinear, Rescale
from bitwright.integer.placeholder import placeholder_op, placeholder_rescale
from bitwright.integer.proof.bounds import (
    FLOAT32_EXACT,
    SATURATING_SUM,
    TF32_EXACT,
    Int64Array,
    accumulator_bounds,
    largest_pair_sum,
    partial_sum_bound,
)
from bitwright.integer.proof.certificate import Certified, certify, provable_ratio
from bitwright.integer.proof.ranges import Range, accumulators, rescaled_range, result_range
from bitwright.integer.proof.recheck import check_op, check_sums, facts_of, format_of
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import rescaled, shape_of
from bitwright.quantizer.plan import QuantPlan
from bitwright.quantizer.weights import quantize_weight
from bitwright.training.folding import bias_integers
from bitwright.training.quantized import Certificate


@dataclass(frozen=True)
class _Integers:
    """The weights of a layer as lowering has chosen them so far.

    Attributes:
        weight: Integers [channels, ...], as floats.
        unit: What one accumulator is worth, [channels].
    """

    weight: Tensor
    unit: Tensor


@lower_node.register
def _(node: Layer, lowering: Lowering) -> Node:
    (source,) = lowering.inputs(node)
    params = lowering.formats[source]
    trained = layer_weights(node, lowering.source, lowering.parameters, params)
    chosen = _without_saturation(node, trained, lowering)
    rescale = None
    if node.name not in lowering.source.plan.accumulators:
        rescale, chosen = _certified(node, trained, chosen, params, lowering)
    biases = _biases(trained.bias, chosen.unit, lowering)
    op = _integer_layer(
        node, source, rescale, chosen.weight.cpu().numpy().astype(np.int8), trained.bit_width,
        biases.cpu().numpy().astype(np.int32),
    )  # fmt: skip
    exact = _record_bounds(op, params, chosen.unit, lowering)
    lowering.certificates[node.name] = Certificate(
        multipliers=None if rescale is None else torch.from_numpy(rescale.multipliers.as_float32()).to(biases.device),
        weight=chosen.weight,
        bias=biases,
        unit=chosen.unit,
        needs_float64=not exact,
    )
    return op


def _without_saturation(node: Layer, trained: LayerWeights, lowering: Lowering) -> _Integers:
    """The weights as trained, or those that were chosen against saturation."""
    narrowed = None if lowering.against_saturation is None else lowering.against_saturation.weights.get(node.name)
    if narrowed is None:
        return _Integers(trained.integers, trained.unit)
    return _Integers(narrowed.integers, trained.unit * narrowed.factor)


def _biases(bias: Tensor | None, unit: Tensor, lowering: Lowering) -> Tensor:
    """The rounding of the training forward, in its own float32."""
    return torch.zeros_like(unit) if bias is None else bias_integers(bias, unit, lowering.source.quantizing.bias_limit)


def _certified(
    node: Layer, trained: LayerWeights, chosen: _Integers, params: QuantParams, lowering: Lowering
) -> tuple[Rescale, _Integers]:
    """Multipliers with proofs, and the weights and units that they belong to.

    A channel without a proof gets the nearest unit that has one, by another scale of its weights, and its integers anew.
    """
    low, high = lowering.limits(node)
    output = lowering.params(node)

    def prove(given: _Integers, channels: npt.NDArray[np.intp], strict: bool) -> Certified:
        """Certificates of some channels, whose bounds and ratios depend on no others."""
        weights = given.weight.cpu().numpy()[channels].astype(np.int8)
        offsets = _biases(trained.bias, given.unit, lowering).cpu().numpy()[channels].astype(np.int32)
        ratio = given.unit.double().cpu().numpy()[channels] / output.scale
        try:
            return certify(ratio, *accumulator_bounds(weights, offsets, params), low, high, strict=strict)
        except LoweringError as error:
            raise LoweringError(f"layer '{node.name}': {error}") from error

    unit = chosen.unit
    certified = prove(chosen, np.arange(len(unit)), strict=False)
    unproved = ~certified.proved
    if unproved.any():
        ratio = unit.double().cpu().numpy() / output.scale
        better = unit.double().cpu().numpy() * np.where(unproved, provable_ratio(ratio, low, high) / ratio, 1.0)
        moved = torch.from_numpy(unproved).to(unit.device)
        quantize_at = _requantizer(trained, chosen, pair_limit(params), lowering)
        unit = torch.from_numpy(better).to(unit)
        # The other channels keep their units and integers, and with them their proofs.
        weight = torch.where(moved.reshape(-1, *[1] * (chosen.weight.dim() - 1)), quantize_at(unit), chosen.weight)
        chosen, channels = _Integers(weight, unit), np.flatnonzero(unproved)
        certified = certified.replaced(channels, prove(chosen, channels, strict=True))
    lowering.record(node, certified, channels_rescaled=int(unproved.sum()))
    return Rescale(certified.multipliers, low, high), chosen


def _requantizer(
    trained: LayerWeights, chosen: _Integers, limit: int, lowering: Lowering
) -> Callable[[Tensor], Tensor]:
    """What rounds the real weights anew, with accumulators of another unit."""
    # Channels that are their bias alone keep their zeros.
    alive = trained.integers.flatten(1).any(1).reshape(-1, *[1] * (trained.integers.dim() - 1))
    # A scale that moves must not make a safe layer unsafe.
    fits = lowering.against_saturation is not None and torch.equal(fit_pairs(chosen.weight, limit), chosen.weight)

    def quantize_at(unit: Tensor) -> Tensor:
        requantized = quantize_weight(trained.real, trained.scale * (unit / trained.unit), trained.bit_width)
        requantized = requantized.where(alive, 0.0)
        return fit_pairs(requantized, limit) if fits else requantized

    return quantize_at


def _record_bounds(op: IntegerLayer, params: QuantParams, unit: Tensor, lowering: Lowering) -> bool:
    """Write down how far the sums of a layer reach, and what its integers are worth; whether float32 holds every sum.

    Raises:
        LoweringError: If an accumulator can leave int32.
    """
    low, high = accumulator_bounds(op.weight, op.bias, params)
    bound = int(max(high.max(), -low.min()))
    if bound > INT32_MAX:
        raise LoweringError(
            f"layer '{op.name}': an accumulator can reach {bound}, beyond int32. Lower its weight or activation bits."
        )
    exact = max(bound, partial_sum_bound(op.weight, params)) <= FLOAT32_EXACT
    if op.rescale is None:
        lowering.units[op.name] = unit
        lowering.facts[op.name] = {"channels": len(unit)}
    else:
        lowering.formats[op.name] = lowering.params(op)
    lowering.facts[op.name] |= {
        "largest_accumulator": bound,
        "float32_exact": exact,
        "avx2_safe": largest_pair_sum(op.weight, params) <= SATURATING_SUM,
    }
    if lowering.against_saturation is not None:
        lowering.facts[op.name] |= lowering.against_saturation.facts(op.name)
    return exact


@placeholder_op.register
def _(node: Layer, plan: QuantPlan) -> Node:
    shape = plan.graph.parameters[node.weight].shape
    bits = plan.scheme.layers[node.name].weight_bits
    weight, bias = np.zeros(tuple(shape), np.int8), np.zeros(shape[0], np.int32)
    return _integer_layer(node, node.inputs[0], placeholder_rescale(node, plan), weight, bits, bias)


def _integer_layer(
    node: Layer,
    source: str,
    rescale: Rescale | None,
    weight: npt.NDArray[np.int8],
    weight_bits: int,
    bias: npt.NDArray[np.int32],
) -> IntegerLayer:
    """The operation of a layer that reads the tensor `source`."""
    common: dict[str, Any] = {
        "name": node.name, "inputs": (source,), "shape": node.shape, "place": node.place, "rescale": rescale,
        "weight": weight, "weight_bits": weight_bits, "bias": bias,
    }  # fmt: skip
    if isinstance(node, Linear):
        return IntegerLinear(**common)
    return IntegerConv2d(**common, stride=node.stride, padding=node.padding, dilation=node.dilation, groups=node.groups)


@as_convolution.register
def _(op: IntegerConv2d) -> IntegerConv2d:
    return op


@as_convolution.register
def _(op: IntegerLinear) -> IntegerConv2d:
    return IntegerConv2d(
        name=op.name, inputs=op.inputs, shape=(*op.shape, 1, 1), place=op.place, rescale=op.rescale,
        weight=op.weight[:, :, None, None], weight_bits=op.weight_bits, bias=op.bias,
        stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1,
    )  # fmt: skip


@shape_of.register
def _(op: IntegerConv2d, inputs: list[Tensor]) -> Tensor:
    (values,) = inputs
    weight, bias = _arrays(op)
    return rescaled(F.conv2d(values, weight, bias, op.stride, op.padding, op.dilation, op.groups), op.rescale)


@shape_of.register
def _(op: IntegerLinear, inputs: list[Tensor]) -> Tensor:
    (values,) = inputs
    weight, bias = _arrays(op)
    return rescaled(F.linear(values, weight, bias), op.rescale)


def _arrays(op: IntegerLayer) -> tuple[Tensor, Tensor]:
    """Weight and bias, which shapes alone do not compare in PyTorch."""
    if op.bias.shape != op.weight.shape[:1]:
        raise ValueError(f"weights of shape {op.weight.shape} with biases of shape {op.bias.shape}")
    return torch.empty(op.weight.shape, device="meta"), torch.empty(op.bias.shape, device="meta")


@accumulators.register
def _(op: IntegerLayer, sources: list[Range], model: IntegerModel) -> tuple[Int64Array, Int64Array]:
    return accumulator_bounds(op.weight, op.bias, model.formats[op.inputs[0]])


@result_range.register
def _(op: IntegerLayer, sources: list[Range], model: IntegerModel) -> Range:
    return rescaled_range(*accumulators(op, sources, model), op.rescale)


@check_op.register
def _(op: IntegerLayer, sources: list[Range], model: IntegerModel) -> None:
    params = format_of(op.inputs[0], op, model)
    channels, half = len(op.weight), 1 << (op.weight_bits - 1)
    if op.weight.dtype != np.int8 or op.bias.dtype != np.int32 or op.bias.shape != (channels,):
        raise LoweringError(
            f"layer '{op.name}': expected int8 weights and one int32 bias for each of {channels} channels, "
            f"got {op.weight.dtype}, and {op.bias.dtype} of shape {op.bias.shape}."
        )
    if op.weight.size and not -half <= op.weight.min() <= op.weight.max() < half:
        raise LoweringError(
            f"layer '{op.name}': expected weights of {op.weight_bits} bits, got {op.weight.min()} to {op.weight.max()}."
        )
    largest = check_sums(op, sources, model)
    facts = facts_of(op, model)
    if facts.get("float32_exact") and max(largest, partial_sum_bound(op.weight, params)) > FLOAT32_EXACT:
        raise LoweringError(
            f"layer '{op.name}': its facts say that float32 holds its sums, but not all are within 2**24."
        )
    if facts.get("avx2_safe") and largest_pair_sum(op.weight, params) > SATURATING_SUM:
        raise LoweringError(
            f"layer '{op.name}': its facts say that no CPU saturates, but two of its products can exceed 16 bits."
        )


@execute_op.register
def _(op: IntegerConv2d, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    values, weight, bias = _operands(op, inputs[0], formats[0])
    # On CUDA, cuDNN may choose Winograd's algorithm, whose transforms have fractions; PyTorch's own kernels add products.
    with torch.backends.cudnn.flags(enabled=False) if values.is_cuda else nullcontext():
        sums = F.conv2d(values, weight, None, op.stride, op.padding, op.dilation, op.groups)
    return finish(sums.to(torch.int64) + bias.reshape(-1, 1, 1), op.rescale)


@execute_op.register
def _(op: IntegerLinear, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    values, weight, bias = _operands(op, inputs[0], formats[0])
    return finish(F.linear(values, weight).to(torch.int64) + bias, op.rescale)


def _operands(op: IntegerLayer, values: Tensor, params: QuantParams) -> tuple[Tensor, Tensor, Tensor]:
    """Values, weight and bias in the types in which the sums are exact: float32 where it is, else float64."""
    # Where TF32 is allowed, CUDA rounds factors to 11 bits.
    factors_fit = not values.is_cuda or max(params.quant_max, -params.quant_min) <= TF32_EXACT
    exact = factors_fit and partial_sum_bound(op.weight, params) <= FLOAT32_EXACT
    kind = torch.float32 if exact else torch.float64
    weight = torch.from_numpy(np.array(op.weight)).to(values.device, kind)
    bias = torch.from_numpy(np.array(op.bias)).to(values.device, torch.int64)
    return values.to(kind), weight, bias


@prepare_op.register
def _(op: IntegerLayer, model: PreparedModel) -> Step:
    params = model.model.formats[op.inputs[0]]
    sums = ExactSums(op, params, model.shapes[op.inputs[0]], model.device)
    model.arithmetic[op.name] = sums.kind
    low, high = accumulator_bounds(op.weight, op.bias, params)
    return rescaled_step(sums.rounded, sums.exact, op, op.rescale, low, high, model)


@triton_op.register
def _(op: IntegerLayer, model: PreparedModel) -> Step:
    convolution = as_convolution(op)
    layer = TritonLayer.of(convolution, model)
    if layer is None:
        return as_prepared(op, model)
    model.arithmetic[op.name] = f"triton {layer.products}"
    if convolution is op:
        return lambda inputs: layer(inputs[0])
    return lambda inputs: layer(inputs[0].reshape(*inputs[0].shape, 1, 1)).flatten(1)
