# SPDX-License-Identifier: MIT
"""`wds:DIR`: shards as WebDataset and timm write them, tar files of pictures and labels, read in any order by their places."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bitwright.data.decoded import DecodedImages, pictures_data, preprocessing_of
from bitwright.data.image_data import ImageData
from bitwright.data.numbered import numbered_classes
from bitwright.data.pictures import rgb_picture
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.registry import source
from bitwright.data.request import Request
from bitwright.data.shards import Shard, read_shard
from bitwright.data.splits import TEST, TRAIN, named_splits
from bitwright.errors import DataError
from bitwright.reading import read_json, read_text

INFO = ("_info.json", "info.json")
"""In which timm says which shards a split has."""
CLASSES = "classes.txt"
"""Beside the shards: the names of the classes, one a line."""
MAX_SHARDS = 100_000
NOTHING = "(?!)"
"""A pattern that nothing fits."""


@final
class ShardImages(DecodedImages):
    """The pictures of some shards, one shard after the other.

    Args:
        shards: Their indices.
        how: How pictures are made.
    """

    def __init__(self, shards: Sequence[Shard], how: Preprocessing) -> None:
        super().__init__(torch.from_numpy(np.concatenate([shard.labels for shard in shards])), how)
        self.shards = list(shards)
        self._ends = np.cumsum([len(shard.labels) for shard in shards])

    def picture(self, index: int) -> Image.Image:
        shard, row = self._find(index)
        with open(shard.path, "rb") as file:
            file.seek(int(shard.offsets[row]))
            return rgb_picture(io.BytesIO(file.read(int(shard.sizes[row]))))

    def place(self, index: int) -> str:
        shard, row = self._find(index)
        return f"{shard.path}, byte {int(shard.offsets[row])}"

    def _find(self, index: int) -> tuple[Shard, int]:
        number = int(np.searchsorted(self._ends, index, "right"))
        return self.shards[number], index - int(self._ends[number - 1] if number else 0)


@source("wds")
def load_web_dataset(request: Request) -> ImageData:
    """Load the shards in DIR, or TRAIN,TEST: two paths, with {000..146} or * for several.

    In a folder, timm's `_info.json` says which shards a split has; else their names do, such as `imagenet-train-0001.tar`.
    `wds:DIR:TRAIN,TEST` names the splits.

    Raises:
        DataError: If shards are missing, of another kind, or elsewhere than on this machine.
    """
    if request.folder is None:
        raise DataError("wds needs a folder of shards, or two paths: wds:DIR or wds:TRAIN.tar,TEST.tar.")
    how = preprocessing_of(request, "wds")
    name = f"wds:{request.folder}"
    if "://" in request.folder or request.folder.startswith("pipe:"):
        raise DataError(
            f"expected shards on this machine, got '{request.folder}': pictures are read in any order, by their places. Download "
            "the shards first, and name their folder: wds:DIR."
        )
    found = _paths(request.folder)
    sets = [ShardImages([read_shard(path) for path in paths], how) for paths in found]
    classes = _classes(found[0][0].parent, name, [images.labels for images in sets])
    shown = " and ".join(f"{len(paths)} in {paths[0].parent}" for paths in found)
    return pictures_data(name, classes, sets[0], sets[1], how, f"shards: {shown}")


def _paths(named: str) -> tuple[list[Path], list[Path]]:
    """The shards to train with, and those to judge on."""
    parts = re.split(r",(?![^{]*\})", named)
    if len(parts) == 2 and all(part.lower().endswith(".tar") for part in parts):
        return _expanded(parts[0]), _expanded(parts[1])
    folder, _, given = named.partition(":")
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"no folder '{folder}': wds:DIR reads the shards in it, wds:TRAIN.tar,TEST.tar two lists of them."
        )
    splits = _stated(root) or _by_names(root, given)
    train, test = named_splits(splits, given, f"wds:{folder}")
    return splits[train], splits[test]


def _expanded(pattern: str) -> list[Path]:
    """The files of a pattern.

    >>> [path.name for path in _expanded("x-{08..10}.tar")]
    ['x-08.tar', 'x-09.tar', 'x-10.tar']
    """
    if "*" in pattern or "?" in pattern:
        folder, _, last = pattern.rpartition("/")
        found = sorted(Path(folder or ".").glob(last))
        if not last.startswith("."):
            found = [path for path in found if not path.name.startswith(".")]
    else:
        found = [Path("".join(each)) for each in product(*map(_choices, re.split(r"(\{[^{}]*\})", pattern)))]
    if not found:
        raise DataError(f"no shards '{pattern}'.")
    return found


def _choices(part: str) -> Sequence[str]:
    """What a part of a pattern stands for."""
    counted = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
    if counted is not None:
        first, last = int(counted[1]), int(counted[2])
        if not 0 <= last - first < MAX_SHARDS:
            raise DataError(f"expected at most {MAX_SHARDS:,} shards in ascending order, got '{part}'.")
        return [str(number).zfill(len(counted[1])) for number in range(first, last + 1)]
    return part[1:-1].split(",") if part.startswith("{") else [part]


def _stated(root: Path) -> Mapping[str, list[Path]]:
    """The splits that timm's file states."""
    for name in INFO:
        if not (root / name).is_file():
            continue
        splits: Any = read_json(root / name, "which shards a split has")
        splits = splits.get("splits") if isinstance(splits, Mapping) else None
        files = {
            split: facts.get("filenames") if isinstance(facts, Mapping) else None
            for split, facts in (splits.items() if isinstance(splits, Mapping) else ())
        }
        if not files or not all(
            isinstance(each, list) and each and all(map(_is_inside, each)) for each in files.values()
        ):
            raise DataError(
                f"expected 'splits' with 'filenames' in the folder itself, got something else, in '{root / name}'."
            )
        return {split: [root / file for file in each] for split, each in files.items() if isinstance(each, list)}
    return {}


def _is_inside(file: object) -> bool:
    return isinstance(file, str) and not Path(file).is_absolute() and ".." not in Path(file).parts


def _by_names(root: Path, given: str) -> dict[str, list[Path]]:
    """The splits that the names of shards, or of their folders, tell."""
    asked = {word.lower() for word in given.split(",") if word}
    known = {split: _word(split) for split in (*sorted(asked, key=len, reverse=True), *TRAIN, *TEST)}
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.tar")):
        named = path.relative_to(root)
        if any(part.startswith(".") for part in named.parts):  # what macOS writes beside a shard
            continue
        split = next((split for split, word in known.items() if word.search(str(named).lower())), None)
        if split is not None:
            found.setdefault(split, []).append(path)
    if not found:
        raise DataError(
            f"no shards in '{root}' whose names tell their split: expected such as x-train-0001.tar and x-val-0001.tar, or name "
            "them: wds:TRAIN.tar,TEST.tar."
        )
    return found


def _word(split: str) -> re.Pattern[str]:
    """The name of a split within that of a shard, where neither its letters nor its digits go on.

    >>> [name for name in ("part1-00.tar", "a_part1.tar", "part10.tar", "apart1.tar") if _word("part1").search(name)]
    ['part1-00.tar', 'a_part1.tar']
    >>> [name for name in ("train001.tar", "x_train.tar", "trained.tar") if _word("train").search(name)]
    ['train001.tar', 'x_train.tar']
    """
    letter, digit = r"[^\W\d_]", r"\d"
    before, after = (
        (letter if end.isalpha() else digit if end.isdigit() else NOTHING) for end in (split[0], split[-1])
    )
    return re.compile(f"(?<!{before}){re.escape(split)}(?!{after})")


def _classes(folder: Path, name: str, labels: Sequence[Tensor]) -> tuple[str, ...]:
    """Their names where a file has them, else their numbers."""
    if not (folder / CLASSES).is_file():
        return numbered_classes(name, *labels)
    names, most = tuple(_lines(folder / CLASSES)), max(int(each.max()) for each in labels)
    if len(names) <= most:
        raise DataError(f"the shards have labels up to {most}, and '{folder / CLASSES}' names of {len(names)} classes.")
    return names


def _lines(path: Path) -> Iterator[str]:
    return (line.strip() for line in read_text(path, "names of classes").splitlines() if line.strip())
