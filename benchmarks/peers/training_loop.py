# SPDX-License-Identifier: MIT
"""The training of a peer that has quantizers to train and no loop of its own: that of Bitwright's rows, step for step.

The same batches in the same order, cropped and flipped alike (`accuracy_peers.py` writes them); SGD with momentum, its rate on a
cosine; the same loss, in which the float network teaches. Weights of layers are decayed, and nothing else: neither batch norm nor
scales, whatever shape a peer gives them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from exchange import Question
from torch import Tensor, nn


def train(network: nn.Module, teacher: nn.Module, asked: Question) -> None:
    """Train all parameters of a network in place, which is left in evaluation mode.

    Args:
        network: With its quantizers, calibrated.
        teacher: The float network.
        asked: Has the settings of the training, and the batches beside its other files.
    """
    if (settings := asked.training) is None:
        raise SystemExit("nothing was asked to be trained on.")
    images, labels = (np.load(asked.folder / f"{name}.npy", mmap_mode="r") for name in ("training", "labels"))
    weights = {
        id(module.weight): module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    others = [parameter for parameter in network.parameters() if id(parameter) not in weights]
    groups = [{"params": list(weights.values()), "weight_decay": settings["weight_decay"]}, {"params": others}]
    optimizer = torch.optim.SGD(
        groups, lr=settings["learning_rate"], momentum=settings["momentum"], nesterov=settings["nesterov"]
    )
    network.to(memory_format=torch.channels_last)  # the faster layout of convolutions
    network.train()
    for step in range(len(images)):
        for group in optimizer.param_groups:
            group["lr"] = settings["learning_rate"] * (1 + math.cos(math.pi * step / len(images))) / 2
        batch = torch.from_numpy(images[step].copy())
        loss = distilled(network(batch), teacher, batch, torch.from_numpy(labels[step].copy()), settings)
        if not math.isfinite(value := float(loss.detach())):
            raise SystemExit(f"the loss became {value} in step {step + 1} of {len(images)}.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step + 1} of {len(images)}: a loss of {value:.4f}", flush=True)
    network.eval()


def distilled(logits: Tensor, teacher: nn.Module, images: Tensor, labels: Tensor, settings: dict[str, Any]) -> Tensor:
    """Cross entropy, and the divergence from a teacher (Hinton et al. 2015, arXiv:1503.02531), as in `bitwright.training`."""
    part, temperature = settings["besides"]["distill"], settings["besides"]["temperature"]
    loss = F.cross_entropy(logits, labels)
    if not part:
        return loss
    with torch.no_grad():
        taught = teacher(images)
    divergence = F.kl_div(
        (logits / temperature).log_softmax(1),
        (taught / temperature).log_softmax(1),
        log_target=True,
        reduction="batchmean",
    )
    return (1 - part) * loss + part * temperature**2 * divergence
