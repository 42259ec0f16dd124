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
from bitwright.graph.outputs import by_name
from bitwright.integer.lowering.layer_weights import LayerWeights, layer_weights, tensor_params
from bitwright.integer.lowering.saturation import Narrowed, narrowed, pair_limit
from bitwright.integer.quant_params import QuantParams
from bitwright.progress import Progress, silent
from bitwright.quantizer.formats import clamp_limits
from bitwright.quantizer.plan import QuantPlan
from bitwright.scheme import Scheme
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Certificate, Quantized

_PROBES = 2
_BATCH = 8


@dataclass(frozen=True)
class Remedy:
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
class Remedies:
    """What is done against saturation.

    Attributes:
        chosen: By tensor; none without images.
        formats: Those that lost a bit, by tensor.
        weights: Narrowed weights of the layers that got them.
    """

    chosen: Mapping[str, Remedy]
    formats: Mapping[str, QuantParams]
    weights: Mapping[str, Narrowed]

    def facts(self, layer: str) -> dict[str, Any]:
        """What to write down about a layer; nothing where it was safe."""
        facts: dict[str, Any] = {}
        remedy = next((remedy for remedy in self.chosen.values() if layer in remedy.layers), None)
        if remedy is not None:
            facts["logit_error_by_weights"] = remedy.weights_error
            facts["logit_error_by_activations"] = remedy.activations_error
            if remedy.seven_bits:
                return {"remedy": "7-bit activations", "seven_bit_tensor": remedy.tensor, **facts}
        if layer not in self.weights:
            return {}
        weights = self.weights[layer]
        return {
            "remedy": "narrower weights",
            **facts,
            "channels_narrowed": weights.channels,
            "weight_error_before": weights.error_before,
            "weight_error_after": weights.error_after,
        }

    def certified(self, model: QuantizedModel, certificates: Mapping[str, Certificate]) -> dict[str, Certificate]:
        """Certificates that also carry the formats that differ from the model's own."""
        result = dict(certificates)
        for node in model.plan.graph:
            params = self.formats.get(model.plan.quantizer_of[node.name])
            known = result.get(node.name, Certificate())
            if params is not None and known.format is None:
                result[node.name] = replace(
                    known,
                    format=params.format,
                    scale=torch.full_like(model.activation_quantizer(node.name).scale.detach(), params.scale),
                )
        return result

    def scheme(self, plan: QuantPlan) -> Scheme:
        """The scheme, with the activation bits of layers whose input lost one."""
        layers = dict(plan.scheme.layers)
        for name, node in plan.graph.layers.items():
            params = self.formats.get(plan.quantizer_of[node.inputs[0]])
            if params is not None:
                layers[name] = replace(layers[name], act_bits=params.bit_width)
        return replace(plan.scheme, layers=layers)


def remedies(model: QuantizedModel, images: Tensor | None = None, *, progress: Progress = silent) -> Remedies:
    """Choose for each format that a saturating layer reads.

    Args:
        model: In evaluation mode, without certificates.
        images: float32 [count, channels, height, width], normalised as in training; without, weights are narrowed.
        progress: Told about each layer and each batch.
    """
    parameters = model.parameters_by_name()
    batches = () if images is None else torch.split(images, _BATCH)
    layers = model.plan.graph.layers
    steps = len(layers) + len(batches)
    before: dict[str, LayerWeights] = {}
    narrow: dict[str, Narrowed] = {}
    for done, (name, node) in enumerate(layers.items(), 1):
        params = tensor_params(model, node.inputs[0])
        found = layer_weights(node, model, parameters, params)
        result = narrowed(found.real, found.scale, found.integers, found.bit_width, pair_limit(params))
        if result.channels:
            before[name], narrow[name] = found, result
        progress(done, steps)
    if not narrow or not batches:
        return Remedies({}, {}, narrow)
    meter = _Meter(model, before, narrow)
    for done, batch in enumerate(batches, 1):
        meter.measure(batch)
        progress(len(layers) + done, steps)
    chosen = meter.remedies()
    formats = {tensor: meter.narrower[tensor] for tensor, remedy in chosen.items() if remedy.seven_bits}
    weights = {name: narrow[name] for remedy in chosen.values() if not remedy.seven_bits for name in remedy.layers}
    return Remedies(chosen, formats, weights)


class _Meter:
    """Sums of expected squared changes of the logits, over images.

    Args:
        model: In evaluation mode.
        before: Weights as trained of the layers that can saturate.
        narrow: Their narrowed ones.
    """

    def __init__(
        self, model: QuantizedModel, before: Mapping[str, LayerWeights], narrow: Mapping[str, Narrowed]
    ) -> None:
        self.model = model
        self.power = 0.0
        plan = model.plan
        self.layers: dict[str, list[Layer]] = {}
        self.steps: dict[str, Tensor] = {}
        for name in before:
            node = plan.graph.layers[name]
            self.layers.setdefault(plan.quantizer_of[node.inputs[0]], []).append(node)
            columns = (-1, *[1] * (before[name].integers.dim() - 1))
            change = narrow[name].integers * narrow[name].factor.reshape(columns) - before[name].integers
            # One accumulator in units of the layer's result, as its gradient is.
            unit = before[name].unit
            ratio = torch.ones_like(unit) if name in plan.accumulators else unit / tensor_params(model, name).scale
            self.steps[name] = change * ratio.reshape(columns)
        self.makers: dict[str, list[Node]] = {tensor: [] for tensor in self.layers}
        for maker in plan.graph:
            tensor = plan.quantizer_of[maker.name]
            if tensor in self.layers and not isinstance(maker, Selection | Concat):
                self.makers[tensor].append(maker)
        self.narrower = {tensor: _with_a_bit_less(model, tensor) for tensor in self.layers}
        self.weights = dict.fromkeys(self.layers, 0.0)
        self.activations = dict.fromkeys(self.layers, 0.0)
        self._signs = torch.Generator().manual_seed(1)

    def measure(self, images: Tensor) -> None:
        """Add a batch."""
        kept: dict[str, Quantized] = {}
        images = images.to(next(iter(self.steps.values())).device)
        with torch.enable_grad():
            # Quantizers whose scale is no parameter would leave the first tensor without a gradient.
            returned = by_name(self.model(images.requires_grad_(), kept.__setitem__))
            logits = torch.cat([output.flatten(1) for output in returned.values()], 1)
        self.power += float(logits.detach().double().square().sum())
        names = list(dict.fromkeys([*self.steps, *(node.name for nodes in self.makers.values() for node in nodes)]))
        gradients: list[dict[str, Tensor]] = []
        for probe in range(_PROBES):
            signs = torch.randint(0, 2, logits.shape, generator=self._signs).to(logits) * 2 - 1
            last = probe == _PROBES - 1
            found = torch.autograd.grad(logits, [kept[name].values for name in names], signs, retain_graph=not last)
            gradients.append(dict(zip(names, found, strict=True)))
        for tensor in self.layers:
            moved = {node.name: self._by_weights(node, kept) for node in self.layers[tensor]}
            self.weights[tensor] += _squared_change(moved, gradients)
            moved = self._by_activations(tensor, kept, images)
            self.activations[tensor] += _squared_change(moved, gradients)

    def _by_weights(self, node: Layer, kept: Mapping[str, Quantized]) -> Tensor:
        """What narrowed weights change in a layer's result."""
        moved = convolve(node, kept[node.inputs[0]].values.detach(), self.steps[node.name], None)
        if node.name in self.model.plan.accumulators:
            return moved
        params = tensor_params(self.model, node.name)
        low, high = clamp_limits(node.bounds, params.format, params.scale)
        values = kept[node.name].values
        return moved * ((values > low) & (values < high))

    def _by_activations(self, tensor: str, kept: Mapping[str, Quantized], images: Tensor) -> dict[str, Tensor]:
        """What one bit less changes in the tensors of a format."""
        params, nodes = self.narrower[tensor], self.makers[tensor]
        scale = torch.full_like(self.model.activation_quantizer(tensor).scale.detach(), params.scale)
        self.model.certify({node.name: Certificate(format=params.format, scale=scale) for node in nodes})
        context = self.model.context()
        result = {}
        for node in nodes:
            inputs = [kept[name] for name in node.inputs] or [Quantized(images, images.new_ones(()))]
            again = fake_quantize(node, inputs, context)
            result[node.name] = 2 * again.values - kept[node.name].values
        self.model.certify({})
        return result

    def remedies(self) -> dict[str, Remedy]:
        """By tensor."""
        power = max(self.power, torch.finfo(torch.float64).tiny)

        def root(total: float) -> float:
            return float((total / power) ** 0.5)

        return {
            tensor: Remedy(
                tensor,
                tuple(node.name for node in nodes),
                root(self.weights[tensor]),
                root(self.activations[tensor]),
            )
            for tensor, nodes in self.layers.items()
        }


def _squared_change(moved: Mapping[str, Tensor], gradients: Sequence[Mapping[str, Tensor]]) -> float:
    """Sum over images of the squared change of the logits, by changes of some tensors at once; the mean over probes."""
    total = 0.0
    for gradient in gradients:
        changes = [(gradient[name] * value.detach()).flatten(1).sum(1) for name, value in moved.items()]
        total += float(torch.stack(changes).sum(0).double().square().sum())
    return total / len(gradients)


def _with_a_bit_less(model: QuantizedModel, tensor: str) -> QuantParams:
    """The same range in half as many steps."""
    params = tensor_params(model, tensor)
    return QuantParams(params.format.halved(), 2 * params.scale)
