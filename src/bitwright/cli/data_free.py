# SPDX-License-Identifier: MIT
"""`--data none`: images made from what batch norm remembers, where no label is read; kept beside the output until all is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.cli.announced import announce
from bitwright.cli.console import bar
from bitwright.cli.models import data_for_model

if TYPE_CHECKING:
    from torch import Tensor

    from bitwright.data import ImageData, Preprocessing
    from bitwright.graph import Graph

NONE = "none"
TRAINING, HELD_OUT = 128, 64
"""Images: each takes hundreds of passes to make."""

FORMAT = "bitwright.made_images.1"


def kept_in(output: Path) -> Path:
    """Where made images wait for an interrupted command to go on."""
    return output.with_name(f"{output.name}.images")


@dataclass(frozen=True)
class ImageSource:
    """Where the images of a command come from.

    To make them takes minutes: a command asks for them once nothing is left that could be refused before.

    Attributes:
        preprocessing: Of these images, as far as it is known.
        images: Gives them: a data set is loaded already, and others are made then.
    """

    preprocessing: Preprocessing
    images: Callable[[], ImageData]


def data_for_graph(
    name: str,
    graph: Graph,
    kept: Path,
    *,
    label_free: bool,
    asked: Preprocessing | None = None,
    outputs: int | None = None,
    count: int | None = None,
    seed: int = 0,
) -> ImageSource:
    """A data set by name, in the shape that a float network reads, or made from the network itself.

    Args:
        name: The name of the data set, or `none`.
        graph: The float network, whose batch norm images are made from.
        kept: The file that keeps made images meanwhile.
        label_free: Whether no label will be read.
        asked: The preprocessing that was asked for on the command line.
        outputs: How many classes the network tells apart, where labels matter.
        count: How many images to make, to train with; 64 more are held out.
        seed: Of the noise that they begin as.

    Raises:
        DataError: If images cannot be made: a label would be read, or the network has no batch norm.
    """
    from bitwright.data import Preprocessing
    from bitwright.errors import DataError
    from bitwright.reconstruction.synthesis import require_batch_norm

    if name != NONE:
        found = data_for_model(name, graph.input_shape, known=graph.preprocessing, asked=asked, outputs=outputs)
        return ImageSource(found.preprocessing, lambda: found)
    if not label_free:
        raise DataError(
            "--data none has no labels: add --task agreement, which compares with the float network, or name data."
        )
    if asked:
        raise DataError(
            f"--data none makes images as the network reads them, not so: {asked}. Leave these options out."
        )
    require_batch_norm(graph)
    return ImageSource(Preprocessing(), partial(made_images, graph, kept, count or TRAINING, seed))


def made_images(graph: Graph, kept: Path, count: int, seed: int) -> ImageData:
    """A data set of made images, without labels.

    Those of the same network and seed that an earlier run left are read again: they are what would be made. Of several
    processes one makes them, for all.

    Args:
        graph: The float network, whose batch norm they are made from.
        kept: The file that keeps them meanwhile.
        count: How many to train with; 64 more are held out.
        seed: Of the noise that they begin as.

    Raises:
        DataError: If the network has no batch norm.
        FileFormatError: If `kept` is something else, or damaged.
    """
    import torch
    from torch.utils.data import TensorDataset

    from bitwright.data import ImageData
    from bitwright.data.own import OwnImages
    from bitwright.processes import from_main

    images = from_main(partial(_made, graph, kept, count, seed))
    parts = (images[:count], images[count:])
    train, test = (OwnImages(TensorDataset(part, torch.zeros(len(part)).long()), "made images") for part in parts)
    return ImageData(
        name=NONE,
        classes=("unknown",),
        shape=(images.shape[1], images.shape[2], images.shape[3]),
        train=train,
        test=test,
        mean=(),
        std=(),
        source=f"made from the batch norm of {graph.model}",
        fixed_size=True,
    )


def _made(graph: Graph, kept: Path, count: int, seed: int) -> Tensor:
    """The images, to train with and held out, shape (count + 64, channels, height, width)."""
    from bitwright.errors import FileFormatError
    from bitwright.files import write_bytes
    from bitwright.graph.digest import network_digest
    from bitwright.graph.tensors_file import read_tensors, serialize
    from bitwright.reconstruction import synthesised

    origin = {"network": network_digest(graph), "seed": str(seed)}
    made = None
    if kept.exists():
        try:
            tensors, told = read_tensors(kept, FORMAT)
        except FileFormatError as error:
            raise FileFormatError(f"{error} Or delete it, and images are made anew.") from error
        made = tensors["images"] if origin.items() <= told.items() else None
    with bar(f"making images for {graph.model}") as progress:
        images = synthesised(
            graph,
            count + HELD_OUT,
            seed=seed,
            made=made,
            keep=lambda so_far: write_bytes(kept, serialize({"images": so_far}, FORMAT, origin)),
            progress=progress,
        )
    announce(
        f"no data: {count} images were made from what the batch norm of {graph.model} remembers, {HELD_OUT} more held out"
    )
    return images
