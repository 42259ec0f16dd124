# SPDX-License-Identifier: MIT
"""All layers at once brought close to the float network, on mixtures of images: what blocks one after another leave undone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.errors import TrainingError
from bitwright.graph.evaluate import Tensors
from bitwright.graph.execute import execute
from bitwright.reconstruction.settings import ReconstructionSettings
from bitwright.returned import Returned, by_name
from bitwright.task.classification import softened_divergence
from bitwright.training.model import QuantizedModel

_OFFSETS, _SCALES = 1 / 20, 1 / 40
"""Rates of offsets, and of gains and scales, each times its size, in parts of the rate of weights, which is times their step."""
_LEAST = 1e-6
_SLOTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam remembers of each parameter."""


@dataclass(frozen=True)
class _Moved:
    """A parameter on its way: `start + unit * way`.

    Attributes:
        value: The parameter.
        start: What it was.
        unit: What one step of it is worth, shaped so that it broadcasts.
        way: What is learned.
    """

    value: nn.Parameter
    start: Tensor
    unit: Tensor
    way: nn.Parameter

    @classmethod
    def begin(cls, value: nn.Parameter, unit: Tensor) -> _Moved:
        """At its start."""
        return cls(value, value.detach().clone(), unit, nn.Parameter(torch.zeros_like(value)))


class NetworkDescent:
    """A quantized network that imitates the float one, by its outputs alone.

    Some hundred images are soon known by heart: half of what a step reads is mixed, each of two of them, half is mirrored, and
    the float network says what it makes of all. (Of mixtures alone, images that were nearly right lose what the others gain.)
    Batch norm stays folded, with the statistics that it has. Weights move in units of their quantization steps, and all else in
    units of its size, so that one rate suits all layers.

    Args:
        model: A calibrated model, in evaluation mode.
        floats: Tensors of the float network by name.
        settings: How.
        generator: The generator of batches and mixtures.

    Source:
        Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent", arXiv:2106.05237; Zhang et al.
        2018, mixup, arXiv:1710.09412.
    """

    def __init__(
        self, model: QuantizedModel, floats: Tensors, settings: ReconstructionSettings, generator: torch.Generator
    ) -> None:
        self._model = model
        self._floats = floats
        self._settings = settings
        self._generator = generator
        self._moved: list[_Moved] = []
        groups = []
        for rate, found in self._parameters().items():
            moved = [_Moved.begin(value, unit) for value, unit in found]
            self._moved += moved
            groups.append({"params": [each.way for each in moved], "lr": rate})
        # Gradients of a way are as small as units are: the usual constant would be large beside them.
        self._optimizer = torch.optim.Adam(groups, eps=1e-16)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]

    def step(self, number: int, images: Tensor) -> float:
        """Take the step of this number, on some of the images; returns its loss.

        Raises:
            TrainingError: If the loss is no finite number.
        """
        mixed = self._mixed(images)
        with torch.no_grad():
            wanted = execute(self._model.plan.graph, self._floats, mixed)
        loss = imitation_loss(self._model(mixed), wanted, self._settings.temperature)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the reconstruction of the network as a whole diverged (loss {value}): use a smaller rate than "
                f"{self._settings.network_rate:g}."
            )
        gradients = torch.autograd.grad(loss, [each.value for each in self._moved], allow_unused=True)
        for each, gradient in zip(self._moved, gradients, strict=True):
            each.way.grad = None if gradient is None else gradient * each.unit
        left = (1 + math.cos(math.pi * number / self._settings.all_network_steps)) / 2
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * left
        self._optimizer.step()
        with torch.no_grad():
            for each in self._moved:
                each.value.copy_(each.start + each.unit * each.way)
        return value

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on, besides the model and the generator, by name."""
        found: dict[str, Tensor] = {}
        for index, each in enumerate(self._moved):
            slots = self._optimizer.state.get(each.way, {})
            found |= {f"{index}.start": each.start, f"{index}.unit": each.unit, f"{index}.way": each.way.detach()}
            found |= {f"{index}.{name}": slots[name] for name in _SLOTS if name in slots}
        return found

    @torch.no_grad()
    def restore(self, state: Tensors) -> bool:
        """Go on from what `state` returned, if it fits; the model must be as it was then."""
        shapes = {name: value.shape for name, value in state.items()}
        wanted = {
            f"{index}.{name}": value.shape
            for index, each in enumerate(self._moved)
            for name, value in (("start", each.start), ("unit", each.unit), ("way", each.way))
        }
        if not wanted.items() <= shapes.items():
            return False
        for index, each in enumerate(self._moved):
            for name, value in (("start", each.start), ("unit", each.unit), ("way", each.way)):
                value.copy_(state[f"{index}.{name}"])
            slots = {name: state[f"{index}.{name}"] for name in _SLOTS if f"{index}.{name}" in state}
            if any(value.shape not in (each.way.shape, ()) for value in slots.values()):
                return False
            # Adam counts its steps on the processor.
            self._optimizer.state[each.way] = {
                name: value.clone() if name == "step" else value.to(each.way) for name, value in slots.items()
            }
        return True

    def _parameters(self) -> dict[float, list[tuple[nn.Parameter, Tensor]]]:
        """What is learned, each once, with its unit, by rate."""
        model, rate = self._model, self._settings.network_rate
        parameters = model.parameters_by_name()
        weights, offsets, sizes = (dict[int, tuple[nn.Parameter, Tensor]]() for _ in range(3))

        def add(
            found: dict[int, tuple[nn.Parameter, Tensor]], value: Tensor | None, unit: Tensor | None = None
        ) -> None:
            if isinstance(value, nn.Parameter):
                size = value.detach().abs() if unit is None else unit.detach()
                found.setdefault(id(value), (value, size.clone()))

        for name, layer in model.plan.graph.layers.items():
            weight, quantizer = parameters[layer.weight], model.weight_quantizer(name)
            add(weights, weight, quantizer.current_scale().reshape(-1, *[1] * (weight.dim() - 1)))
            add(sizes, quantizer.scale)
            if layer.norm is not None and layer.norm.weight is not None:
                add(sizes, parameters[layer.norm.weight])
            offset = layer.norm.bias if layer.norm is not None else layer.bias
            if offset is not None:
                value = parameters[offset].detach()
                add(offsets, parameters[offset], value.square().mean().sqrt().clamp_min(_LEAST))
        for name in model.plan.formats:
            if name not in model.plan.accumulators:
                add(sizes, model.activation_quantizer(name).scale)
        return {rate: [*weights.values()], rate * _OFFSETS: [*offsets.values()], rate * _SCALES: [*sizes.values()]}

    def _mixed(self, images: Tensor) -> Tensor:
        """A batch in which half are mixtures of two images, in parts that are all alike likely; half are mirrored."""
        size, device = self._settings.batch_size, images.device
        first, second = (images[chosen] for chosen in self._draw(len(images), size, device))
        share, whole, mirrored = torch.rand(3, size, 1, 1, 1, generator=self._generator, device=device)
        share = torch.where(whole < 0.5, 1.0, share)
        mixed = share * first + (1 - share) * second
        return torch.where(mirrored < 0.5, mixed.flip(3), mixed)

    def _draw(self, count: int, size: int, device: torch.device) -> Iterator[Tensor]:
        for _ in range(2):
            yield torch.randint(count, (size,), generator=self._generator, device=device)


def imitation_loss(made: Returned, wanted: Returned, temperature: float) -> Tensor:
    """How far outputs are from those of the float network, shape ().

    Of classes the softened divergence of their distributions; else the squared error of each output over its mean square.
    """
    got, asked = by_name(made), by_name(wanted)
    if len(asked) == 1 and next(iter(asked.values())).dim() == 2:
        return softened_divergence(next(iter(got.values())), next(iter(asked.values())), temperature)
    tiny = torch.finfo(torch.float32).tiny
    parts: list[Any] = [
        (got[name] - value).square().mean() / value.square().mean().clamp_min(tiny) for name, value in asked.items()
    ]
    return torch.stack(parts).sum()
