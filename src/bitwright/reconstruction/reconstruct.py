# SPDX-License-Identifier: MIT
"""From a calibrated network to a better one, without labels: block by block, towards the outputs of the float network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.errors import DataError, TrainingError
from bitwright.graph.autocast import full_precision
from bitwright.graph.evaluate import Tensors
from bitwright.graph.graph import Graph
from bitwright.graph.images import float_images
from bitwright.graph.nodes import Layer
from bitwright.progress import Progress, silent
from bitwright.reconstruction.blocks import Block, blocks, run_float, run_quantized
from bitwright.reconstruction.dropping import DroppedRounding
from bitwright.reconstruction.rounding import LearnedRounding, annealed
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.folding import oriented_weight
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Quantized


@dataclass(frozen=True)
class ReconstructionSettings:
    """How blocks are reconstructed.

    Attributes:
        steps: Of gradient descent for each block.
        batch_size: Images in one step.
        learning_rate: Of the rounding variables (Adam).
        scale_rate: Of scales of activations and weights, and of offsets, relative to their size (Adam).
        drop: Share of the activations that stay float in a step.
        decide: Weight of the term that makes rounding variables decide.
        warm_up: Share of the steps before that term counts.
        seed: Of batches and drops.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 1e-2
    scale_rate: float = 1e-3
    drop: float = 0.5
    decide: float = 0.01
    warm_up: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value >= 0):
                raise TrainingError(f"{item.name} of a reconstruction must be a number of at least 0, got {value}.")
        if self.steps < 1 or self.batch_size < 1:
            raise TrainingError(f"a reconstruction needs steps and a batch, got {self.steps} and {self.batch_size}.")
        if self.drop > 1 or self.warm_up >= 1:
            raise TrainingError(f"expected drop up to 1 and warm_up below 1, got {self.drop} and {self.warm_up}.")


@full_precision()
def reconstruct(
    model: QuantizedModel,
    images: Tensor,
    settings: ReconstructionSettings = ReconstructionSettings(),
    *,
    reference: Graph | None = None,
    progress: Progress = silent,
) -> QuantizedModel:
    """Choose the rounding of weights, scales and offsets anew, so that each block's outputs come close to the float network's.

    Formats stay, and so does all that is proved of them. A block sees the integers that the blocks before it make by then, and
    its target is what the float network makes of the float network's own inputs, so that later blocks mend what earlier ones
    lost.

    Args:
        model: A calibrated model.
        images: float32, shape (count, channels, height, width); some hundreds. Labels are not needed.
        settings: How.
        reference: The float network, where it is not the one that `model` was made from.
        progress: Told about every step, with the loss over the one that the block began with as `relative_loss`.

    Returns:
        `model`, in evaluation mode.

    Raises:
        DataError: If the images do not fit the network.
        TrainingError: If the model is not calibrated, or a loss is not finite.

    Source:
        Li et al. 2021, BRECQ, arXiv:2102.05426; Wei et al. 2022, QDrop, arXiv:2203.05740; Nagel et al. 2020, AdaRound,
        arXiv:2004.10568.
    """
    graph = model.plan.graph
    if not model.calibrated:
        raise TrainingError(
            f"{graph.model} is not calibrated, so its integers say nothing yet. Call calibrate(model, batches) first."
        )
    model.eval()
    model.certify({})
    images = float_images(images, graph.input_shape, graph.model)
    if len(images) < 1:
        raise DataError("a reconstruction needs images, got none.")
    floats = graph.parameters if reference is None else reference.parameters
    parameters = model.parameters_by_name()
    generator = torch.Generator(images.device).manual_seed(settings.seed)
    found = blocks(graph)
    real = images
    with torch.no_grad():
        first = fake_quantize(graph.nodes[0], [Quantized(images, images.new_ones(()))], model.context())
    integers, scale = first.values, first.scale
    for number, block in enumerate(found):
        target = _in_batches(lambda part, block=block: run_float(block, part, floats), real, settings)

        def told(step: int, relative: float, number: int = number) -> None:
            progress(
                number * settings.steps + step, len(found) * settings.steps, relative_loss=relative, block=number + 1
            )

        task = _Block(model, block, parameters, settings, generator)
        task.fit(integers, real, target, scale, told)
        task.commit()
        context = model.context()
        with torch.no_grad():
            made_scale = run_quantized(block, Quantized(integers[:1], scale), context)[block.result].scale
            made = _in_batches(
                lambda part, block=block, scale=scale, context=context: (
                    {block.result: run_quantized(block, Quantized(part, scale), context)[block.result].values}
                ),
                integers,
                settings,
            )
        integers, real, scale = made[block.result], target[block.result], made_scale
    return model.eval()


class _Block:
    """One block while it is reconstructed."""

    def __init__(
        self,
        model: QuantizedModel,
        block: Block,
        parameters: Tensors,
        settings: ReconstructionSettings,
        generator: torch.Generator,
    ) -> None:
        self.model = model
        self.block = block
        self.parameters = parameters
        self.settings = settings
        self.generator = generator
        self.roundings: dict[str, LearnedRounding] = {}
        with torch.no_grad():
            for node in block.layers:
                quantizer = model.weight_quantizer(node.name)
                weight = oriented_weight(node, parameters)
                columns = quantizer.current_scale().reshape(-1, *[1] * (weight.dim() - 1))
                self.roundings[node.name] = LearnedRounding(weight / columns, quantizer.format)

    def fit(self, integers: Tensor, real: Tensor, target: Mapping[str, Tensor], scale: Tensor, told: Any) -> None:
        """Descend on the squared error of the block's outputs.

        Args:
            integers: Of the block's source, as the quantized network makes them, shape (count, ...).
            real: The same tensor in the float network.
            target: The block's results in the float network.
            scale: Of `integers`, shape ().
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
                values, floats = integers[chosen], real[chosen] / scale
                source = Quantized(torch.where(dropped.chosen(values), floats, values), scale)
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
        for name in sorted(kept - self.model.plan.accumulators):
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
            sign = oriented_weight(node, {**self.parameters, node.weight: torch.ones_like(weight)})
            weight.copy_(integers * columns * sign)


@torch.no_grad()
def _in_batches(compute: Any, values: Tensor, settings: ReconstructionSettings) -> dict[str, Tensor]:
    """What `compute` makes of all values, by name."""
    parts = [compute(part) for part in torch.split(values, 4 * settings.batch_size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
