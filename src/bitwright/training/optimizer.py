# SPDX-License-Identifier: MIT
"""The optimizer of a training, and what it remembers, by the names of parameters.

Indices would not do: an optimizer counts parameters in the order in which it was given them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from bitwright.errors import FileFormatError
from bitwright.training.settings import TrainSettings


def sgd(model: nn.Module, settings: TrainSettings) -> torch.optim.SGD:
    """SGD over all trainable parameters of a model."""
    return torch.optim.SGD(
        parameter_groups(model, settings.weight_decay, decay_all=settings.decay_all),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
    )


def parameter_groups(model: nn.Module, weight_decay: float, *, decay_all: bool = False) -> list[dict[str, object]]:
    """The trainable parameters, decayed and not: weights of two axes or more are, others only with `decay_all`."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if decay_all or parameter.dim() > 1]
    plain = [parameter for parameter in trainable if not decay_all and parameter.dim() <= 1]
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def slots(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers of each parameter, as `PARAMETER.SLOT`; of SGD, `PARAMETER.momentum_buffer`."""
    return {
        f"{name}.{slot}": value
        for name, parameter in _optimized(model, optimizer)
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_slots(
    model: nn.Module, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor], where: object
) -> None:
    """Give an optimizer what `slots` returned.

    Raises:
        FileFormatError: If a parameter does not exist, or is shaped otherwise; names `where` it comes from.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in kept.items():
        name, _, slot = key.rpartition(".")
        found.setdefault(name, {})[slot] = value
    for name, parameter in _optimized(model, optimizer):
        of_this = found.pop(name, {})
        if any(value.shape != parameter.shape for value in of_this.values()):
            raise FileFormatError(f"'{where}' is of another model: '{name}' has another shape there.")
        # In the memory layout of the parameter, as the optimizer makes them itself.
        optimizer.state[parameter] = {slot: torch.empty_like(parameter).copy_(value) for slot, value in of_this.items()}
    if found:
        raise FileFormatError(f"'{where}' is of another model: nothing here is called '{next(iter(found))}'.")


def _optimized(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that the optimizer moves, with their names in the model."""
    moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return ((name, value) for name, value in model.named_parameters() if id(value) in moved)
