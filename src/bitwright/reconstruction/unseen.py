# SPDX-License-Identifier: MIT
"""What images say of a reconstruction that they were not shown to: image by image, since few have most of the error."""

from __future__ import annotations

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.graph.evaluate import Tensors
from bitwright.graph.execute import execute
from bitwright.returned import by_name
from bitwright.training.model import QuantizedModel

BATCH = 128
LEAST = 1e-6
"""Of the mean error of images, the least that counts as one."""


@torch.no_grad()
def errors(model: QuantizedModel, images: Tensor, floats: Tensors) -> Tensor:
    """How far what the network returns is from what the float network does, for each image, float64.

    Of classes the divergence of their distributions; else the squared error, in means of the square over all images, summed over
    outputs.
    """
    parts, squares = defaultdict[str, list[Tensor]](list), defaultdict[str, float](float)
    for part in torch.split(images, BATCH):
        real, made = (by_name(found) for found in (execute(model.plan.graph, floats, part), model(part)))
        for name, wanted in real.items():
            if len(real) == 1 and wanted.dim() == 2:
                got, asked = (torch.log_softmax(values.double(), 1) for values in (made[name], wanted))
                parts[name].append(F.kl_div(got, asked, reduction="none", log_target=True).sum(1))
                squares[name] = 1.0
            else:
                parts[name].append((made[name] - wanted).double().square().flatten(1).sum(1))
                squares[name] += float(wanted.square().sum(dtype=torch.float64)) / len(images)
    tiny = torch.finfo(torch.float64).tiny
    return torch.stack([torch.cat(found) / max(squares[name], tiny) for name, found in parts.items()]).sum(0)


def geometric_mean(after: Tensor, before: Tensor) -> float:
    """Of the ratios of errors, image by image: few images have most of the sum of errors, which chance decides."""
    least = (LEAST * before.mean()).clamp_min(torch.finfo(before.dtype).tiny)
    return float((after.clamp_min(least) / before.clamp_min(least)).log().mean().exp())
