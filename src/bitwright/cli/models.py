# SPDX-License-Identifier: MIT
"""Models and data as several commands name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bitwright.cli.announced import announce
from bitwright.cli.ignored import refuse_ignored

if TYPE_CHECKING:
    from torch import nn

    from bitwright.data import ImageData, Preprocessing
    from bitwright.errors import FileFormatError
    from bitwright.task import Task


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
    replace_head: bool = False,
    seed: int = 0,
) -> tuple[nn.Module, tuple[int, int, int]]:
    """A model by name, and the shape of an image for it.

    It has as many classes as its weights; with `classes`, that many, and with `replace_head` those of `data`, which gives weights
    for other classes a new head. Without weights it has the classes of `data`, if there is one, else its source's own.

    Channels are those of `data` where not given; the image size is the model's own, and where a module of the user's says
    none, that of `data`, which a line says. torchvision's models read three channels only, which grey images repeat. Weights
    that come from nowhere else are drawn from `seed`.
    """
    import torch

    from bitwright.data import load_data, names
    from bitwright.graph import load_model
    from bitwright.graph.sources import SOURCES, stated_size
    from bitwright.graph.sources import image_size as preferred_size
    from bitwright.processes import rank_and_size

    of_images = replace_head or (classes is None and not pretrained and weights is None)
    own = data is not None and data.partition(":")[0] not in names()  # whose images may come in one size only
    own_network = name.partition(":")[0] not in SOURCES
    needed = channels is None or of_images or own or (own_network and image_size is None)
    images = load_data(data) if data is not None and needed else None
    if images is not None:
        channels = channels or (3 if name.startswith("torchvision:") else images.shape[0])
    own_shape = images.shape if images is not None and images.fixed_size else None
    seen = len(images.classes) if images is not None and of_images else None
    asked = seen if replace_head else classes  # which a factory must not ignore, unlike what the images suggest
    suggested = {"in_size": image_size, "num_classes": seen}
    if not (name.startswith("torchvision:") and channels == 3):
        suggested["in_channels"] = channels
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = load_model(name, pretrained=pretrained, weights=weights, ema=ema, suggested=suggested, num_classes=asked)
    if own_shape is not None and image_size is None:
        return made, own_shape
    if image_size is None and own_network and images is not None and stated_size(made) is None:
        image_size = images.shape[1]
        if rank_and_size()[0] == 0:
            announce(
                f"{name} reads images of {image_size} x {image_size}, as {data} has them; --image-size gives another"
            )
    size = image_size or preferred_size(name, made)
    return made, (channels or 3, size, size)


def outputs_of(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a module returns for one image, of several outputs the first, found by a black one of this shape."""
    import torch

    from bitwright.returned import as_returned, first

    with torch.no_grad():
        return tuple(first(as_returned(model.eval()(torch.zeros(1, *shape)), "the model")).shape[1:])


def task_for(name: str, shape: tuple[int, ...], model: str) -> Task:
    """A task by name, for a network whose outputs for one image have this shape; refused in one line where they do not fit."""
    from bitwright.task import load_task, require_outputs

    task = load_task(name)
    require_outputs(task, shape, model)
    return task


def integers_refused(path: object, why: str) -> FileFormatError:
    """The error for an integer model where something is learned or taught: it says what is wanted instead."""
    from bitwright.errors import FileFormatError

    return FileFormatError(f"'{path}' is an integer model, which {why}: give the checkpoint that it was lowered from.")


def class_outputs(task: Task, shape: tuple[int, ...]) -> int | None:
    """How many classes the outputs of one image tell apart, where the classes of a data set are matched with them."""
    return shape[0] if task.class_labels else None


def refuse_ignored_weights(context: typer.Context) -> None:
    """`--weights` and `--pretrained` exclude each other, and `--ema` is about the former."""
    if context.params["pretrained"]:
        refuse_ignored(
            context, "--pretrained takes the source's own weights. Leave out one of the two.", "weights", "ema"
        )
    elif context.params["weights"] is None:
        refuse_ignored(context, "it chooses among the weights of a file. Name one with --weights.", "ema")


def refuse_two_heads(context: typer.Context) -> None:
    """`--classes` and `--replace-head` both say how many classes a head is for."""
    if context.params["replace_head"]:
        refuse_ignored(
            context, "--replace-head takes the number of the images' classes. Leave out one of the two.", "classes"
        )


def data_for_model(
    name: str,
    shape: tuple[int, ...],
    *,
    known: Preprocessing | None = None,
    asked: Preprocessing | None = None,
    outputs: int | None = None,
) -> ImageData:
    """A data set by name, in the shape that a model reads.

    Args:
        name: The name of the data set.
        shape: (channels, height, width) of an image.
        known: What the network knows of its images; a line says what is done with these.
        asked: What was asked for on the command line.
        outputs: How many classes the model tells apart, where labels matter: they become its outputs, and a line says how where
            they are not as many.
    """
    from bitwright.data import Preprocessing, load_data
    from bitwright.data.preprocessing import require_same
    from bitwright.errors import DataError
    from bitwright.processes import rank_and_size

    asked = (asked or Preprocessing()).of_channels(shape[0])
    if asked.crop not in (None, shape[1]):
        raise DataError(f"the network reads images of {shape[1]} x {shape[2]}, got --crop {asked.crop}.")
    require_same(asked, known, "the network", "the command line")
    found = load_data(name, channels=shape[0], image_size=shape[1], preprocessing=asked.over(known))
    if found.shape != tuple(shape):
        raise DataError(
            f"the network reads images of {' x '.join(map(str, shape))}, got {' x '.join(map(str, found.shape))} from {name}."
        )
    made = found.preprocessing
    if asked.over(made) != made:
        raise DataError(f"{name} is made so: {made}; it cannot be made so: {asked}. Leave these options out.")
    require_same(made, known, "the network", name)
    if rank_and_size()[0] == 0:
        announce(f"images of {name}: {made}")
    return found if outputs is None else match(found, outputs)


def match(images: ImageData, outputs: int) -> ImageData:
    """A data set whose labels are outputs of a model, of which there are so many; a line says how."""
    from bitwright.data import match_outputs
    from bitwright.processes import rank_and_size

    matched = match_outputs(images, outputs)
    if matched.how and rank_and_size()[0] == 0:
        announce(matched.how)
    return matched.data
