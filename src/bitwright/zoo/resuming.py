# SPDX-License-Identifier: MIT
"""What a published training kept besides weights, for one that goes on from it: epoch, accuracy, momenta, ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bitwright.errors import FileFormatError
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Add
from bitwright.quantizer.plan import QuantPlan
from bitwright.zoo.checkpoint import Checkpoint, float_names
from bitwright.zoo.layout import input_activation, layout, unit_of

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_BUFFERS = (*_STATISTICS, "scaling_factor", "weight_integer", "bias_integer", ".x_min", ".x_max")


@dataclass(frozen=True)
class PublishedTraining:
    """How far a published training was.

    Attributes:
        epoch: Finished epochs.
        best_top1: The best accuracy so far, in percent.
        momentum: The momentum of SGD; None where the file has no optimizer.
        weight_decay: The weight decay of SGD, likewise.
        momenta: The momenta of the parameters of a QuantizedModel, as `training.optimizer.slots` names them.
    """

    epoch: int = 0
    best_top1: float = 0.0
    momentum: float | None = None
    weight_decay: float | None = None
    momenta: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


def published_training(checkpoint: Checkpoint, graph: Graph, model: str) -> PublishedTraining:
    """Read how far the training of a checkpoint was; nothing of a file that is a plain state dict.

    An optimizer counts its parameters in the order of the model, which is that of the state dict.

    Args:
        checkpoint: As read with `floats=True`.
        graph: The captured network.
        model: Its name in the zoo.

    Raises:
        FileFormatError: If an entry is no such thing, or the optimizer is of another network.
    """
    kept = checkpoint.kept
    if not {"epoch", "best_acc1"} & set(kept):
        return PublishedTraining()
    epoch, best = (_number(kept.get(name, 0), name, checkpoint) for name in ("epoch", "best_acc1"))
    optimizer = kept.get("optimizer")
    if not isinstance(optimizer, Mapping) or not optimizer.get("param_groups"):
        return PublishedTraining(int(epoch), best)
    groups = optimizer["param_groups"]
    try:
        momentum, decay = float(groups[0]["momentum"]), float(groups[0]["weight_decay"])
        order = [index for group in groups for index in group["params"]]
        slots = {index: optimizer["state"].get(index, {}).get("momentum_buffer") for index in order}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"'{checkpoint.path}' has no optimizer of SGD ({error!r}): resume another file."
        ) from error
    names = [name for name in checkpoint.tensors if not name.endswith(_BUFFERS)]
    if len(names) != len(order):
        raise FileFormatError(
            f"the optimizer in '{checkpoint.path}' has {len(order)} parameters, its weights {len(names)}: it is of another "
            "network."
        )
    of_file = {name: own for own, name in float_names(checkpoint, graph, model).items()}
    momenta = {
        f"network.{of_file[name]}.momentum_buffer": value
        for name, value in zip(names, (slots[index] for index in order), strict=True)
        if isinstance(value, Tensor) and name in of_file and value.shape == graph.parameters[of_file[name]].shape
    }
    return PublishedTraining(int(epoch), best, momentum, decay, momenta)


def published_ranges(checkpoint: Checkpoint, plan: QuantPlan, model: str) -> dict[str, tuple[float, float]]:
    """The least and the greatest real value of each quantizer of `plan` that a published one corresponds to.

    The published residuals have one range for a sum and its terms, so that of the terms alone is in no file.

    Args:
        checkpoint: With or without ranges; without, there are none.
        plan: Where the quantizers of the network stand.
        model: Its name in the zoo.

    Raises:
        FileFormatError: If a range is no two numbers, or the network is none of the published ResNets.
    """
    if not any(name.endswith(".x_min") for name in checkpoint.tensors):
        return {}
    names = layout(model, plan.source)
    published = {
        plan.quantizer_of[node.inputs[0]]: input_activation(names.module_of[layer])
        for layer, node in plan.graph.layers.items()
    }
    # Streams that a layer reads as they are have the range that the layer saw; others, that of the sum.
    published.setdefault(plan.quantizer_of[names.stem], "quant_act_int32")
    for node in plan.source:
        if isinstance(node, Add):
            (unit,) = {unit_of(names.module_of[source]) for source in node.inputs if source in names.terms}
            published.setdefault(plan.quantizer_of[node.name], f"{unit}.quant_act_int32")
    return {
        key: (float(checkpoint.tensor(f"{name}.x_min", ())), float(checkpoint.tensor(f"{name}.x_max", ())))
        for key, name in published.items()
    }


def _number(value: Any, name: str, checkpoint: Checkpoint) -> float:
    """A number of at least 0, which may be a tensor of one element."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise FileFormatError(f"'{name}' is no number of at least 0 in '{checkpoint.path}': resume another file.")
    return float(value)
