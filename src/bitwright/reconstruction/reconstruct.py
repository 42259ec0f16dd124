# SPDX-License-Identifier: MIT
"""From a calibrated network to a better one, without labels: block by block, towards the outputs of the float network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bitwright.decode import decode
from bitwright.errors import FileFormatError, TrainingError
from bitwright.graph.autocast import full_precision
from bitwright.graph.digest import digest
from bitwright.graph.evaluate import Tensors
from bitwright.graph.graph import Graph
from bitwright.graph.state_file import StateFile
from bitwright.progress import Progress, silent
from bitwright.reconstruction.blocks import Block, blocks, run_float, run_quantized
from bitwright.reconstruction.calibration import begun
from bitwright.reconstruction.compensation import compensate_rounding
from bitwright.reconstruction.descent import BlockDescent
from bitwright.reconstruction.settings import DEFAULT, ReconstructionSettings
from bitwright.reconstruction.unseen import errors, geometric_mean
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Quantized
from bitwright.training.settings import Checkpointing
from bitwright.training.state import load_weights

FORMAT = "bitwright.reconstruction.2"
FURTHER = 2.0
"""How often the squared distance of a block may be what it was before. Compensated rounding fits these images closely, and what
descends with dropped activations may be further from them and yet better on others: to take it all back makes ResNet20 worse
(W3A3: a divergence of 20.5, where 16 are left)."""
UNSEEN = 8
"""One of so many images is kept from the steps and what comes before them, to judge them by."""
_MODEL, _BEFORE, _GENERATOR = "model.", "before.", "generator"


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
    has doubled at the end stays as it was. The last eighth of the images is shown to neither: where the network is no nearer to
    the float one on it than before the steps, in the geometric mean over images, all steps are taken back.

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
            began with as `relative_loss`, and at last of the distance from the float network on unseen images, over the one
            before all steps, as `unseen_error`: steps that make it 1 or more are taken back.

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
        arXiv:2004.10568.
    """
    graph = model.plan.graph
    images, floats = begun(model, images, reference, "reconstruction")
    generator = torch.Generator(images.device).manual_seed(settings.seed)
    kept = None if checkpoint is None else _Kept(checkpoint, model, images, floats, settings, generator)
    parameters = model.parameters_by_name()
    found = blocks(graph)
    compensated = len(graph.layers) if settings.compensate and _untrained(graph, parameters, floats) else 0
    if not compensated and not settings.steps:
        raise TrainingError(
            f"{graph.model} has no longer the weights of the float network, so that only steps can reconstruct it: expected 1 or "
            "more, got 0."
        )
    seen = len(images) - (len(images) // UNSEEN if settings.steps else 0)
    images, unseen = images[:seen], images[seen:]
    total = compensated + len(found) * settings.steps + min(1, len(unseen))
    finished = 0 if kept is None else kept.begin(len(found))
    if compensated and not finished:
        compensate_rounding(
            model, images, reference=reference, progress=lambda done, _, /, **figures: progress(done, total, **figures)
        )
    if settings.steps == 0:
        return model.eval()
    before: Tensors = {name: value.clone() for name, value in model.state_dict().items()}
    if kept is not None:
        before = kept.before(before)
    real = images
    with torch.no_grad():
        first = fake_quantize(graph.nodes[0], [Quantized(images, images.new_ones(()))], model.context())
    integers, scale = first.values, first.scale
    decided = {model.plan.quantizer_of[graph.nodes[0].name]}
    for number, block in enumerate(found):
        target = _in_batches(partial(run_float, block, parameters=floats), real, settings)
        if number >= finished:

            def told(step: int, relative: float, number: int = number) -> None:
                progress(
                    compensated + number * settings.steps + step,
                    total,
                    relative_loss=relative,
                    block=number + 1,
                )

            descent = BlockDescent(model, block, parameters, decided, settings, generator)
            begun_with = _distance(_after(model, block, integers, scale, settings), target)
            descent.fit(integers, real, target, scale, told)
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
    if len(unseen):
        after = errors(model, unseen, floats)
        stepped = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(before)
        ratio = geometric_mean(after, errors(model, unseen, floats))
        if ratio < 1:
            model.load_state_dict(stepped)
        progress(total, total, unseen_error=ratio)
    return model.eval()


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


@dataclass(frozen=True)
class _Finished:
    """How far a reconstruction is: how many blocks are finished."""

    blocks: int


class _Kept:
    """The file of an unfinished reconstruction: the model and the generator as the last finished block left them.

    What the next block reads is computed anew by whoever goes on: activations of a thousand images are large, and the finished
    blocks, whose scales no later block moves, make them again to the bit.
    """

    def __init__(
        self,
        checkpoint: Checkpointing,
        model: QuantizedModel,
        images: Tensor,
        floats: Tensors,
        settings: ReconstructionSettings,
        generator: torch.Generator,
    ) -> None:
        state = model.state_dict()
        known: dict[str, Any] = {
            "network": digest(*(state[name] for name in sorted(state))), **model.settings(),
            "reference": digest(*(floats[name] for name in sorted(floats))),
            "images": digest(images), **asdict(settings), **checkpoint.origin,
        }  # fmt: skip
        self._path = checkpoint.path
        self._resume = checkpoint.resume
        self._model = model
        self._generator = generator
        self._before: Tensors | None = None
        self._file = StateFile(
            checkpoint.path, FORMAT, work="reconstruction", settings=known, seconds=60 * checkpoint.minutes
        )

    def begin(self, count: int) -> int:
        """How many of `count` blocks are finished; these are in the model then."""
        found = self._file.begin(self._resume)
        if found is None:
            return 0
        tensors, progress = found
        finished = decode(_Finished, progress, f"'{self._path}' does not say how far the reconstruction is").blocks
        if not 0 <= finished <= count or _GENERATOR not in tensors:
            raise FileFormatError(f"'{self._path}' is damaged: it claims {finished} finished blocks of {count}.")
        self._generator.set_state(tensors.pop(_GENERATOR))
        for part in (_BEFORE, _MODEL):
            state = {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
            load_weights(self._model, state, self._path)
            if part == _BEFORE:
                self._before = {name: value.clone() for name, value in self._model.state_dict().items()}
        return finished

    def before(self, begun: Tensors) -> Tensors:
        """What the network was before all steps: as the file has it, else as it begins with them now."""
        self._before = self._before or begun
        return self._before

    def end_block(self, finished: int) -> None:
        """So many blocks are finished: write that, if it is time to."""
        if self._file.due():
            tensors = {_MODEL + name: value for name, value in self._model.state_dict().items()}
            tensors |= {_BEFORE + name: value for name, value in (self._before or {}).items()}
            self._file.write({**tensors, _GENERATOR: self._generator.get_state()}, asdict(_Finished(finished)))
