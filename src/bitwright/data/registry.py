# SPDX-License-Identifier: MIT
"""Data sets by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from bitwright.data.image_data import ImageData
from bitwright.data.own import load_own
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.request import Request
from bitwright.errors import DataError, unknown_name

Source = Callable[[Request], ImageData]

_SOURCES: dict[str, Source] = {}

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
"""The dotted name of a module."""


def source(name: str) -> Callable[[Source], Source]:
    """Make a decorated function the loader of the data set `name`.

    Raises:
        ValueError: If the name is taken, or has a colon.
    """
    if name in _SOURCES or ":" in name:
        raise ValueError(f"the data set name '{name}' is taken, or has a colon.")

    def register(function: Source) -> Source:
        _SOURCES[name] = function
        return function

    return register


def names() -> tuple[str, ...]:
    """The known data sets.

    >>> names()
    ('digit-scenes', 'fashion-mnist', 'hfds', 'imagefolder', 'mnist-5k', 'wds')
    """
    return tuple(sorted(_SOURCES))


def load_data(
    name: str,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> ImageData:
    """Load a data set.

    Args:
        name: One of these.
            `mnist-5k`: 5,000 MNIST digits, embedded, of which a fifth of every class is held out, always the same.
            `fashion-mnist`, `fashion-mnist:DIR`: 70,000 pictures of clothes; from DIR if given, else from Debian's
            package dataset-fashion-mnist, else from the cache folder, which a first use fills by a download.
            `digit-scenes`, `digit-scenes:boxes`: 2,500 scenes of several of those digits, drawn from seeds, with a mask of
            classes, or a box around each digit.
            `imagefolder:DIR`: pictures in DIR/train/CLASS/ and DIR/val/CLASS/, as ImageNet's, with torchvision's
            preprocessing; or in what else the two splits are called: `imagefolder:DIR:TRAIN,TEST`.
            `hfds:NAME`: a data set of Hugging Face, on the hub or in a folder; `hfds:NAME:TRAIN,TEST` names its splits.
            `wds:DIR`: shards as WebDataset and timm write them; or `wds:TRAIN.tar,TEST.tar`, with {000..146} or * for several.
            `package.module:factory`: what a function of your own returns, see `bitwright.data.own`.
        image_size: Height and width in pixels. None keeps the 28 of the embedded sets (for more, they get black borders
            of up to 4 pixels, and beyond that are resized), and means 64 for scenes, which are drawn in any size, and 224 for
            image folders.
        channels: 1 or 3; None keeps what the images have. Grey images repeat their channel.
        preprocessing: What of it is to be otherwise than the data set's own; the sets in memory resize nothing.

    Returns:
        The data set, with its splits `train` and `test`.

    Raises:
        UnknownNameError: If there is no such data set.
        DataError: If its files are missing or damaged, or it cannot have that size or those channels.
    """
    key, colon, folder = name.partition(":")
    own = key not in _SOURCES and _MODULE.fullmatch(key) is not None and folder.isidentifier()
    if key not in _SOURCES and not own:
        if Path(name).is_dir():
            raise DataError(f"'{name}' is a folder: for the pictures in it, name the data imagefolder:{name}.")
        if name == "none":
            raise DataError(
                "images can be made without data (none) only where there is a float network and no label is read: by reconstruct "
                "and, with --task agreement, by sensitivity and by train --scheme. Name data here."
            )
        raise unknown_name("data set", key, [*_SOURCES, "package.module:factory"])
    if colon and not folder:
        raise DataError(f"expected a folder after the colon, got '{name}'.")
    if image_size is not None and image_size < 1:
        raise DataError(f"expected an image size of at least 1 pixel, got {image_size}.")
    if channels not in (None, 1, 3) and not own:
        raise DataError(f"expected 1 or 3 channels, got {channels}.")
    request = Request(folder or None, image_size, channels, preprocessing or Preprocessing())
    if own:
        return load_own(key, folder, request, names())
    return _SOURCES[key](request)
