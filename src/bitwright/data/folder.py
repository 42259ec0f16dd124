# SPDX-License-Identifier: MIT
"""`imagefolder:DIR`: pictures in folders named after their classes, as ImageNet's, with torchvision's preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from PIL import Image
from torch import Tensor

from bitwright.data.image_data import ImageData
from bitwright.data.image_set import ImageSet
from bitwright.data.pictures import EXTENSIONS, list_classes, list_pictures, open_picture
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.processors import processors
from bitwright.data.registry import source
from bitwright.data.request import Request
from bitwright.errors import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, as every published model was trained with."""

DEFAULT_SIZE = 224
INTERPOLATION = "bilinear"
TRAIN, TEST = ("train", "training"), ("val", "valid", "validation", "test", "testing")
"""What splits are called, the first that is there; upper and lower case are the same."""
MAX_WORKERS = 8


@final
class UnreadableImageError(DataError):
    """An image that cannot be decoded, said in one line wherever it happens.

    A DataLoader raises what a worker raised once more, with the traceback of the worker for a message: all but its last
    line is dropped here.
    """

    def __init__(self, message: str) -> None:
        super().__init__(
            message.rstrip().splitlines()[-1].removeprefix(f"{type(self).__module__}.{type(self).__name__}: ")
        )


@final
class FolderImages(ImageSet):
    """Pictures decoded when they are read.

    Read as they are, a picture's shorter side is resized to `resize_size(image_size)`, and the centre is cut out.
    Augmented, a part of random area and shape is cut out and resized, and mirrored half of the time (torchvision's
    RandomResizedCrop and RandomHorizontalFlip).

    Args:
        paths: The paths of the pictures.
        labels: int64 [images].
        image_size: Height and width of what is read, in pixels.
        mean: The mean of the three channels, with pixels from 0 to 1.
        std: The standard deviation of the three channels.
        resize: What the shorter side is resized to; by default `resize_size(image_size)`.
        interpolation: The filter of all resizing.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: Tensor,
        *,
        image_size: int = DEFAULT_SIZE,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        resize: int | None = None,
        interpolation: str = INTERPOLATION,
    ) -> None:
        from torchvision import transforms  # takes seconds to import, which only those pay who have a folder

        self.paths = list(paths)
        self.labels = labels.to(torch.int64)
        self.workers = min(MAX_WORKERS, processors())
        to_tensor = [transforms.ToTensor(), transforms.Normalize(mean, std)]
        side, how = resize or resize_size(image_size), transforms.InterpolationMode(interpolation)
        self._centre = transforms.Compose([transforms.Resize(side, how), transforms.CenterCrop(image_size), *to_tensor])
        self._random = transforms.Compose(
            [transforms.RandomResizedCrop(image_size, interpolation=how), transforms.RandomHorizontalFlip(), *to_tensor]
        )

    def read(self, indices: Sequence[int] | Tensor, augment_seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Decode a batch."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        paths = [self.paths[index] for index in chosen.tolist()]
        if augment_seed is None:
            images = [_decode(path, self._centre) for path in paths]
        else:
            # torchvision draws from torch's global generator on the CPU: seed it, and put it back afterwards.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(augment_seed)
                images = [_decode(path, self._random) for path in paths]
        return torch.stack(images), self.labels[chosen]


def resize_size(image_size: int) -> int:
    """What the shorter side is resized to before the centre is cut out.

    >>> resize_size(224), resize_size(299)
    (256, 342)
    """
    return round(image_size * 256 / 224)


@source("imagefolder")
def load_folder(request: Request) -> ImageData:
    """Load DIR/train/CLASS/ and DIR/val/CLASS/, or other splits by their names.

    Raises:
        DataError: If a folder is missing, has fewer than two classes or no images, or the two splits have different classes.
    """
    if request.folder is None:
        raise DataError("imagefolder needs a folder with train/ and val/: imagefolder:DIR.")
    if request.channels == 1:
        raise DataError("imagefolder gives colour images of 3 channels, not 1.")
    trained, held_out = _splits(request.folder)
    size = request.image_size or request.preprocessing.crop or DEFAULT_SIZE
    standard = Preprocessing(MEAN, STD, resize_size(size), interpolation=INTERPOLATION)
    how = replace(request.preprocessing.over(standard).of_channels(3), crop=size)
    if how.resize is not None and how.resize < size:
        raise DataError(f"expected to resize to at least the {size} pixels that are cut out, got {how.resize}.")
    classes, test_classes = _classes(trained), _classes(held_out)
    if classes != test_classes:
        differing = sorted(set(classes) ^ set(test_classes))
        raise DataError(
            f"expected the same classes in '{trained}' and '{held_out}', "
            f"got {len(classes)} and {len(test_classes)}: '{differing[0]}' is only in one."
        )
    train, test = (_scan(split, classes, how) for split in (trained, held_out))
    return ImageData(
        name=f"imagefolder:{request.folder}",
        classes=classes,
        shape=(3, size, size),
        train=train,
        test=test,
        mean=how.mean or MEAN,
        std=how.std or STD,
        source=f"images in {trained} and {held_out}",
        resize=how.resize,
        interpolation=how.interpolation,
    )


def _splits(named: str) -> tuple[Path, Path]:
    """The folders of training and held-out images: DIR's usual ones, or those of DIR:TRAIN,TEST.

    Raises:
        DataError: If one is missing; says how to name it.
    """
    folder, _, names = named.rpartition(":")
    given = names.split(",") if folder and names.count(",") == 1 and not Path(named).is_dir() else None
    root = Path(named if given is None else folder)
    if not root.is_dir():
        raise DataError(f"no folder '{root}': imagefolder:DIR reads DIR/train/CLASS/ and DIR/val/CLASS/.")
    there = {entry.name: entry for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name[0] != "."}
    lower = {name.lower(): entry for name, entry in reversed(there.items())}
    found = []
    for place, usual in enumerate((TRAIN, TEST)):
        names_of = [there.get(given[place])] if given is not None else [lower.get(name) for name in usual]
        split = next(filter(None, names_of), None)
        if split is None:
            wanted = f"{usual[0]}/" if given is None else f"'{given[place]}'"
            shown = ", ".join(list(there)[:8]) or "none"
            raise DataError(
                f"no {wanted} in '{root}', which has the folders {shown}: imagefolder:DIR reads DIR/train/CLASS/ and "
                f"DIR/val/CLASS/; name other splits as imagefolder:{root}:TRAIN,TEST."
            )
        found.append(split)
    return found[0], found[1]


def _classes(folder: Path) -> tuple[str, ...]:
    found = list_classes(folder)
    if not found:
        raise DataError(f"no class folders in '{folder}': expected '{folder}/CLASS/IMAGE.jpg'.")
    if len(found) == 1:
        raise DataError(f"only one class folder, '{found[0]}', in '{folder}': expected at least two to tell apart.")
    return found


def _scan(folder: Path, classes: tuple[str, ...], how: Preprocessing) -> FolderImages:
    """List the pictures of a split."""
    samples = list_pictures(folder, {name: label for label, name in enumerate(classes)})
    empty = sorted(set(classes) - {classes[label] for _, label in samples})
    if empty:
        raise DataError(f"no images in '{folder / empty[0]}': expected files ending in {', '.join(EXTENSIONS)}.")
    return FolderImages(
        [path for path, _ in samples],
        torch.tensor([label for _, label in samples]),
        image_size=how.crop or DEFAULT_SIZE,
        mean=how.mean or MEAN,
        std=how.std or STD,
        resize=how.resize,
        interpolation=how.interpolation or INTERPOLATION,
    )


def _decode(path: str, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """One picture, float32 [3, size, size]."""
    try:
        return transform(open_picture(path))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UnreadableImageError(f"cannot read the image '{path}': {reason}.") from error
