# SPDX-License-Identifier: MIT
"""Models and data as several commands name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bitwright.cli.ignored import refuse_ignored

if TYPE_CHECKING:
    from torch import nn

    from bitwright.data import ImageData


def make_model(
    name: str,
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    ema: bool = False,
    data: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    seed: int = 0,
) -> tuple[nn.Module, tuple[int, int, int]]:
    """A model by name, and the shape of an image for it.

    Channels and classes are those of `data` where not given, the image size is the model's own. torchvision's models read
    three channels only, which grey images repeat. Weights that come from nowhere else are drawn from `seed`.
    """
    import torch

    from bitwright.data import load
    from bitwright.graph import load_model
    from bitwright.graph.sources import image_size as preferred_size

    asked = classes  # which a factory must not ignore, unlike what the images suggest
    if data is not None and (channels is None or classes is None):
        images = load(data)
        channels = channels or (3 if name.startswith("torchvision:") else images.shape[0])
        classes = classes or len(images.classes)
    suggested = {"in_size": image_size, "num_classes": classes}
    if not (name.startswith("torchvision:") and channels == 3):
        suggested["in_channels"] = channels
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = load_model(name, pretrained=pretrained, weights=weights, ema=ema, suggested=suggested, num_classes=asked)
    size = image_size or preferred_size(name, made)
    return made, (channels or 3, size, size)


def refuse_ignored_weights(context: typer.Context) -> None:
    """`--weights` and `--pretrained` exclude each other, and `--ema` is about the former."""
    if context.params["pretrained"]:
        refuse_ignored(
            context, "--pretrained takes the source's own weights. Leave out one of the two.", "weights", "ema"
        )
    elif context.params["weights"] is None:
        refuse_ignored(context, "it chooses among the weights of a file. Name one with --weights.", "ema")


def load_data(name: str, shape: tuple[int, ...], seed: int = 0) -> ImageData:
    """A data set by name, in the shape that a model reads."""
    from bitwright.data import load

    return load(name, channels=shape[0], image_size=shape[1], seed=seed)
