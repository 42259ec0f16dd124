# SPDX-License-Identifier: MIT
"""Narrower weights or 7-bit activations: what keeps each layer within 16-bit sums at the least change of the logits.

A layer whose pairs of products can leave 16 bits is safe with narrowed weights (`saturation`), or with inputs of one bit less:
then no weight is too large. Inputs lose that bit where they are made, at no cost in speed, so everything that reads their format
reads them so: the choice is made for each format that such layers read, and all of the layers that read it.

Both are judged by what they change, to first order, in the logits z = f(x) of some images. Let v be random signs, so that
E[(v · d)**2] = |d|**2 for any d; let t be a tensor in integer units, g = d(v · z)/dt its gradient, straight through the
roundings, and d what the choice does to t on an image: then it moves the logits by E[(g · d)**2].

- *Weights* that change by D add conv(x, D) to the layer's sums, where those are not clamped away.
- *Activations* are rounded anew, to steps twice as wide.

Neither error is taken to be random: where images are flat, so are the errors, which then add up. This is the Gauss-Newton form
of the sensitivity by which bits are allocated, for perturbations that are known; residual additions, pools and all other readers
are in g. Choices are independent of each other: what several errors do together is not foreseen. Without images, weights are
narrowed: noise lacks the flat parts of images, which decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bitwright.graph.evaluate import convolve
from bitwright.graph.nodes import Concat, Layer, Node, Selection
from bitwright.integer.lowering.layer_weights import layer_weights, tensor_params
from bitwright.integer.lowering.saturation import Narrowed, narrowed, pair_limit
from bitwright.integer.quant_params import QuantParams
from bitwright.progress import Progress, silent
from bitwright.quantizer.formats import clamp_limits
from bitwright.quantizer.plan import QuantPlan
from bitwright.returned import by_name
from bitwright.scheme import Scheme
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Certificate, Quantized

_PROBES = 2
_BATCH = 8


@dataclass(frozen=True)
class SaturationChoice:
    """How the layers that read one format were made safe.

    Attributes:
        tensor: Whose format it is.
        layers: Those that could saturate.
        weights_error: Expected change of the logits by narrowed weights, over the logits, as roots of mean squares.
        activations_error: The same by 7-bit activations.
    """

    tensor: str
    layers: tuple[str, ...]
    weights_error: float
    activations_error: float

    @property
    def seven_bits(self) -> bool:
        """Whether activations of 7 bits cost less."""
        return self.activations_error < self.weights_error


@dataclass(frozen=True)
class SaturationChoices:
    """What is done against saturation.

    Attributes:
        chosen: By tensor; none without images.
        formats: Those that lost a bit, by tensor.
        weights: Narrowed weights of the layers that got them.
    """

    chosen: Mapping[str, SaturationChoice]
    formats: Mapping[str, QuantParams]
    weights: Mapping[str, Narrowed]

    def facts(self, layer: str) -> dict[str, Any]:
        """What to write down about a layer; nothing where it was safe."""
        choice = next((choice for choice in self.chosen.values() if layer in choice.layers), None)
        errors = {}
        if choice is not None:
            errors["logit_error_by_weights"] = choice.weights_error
            errors["logit_error_by_activations"] = choice.activations_error
            if choice.seven_bits:
                return {"against_saturation": "7-bit activations", "seven_bit_tensor": choice.tensor, **errors}
        if layer not in self.weights:
            return {}
        weights = self.weights[layer]
        return {
            "against_saturation": "narrower weights",
            **errors,
            "channels_narrowed": weights.channels,
            "weight_error_before": weights.error_before,
            "weight_error_after": weights.error_after,
        }

    def certified(self, model: QuantizedModel, certificates: Mapping[str, Certificate]) -> dict[str, Certificate]:
        """Certificates that also have the formats that differ from the model's own."""
        result = dict(certificates)
        for node in model.plan.graph:
            params = self.formats.get(model.plan.quantizer_of[node.name])
            known = result.get(node.name, Certificate())
            if params is not None and known.format is None:
                scale = torch.full_like(model.activation_quantizer(node.name).scale.detach(), params.scale)
                result[node.name] = replace(known, format=params.format, scale=scale)
        return result

    def scheme(self, plan: QuantPlan) -> Scheme:
        """The scheme, with the activation bits of layers whose input lost one."""
        layers = dict(plan.scheme.layers)
        for name, node in plan.graph.layers.items():
            params = self.formats.get(plan.quantizer_of[node.inputs[0]])
            if params is not None:
                layers[name] = replace(layers[name], act_bits=params.bit_width)
        return replace(plan.scheme, layers=layers)


def against_saturation(
    model: QuantizedModel, images: Tensor | None = None, *, progress: Progress = silent
) -> SaturationChoices:
    """Choose for each format that a saturating layer reads.

    Args:
        model: In evaluation mode, without certificates.
        images: float32 [count, channels, height, width], normalised as in training; without, weights are narrowed.
        progress: Told about each layer and each batch.
    """
    batches = () if images is None else torch.split(images, _BATCH)
    steps = len(model.plan.graph.layers) + len(batches)
    unsafe: dict[str, _Unsafe] = {}
    for done, node in enumerate(model.plan.graph.layers.values(), 1):
        found = _if_unsafe(node, model)
        if found is not None:
            unsafe[node.name] = found
        progress(done, steps)
    reduced = {name: layer.narrowed for name, layer in unsafe.items()}
    if not unsafe or not batches:
        return SaturationChoices({}, {}, reduced)
    formats = _formats_of(model, unsafe)
    power, signs = 0.0, torch.Generator().manual_seed(1)
    for done, batch in enumerate(batches, steps - len(batches) + 1):
        power += _measure(batch, model, unsafe, formats, signs)
        progress(done, steps)
    choices = {found.tensor: found.choice(power) for found in formats}
    halved = {found.tensor: found.halved for found in formats if choices[found.tensor].seven_bits}
    kept = [name for choice in choices.values() if not choice.seven_bits for name in choice.layers]
    return SaturationChoices(choices, halved, {name: reduced[name] for name in kept})


@dataclass(frozen=True)
class _Unsafe:
    """A layer that can saturate.

    Attributes:
        node: The layer.
        narrowed: Its narrowed weights.
        change: What these change in its weights, in units of its result.
    """

    node: Layer
    narrowed: Narrowed
    change: Tensor


def _if_unsafe(node: Layer, model: QuantizedModel) -> _Unsafe | None:
    """The layer, if weights of it must be narrowed."""
    params = tensor_params(model, node.inputs[0])
    found = layer_weights(node, model, model.parameters_by_name(), params)
    result = narrowed(found.real, found.scale, found.integers, found.bit_width, pair_limit(params))
    if not result.channels:
        return None
    columns = (-1, *[1] * (found.integers.dim() - 1))
    change = result.integers * result.factor.reshape(columns) - found.integers
    # One accumulator in units of the layer's result, as its gradient is.
    accumulators = node.name in model.plan.accumulators
    ratio = torch.ones_like(found.unit) if accumulators else found.unit / tensor_params(model, node.name).scale
    return _Unsafe(node, result, change * ratio.reshape(columns))


@dataclass
class _Format:
    """A format that unsafe layers read, and sums of squared changes of the logits so far.

    Attributes:
        tensor: Whose format it is.
        layers: The unsafe layers that read it.
        makers: The nodes that make integers in it.
        halved: The same range in half as many steps.
        by_weights: The change by narrowed weights.
        by_activations: The change by halved activations.
    """

    tensor: str
    layers: tuple[str, ...]
    makers: tuple[Node, ...]
    halved: QuantParams
    by_weights: float = 0.0
    by_activations: float = 0.0

    def choice(self, power: float) -> SaturationChoice:
        """The errors, over logits whose squares sum to `power`."""
        power = max(power, torch.finfo(torch.float64).tiny)
        errors = (float((change / power) ** 0.5) for change in (self.by_weights, self.by_activations))
        return SaturationChoice(self.tensor, self.layers, *errors)


def _formats_of(model: QuantizedModel, unsafe: Mapping[str, _Unsafe]) -> list[_Format]:
    """The formats that unsafe layers read, in the order of the layers."""
    plan = model.plan
    readers: dict[str, list[str]] = {}
    for name, layer in unsafe.items():
        readers.setdefault(plan.quantizer_of[layer.node.inputs[0]], []).append(name)
    made = [node for node in plan.graph if not isinstance(node, Selection | Concat)]
    found = []
    for tensor, layers in readers.items():
        params = tensor_params(model, tensor)
        makers = tuple(node for node in made if plan.quantizer_of[node.name] == tensor)
        found.append(_Format(tensor, tuple(layers), makers, QuantParams(params.format.halved(), 2 * params.scale)))
    return found


def _measure(
    images: Tensor,
    model: QuantizedModel,
    unsafe: Mapping[str, _Unsafe],
    formats: Sequence[_Format],
    signs: torch.Generator,
) -> float:
    """Add what a batch says to `formats`; returns the sum of its squared logits."""
    kept: dict[str, Quantized] = {}
    images = images.to(next(iter(unsafe.values())).change.device)
    with torch.enable_grad():
        # Quantizers whose scale is no parameter would leave the first tensor without a gradient.
        returned = by_name(model(images.requires_grad_(), kept.__setitem__))
        logits = torch.cat([output.flatten(1) for output in returned.values()], 1)
    names = list(dict.fromkeys([*unsafe, *(node.name for found in formats for node in found.makers)]))
    gradients = _gradients(logits, {name: kept[name].values for name in names}, signs)
    for found in formats:
        changes = {name: _by_weights(unsafe[name], model, kept) for name in found.layers}
        found.by_weights += _squared_change(changes, gradients)
        found.by_activations += _squared_change(_by_activations(found, model, kept, images), gradients)
    return float(logits.detach().double().square().sum())


def _gradients(logits: Tensor, tensors: Mapping[str, Tensor], signs: torch.Generator) -> list[dict[str, Tensor]]:
    """Gradients of the logits, added with random signs, by some tensors; for each probe."""
    found = []
    for probe in range(_PROBES):
        drawn = torch.randint(0, 2, logits.shape, generator=signs).to(logits) * 2 - 1
        last = probe == _PROBES - 1
        gradients = torch.autograd.grad(logits, list(tensors.values()), drawn, retain_graph=not last)
        found.append(dict(zip(tensors, gradients, strict=True)))
    return found


def _by_weights(layer: _Unsafe, model: QuantizedModel, kept: Mapping[str, Quantized]) -> Tensor:
    """What narrowed weights change in a layer's result."""
    node = layer.node
    change = convolve(node, kept[node.inputs[0]].values.detach(), layer.change, None)
    if node.name in model.plan.accumulators:
        return change
    params = tensor_params(model, node.name)
    low, high = clamp_limits(node.bounds, params.format, params.scale)
    values = kept[node.name].values
    return change * ((values > low) & (values < high))


def _by_activations(
    found: _Format, model: QuantizedModel, kept: Mapping[str, Quantized], images: Tensor
) -> dict[str, Tensor]:
    """What one bit less changes in the tensors of a format."""
    scale = torch.full_like(model.activation_quantizer(found.tensor).scale.detach(), found.halved.scale)
    model.certify({node.name: Certificate(format=found.halved.format, scale=scale) for node in found.makers})
    context = model.context()
    changes = {}
    for node in found.makers:
        inputs = [kept[name] for name in node.inputs] or [Quantized(images, images.new_ones(()))]
        changes[node.name] = 2 * fake_quantize(node, inputs, context).values - kept[node.name].values
    model.certify({})
    return changes


def _squared_change(changes: Mapping[str, Tensor], gradients: Sequence[Mapping[str, Tensor]]) -> float:
    """Sum over images of the squared change of the logits, by changes of some tensors at once; the mean over probes."""
    total = 0.0
    for gradient in gradients:
        parts = [(gradient[name] * value.detach()).flatten(1).sum(1) for name, value in changes.items()]
        total += float(torch.stack(parts).sum(0).double().square().sum())
    return total / len(gradients)
