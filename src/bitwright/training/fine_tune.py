# SPDX-License-Identifier: MIT
"""Quantization-aware training in one call: quantize, calibrate, train."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bitwright.data import ImageData, batches, part_of, subset
from bitwright.data.drawn import draw_images
from bitwright.errors import BitwrightWarning, DataError
from bitwright.graph.digest import images_digest, network_digest
from bitwright.graph.float_model import FloatModel
from bitwright.graph.graph import Graph
from bitwright.graph.images import float_images
from bitwright.progress import Progress, silent
from bitwright.scheme import Scheme
from bitwright.task import Task, classification, require_one_output, require_outputs
from bitwright.training.calibrate import PERCENTILE, Calibration, calibrate
from bitwright.training.distillation import Distillation
from bitwright.training.loop import TrainResult, train
from bitwright.training.model import QuantizedModel, quantize
from bitwright.training.norm import SETTLING_IMAGES
from bitwright.training.norm_correction import correct_norm
from bitwright.training.quantizers import Ranges
from bitwright.training.settings import Checkpointing, Hooks, Start, TrainSettings

CALIBRATION_BATCH, CALIBRATION_IMAGES = 128, 512


def fit(
    model: nn.Module,
    data: ImageData | Iterable[Any],
    settings: TrainSettings,
    *,
    start: Start | None = None,
    task: Task | None = None,
    distillation: Distillation | None = None,
    checkpoint: Checkpointing | None = None,
    hooks: Hooks | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Train any module on the training images of a data set, or on batches of your own; see `train`.

    Batches of your own keep their size, order and augmentation: of `settings`, what concerns these does not apply.

    The state in `checkpoint` belongs to these images and settings; the reading `workers` do not matter.

    Raises:
        DataError: If the images or labels do not fit the model.
        FileFormatError: If `checkpoint` is damaged, or of a training with another model, other images or settings.
        TrainingError: If the loss is no finite number.
    """
    if checkpoint is not None and isinstance(data, ImageData):
        source = {"images": images_digest(data.train), **settings.reading()}
        checkpoint = replace(checkpoint, origin={**source, **checkpoint.origin})
    return train(
        model,
        _read(data, settings) if isinstance(data, ImageData) else _own(data, settings),
        settings,
        start=start,
        task=task,
        distillation=distillation,
        checkpoint=checkpoint,
        hooks=hooks,
        progress=progress,
    )


def _read(data: ImageData, settings: TrainSettings) -> DataLoader[tuple[Tensor, Tensor]]:
    images = data.train if settings.data_fraction == 1 else subset(data.train, settings.data_fraction, settings.seed)
    return batches(
        images,
        min(settings.batch_size, len(images)),
        shuffle=True,
        augment=settings.augment,
        seed=settings.seed,
        drop_last=settings.drop_last,
        workers=settings.workers,
    )


def _own(given: Iterable[Any], settings: TrainSettings) -> Iterable[Any]:
    if settings.data_fraction != 1:
        raise DataError("a part of the data is taken of a data set by name: of batches of your own, give fewer.")
    return given


def fine_tune(
    graph: Graph,
    scheme: Scheme,
    data: ImageData | Iterable[Any],
    settings: TrainSettings,
    *,
    ranges: Ranges | str = Ranges.LEARNED,
    act_range_momentum: float = 0.99,
    free_norm: bool = True,
    calibration: Calibration | str = Calibration.MSE,
    percentile: float = PERCENTILE,
    calibration_images: int = CALIBRATION_IMAGES,
    settle_norm: bool = True,
    trained: bool = False,
    task: Task | None = None,
    distillation: Distillation | None = None,
    checkpoint: Checkpointing | None = None,
    hooks: Hooks | None = None,
    progress: Progress = silent,
) -> tuple[QuantizedModel, TrainResult]:
    """Quantize `graph` under `scheme`, calibrate it, correct its batch norm (`correct_norm`), train it, and settle that.

    The running statistics of batch norm lag behind the last steps of a training, which can cost a network of few bits all of
    its accuracy; so they are replaced by those of the calibration images (Wu & Johnson 2021, arXiv:2105.07576, section 3).

    Args:
        graph: The network with trained float weights; `QuantizedModel.float_graph` gives those of a former training, to go on
            under another scheme.
        scheme: Precision of every layer.
        data: Its training images calibrate and train. Or batches of your own, (images, labels) or dictionaries, with a length:
            the first of them calibrate.
        settings: The settings of the training.
        ranges: How scales follow the data.
        act_range_momentum: Weight of the old range, for `ema`.
        free_norm: Normalise by batch statistics in training; otherwise batch norm stays as it is after calibration, which wants
            a much smaller learning rate, and more than 2 bits.
        calibration: How a range becomes a scale.
        percentile: The percentile of the ranges, for `percentile`.
        calibration_images: How many training images are looked at for that and for batch norm, not augmented, of as many
            classes as possible.
        settle_norm: Whether the statistics of batch norm become those of the quantized network: corrected at first, and replaced
            by those of the calibration images after a training with `free_norm`. By those of fewer than 64 they are not replaced,
            and a `BitwrightWarning` says so.
        trained: Whether `graph` is what a training of integers left (`QuantizedModel.float_graph`): no good network in float, to
            correct statistics by. They are replaced before this training, too.
        task: What the network is for; None is classification. One that imitates a network imitates `graph`, unless it has
            another.
        distillation: A teacher whose outputs take part in the loss, for instance `FloatModel(graph)`.
        checkpoint: Where to keep the state of the training, or None. It goes on with the arguments that it was begun with, but
            for more epochs.
        hooks: Functions to call on the way.
        progress: Told about every step.

    Returns:
        The trained model, in evaluation mode, and what training did.

    Raises:
        SchemeError: If the scheme does not name exactly the layers of the graph.
        DataError: If the images do not fit the network.
        FileFormatError: If `checkpoint` is damaged, or belongs to another network, scheme, other images or settings.
        TrainingError: If the loss is no finite number.
    """
    if isinstance(data, ImageData):
        part_of(len(data.train), settings.data_fraction)  # refused before anything is computed
        graph = graph.reading(data.preprocessing, data.name)
    task = task or classification()
    require_one_output(task, graph.outputs, graph.model)
    require_outputs(task, graph.output_shape, graph.model)
    images = _calibrating(graph, data, calibration_images, settings.seed)
    again = free_norm and settings.epochs > 0
    settles = settle_norm and (not (trained or again) or _enough(graph, len(images)))
    model, seen = calibrated(
        graph,
        scheme,
        images,
        ranges=ranges,
        act_range_momentum=act_range_momentum,
        free_norm=free_norm,
        calibration=calibration,
        percentile=percentile,
        settle_norm=settle_norm,
        trained=trained,
    )
    if checkpoint is not None:
        origin = {
            "network": network_digest(graph), "calibration": str(calibration), "percentile": percentile,
            "calibration_images": len(images), "settle_norm": settle_norm,
            "trained": trained,
        }  # fmt: skip
        checkpoint = replace(checkpoint, origin={**origin, **checkpoint.origin})
    result = TrainResult((), 0)
    # Without epochs, a state in the way is still refused.
    if settings.epochs or (checkpoint is not None and checkpoint.resume):
        result = fit(
            model,
            data,
            settings,
            task=task.towards(FloatModel(graph).eval().requires_grad_(False)) if task.label_free else task,
            distillation=distillation,
            checkpoint=checkpoint,
            hooks=hooks,
            progress=progress,
        )
    if again:
        seen = model.settle_norm(torch.split(images, CALIBRATION_BATCH)) if settles else 0
    return model.eval(), replace(result, norm_images=seen)


def calibrated(
    graph: Graph,
    scheme: Scheme,
    images: Tensor,
    *,
    ranges: Ranges | str = Ranges.LEARNED,
    act_range_momentum: float = 0.99,
    free_norm: bool = True,
    calibration: Calibration | str = Calibration.MSE,
    percentile: float = PERCENTILE,
    settle_norm: bool = True,
    trained: bool = False,
) -> tuple[QuantizedModel, int]:
    """Quantize `graph`, calibrate it on images, correct its batch norm by them: where `fine_tune` begins, and `reconstruct`.

    Args:
        graph: The network with trained float weights.
        scheme: Precision of every layer.
        images: float32, shape (count, channels, height, width).
        ranges: How scales follow the data in training.
        act_range_momentum: Weight of the old range, for `ema`.
        free_norm: Normalise by batch statistics in training.
        calibration: How a range becomes a scale.
        percentile: The percentile of the ranges, for `percentile`.
        settle_norm: Whether the statistics of batch norm become those of the quantized network: see `correct_norm`.
        trained: Whether `graph` is what a training of integers left: its statistics are replaced by those of these images,
            where there are at least 64.

    Returns:
        The model, in evaluation mode, and by how many images its batch norm was corrected, or settled.
    """
    model = quantize(graph, scheme, ranges=ranges, momentum=act_range_momentum, free_norm=free_norm)
    parts = torch.split(images, CALIBRATION_BATCH)
    calibrate(model, parts, calibration, percentile)
    if not settle_norm:
        return model, 0
    if not trained:
        return model, correct_norm(model, parts)
    return model, model.settle_norm(parts) if len(images) >= SETTLING_IMAGES else 0


def _calibrating(graph: Graph, data: ImageData | Iterable[Any], count: int, seed: int) -> Tensor:
    """Images to calibrate on."""
    if isinstance(data, ImageData):
        if data.shape != graph.input_shape:
            raise DataError(
                f"{graph.model} reads images of shape {graph.input_shape}, got {data.shape} from {data.name}."
            )
        return data.calibration(min(count, len(data.train)), seed)[0]
    return float_images(draw_images(data, count, seed), graph.input_shape, graph.model)


def _enough(graph: Graph, images: int) -> bool:
    """Whether there are images enough to settle batch norm on; says it where there are not."""
    if images < SETTLING_IMAGES and any(layer.norm is not None for layer in graph.layers.values()):
        warnings.warn(
            f"the batch norm of {graph.model} keeps its statistics: {images} calibration images are too few to replace them by, "
            f"{SETTLING_IMAGES} are the least. Give more, or settle_norm=False (`bitwright train --keep-norm`).",
            BitwrightWarning,
            stacklevel=3,
        )
    return images >= SETTLING_IMAGES
