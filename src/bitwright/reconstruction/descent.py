# SPDX-License-Identifier: MIT
"""One block brought close to the float network: its rounding, scales and offsets by gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.errors import TrainingError
from bitwright.graph.evaluate import Tensors
from bitwright.graph.nodes import Layer
from bitwright.reconstruction.blocks import Block, run_quantized
from bitwright.reconstruction.dropping import DroppedRounding
from bitwright.reconstruction.rounding import LearnedRounding, annealed
from bitwright.reconstruction.settings import ReconstructionSettings
from bitwright.training.folding import sign_folded_weight
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Quantized

Told = Callable[[int, float], None]


class BlockDescent:
    """One block while it is reconstructed.

    Args:
        model: That it is a block of.
        block: Its nodes.
        parameters: The tensors of `model` by name.
        decided: The quantizers of activations that earlier blocks have decided on: their scales stay.
        settings: How.
        generator: The generator of batches and drops.
    """

    def __init__(
        self,
        model: QuantizedModel,
        block: Block,
        parameters: Tensors,
        decided: Collection[str],
        settings: ReconstructionSettings,
        generator: torch.Generator,
    ) -> None:
        self.model = model
        self.block = block
        self.parameters = parameters
        self.decided = frozenset(decided)
        self.settings = settings
        self.generator = generator
        self.roundings: dict[str, LearnedRounding] = {}
        with torch.no_grad():
            for node in block.layers:
                quantizer = model.weight_quantizer(node.name)
                weight = sign_folded_weight(node, parameters)
                columns = quantizer.current_scale().reshape(-1, *[1] * (weight.dim() - 1))
                self.roundings[node.name] = LearnedRounding(weight / columns, quantizer.format)
            changed = [parameters[node.weight] for node in block.layers]
            changed += [value for group in self._groups()[1:] for value in group["params"]]
            self.start = [(value, value.detach().clone()) for value in changed]

    def fit(self, integers: Tensor, real: Tensor, target: Mapping[str, Tensor], scale: Tensor, told: Told) -> None:
        """Descend on the squared error of the block's outputs.

        Args:
            integers: The integers of the block's source, as the quantized network makes them, shape (count, ...).
            real: The same tensor in the float network.
            target: The block's results in the float network.
            scale: The scale of `integers`, shape ().
            told: Called with each step and its loss, relative to the first.
        """
        settings, scale = self.settings, scale.detach()
        optimizer = torch.optim.Adam(self._groups())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
        dropped = DroppedRounding(settings.drop, self.generator)
        begun: float | None = None
        for name, rounding in self.roundings.items():
            self.model.weight_quantizer(name).rounding = rounding
        context = replace(self.model.context(), round_activations=dropped)
        try:
            for step in range(settings.steps):
                chosen = torch.randint(
                    len(integers), (settings.batch_size,), generator=self.generator, device=real.device
                )
                source = Quantized(dropped.mixed(integers[chosen], real[chosen] / scale), scale)
                made = run_quantized(self.block, source, context)
                errors = [(made[name].real() - wanted[chosen]).square() for name, wanted in target.items()]
                loss = torch.cat([error.flatten(1) for error in errors], 1).sum(1).mean()
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the reconstruction of the block that ends in '{self.block.result}' diverged (loss {value}): use a "
                        f"smaller learning rate than {settings.learning_rate:g}."
                    )
                begun = begun or value or 1.0
                beta = annealed(step, settings.steps, settings.warm_up)
                if beta is not None:
                    loss = loss + settings.decide * begun * self._indecision(beta)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
                told(step + 1, value / begun)
        finally:
            for name in self.roundings:
                self.model.weight_quantizer(name).rounding = None
            self.model.zero_grad(set_to_none=True)

    def _indecision(self, beta: float) -> Tensor:
        """The share of the weights that are undecided."""
        weights = sum(rounding.floor.numel() for rounding in self.roundings.values())
        return sum((rounding.indecision(beta) for rounding in self.roundings.values()), torch.zeros(())) / weights

    def _groups(self) -> list[dict[str, Any]]:
        """What is learned, each at the rate that fits its size."""
        groups: list[dict[str, Any]] = [
            {"params": [rounding.variable for rounding in self.roundings.values()], "lr": self.settings.learning_rate}
        ]
        rate = self.settings.scale_rate
        if rate == 0:
            return groups
        kept = {self.model.plan.quantizer_of[node.name] for node in self.block.nodes}
        for name in sorted(kept - self.model.plan.accumulators - self.decided):
            scale = self.model.activation_quantizer(name).scale
            if isinstance(scale, nn.Parameter):
                groups.append({"params": [scale], "lr": rate * float(scale.detach().abs())})
        for node in self.block.layers:
            offset = self._offset(node)
            if offset is not None:
                size = float(offset.detach().square().mean().sqrt())
                groups.append({"params": [offset], "lr": rate * max(size, 1e-6)})
        return groups

    def _offset(self, node: Layer) -> nn.Parameter | None:
        """The bias of a layer, or that of its batch norm."""
        name = node.norm.bias if node.norm is not None else node.bias
        found = None if name is None else self.parameters[name]
        return found if isinstance(found, nn.Parameter) else None

    @torch.no_grad()
    def commit(self) -> None:
        """Replace each weight by the real value of its integer, which the nearest rounding then finds again."""
        for node in self.block.layers:
            scale = self.model.weight_quantizer(node.name).current_scale()
            integers = self.roundings[node.name].integers()
            weight = self.parameters[node.weight]
            columns = scale.reshape(-1, *[1] * (weight.dim() - 1))
            # The orientation is its own inverse: it only changes signs.
            sign = sign_folded_weight(node, {**self.parameters, node.weight: torch.ones_like(weight)})
            weight.copy_(integers * columns * sign)

    @torch.no_grad()
    def take_back(self) -> None:
        """Leave the block as it was."""
        for value, before in self.start:
            value.copy_(before)
