# SPDX-License-Identifier: MIT
"""The training loop, through Accelerate: one process as it is, more under torchrun (or `accelerate launch`, on GPUs)."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bitwright.data.sampling import derive_seed
from bitwright.errors import DataError, TrainingError
from bitwright.graph.digest import digest
from bitwright.processes import meet_again
from bitwright.progress import Progress, silent
from bitwright.returned import Returned, as_returned, by_name, first
from bitwright.task import Task, classification, require_one_output, require_outputs
from bitwright.task.curvature import Loss
from bitwright.task.labels import all_targets
from bitwright.training.distillation import Distillation
from bitwright.training.model import QuantizedModel
from bitwright.training.optimizer import restore_slots, sgd, slots
from bitwright.training.settings import Checkpointing, Epoch, Hooks, Start, Step, TrainSettings
from bitwright.training.state import Progressed, TrainingFile


@dataclass(frozen=True)
class TrainResult:
    """What training did.

    Attributes:
        losses: Mean loss of each epoch, this run's and those it resumed from.
        steps: Optimizer steps in all.
        norm_images: How many images batch norm was corrected by, or settled on; 0 where its statistics are those of the training.
    """

    losses: tuple[float, ...]
    steps: int
    norm_images: int = 0


def train(
    model: nn.Module,
    batches: Iterable[Any],
    settings: TrainSettings,
    *,
    start: Start | None = None,
    task: Task | None = None,
    distillation: Distillation | None = None,
    checkpoint: Checkpointing | None = None,
    hooks: Hooks | None = None,
    progress: Progress = silent,
    accelerator: Accelerator | None = None,
) -> TrainResult:
    """Train `model` in place with SGD.

    The state is written to `checkpoint`, atomically, from time to time and after each epoch; where it resumes, in any process,
    training goes on from there, and ends with the very weights that it would have had without the interruption. What the weights
    depend on is kept in the file: going on with something else is refused, except with more epochs.

    Several processes each train on their share of every batch, and end with equal parameters and buffers: ranges and
    statistics are those of the first process.

    Args:
        model: Takes images and returns outputs such as the task judges. A QuantizedModel trains its weights and, if learned,
            its scales.
        batches: A DataLoader, or in one process anything with a length, of (images, labels) or of dictionaries with `images` and
            `labels` (images alone will do, where the task is free of labels); its order may depend on the epoch through
            `set_epoch` of what Accelerate prepares.
        settings: How; what concerns the reading of images does not apply.
        start: A finished epoch to go on from; None begins with the first.
        task: What the network is for, and so what is minimised; None is classification.
        distillation: A teacher whose outputs take part in the loss.
        checkpoint: Where to keep the state, or None.
        hooks: Functions to call on the way.
        progress: Told about every step.
        accelerator: The accelerator of the caller, for several processes or mixed precision.

    Raises:
        TrainingError: If the loss is no finite number; `checkpoint` then still holds the last good state.
        DataError: If these are no batches, or targets do not fit the model; nothing has been trained then.
        TaskError: If the task does not fit the model's outputs, has no labels to smooth, or lacks the network to imitate.
        FileFormatError: If the file of `checkpoint` is damaged, or of a training with another model or other settings; or if the
            momenta of `start` are of another model.
    """
    task = task or classification()
    objective = task.training_loss(settings.label_smoothing)
    model.to(memory_format=torch.channels_last)  # the faster layout of convolutions, on processors and on GPUs
    accelerator = accelerator or _accelerator()
    start, hooks = start or Start(), hooks or Hooks()
    optimizer = sgd(model, settings)
    if start.momenta:
        restore_slots(model, optimizer, start.momenta, "the start")
    length = _length(batches, accelerator)
    file, done = None, None
    if checkpoint is not None:
        kept = {
            **settings.descent(), "start": start.settings(), "batches": length, "task": _identity(task),
            "distillation": None if distillation is None else distillation.settings(),
            **_surroundings(model, accelerator), **checkpoint.origin,
        }  # fmt: skip
        file = TrainingFile(checkpoint, model, optimizer, kept, writes=accelerator.is_main_process)
        done = file.begin(checkpoint.resume)
    if isinstance(model, QuantizedModel) and model.cancels_biases and accelerator.ddp_handler is None:
        # No gradient comes for such a bias: processes must not wait for it.
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    module, prepared, loader = accelerator.prepare(model, optimizer, batches)
    descent = _Descent(module, prepared, batches, accelerator, task, objective, distillation, settings.seed)
    per_epoch = len(loader)  # of this process
    if file is not None and done is not None:
        done.require_place(per_epoch, start.epoch, file.path)
    done = done or Progressed(steps=start.epoch * per_epoch)
    for epoch in range(start.epoch + len(done.losses), settings.epochs):
        module.train()
        hooks.before_epoch(epoch)
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        begun = done.steps - epoch * per_epoch
        for index, waited, batch in _timed(_after(begun, loader, accelerator), begun):
            begin = time.monotonic() - waited
            hooks.before_step(done.steps)
            rate = settings.rate(done.steps, per_epoch)
            value, outputs, targets = descent.take(batch, done.steps, rate)
            if not math.isfinite(value):
                raise TrainingError(_not_finite(value, epoch, done.steps, settings.learning_rate, file))
            done.end_step(value)
            progress(done.steps, settings.epochs * per_epoch, loss=value, epoch=epoch + 1)
            spent = time.monotonic() - begin
            hooks.after_step(Step(done.steps, epoch, index, per_epoch, value, outputs, targets, waited, spent))
            if file is not None and done.steps % per_epoch and file.due(done.steps):
                file.write(done)
        done.end_epoch(per_epoch)
        hooks.after_epoch(Epoch(epoch, done.losses[-1], slots(model, optimizer), model))
        if file is not None:
            file.write(done)
    _share_buffers(model, accelerator)
    accelerator.unwrap_model(module, keep_fp32_wrapper=False)  # mixed precision stays with the training
    accelerator.wait_for_everyone()
    return TrainResult(tuple(done.losses), done.steps)


class _Descent:
    """Steps of SGD, each from one batch of each process."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[Any],
        accelerator: Accelerator,
        task: Task,
        objective: Loss,
        distillation: Distillation | None,
        seed: int,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._batches = batches
        self._accelerator = accelerator
        self._task = task
        self._objective = objective
        self._distillation = distillation
        if distillation is not None:
            distillation.teacher.to(accelerator.device)
        if isinstance(task.reference, nn.Module):
            task.reference.to(accelerator.device)
        self._seed = seed
        self._fits = False

    def take(self, batch: Any, step: int, rate: float) -> tuple[float, Tensor, Tensor]:
        """Take a step, unless the loss is no finite number.

        Returns:
            The mean loss of all processes, which all see one that is not finite, and stop together; outputs and targets.
        """
        loss, outputs, targets = self._loss(batch, step)
        mean = float(self._accelerator.reduce(loss.detach(), "mean"))
        if math.isfinite(mean):
            self._step(loss, rate)
        return mean, first(outputs).detach(), first(targets)

    def _loss(self, batch: Any, step: int) -> tuple[Tensor, Returned, Returned]:
        """The loss of a batch, with random numbers of this step and process; its outputs and its targets."""
        images, targets = self._task.of(send_to_device(batch, self._accelerator.device))
        with _seeded(derive_seed(self._seed, step, self._accelerator.process_index), self._accelerator.device):
            outputs = as_returned(self._model(images), "the model")
        if not self._fits:
            self._require_fit(outputs, targets)
        loss = self._objective(outputs, targets)
        if not isinstance(loss, Tensor) or loss.dim():
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TrainingError(f"expected a loss of shape (), one number for a batch, got {got}: take its mean.")
        if self._distillation is not None:
            loss = self._distillation.combine(self._task, loss, outputs, images)
        return loss, outputs, targets

    def _require_fit(self, outputs: Returned, targets: Returned) -> None:
        """Refuse before the first step outputs that are not the task's, and targets, of all images where they are known."""
        named = by_name(outputs)
        require_one_output(self._task, named, "the model")
        shape = tuple(first(outputs).shape[1:])
        require_outputs(self._task, shape, "the model")
        known = targets if self._task.label_free else all_targets(self._batches, targets)
        self._task.check(known, shape)
        self._fits = True

    def _step(self, loss: Tensor, rate: float) -> None:
        """Move the weights down the gradient, averaged over processes."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            # Of kernels of one channel, whose two memory layouts are the same bytes.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self._accelerator.backward(loss)
        self._optimizer.step()


def _surroundings(model: nn.Module, accelerator: Accelerator) -> dict[str, Any]:
    """What steps depend on besides the settings of the training, as JSON values: the processes, and the quantizers."""
    found = {"processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision}
    return found | (model.settings() if isinstance(model, QuantizedModel) else {})


def _accelerator() -> Accelerator:
    """On GPUs where there are any, and with the processes that a former training left."""
    on_cpu = not torch.cuda.is_available()
    meet_again(on_cpu)
    return Accelerator(cpu=on_cpu)


def _timed(batches: Iterable[Any], first: int) -> Iterator[tuple[int, float, Any]]:
    """Each batch with its number, from `first`, and the seconds until it came."""
    begin = time.monotonic()
    for index, batch in enumerate(batches, first):
        yield index, time.monotonic() - begin, batch
        begin = time.monotonic()


def _length(batches: Iterable[Any], accelerator: Accelerator) -> int:
    """Batches in an epoch."""
    if isinstance(batches, DataLoader):
        return len(batches)
    if not isinstance(batches, Sized) or isinstance(batches, Tensor | Mapping | str):
        raise DataError(
            f"expected a DataLoader, or a list of batches, each (images, labels) or a dictionary, got {type(batches).__name__}: "
            "an epoch needs a length, and to be read again."
        )
    if accelerator.num_processes > 1:
        raise DataError(f"several processes divide a DataLoader between them, but not a {type(batches).__name__}.")
    return len(batches)


def _after(begun: int, loader: Iterable[Any], accelerator: Accelerator) -> Iterable[Any]:
    """The batches of an epoch of which so many are done."""
    if not begun:
        return loader
    if isinstance(loader, DataLoader):
        return accelerator.skip_first_batches(loader, begun)  # type: ignore[no-any-return]
    return islice(loader, begun, None)


def _identity(task: Task) -> dict[str, Any]:
    """What of a task decides the weights, as JSON values; of the network that it imitates a digest."""
    if isinstance(task.reference, nn.Module):
        return {**task.identity(), "reference": digest(*task.reference.state_dict().values())}
    return task.identity()


def _share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Give all processes the ranges and statistics of the first: each saw other images in the last step."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            broadcast(buffer)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed`; afterwards torch's generators are where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _not_finite(value: float, epoch: int, step: int, rate: float, file: TrainingFile | None) -> str:
    kept = f"the last good state is in '{file.path}'" if file is not None and file.kept else "nothing was complete yet"
    return (
        f"the loss became {value} in epoch {epoch + 1}, step {step + 1}: training stopped, {kept}. "
        f"Try a learning rate below {rate:g}, or check the images for values that are not finite."
    )
