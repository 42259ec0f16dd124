# SPDX-License-Identifier: MIT
"""How images are made for published weights, where their library states it: torchvision's transforms, timm's data config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bitwright.data.preprocessing import INTERPOLATIONS, Preprocessing
from bitwright.extras import require


def published_preprocessing(name: str, image_size: int | None = None) -> Preprocessing:
    """What the library of `SOURCE:MODEL` says of the images that its own weights were trained for.

    Args:
        name: As `load_model` takes it.
        image_size: Height and width of what is cut out, where it is another than the library's: what the shorter side is resized
            to grows with it.

    Returns:
        It; nothing of models whose source states nothing.
    """
    source, _, model = name.partition(":")
    found = _STATED[source](model) if source in _STATED else Preprocessing()
    if image_size is None or found.crop in (None, image_size):
        return found
    side = None if found.resize is None else round(found.resize * image_size / (found.crop or image_size))
    return replace(found, crop=image_size, resize=side)


def _torchvision(model: str) -> Preprocessing:
    from torchvision import models

    published = list(models.get_model_weights(model))
    if not published:
        return Preprocessing()
    steps = models.get_model_weights(model).DEFAULT.transforms()
    resize, crop = (getattr(steps, name, [None])[0] for name in ("resize_size", "crop_size"))
    how = getattr(getattr(steps, "interpolation", None), "value", None)
    mean, std = (getattr(steps, name, None) for name in ("mean", "std"))  # detectors normalise inside
    return Preprocessing(mean and tuple(mean), std and tuple(std), resize, crop, how)


def _timm(model: str) -> Preprocessing:
    require("timm", f"timm:{model}")
    import timm

    config = timm.get_pretrained_cfg(model)
    if config is None or not config.has_weights:
        return Preprocessing()
    crop = int(config.input_size[-1])
    how = config.interpolation if config.interpolation in INTERPOLATIONS else None
    # As timm.data.create_transform resizes.
    return Preprocessing(tuple(config.mean), tuple(config.std), int(crop / config.crop_pct), crop, how)


_STATED: dict[str, Callable[[str], Preprocessing]] = {"torchvision": _torchvision, "timm": _timm}
