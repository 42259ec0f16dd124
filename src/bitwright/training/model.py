# SPDX-License-Identifier: MIT
"""QuantizedModel: a network whose forward pass computes the integers of the integer model, and has gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.data.given import each_images
from bitwright.errors import BitwrightWarning
from bitwright.graph.autocast import full_precision
from bitwright.graph.float_model import named_tensors, register, statistic_names
from bitwright.graph.graph import Graph
from bitwright.graph.images import float_images
from bitwright.overview import Overview, Overviewed, counted
from bitwright.quantizer.plan import QuantPlan, plan
from bitwright.quantizer.refusals import lowering_refusals, require_none
from bitwright.returned import Returned, returned
from bitwright.scheme import Scheme
from bitwright.training.context import ForwardContext
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.folding import MAX_BIAS_BITS, sign_folded_weight
from bitwright.training.norm import MOMENTUM, SETTLING_IMAGES
from bitwright.training.quantized import Certificate, Quantized
from bitwright.training.quantizers import ActivationQuantizer, QuantizerSettings, Ranges, WeightQuantizer, read_once


class QuantizedModel(Overviewed, nn.Module):
    """A graph with quantizers: trained like any module, lowered without loss.

    Its state dict holds the model's own parameters under `network.`, and the scales under `activations.` and `weights.`.

    Args:
        plan: Where the quantizers stand.
        quantizing: How they find their scales.
        free_norm: Normalise by batch statistics in training (and update the running ones); otherwise batch norm stays
            folded with its running statistics.

    Attributes:
        calibrated: The calibrated of shape (), whether the scales of activations were ever set; kept in the state dict.
        certificates: The constants that lowering proved, by node; none in training.
    """

    calibrated: Tensor

    def __init__(self, plan: QuantPlan, quantizing: QuantizerSettings | None = None, *, free_norm: bool = True) -> None:
        super().__init__()
        self.plan = plan
        self.quantizing = quantizing = quantizing or QuantizerSettings()
        self.free_norm = free_norm
        self.network = nn.Module()
        statistics = statistic_names(plan.graph)
        for name, tensor in plan.graph.parameters.items():
            trainable = tensor.is_floating_point() and name not in statistics and not name.endswith(".unit_weight")
            register(self.network, name, tensor.detach().clone(), trainable=trainable)
        used = set(plan.quantizer_of.values()) - plan.accumulators
        shared = plan.shared()
        self.activations = nn.ModuleDict(
            {
                _key(name): ActivationQuantizer(
                    window, quantizing, shared=name in shared, asymmetric=name in plan.asymmetric
                )
                for name, window in plan.formats.items()
                if name in used
            }
        )
        self.weights = nn.ModuleDict(
            {
                _key(name): WeightQuantizer(
                    plan.graph.parameters[node.weight].shape[0],
                    plan.scheme.layers[name].weight_bits,
                    quantizing if node.norm is not None else replace(quantizing, weight_percentile=None),
                )
                for name, node in plan.graph.layers.items()
            }
        )
        self.register_buffer("calibrated", torch.tensor(False))
        self._warned = False
        self._settling: float | None = None
        self.certificates: dict[str, Certificate] = {}
        self._readers = {name: len(nodes) for name, nodes in plan.graph.consumers().items()}
        for name in plan.graph.returned:
            self._readers[name] += 1

    def settings(self) -> dict[str, Any]:
        """All that decides what it computes, besides its weights and scales, as JSON values."""
        scheme = self.plan.scheme.to_dict()
        del scheme["name"]
        return {
            "scheme": scheme,
            "quantizing": self.quantizing.to_dict(),
            "free_norm": self.free_norm,
        }

    def overview(self) -> Overview:
        """Its layers, with their bits."""
        scheme = self.plan.scheme
        facts = (
            f"scheme {scheme.name}",
            counted(len(scheme.layers), "layer"),
            "calibrated" if bool(self.calibrated) else "not calibrated",
        )
        rows = [(layer, str(precision)) for layer, precision in scheme.layers.items()]
        return Overview(self.plan.graph.model, facts, ("layer", "bits"), rows)

    def parameters_by_name(self) -> dict[str, Tensor]:
        """The model's own tensors, under their own names."""
        return named_tensors(self.network, self.plan.graph.parameters)

    def float_graph(self) -> Graph:
        """The network as captured, with the present float weights."""
        return self.plan.source.with_parameters(self.parameters_by_name())

    def activation_quantizer(self, tensor: str) -> ActivationQuantizer:
        """The quantizer of a tensor, by the tensor's name."""
        found = self.activations[_key(self.plan.quantizer_of[tensor])]
        assert isinstance(found, ActivationQuantizer)
        return found

    def weight_quantizer(self, layer: str) -> WeightQuantizer:
        """The quantizer of a layer's weights."""
        found = self.weights[_key(layer)]
        assert isinstance(found, WeightQuantizer)
        return found

    def context(self) -> ForwardContext:
        """What the nodes of a pass share, as it is now."""
        return ForwardContext(
            self.plan,
            self.quantizing,
            self.parameters_by_name(),
            {
                name: self.activation_quantizer(name)
                for name, key in self.plan.quantizer_of.items()
                if key not in self.plan.accumulators
            },
            {name: self.weight_quantizer(name) for name in self.plan.graph.layers},
            self.certificates,
            self.training,
            self.norm_momentum,
        )

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the greatest real value that each quantizer of activations can hold, by its name in the plan."""
        found = {}
        for key in self.plan.formats:
            if key not in self.plan.accumulators:
                quantizer = self.activation_quantizer(key)
                window, scale = quantizer.format, float(quantizer.current_scale().detach())
                found[key] = scale * window.quant_min, scale * window.quant_max
        return found

    def certify(self, certificates: Mapping[str, Certificate]) -> None:
        """Compute with proved constants in evaluation mode, until the next training step."""
        self.certificates = dict(certificates)

    @contextmanager
    def uncertified(self) -> Iterator[None]:
        """Evaluation mode with the model's own constants; what it was before is what it is afterwards."""
        modes, certificates = [(module, module.training) for module in self.modules()], self.certificates
        self.eval()
        self.certify({})
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            self.certify(certificates)

    @property
    def norm_momentum(self) -> float | None:
        """Weight of a batch in the running statistics; None while batch norm stays folded with them."""
        if self._settling is not None:
            return self._settling
        return MOMENTUM if self.training and self.free_norm else None

    @property
    def cancels_biases(self) -> bool:
        """Whether some bias has no part in training, since a batch norm by batch statistics takes it away again."""
        layers = self.plan.graph.layers.values()
        return self.free_norm and any(layer.norm is not None and layer.bias is not None for layer in layers)

    @torch.no_grad()
    def settle_norm(self, batches: Iterable[Any]) -> int:
        """Replace the running statistics of batch norm by their averages over `batches`, each seen through the quantizers.

        Statistics of the float network, or ones that lag behind the last training steps, are wrong for a network of few bits.

        Args:
            batches: Images on any device, each of shape (batch, channels, height, width); or a DataLoader, whose labels are
                left aside. A `BitwrightWarning` says so where they are too few to do any good.

        Returns:
            How many images there were.
        """
        self.eval()
        self.certify({})
        seen, device = 0, next(self.parameters()).device  # where training has put it
        try:
            for count, images in enumerate(each_images(batches), 1):
                self._settling = 1 / count
                self(images.to(device))
                seen += len(images)
        finally:
            self._settling = None
        if 0 < seen < SETTLING_IMAGES:
            warnings.warn(
                f"the batch norm of {self.plan.graph.model} has the statistics of {seen} images now: fewer than "
                f"{SETTLING_IMAGES} cost accuracy.",
                BitwrightWarning,
                stacklevel=3,
            )
        return seen

    def train(self, mode: bool = True) -> QuantizedModel:
        """Entering training mode drops the certificates: the weights they were proved for are about to change."""
        if mode:
            self.certificates = {}
        super().train(mode)
        return self

    def forward(self, images: Tensor, observe: Callable[[str, Quantized], None] | None = None) -> Returned:
        """Real logits; of a network with several outputs, these by name.

        Args:
            images: float32, shape (batch, channels, height, width).
            observe: Called with the name and the integers of every tensor.

        Returns:
            Shape (batch, classes): integers times the scale of each class. float32; float64 once the model is lowered, which
            are the very logits of its integer model.
        """
        found = self.integers(images, observe)
        return returned(
            {name: output.real(torch.float64 if self.certificates else None) for name, output in found.items()}
        )

    @full_precision()
    def integers(self, images: Tensor, observe: Callable[[str, Quantized], None] | None = None) -> dict[str, Quantized]:
        """The integers that leave the network, by output, and their scales; autocast is left, which would round them."""
        if not (self._warned or self.calibrated):
            self._warned = True
            warnings.warn(
                f"{self.plan.graph.model} is not calibrated: the scales of its activations are those it was made with. Call "
                "calibrate(model, batches) with some hundred images first.",
                BitwrightWarning,
                stacklevel=4,
            )
        context = self.context()
        images = float_images(images, self.plan.graph.input_shape, self.plan.graph.model)
        readers = dict(self._readers)
        values: dict[str, Quantized] = {}
        quantizers = [
            quantizer for quantizer in self.activations.values() if isinstance(quantizer, ActivationQuantizer)
        ]
        with read_once(quantizers):
            for node in self.plan.graph:
                inputs = [values[name] for name in node.inputs] or [Quantized(images, images.new_ones(()))]
                values[node.name] = fake_quantize(node, inputs, context)
                if observe is not None:
                    observe(node.name, values[node.name])
                for name in node.inputs:
                    readers[name] -= 1
                    if readers[name] == 0:
                        del values[name]
        for quantizer in quantizers:
            quantizer.move()
        return {name: values[tensor] for name, tensor in self.plan.graph.outputs.items()}

    def calibrate_following_weights(self) -> None:
        """Set the weight scales that follow the weights, by `ema`, from those after the last step."""
        if self.quantizing.ranges is Ranges.EMA:
            self.calibrate_weights()

    @torch.no_grad()
    def calibrate_weights(self) -> None:
        """Set all weight scales from the present weights."""
        parameters = self.parameters_by_name()
        for name, node in self.plan.graph.layers.items():
            self.weight_quantizer(name).calibrate(sign_folded_weight(node, parameters))


def quantize(
    graph: Graph,
    scheme: Scheme,
    *,
    ranges: Ranges | str = Ranges.LEARNED,
    momentum: float = 0.99,
    act_percentile: float | None = None,
    weight_percentile: float | None = None,
    per_channel: bool = True,
    bias_bits: int = MAX_BIAS_BITS,
    free_norm: bool = True,
) -> QuantizedModel:
    """A QuantizedModel of `graph` under `scheme`, its weights calibrated; `calibrate` sets the activations.

    Args:
        graph: The network with trained float weights.
        scheme: Precision of every layer.
        ranges: How scales follow the data in training: `learned`, `ema` or `fixed`.
        momentum: Weight of the old range in a moving average, for `ema`; -1 keeps the widest range seen.
        act_percentile: What moves the ranges of `ema`: a percentile of each batch's values; None takes their extremes.
        weight_percentile: The percentile of each channel's weights in layers with batch norm, for `ema`; None takes the largest.
        per_channel: Whether each output channel has a scale of its own; otherwise each layer has one.
        bias_bits: Biases are clamped to signed integers of so many bits, in steps of the accumulator.
        free_norm: Normalise by batch statistics in training, as the float network did; otherwise batch norm stays folded with
            its running statistics, which wants a much smaller learning rate.

    Raises:
        SchemeError: If the scheme does not name exactly the layers of the graph.
        LoweringError: If some operation has no integer form, whatever its weights; names each of them.
        TrainingError: If an option is out of its range.
    """
    planned = plan(graph, scheme)
    require_none(lowering_refusals(planned))
    quantizing = QuantizerSettings(
        ranges=Ranges(ranges), momentum=momentum, act_percentile=act_percentile,
        weight_percentile=weight_percentile, per_channel=per_channel, bias_bits=bias_bits,
    )  # fmt: skip
    model = QuantizedModel(planned, quantizing, free_norm=free_norm)
    model.calibrate_weights()
    return model


def _key(name: str) -> str:
    """Module names must not contain dots."""
    return name.replace(".", "/")
