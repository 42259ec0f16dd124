# SPDX-License-Identifier: MIT
"""From a calibrated network to a better one, without labels: block by block, and at last as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.graph.autocast import full_precision
from bitwright.graph.evaluate import Tensors
from bitwright.graph.graph import Graph
from bitwright.progress import Progress, silent
from bitwright.reconstruction.blocks import Block, blocks, run_float, run_quantized
from bitwright.reconstruction.calibration import begun
from bitwright.reconstruction.compensation import compensate_rounding
from bitwright.reconstruction.descent import BlockDescent
from bitwright.reconstruction.kept import Finished, Kept, state_of
from bitwright.reconstruction.network_descent import NetworkDescent
from bitwright.reconstruction.settings import DEFAULT, ReconstructionSettings
from bitwright.reconstruction.unseen import Change, change, errors, in_forms
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Quantized
from bitwright.training.settings import Checkpointing

FURTHER = 2.0
"""How often the squared distance of a block may be what it was before. Compensated rounding fits these images closely, and what
descends with dropped activations may be further from them and yet better on others: to take it all back makes ResNet20 worse
(W3A3: a divergence of 20.5, where 16 are left)."""
UNSEEN = 8
"""One of so many images is kept from the steps and what comes before them, to judge them by."""


@full_precision()
def reconstruct(
    model: QuantizedModel,
    images: Tensor,
    settings: ReconstructionSettings = DEFAULT,
    *,
    reference: Graph | None = None,
    checkpoint: Checkpointing | None = None,
    progress: Progress = silent,
) -> QuantizedModel:
    """Choose the rounding of weights, scales and offsets anew, so that each block's outputs come close to the float network's.

    Formats stay, and so does all that is proved of them. First, where the weights are still those of the float network, the
    errors of their rounding are made to compensate each other (`compensate_rounding`). Then blocks are brought close to it, one
    after another. A block sees the integers that the blocks before it make by then, and its target is what the float network
    makes of the float network's own inputs, so that later blocks mend what earlier ones lost. A block whose squared distance
    has doubled at the end stays as it was. At last all layers descend at once, images mixed in pairs among others
    (`NetworkDescent`). The last eighth of the images is shown to none of them: where the network is further from the float one on
    these, each in eight forms, than before the steps, in the geometric mean and beyond doubt (`Change.worse`), they are taken
    back: those of the blocks, and those of the network. Where no steps are left, nothing has to be judged any more, and rounding
    errors are made to compensate each other on all images, as without steps.

    Args:
        model: A calibrated model.
        images: float32, shape (count, channels, height, width); some hundreds, each part of them like the others. Labels are not
            needed.
        settings: How.
        reference: The float network, where it is not the one that `model` was made from: a model that was read from a file has
            the batch norm that calibration corrected.
        checkpoint: Where finished blocks are kept until all are, or None. It goes on, to the bit, with the arguments that it was
            begun with.
        progress: Told about every layer whose rounding was compensated, every step, with the loss over the one that the block
            began with as `relative_loss`, and behind the blocks of the distance from the float network on unseen images, over the
            one before all steps, as `unseen_error`, and whether the steps are `taken_back`. Then about every step of the
            network, with its `loss`, and behind them of `network_unseen_error` and `network_taken_back` likewise; at last about
            every layer whose rounding is compensated once more.

    Returns:
        `model`, in evaluation mode.

    Raises:
        DataError: If the images do not fit the network.
        FileFormatError: If `checkpoint` is damaged, or belongs to another network, other images or settings; if `reference`
            is another network.
        TrainingError: If the model is not calibrated, or a loss is not finite; if there are no steps, and weights are no longer
            those of the float network.

    Source:
        Li et al. 2021, BRECQ, arXiv:2102.05426; Wei et al. 2022, QDrop, arXiv:2203.05740; Nagel et al. 2020, AdaRound,
        arXiv:2004.10568; `NetworkDescent` has its own.
    """
    graph = model.plan.graph
    images, floats = begun(model, images, reference, "reconstruction")
    generator = torch.Generator(images.device).manual_seed(settings.seed)
    kept = None if checkpoint is None else Kept(checkpoint, model, images, floats, settings, generator)
    found = blocks(graph)
    network_steps = settings.all_network_steps
    descends = settings.steps + network_steps > 0
    compensated = (
        len(graph.layers) if settings.compensate and _untrained(graph, model.parameters_by_name(), floats) else 0
    )
    if not compensated and not descends:
        raise TrainingError(
            f"{graph.model} has no longer the weights of the float network, so that only steps can reconstruct it: expected 1 or "
            "more, got 0."
        )
    everything, start = images, state_of(model)
    seen = len(images) - (len(images) // UNSEEN if descends else 0)
    images, unseen = images[:seen], images[seen:]
    looks = [bool(count and len(unseen)) for count in (settings.steps, network_steps)]
    of_blocks = compensated + len(found) * settings.steps + looks[0]
    total = of_blocks + network_steps + looks[1]
    finished = Finished() if kept is None else kept.begin(len(found))
    if compensated and finished == Finished():
        compensate_rounding(
            model, images, reference=reference, progress=lambda done, _, /, **figures: progress(done, total, **figures)
        )
    if not descends:
        return model.eval()
    before = state_of(model) if kept is None else kept.before(state_of(model))
    of_steps = finished.unseen
    if settings.steps and not finished.network_steps:

        def told(number: int, step: int, relative: float) -> None:
            done = compensated + number * settings.steps + step
            progress(done, total, relative_loss=relative, block=number + 1)

        _descend_blocks(model, images, floats, settings, generator, finished.blocks, kept, told)
        if looks[0]:
            of_steps = _judge(model, before, unseen, floats)
        before = state_of(model)
        if kept is not None:
            kept.end_blocks(before, of_steps)
    judged = [of_steps] if of_steps is not None else []
    if of_steps is not None:
        progress(of_blocks, total, unseen_error=of_steps.ratio, taken_back=of_steps.worse)
    if network_steps:
        descent = NetworkDescent(model, floats, settings, generator)
        if kept is not None:
            kept.restore(descent)
        for step in range(finished.network_steps, network_steps):
            loss = descent.step(step, images)
            progress(of_blocks + step + 1, total, loss=loss)
            if kept is not None:
                kept.end_step(step + 1, descent)
        if looks[1]:
            judged.append(_judge(model, before, unseen, floats))
            progress(total, total, network_unseen_error=judged[-1].ratio, network_taken_back=judged[-1].worse)
    if compensated and judged and all(look.worse for look in judged):
        model.load_state_dict(start)
        compensate_rounding(
            model,
            everything,
            reference=reference,
            progress=lambda done, count, /, **figures: progress(total + done, total + count, **figures),
        )
    return model.eval()


def _descend_blocks(
    model: QuantizedModel,
    images: Tensor,
    floats: Tensors,
    settings: ReconstructionSettings,
    generator: torch.Generator,
    finished: int,
    kept: Kept | None,
    told: Callable[[int, int, float], None],
) -> None:
    """Reconstruct the blocks one after another, those but for that are `finished`; `told` of the block, the step and its loss."""
    graph, parameters = model.plan.graph, model.parameters_by_name()
    real = images
    with torch.no_grad():
        first = fake_quantize(graph.nodes[0], [Quantized(images, images.new_ones(()))], model.context())
    integers, scale = first.values, first.scale
    decided = {model.plan.quantizer_of[graph.nodes[0].name]}
    for number, block in enumerate(blocks(graph)):
        target = _in_batches(partial(run_float, block, parameters=floats), real, settings)
        if number >= finished:
            descent = BlockDescent(model, block, parameters, decided, settings, generator)
            begun_with = _distance(_after(model, block, integers, scale, settings), target)
            descent.fit(integers, real, target, scale, partial(told, number))
            descent.commit()
            made = _after(model, block, integers, scale, settings)
            if not _distance(made, target) < FURTHER * begun_with:
                descent.take_back()
                made = _after(model, block, integers, scale, settings)
            if kept is not None:
                kept.end_block(number + 1)
        else:
            made = _after(model, block, integers, scale, settings)
        integers, scale = made[block.result].values, made[block.result].scale
        real = target[block.result]
        decided |= {model.plan.quantizer_of[node.name] for node in block.nodes}


def _judge(model: QuantizedModel, before: Tensors, unseen: Tensor, floats: Tensors) -> Change:
    """What the steps made of the error on images unseen; if that is worse, the model is given what it was before."""
    unseen = in_forms(unseen)
    after, stepped = errors(model, unseen, floats), state_of(model)
    model.load_state_dict(before)
    found = change(after, errors(model, unseen, floats))
    if not found.worse:
        model.load_state_dict(stepped)
    return found


def _untrained(graph: Graph, parameters: Tensors, floats: Tensors) -> bool:
    """Whether the weights are those of the float network."""
    return all(torch.equal(parameters[layer.weight], floats[layer.weight]) for layer in graph.layers.values())


@torch.no_grad()
def _after(
    model: QuantizedModel, block: Block, integers: Tensor, scale: Tensor, settings: ReconstructionSettings
) -> dict[str, Quantized]:
    """What the block makes of its source by now, by name."""
    context = model.context()
    scales = {name: made.scale for name, made in run_quantized(block, Quantized(integers[:1], scale), context).items()}

    def made(part: Tensor) -> dict[str, Tensor]:
        return {name: made.values for name, made in run_quantized(block, Quantized(part, scale), context).items()}

    return {name: Quantized(values, scales[name]) for name, values in _in_batches(made, integers, settings).items()}


def _distance(made: Mapping[str, Quantized], target: Tensors) -> float:
    """The squared distance of a block's results from the float network's."""
    return sum(
        float((made[name].real() - wanted).square_().sum(dtype=torch.float64)) for name, wanted in target.items()
    )


@torch.no_grad()
def _in_batches(
    compute: Callable[[Tensor], Mapping[str, Tensor]], values: Tensor, settings: ReconstructionSettings
) -> dict[str, Tensor]:
    """What `compute` makes of all values, by name."""
    parts = [compute(part) for part in torch.split(values, 4 * settings.batch_size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
