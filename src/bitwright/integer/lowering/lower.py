# SPDX-License-Identifier: MIT
"""From a QuantizedModel to an IntegerModel, with a proof for each channel.

Every ratio between an accumulator's unit and its output's scale becomes a multiplier `b / 2**c` with a certificate that float32
engines compute the same integers. The proved constants go back to the QuantizedModel, whose forward pass then gives exactly the
integers of the IntegerModel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.autocast import full_precision
from bitwright.graph.evaluate import Tensors
from bitwright.graph.nodes import (
    Add,
    AvgPool2d,
    Clamp,
    Concat,
    Conv2d,
    Dropout,
    Input,
    Linear,
    Node,
    Requantize,
    Selection,
)
from bitwright.integer.lowering.layer_weights import layer_weights, tensor_params
from bitwright.integer.lowering.readiness import check_ready
from bitwright.integer.lowering.saturation import fit_pairs, pair_limit
from bitwright.integer.lowering.saturation_choice import Remedies, remedies
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import INT32_MAX, add_multipliers
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    Rescale,
)
from bitwright.integer.outputs import Output
from bitwright.integer.proof.bounds import (
    FLOAT32_EXACT,
    SATURATING_SUM,
    accumulator_bounds,
    largest_pair_sum,
    partial_sum_bound,
)
from bitwright.integer.proof.certificate import Certified, certify, certify_requantize, provable_ratio
from bitwright.integer.quant_params import QuantParams
from bitwright.progress import Progress, silent
from bitwright.quantizer.formats import clamp_limits
from bitwright.quantizer.sums import magnitude, window_sums
from bitwright.quantizer.units import moved_unit
from bitwright.quantizer.weights import quantize_weight
from bitwright.training.folding import bias_integers
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Certificate


@dataclass
class Lowering:
    """What the functions that lower nodes share."""

    source: QuantizedModel
    parameters: Tensors
    remedies: Remedies | None = None
    formats: dict[str, QuantParams] = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    units: dict[str, Tensor] = field(default_factory=dict)

    def inputs(self, node: Node) -> tuple[str, ...]:
        return tuple(self.renamed.get(name, name) for name in node.inputs)

    def params(self, node: Node) -> QuantParams:
        """Format of the tensor that `node` makes."""
        narrower = {} if self.remedies is None else self.remedies.formats
        return narrower.get(self.source.plan.quantizer_of[node.name]) or tensor_params(self.source, node.name)

    def limits(self, node: Node) -> tuple[int, int]:
        params = self.params(node)
        return clamp_limits(getattr(node, "bounds", None), params.format, params.scale)

    def output(self, name: str) -> Output:
        """The tensor `name` of the graph, as it leaves the network."""
        tensor = self.renamed.get(name, name)
        if tensor in self.formats:
            return Output(tensor, np.array([self.formats[tensor].scale]))
        return Output(tensor, self.units[tensor].double().cpu().numpy())

    def record(self, node: Node, certified: Certified, **more: Any) -> None:
        """Keep the facts of a certificate for the file and the report."""
        self.facts[node.name] = {
            "channels": len(certified.theorem),
            "theorem_a": certified.theorem.count("A"),
            "theorem_b": certified.theorem.count("B"),
            "exhaustive": certified.theorem.count("exhaustive"),
            "every_int32": int(certified.every_int32.sum()),
            "most_candidates": int(certified.candidates.max(initial=0)),
            "largest_relative_change": float(np.abs(certified.relative_change).max(initial=0.0)),
            **more,
        }


@torch.no_grad()
@full_precision()
def lower(
    model: QuantizedModel,
    *,
    avoid_saturation: bool = False,
    images: Tensor | None = None,
    progress: Progress = silent,
) -> IntegerModel:
    """Make the integer model of `model`, prove it, and hand the proved constants back to `model`.

    Args:
        model: A calibrated or trained model.
        avoid_saturation: Whether to narrow weights or activations where engines on CPUs without 8-bit dot products could
            saturate; what changed is among the facts of each layer, and in the scheme.
        images: float32 [count, channels, height, width], normalised as in training, on which that choice is made: some dozens do.
            Without, weights are narrowed.
        progress: Told about each step.

    Raises:
        LoweringError: If the model is not calibrated or not finite, an accumulator can leave int32, or no multiplier near the
            wanted one can be proved.
        DataError: If the images do not fit the model.
    """
    check_ready(model)
    model.eval()
    model.certify({})
    plan = model.plan
    before, total = 0, len(plan.graph.nodes)

    def choosing(done: int, steps: int, /, **figures: float) -> None:
        nonlocal before
        before = steps
        progress(done, steps + total, **figures)

    lowering = Lowering(model, model.parameters_by_name())
    if avoid_saturation:
        lowering.remedies = remedies(model, images, progress=choosing)
    ops = []
    for done, node in enumerate(plan.graph, 1):
        op = lower_node(node, lowering)
        if op is not None:
            ops.append(op)
        progress(before + done, before + total)
    certificates, scheme = lowering.certificates, plan.scheme
    if lowering.remedies is not None:
        certificates = lowering.remedies.certified(model, certificates)
        scheme = lowering.remedies.scheme(plan)
    model.certify(certificates)
    outputs = {name: lowering.output(tensor) for name, tensor in plan.graph.outputs.items()}
    return IntegerModel(plan.graph.model, scheme, tuple(ops), lowering.formats, outputs, lowering.facts)


@singledispatch
def lower_node(node: Node, lowering: Lowering) -> Node | None:
    """The integer operation of a node, or None where it vanishes."""
    raise NotImplementedError(f"no integer form of {type(node).__name__}")


@lower_node.register
def _(node: Input, lowering: Lowering) -> Node:
    params = lowering.params(node)
    lowering.formats[node.name] = params
    return Quantize(
        name=node.name, inputs=(), shape=node.shape, place=node.place,
        scale=params.scale, low=params.quant_min, high=params.quant_max,
    )  # fmt: skip


@lower_node.register(Conv2d)
@lower_node.register(Linear)
def _(node: Conv2d | Linear, lowering: Lowering) -> Node:
    (source,) = lowering.inputs(node)
    input_params = lowering.formats[source]
    found = layer_weights(node, lowering.source, lowering.parameters, input_params)
    bias, integers, unit = found.bias, found.integers, found.unit
    final = node.name in lowering.source.plan.accumulators
    rescale = None
    limit = pair_limit(input_params)
    alive = integers.flatten(1).any(1).reshape(-1, *[1] * (integers.dim() - 1))
    narrowing = None if lowering.remedies is None else lowering.remedies.weights.get(node.name)
    if narrowing is not None:
        unit, integers = unit * narrowing.factor, narrowing.integers
    # A scale that moves must not make a safe layer unsafe.
    fits = lowering.remedies is not None and torch.equal(fit_pairs(integers, limit), integers)
    if not final:

        def quantize_at(other: Tensor) -> Tensor:
            # Channels that are their bias alone keep their zeros.
            requantized = quantize_weight(found.real, found.scale * (other / found.unit), found.bit_width)
            requantized = requantized.where(alive, 0.0)
            return fit_pairs(requantized, limit) if fits else requantized

        rescale, unit, integers = _certified_layer(node, lowering, input_params, bias, unit, integers, quantize_at)
    biases = _bias_integers(bias, unit, lowering)
    weights = integers.cpu().numpy().astype(np.int8)
    offsets = biases.cpu().numpy().astype(np.int32)
    low, high = accumulator_bounds(weights, offsets, input_params)
    bound = int(max(high.max(), -low.min()))
    if bound > INT32_MAX:
        raise LoweringError(
            f"layer '{node.name}': an accumulator can reach {bound}, beyond int32. Lower its weight or activation bits."
        )
    if final:
        lowering.units[node.name] = unit
        lowering.facts[node.name] = {"channels": len(unit)}
    else:
        lowering.formats[node.name] = lowering.params(node)
    partial = partial_sum_bound(weights, input_params)
    lowering.facts[node.name] |= {
        "largest_accumulator": bound,
        "float32_exact": max(bound, partial) <= FLOAT32_EXACT,
        "avx2_safe": largest_pair_sum(weights, input_params) <= SATURATING_SUM,
    }
    if lowering.remedies is not None:
        lowering.facts[node.name] |= lowering.remedies.facts(node.name)
    lowering.certificates[node.name] = Certificate(
        multipliers=None if rescale is None else torch.from_numpy(rescale.multipliers.as_float32()).to(unit.device),
        weight=integers,
        bias=biases,
        unit=unit,
        wide=max(bound, partial) > FLOAT32_EXACT,
    )
    common: dict[str, Any] = {
        "name": node.name, "inputs": (source,), "shape": node.shape, "place": node.place, "rescale": rescale,
        "weight": weights, "weight_bits": found.bit_width, "bias": offsets,
    }  # fmt: skip
    if isinstance(node, Linear):
        return IntegerLinear(**common)
    return IntegerConv2d(**common, stride=node.stride, padding=node.padding, dilation=node.dilation, groups=node.groups)


def _bias_integers(bias: Tensor | None, unit: Tensor, lowering: Lowering) -> Tensor:
    """The rounding of the training forward, in its own float32."""
    rounded = bias_integers(bias, unit, lowering.source.quantizing.bias_limit)
    return torch.zeros_like(unit) if rounded is None else rounded


def _certified_layer(
    node: Conv2d | Linear,
    lowering: Lowering,
    input_params: QuantParams,
    bias: Tensor | None,
    unit: Tensor,
    integers: Tensor,
    quantize_at: Callable[[Tensor], Tensor],
) -> tuple[Rescale, Tensor, Tensor]:
    """Multipliers with proofs, and the units and integer weights that they belong to.

    A channel without a proof gets the nearest unit that has one, by another scale of its weights, and its integers anew.
    """
    output = lowering.params(node)
    low, high = lowering.limits(node)

    def prove(channels: npt.NDArray[np.intp], strict: bool) -> Certified:
        """Certificates of some channels, whose bounds and ratios depend on no others."""
        weights = integers.cpu().numpy()[channels].astype(np.int8)
        offsets = _bias_integers(bias, unit, lowering).cpu().numpy()[channels].astype(np.int32)
        bounds = accumulator_bounds(weights, offsets, input_params)
        ratio = unit.double().cpu().numpy()[channels] / output.scale
        try:
            return certify(ratio, *bounds, low, high, strict=strict)
        except LoweringError as error:
            raise LoweringError(f"layer '{node.name}': {error}") from error

    certified = prove(np.arange(len(unit)), strict=False)
    unproved = ~certified.proved
    if unproved.any():
        ratio = unit.double().cpu().numpy() / output.scale
        better = unit.double().cpu().numpy() * np.where(unproved, provable_ratio(ratio, low, high) / ratio, 1.0)
        unit = torch.from_numpy(better).to(unit)
        moved = torch.from_numpy(unproved).to(unit.device)
        # The other channels keep their units and integers, and with them their proofs.
        integers = torch.where(moved.reshape(-1, *[1] * (integers.dim() - 1)), quantize_at(unit), integers)
        channels = np.flatnonzero(unproved)
        certified = certified.replaced(channels, prove(channels, strict=True))
    lowering.record(node, certified, channels_moved=int(unproved.sum()))
    return Rescale(certified.multipliers, low, high), unit, integers


@lower_node.register
def _(node: AvgPool2d, lowering: Lowering) -> Node:
    (source,) = lowering.inputs(node)
    params = lowering.formats[source]
    sums = window_sums(node.kernel, params.ends)
    area = node.kernel[0] * node.kernel[1]
    unit = params.scale / area
    rescale = None
    if node.name in lowering.source.plan.accumulators:
        lowering.units[node.name] = torch.tensor([unit], dtype=torch.float64)
        lowering.facts[node.name] = {"channels": 1, "largest_accumulator": magnitude(sums)}
    else:
        rescale = _certified_rescale(node, lowering, unit, sums)
        lowering.facts[node.name]["largest_accumulator"] = magnitude(sums)
    return IntegerAvgPool2d(
        name=node.name, inputs=(source,), shape=node.shape, place=node.place, rescale=rescale,
        kernel=node.kernel, stride=node.stride, padding=node.padding,
    )  # fmt: skip


@lower_node.register(Requantize)
@lower_node.register(Clamp)
def _(node: Node, lowering: Lowering) -> Node:
    (source,) = lowering.inputs(node)
    params = lowering.formats[source]
    rescale = _certified_rescale(node, lowering, params.scale, params.ends)
    return IntegerRequantize(name=node.name, inputs=(source,), shape=node.shape, place=node.place, rescale=rescale)


def _certified_rescale(node: Node, lowering: Lowering, unit: float, domain: tuple[int, int]) -> Rescale:
    """One multiplier for a whole tensor, proved over all values that it can have."""
    output = lowering.params(node)
    low, high = lowering.limits(node)
    try:
        certified = certify_requantize(unit / output.scale, *domain, low, high)
    except LoweringError as error:
        raise LoweringError(f"'{node.name}': {error}") from error
    lowering.formats[node.name] = output
    lowering.record(node, certified)
    device = lowering.source.activation_quantizer(node.name).scale.device
    lowering.certificates[node.name] = Certificate(torch.from_numpy(certified.multipliers.as_float32()).to(device))
    return Rescale(certified.multipliers, low, high)


@lower_node.register
def _(node: Add, lowering: Lowering) -> Node:
    inputs = lowering.inputs(node)
    first, second = (lowering.formats[name] for name in inputs)
    output = lowering.params(node)
    low, high = lowering.limits(node)
    lowering.formats[node.name] = output
    try:
        a, b, shift = add_multipliers(
            first.scale / output.scale,
            second.scale / output.scale,
            (first.quant_min, first.quant_max),
            (second.quant_min, second.quant_max),
        )
    except LoweringError as error:
        raise LoweringError(f"addition '{node.name}': {error}") from error
    device = lowering.source.activation_quantizer(node.name).scale.device
    pair = torch.tensor([a / 2**shift, b / 2**shift], dtype=torch.float32, device=device)
    lowering.certificates[node.name] = Certificate(pair)
    largest = sum(
        multiplier * max(params.quant_max, -params.quant_min)
        for multiplier, params in zip((a, b), (first, second), strict=True)
    )
    lowering.facts[node.name] = {"largest_sum": largest, "float32_exact": True}
    return IntegerAdd(
        name=node.name,
        inputs=inputs,
        shape=node.shape,
        place=node.place,
        multipliers=(a, b),
        shift=shift,
        low=low,
        high=high,
    )


@lower_node.register
def _(node: Concat, lowering: Lowering) -> Node:
    inputs = lowering.inputs(node)
    lowering.formats[node.name] = lowering.formats[inputs[0]]
    return node.reading(*inputs)  # type: ignore[no-any-return]


@lower_node.register
def _(node: Dropout, lowering: Lowering) -> None:
    lowering.renamed[node.name] = lowering.inputs(node)[0]


@lower_node.register
def _(node: Selection, lowering: Lowering) -> Node:
    (source,) = lowering.inputs(node)
    if source in lowering.formats:
        lowering.formats[node.name] = lowering.formats[source]
    else:
        unit = moved_unit(node, lowering.units[source], lowering.source.plan.graph[node.inputs[0]].shape)
        assert unit is not None  # the plan lets no other accumulators leave
        lowering.units[node.name] = unit
    return node.reading(source)  # type: ignore[no-any-return]
