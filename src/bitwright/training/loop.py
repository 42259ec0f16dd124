# SPDX-License-Identifier: MIT
"""The training loop, through Accelerate: one process as it is, more under torchrun (or `accelerate launch`, on GPUs)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bitwright.data.sampling import derive_seed
from bitwright.errors import TrainingError
from bitwright.progress import Progress, silent
from bitwright.training.checkpoint import TrainingState, load_training_state, save_training_state
from bitwright.training.distillation import Distillation
from bitwright.training.labels import all_labels, check_labels

Batches = DataLoader[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TrainResult:
    """What training did.

    Attributes:
        losses: Mean loss of each epoch, this run's and those it resumed from.
        steps: Optimizer steps in all.
    """

    losses: tuple[float, ...]
    steps: int


def train(
    model: nn.Module,
    batches: Batches,
    *,
    epochs: int,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    label_smoothing: float = 0.0,
    seed: int = 0,
    distillation: Distillation | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_steps: int | None = None,
    resume: bool = False,
    before_epoch: Callable[[int], object] | None = None,
    after_step: Callable[[int], object] | None = None,
    progress: Progress = silent,
    accelerator: Accelerator | None = None,
) -> TrainResult:
    """Train `model` in place with SGD (Nesterov) and one cosine from `learning_rate` to zero.

    Weight decay applies to weights of two axes or more: neither biases nor scales nor batch norm are pulled to zero. After each
    epoch (and every `checkpoint_steps`) the state is written to `checkpoint`, atomically; with `resume`, training goes on from
    there and ends where it would have without the interruption.

    Args:
        model: Takes images and returns logits. A QuantizedModel trains its weights and, if learned, its scales.
        batches: Yields (images, labels); its order may depend on the epoch through `set_epoch` of what Accelerate prepares.
        epochs: Passes over `batches`, counted from the very beginning.
        learning_rate: At the start of the cosine.
        momentum: Of SGD.
        weight_decay: Of SGD.
        label_smoothing: Of the cross entropy.
        seed: Of dropout, with the step and the process; torch's own generators are left as they were.
        distillation: A teacher whose logits take part in the loss.
        checkpoint: Where to keep the state, or None.
        checkpoint_steps: Steps after which it is written besides, for epochs that take long.
        resume: Whether to start from `checkpoint` if it exists.
        before_epoch: Called with the number of each epoch, from 0, before it starts.
        after_step: Called with the number of steps so far, after each; may evaluate, if it leaves the model in training mode.
        progress: Told about every step.
        accelerator: Of the caller, for several processes or mixed precision.

    Raises:
        TrainingError: If the loss is no finite number; `checkpoint` then still holds the last good state.
        DataError: If a label is no class of the model; nothing has been trained then.
        FileFormatError: If `checkpoint` is damaged, or of another model.
    """
    model.to(memory_format=torch.channels_last)  # the faster layout of convolutions, on processors and on GPUs
    accelerator = accelerator or Accelerator(cpu=not torch.cuda.is_available())
    optimizer = torch.optim.SGD(
        _parameter_groups(model, weight_decay), lr=learning_rate, momentum=momentum, nesterov=momentum > 0
    )
    state = TrainingState()
    if resume and checkpoint is not None and Path(checkpoint).exists():
        state = load_training_state(checkpoint, model, optimizer)
    module, optimizer, loader = accelerator.prepare(model, optimizer, batches)
    steps_per_epoch = len(loader)  # of this process
    total = epochs * steps_per_epoch
    losses, step = list(state.losses), state.steps
    partial, begun, saved = state.partial, step - len(losses) * steps_per_epoch, state.steps > 0

    def keep() -> None:
        nonlocal saved
        if checkpoint is not None and accelerator.is_main_process:
            found = TrainingState(tuple(losses), step, summed)
            save_training_state(checkpoint, accelerator.unwrap_model(module), optimizer.optimizer, found)
            saved = True

    labels_fit = False
    for epoch in range(len(losses), epochs):
        module.train()
        if before_epoch is not None:
            before_epoch(epoch)
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        summed = partial
        for images, labels in accelerator.skip_first_batches(loader, begun) if begun else loader:
            rate = learning_rate * (1 + math.cos(math.pi * step / total)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            with _seeded(derive_seed(seed, step, accelerator.process_index), accelerator.device):
                logits = module(images)
            if not labels_fit:
                check_labels(all_labels(batches, labels), logits.shape[1])
                labels_fit = True
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            if distillation is not None:
                loss = distillation.combine(loss, logits, images)
            # The mean over processes: all of them see a loss that is not finite, and stop together.
            value = float(accelerator.reduce(loss.detach(), "mean"))
            if not math.isfinite(value):
                raise TrainingError(_not_finite(value, epoch, step, learning_rate, checkpoint if saved else None))
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            optimizer.step()
            summed += value
            step += 1
            progress(step, total, loss=value, epoch=epoch + 1)
            if after_step is not None:
                after_step(step)
            if checkpoint_steps and step % checkpoint_steps == 0 and step % steps_per_epoch:
                keep()
        losses.append(summed / steps_per_epoch)
        partial, begun, summed = 0.0, 0, 0.0
        keep()
    accelerator.wait_for_everyone()
    return TrainResult(tuple(losses), step)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed`; afterwards torch's generators are where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.dim() > 1]
    plain = [parameter for parameter in trainable if parameter.dim() <= 1]
    groups: Iterable[dict[str, object]] = (
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]


def _not_finite(value: float, epoch: int, step: int, rate: float, checkpoint: str | Path | None) -> str:
    kept = "nothing was complete yet" if checkpoint is None else f"the last good state is in '{checkpoint}'"
    return (
        f"the loss became {value} in epoch {epoch + 1}, step {step + 1}: training stopped, {kept}. "
        f"Try a learning rate below {rate:g}, or check the images for values that are not finite."
    )
