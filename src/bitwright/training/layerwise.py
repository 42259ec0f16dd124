# SPDX-License-Identifier: MIT
"""Layerwise quantization-aware training: bits fall over a scheme, from layer to layer, and after each fall the network trains.

A network of few bits trains better from one that is nearly as coarse than from float weights. Those layers go first whose
quantization costs most, so that all later stages still make up for them (the order of HAWQ, Dong et al. 2019, arXiv:1905.03696;
HAWQ-V2, arXiv:1911.03852, trains so at 2 to 8 bits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.data import ImageData
from bitwright.decode import decode
from bitwright.errors import FileFormatError, SchemeError
from bitwright.graph.digest import images_digest, network_digest
from bitwright.graph.graph import Graph
from bitwright.graph.state_file import StateFile
from bitwright.processes import from_main, rank_and_size
from bitwright.progress import Progress, silent
from bitwright.scheme import Scheme
from bitwright.task import classification
from bitwright.training.distillation import Distillation
from bitwright.training.fine_tune import fine_tune
from bitwright.training.loop import TrainResult
from bitwright.training.model import QuantizedModel
from bitwright.training.settings import Checkpointing, Hooks, TrainSettings

FORMAT = "bitwright.layerwise.1"


def _nothing(_: str) -> None:
    """Nobody is told."""


def fine_tune_layerwise(
    graph: Graph,
    schemes: Sequence[Scheme],
    data: ImageData,
    settings: TrainSettings,
    *,
    checkpoint: Checkpointing | None = None,
    hooks: Hooks | None = None,
    stage: Callable[[str], object] = _nothing,
    progress: Progress = silent,
    **options: Any,
) -> tuple[QuantizedModel, TrainResult]:
    """Fine-tune under one scheme after another, each from the float weights that the former one left.

    The finished stages are kept in the file of `checkpoint`, and the present one beside it; `forget_layerwise` removes both.
    Where it resumes, in any process, the result is that of an unbroken run.

    Args:
        graph: The network with trained float weights.
        schemes: The schemes of the stages, as of `bitwright.allocation.layerwise_schemes`.
        data: Its training images calibrate and train.
        settings: The settings of each stage, whose seed counts on from stage to stage.
        checkpoint: Where to keep the state of the training, or None.
        hooks: Functions to call on the way; epochs count on from stage to stage for them.
        stage: Told which stage begins, in words.
        progress: Told about every step.
        options: The options of `fine_tune`.

    Returns:
        The trained model under the last scheme, in evaluation mode, and what all stages did, with their losses one after another.

    Raises:
        FileFormatError: If the state is damaged, or belongs to another network, other schemes, images or settings.
        SchemeError: If there is no scheme, or one does not fit the network.
        TrainingError: If the loss is no finite number.
    """
    if not schemes:
        raise SchemeError("layerwise training needs at least one scheme, got none.")
    file = None if checkpoint is None else _file(checkpoint, graph, schemes, data, settings, options)
    done = _Done()
    if file is not None and checkpoint is not None:
        kept = from_main(partial(file.begin, checkpoint.resume))
        if kept is not None:
            done = decode(_Done, kept[1], f"'{checkpoint.path}' does not say how far the training is")
            if not 0 <= done.stages < len(schemes):
                raise FileFormatError(f"'{checkpoint.path}' claims {done.stages} finished stages of {len(schemes)}.")
            if done.stages:
                graph = graph.with_parameters(kept[0])
                _forget_stages(checkpoint.path, done.stages)
        else:
            _forget_stages(checkpoint.path, len(schemes))
            # Before the first stage, so that whoever starts anew sees that there is something to go on with.
            _write(file, {}, done)
    for number, scheme in enumerate(schemes[done.stages :], done.stages):
        stage(f"stage {number + 1} of {len(schemes)}")
        model, result = fine_tune(
            graph,
            scheme,
            data,
            replace(settings, seed=settings.seed + number),
            checkpoint=None
            if checkpoint is None
            else replace(checkpoint, path=stage_files(checkpoint.path, number + 1)[-1]),
            hooks=None if hooks is None else hooks.counting_from(number * settings.epochs),
            progress=progress,
            **{**options, "trained": number > 0 or options.get("trained", False)},
        )
        if number + 1 == len(schemes):
            break
        graph = model.float_graph()
        done = _Done(number + 1, (*done.losses, *result.losses), done.steps + result.steps)
        if file is not None and checkpoint is not None:
            _write(file, graph.parameters, done)
            _forget_stages(checkpoint.path, done.stages)
    losses, steps = (*done.losses, *result.losses), done.steps + result.steps
    return model, replace(result, losses=losses, steps=steps)


def stage_files(path: str | Path, stages: int) -> tuple[Path, ...]:
    """Where the stages of a training whose state is in `path` are kept while they train.

    Each has a name of its own, lest the next one find the state of the former.
    """
    return tuple(Path(path).with_name(f"{Path(path).name}.stage{number}") for number in range(1, stages + 1))


def forget_layerwise(path: str | Path, stages: int) -> None:
    """Remove the state of a layerwise training of so many stages; that of `path` last, so that nothing is left without it."""
    _forget_stages(path, stages)
    if rank_and_size()[0] == 0:
        Path(path).unlink(missing_ok=True)


def _forget_stages(path: str | Path, count: int) -> None:
    """Remove the states of the first stages."""
    if rank_and_size()[0] == 0:
        for file in stage_files(path, count):
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Done:
    """The stages that are finished.

    Attributes:
        stages: How many.
        losses: Mean loss of each of their epochs.
        steps: Their optimizer steps.
    """

    stages: int = 0
    losses: tuple[float, ...] = ()
    steps: int = 0


def _file(
    checkpoint: Checkpointing,
    graph: Graph,
    schemes: Sequence[Scheme],
    data: ImageData,
    settings: TrainSettings,
    options: Mapping[str, Any],
) -> StateFile:
    distillation = options.get("distillation")
    known = {
        "network": network_digest(graph),
        "images": images_digest(data.train),
        "schemes": {scheme.name: scheme.to_dict()["layers"] for scheme in schemes},
        "formats": {key: value for key, value in schemes[-1].to_dict().items() if key not in ("name", "layers")},
        **settings.descent(),
        **settings.reading(),
        **{name: str(value) for name, value in options.items() if name not in ("distillation", "task")},
        "task": (options.get("task") or classification()).identity(),
        "distillation": distillation.settings() if isinstance(distillation, Distillation) else None,
        **checkpoint.origin,
    }
    return StateFile(
        checkpoint.path, FORMAT, work="layerwise training", settings=known, seconds=60 * checkpoint.minutes
    )


def _write(file: StateFile, tensors: Mapping[str, Tensor], done: _Done) -> None:
    if rank_and_size()[0] == 0:
        file.write(tensors, asdict(done))
