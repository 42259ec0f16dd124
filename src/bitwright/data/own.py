# SPDX-License-Identifier: MIT
"""`package.module:factory`: images of the user's own, as PyTorch's sets, loaders or batches, with their classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from bitwright.data.given import each_labelled, in_one
from bitwright.data.image_data import ImageData
from bitwright.data.image_set import ImageSet
from bitwright.data.numbered import numbered_classes
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.request import Request
from bitwright.data.sampling import derive_seed
from bitwright.errors import BitwrightError, DataError
from bitwright.imported import import_factory
from bitwright.raised import described

_EXPECTED = (
    "(train, test), (train, test, classes), a dictionary of 'train', 'test', 'classes', 'mean', 'std', 'resize' and "
    "'interpolation', or a bitwright.data.ImageData"
)
_STATED = ("mean", "std", "resize", "interpolation")


def load_own(module: str, factory: str, request: Request, known: Iterable[str]) -> ImageData:
    """Call a factory, and make a data set of what it returns.

    It is called with what it has parameters for: `image_size`, `channels`, `mean`, `std`, `resize`, `crop`, `interpolation`,
    each None where it was not asked for.

    Args:
        module: Where it is.
        factory: Its name there.
        request: What was asked for.
        known: The data sets that have names.

    Raises:
        UnknownNameError: If there is no such module or factory.
        DataError: If it raises, or returns something else.
    """
    name = f"{module}:{factory}"
    makes = "train and test images"
    made = import_factory(module, factory, makes=makes, kind="data set", known=known, error=DataError)
    try:
        takes = inspect.signature(made).parameters
    except ValueError:  # some built-in callables have none
        takes = {}  # type: ignore[assignment]
    offered = {"image_size": request.image_size, "channels": request.channels, **asdict(request.preprocessing)}
    try:
        found = made(**{key: value for key, value in offered.items() if key in takes})
    except BitwrightError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"'{name}' raised {described(error)}.") from error
    return _data(name, found, fixed="image_size" not in takes)


def _data(name: str, found: object, fixed: bool) -> ImageData:
    if isinstance(found, ImageData):
        return replace(found, name=name, fixed_size=fixed)
    parts = dict(found) if isinstance(found, Mapping) else {}
    if isinstance(found, list | tuple) and len(found) in (2, 3):
        parts = dict(zip(("train", "test", "classes"), found, strict=False))
    unknown = set(parts) - {"train", "test", "classes", *_STATED}
    if not {"train", "test"} <= parts.keys() or unknown:
        got = f"the keys {', '.join(map(str, parts))}" if parts else type(found).__name__
        raise DataError(f"'{name}' returned {got}, expected {_EXPECTED}.")
    train, test = (_images(parts[split], f"the {split} images of '{name}'") for split in ("train", "test"))
    shape, other = (tuple(images[0][0].shape) for images in (train, test))
    if shape != other or len(shape) != 3:
        raise DataError(f"'{name}' has images of {list(shape)} to train with and {list(other)} to test with.")
    classes = (
        parts.get("classes") or _classes(parts["train"]) or numbered_classes(f"'{name}'", train.labels, test.labels)
    )
    if _outputs(train, test) > len(classes):
        raise DataError(f"'{name}' has labels up to {_outputs(train, test) - 1}, and names of {len(classes)} classes.")
    stated = Preprocessing(_stated(parts.get("mean")), _stated(parts.get("std"))).of_channels(shape[0])
    return ImageData(
        name=name,
        classes=tuple(map(str, classes)),
        shape=(shape[0], shape[1], shape[2]),
        train=train,
        test=test,
        mean=stated.mean or (),
        std=stated.std or (),
        source=f"what {name} returns",
        resize=parts.get("resize"),
        interpolation=parts.get("interpolation"),
        fixed_size=fixed,
    )


def _stated(values: Any) -> tuple[float, ...] | None:
    """A mean or a standard deviation, of one channel or of each."""
    if values is None:
        return None
    return tuple(float(value) for value in (values if isinstance(values, Iterable) else (values,)))


def _outputs(*sets: ImageSet) -> int:
    """Classes that occur, or could."""
    return 1 + max(int(images.labels.max()) for images in sets)


def _classes(given: object) -> Sequence[Any] | None:
    """Names that a set carries, as torchvision's do."""
    if isinstance(given, DataLoader | Subset):
        return _classes(given.dataset)
    found = getattr(given, "classes", None)
    return found if isinstance(found, list | tuple) else None


def _images(given: Any, what: str) -> ImageSet:
    """A set, a loader's set, or batches that are kept in memory."""
    if isinstance(given, ImageSet):
        return given
    workers = 0
    if isinstance(given, DataLoader) and not isinstance(given.dataset, IterableDataset):
        given, workers = given.dataset, given.num_workers
    if isinstance(given, Dataset) and isinstance(given, Sized):
        if not len(given):
            raise DataError(f"expected at least one image, got none: {what}.")
        return OwnImages(given, what, workers)
    batches = list(each_labelled(given))
    if not batches:
        raise DataError(f"expected at least one batch, got none: {what}.")
    images, labels = zip(*batches, strict=True)
    return OwnImages(TensorDataset(in_one(images, what), in_one(labels, f"labels of {what}")), what, workers)


@final
class OwnImages(ImageSet):
    """A set of PyTorch's, whose samples are (image, label) with the image float [channels, height, width], normalised.

    What its transforms draw comes from torch's generator, seeded by the samples of a batch: where they draw something, it is
    the same in every pass over the images as they are, and another in every epoch of a training.

    Args:
        dataset: With a length, read by number.
        what: It is, for messages.
        workers: Processes worth starting to read it.

    Raises:
        DataError: If a sample is something else.
    """

    def __init__(self, dataset: Any, what: str, workers: int = 0) -> None:
        self.dataset = dataset
        self.workers = workers
        self._what = what
        self.labels = self._labels()

    def read(self, indices: Sequence[int] | Tensor, augment_seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Read a batch, sample by sample."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(augment_seed or 0, chosen.tolist()))
            images = [self._sample(index)[0] for index in chosen.tolist()]
        try:
            return torch.stack(images), self.labels[chosen]
        except RuntimeError as error:
            raise DataError(f"expected images of one size, got several: {self._what}.") from error

    def _sample(self, index: int) -> tuple[Tensor, int]:
        try:
            sample = self.dataset[index]
        except BitwrightError:
            raise
        except Exception as error:
            raise DataError(f"sample {index} of {self._what} raised {described(error)}.") from error
        image, label = sample if isinstance(sample, list | tuple) and len(sample) == 2 else (None, None)
        if not isinstance(image, Tensor) or image.dim() != 3 or not image.is_floating_point():
            got = type(image if image is not None else sample).__name__
            if isinstance(image, Tensor):
                got = f"a tensor of {image.dtype} {list(image.shape)}"
            raise DataError(
                f"expected samples (image, label) with float images [channels, height, width], got {got} in sample {index} of "
                f"{self._what}: let its transforms end in a normalised tensor."
            )
        try:
            return image.to(torch.float32), int(label)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise DataError(
                f"expected a class number for a label, got {type(label).__name__}: {self._what}."
            ) from error

    def _labels(self) -> Tensor:
        """All labels: those that the set tells without reading its images, else those of its samples."""
        told = _told_labels(self.dataset)
        found = [self._sample(index)[1] for index in range(len(self.dataset))] if told is None else told
        labels = torch.as_tensor(found).reshape(-1).to(torch.int64)
        if len(labels) != len(self.dataset) or int(labels.min()) < 0:
            raise DataError(f"expected a class from 0 for each of {len(self.dataset):,} images: {self._what}.")
        return labels


def _told_labels(dataset: Any) -> Any:
    """Labels that a set carries, unless it changes them when they are read."""
    if isinstance(dataset, Subset):
        whole = _told_labels(dataset.dataset)
        return None if whole is None else torch.as_tensor(whole)[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1] if len(dataset.tensors) == 2 else None
    if getattr(dataset, "target_transform", None) is not None:
        return None
    return getattr(dataset, "targets", None)
