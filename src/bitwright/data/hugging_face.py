# SPDX-License-Identifier: MIT
"""`hfds:NAME`: data sets of Hugging Face, by their names on the hub, or in folders of one's own.

They are Arrow files mapped into memory: nothing but the labels is read before a picture is wanted. Releases of the library from 4
on run no code of a data set, others are refused, and pictures are decoded here.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bitwright.data.decoded import DecodedImages, pictures_data, preprocessing_of
from bitwright.data.image_data import ImageData
from bitwright.data.numbered import numbered_classes
from bitwright.data.pictures import open_picture, rgb_picture
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.registry import source
from bitwright.data.request import Request
from bitwright.data.splits import named_splits
from bitwright.errors import DataError, MissingLibraryError, reason
from bitwright.extras import EXTRAS, require

IMAGES = ("image", "img", "pixel_values")
LEAST_RELEASE = 4
"""Of `datasets`: the first that runs no code."""
LABELS = ("label", "labels", "fine_label", "target", "cls")
"""Columns, where there are several that could be it: the first that is there. Plain integers are labels by these names alone."""


@final
class HubImages(DecodedImages):
    """The pictures of a split.

    Args:
        rows: The split, its pictures not decoded.
        column: That they are in.
        below: Folders whose files it may name.
        labels: int64 [images].
        how: How they are made.
        name: Of the split, for messages.
    """

    def __init__(
        self, rows: Any, column: str, below: Sequence[str], labels: Tensor, how: Preprocessing, name: str
    ) -> None:
        super().__init__(labels, how)
        self.rows, self.column, self.below, self.name = rows, column, tuple(below), name

    def picture(self, index: int) -> Image.Image:
        found = self.rows[index][self.column] or {}
        if found.get("bytes") is not None:
            return rgb_picture(io.BytesIO(found["bytes"]))
        if found.get("path") is None:
            raise ValueError("there is none")
        path = os.path.abspath(found["path"])
        if not any(path.startswith(os.path.join(folder, "")) for folder in self.below) or not os.path.isfile(path):
            raise ValueError(f"expected a file below {' or '.join(self.below)}, got '{found['path']}'")
        return open_picture(path)

    def place(self, index: int) -> str:
        return f"{self.name}[{index}]"


@source("hfds")
def load_hugging_face(request: Request) -> ImageData:
    """Load NAME, a folder or a name on the hub; `hfds:NAME:TRAIN,TEST` names its splits.

    Raises:
        DataError: If it is not there, has no column of pictures or none of whole labels, or splits of other classes.
        MissingLibraryError: If `datasets` is not installed, or runs code of data sets.
    """
    if request.folder is None:
        raise DataError("hfds needs the name of a data set or a folder: hfds:NAME.")
    how = preprocessing_of(request, "hfds")
    _require_library()
    named, _, given = request.folder.partition(":")
    name = f"hfds:{named}"
    splits = _load(named, name)
    train, test = named_splits(splits, given, name)
    sets, classes = [], []
    for split in (train, test):
        rows = splits[split]
        image, label = _columns(rows.features, f"{name} ({split})")
        labels = _labels(rows, label, f"{name} ({split})")
        names = getattr(rows.features[label], "names", None)
        classes.append(tuple(names) if names else None)
        if names and int(labels.max()) >= len(names):
            raise DataError(
                f"{name} ({split}) has labels up to {int(labels.max())}, and names of {len(names)} classes."
            )
        sets.append(HubImages(_undecoded(rows, image), image, _below(named), labels, how, f"{name}, {split}"))
    if classes[0] != classes[1]:
        raise DataError(f"expected the same classes in the splits {train} and {test} of {name}, got others.")
    known = classes[0] or numbered_classes(name, *(images.labels for images in sets))
    return pictures_data(
        f"hfds:{request.folder}", known, sets[0], sets[1], how, f"the splits {train} and {test} of {named}"
    )


def _require_library() -> None:
    """Refuse releases that run code of a data set, which an environment of before may have."""
    require("datasets", "hfds:NAME")
    require("huggingface_hub", "hfds:NAME")
    found = version("datasets")
    if int(found.partition(".")[0]) < LEAST_RELEASE:
        raise MissingLibraryError(
            f"hfds:NAME needs datasets {LEAST_RELEASE} or newer, which runs no code of a data set, got {found}: "
            f"pip install --upgrade 'bitwright[{EXTRAS['datasets']}]'."
        )


def _below(named: str) -> tuple[str, ...]:
    """Where files may lie that a data set names: in its own folder, and where the library keeps what it loads."""
    import datasets
    from huggingface_hub import constants

    kept = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
    return tuple(dict.fromkeys(os.path.abspath(each) for each in (*([named] if Path(named).is_dir() else []), *kept)))


def _load(named: str, name: str) -> dict[str, Any]:
    """All splits."""
    import datasets

    folder = Path(named)
    try:
        if (folder / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(named))
        if (folder / "state.json").is_file():
            raise DataError(f"'{named}' holds one split: save a DatasetDict with the two, such as train and test.")
        return dict(datasets.load_dataset(named))
    except DataError:
        raise
    except Exception as error:  # of many types, for want of a network, a file, a format
        raise DataError(f"cannot load {name}: {reason(error)}.") from error


def _columns(features: Any, where: str) -> tuple[str, str]:
    """The columns of pictures and of labels."""
    import datasets

    pictures = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    whole = [
        key
        for key, kind in features.items()
        if isinstance(kind, datasets.ClassLabel)
        or (key in LABELS and isinstance(kind, datasets.Value) and "int" in str(kind.dtype))
    ]
    labels = f"of whole labels (ClassLabel, or integers called {', '.join(LABELS[:-1])} or {LABELS[-1]})"
    return _one(pictures, IMAGES, "of pictures", features, where), _one(whole, LABELS, labels, features, where)


def _one(found: Sequence[str], usual: Sequence[str], what: str, features: Any, where: str) -> str:
    chosen = found[0] if len(found) == 1 else next((key for key in usual if key in found), None)
    if chosen is None:
        raise DataError(f"expected one column {what} in {where}, got {len(found)}; it has {', '.join(features)}.")
    return chosen


def _labels(rows: Any, column: str, where: str) -> Tensor:
    """One column, int64."""
    if not len(rows):
        raise DataError(f"expected at least one image, got none: {where}.")
    found = rows.with_format("arrow").select_columns([column])[:][column].to_numpy()
    labels = torch.from_numpy(np.nan_to_num(found.astype(np.float64), nan=-1).astype(np.int64))
    if int(labels.min()) < 0:  # as splits whose labels are kept secret have
        raise DataError(f"{where} has images without labels: name another split, hfds:NAME:TRAIN,TEST.")
    return labels


def _undecoded(rows: Any, column: str) -> Any:
    """The pictures as they are kept, whatever format they were saved to be read in: that of pandas or torch, for instance."""
    import datasets

    return rows.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))
