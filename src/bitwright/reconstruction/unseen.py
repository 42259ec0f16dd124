# SPDX-License-Identifier: MIT
"""What images say of a reconstruction that they were not shown to: image by image, since few have most of the error."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.graph.evaluate import Tensors
from bitwright.graph.execute import execute
from bitwright.returned import by_name
from bitwright.training.model import QuantizedModel

BATCH = 128
FORMS, SHIFT = 8, 1 / 16
"""Of each image, and how far in parts of its size they are shifted at most."""
LEAST = 1e-6
"""Of the mean error of images, the least that counts as one."""


def in_forms(images: Tensor) -> Tensor:
    """The images, each shifted and mirrored in eight ways, its border repeated: shape (8 x count, ...).

    What chance decides of the error of one image, where its values fall between two integers, is another in each of them.
    """
    draw, (height, width) = random.Random(0), images.shape[2:]
    down, right = math.ceil(SHIFT * height), math.ceil(SHIFT * width)
    wide = F.pad(images, (right, right, down, down), mode="replicate")
    made = []
    for number in range(FORMS):
        top, left = draw.randint(0, 2 * down), draw.randint(0, 2 * right)
        part = wide[:, :, top : top + height, left : left + width]
        made.append(part.flip(3) if number % 2 else part)
    return torch.cat(made)


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


@dataclass(frozen=True)
class Change:
    """What became of the error of images.

    Attributes:
        ratio: After over before, the geometric mean over images: few have most of the sum of errors, which chance decides.
        doubt: The standard error of its logarithm, as other images would have another.
    """

    ratio: float
    doubt: float

    @property
    def worse(self) -> bool:
        """Whether the error has become larger, beyond two standard errors; or is no number.

        Of 128 images one standard error is 0.07 to 0.08, where 4,000 say that steps make the error a tenth or a fifth smaller:
        to ask these few images for proof would take back some of what helps.
        """
        return not math.log(self.ratio) <= 2 * self.doubt


def change(after: Tensor, before: Tensor) -> Change:
    """Of the errors of images in some forms each, shape (forms x images): forms of one image are no further images."""
    least = (LEAST * before.mean()).clamp_min(torch.finfo(before.dtype).tiny)
    logarithms = (after.clamp_min(least) / before.clamp_min(least)).log().reshape(FORMS, -1).mean(0)
    count = len(logarithms)
    doubt = float(logarithms.std()) / math.sqrt(count) if count > 1 else 0.0
    return Change(float(logarithms.mean().exp()), doubt)
