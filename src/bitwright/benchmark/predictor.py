# SPDX-License-Identifier: MIT
"""Any file that turns images into logits, as one function: Bitwright's own kinds, and what was exported for engines."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bitwright.benchmark.engine_process import EngineProcess, Setting
from bitwright.benchmark.engines import engine_of, known_engine
from bitwright.benchmark.runtimes import require_installed
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.processors import processors
from bitwright.errors import EngineError, FileFormatError, unknown_name
from bitwright.export.form import is_exported
from bitwright.export.pixels import NORMALISED, Pixels, images_from_words
from bitwright.export.seal import look_for_changes, stated, stated_preprocessing
from bitwright.graph import FloatModel, Graph
from bitwright.integer import IntegerModel, load, prepare
from bitwright.returned import SINGLE, Returned, by_name, returned
from bitwright.training import QuantizedModel


@dataclass(frozen=True)
class Predictor:
    """Images to logits.

    Attributes:
        description: What computes them, in words.
        input_shape: (channels, height, width) of an image.
        output_shapes: The shapes of what is predicted for an image, by output: (classes,) for a classifier.
        predict: float32 images (batch, channels, height, width) to real logits (batch, classes); of several outputs, these by
            name.
        preprocessing: Of the images, as far as the file says.
    """

    description: str
    input_shape: tuple[int, ...]
    output_shapes: Mapping[str, tuple[int, ...]]
    predict: Callable[[Tensor], Returned]
    preprocessing: Preprocessing | None = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return next(iter(self.output_shapes.values()))

    def of_output(self, name: str | None = None) -> Predictor:
        """What predicts one output alone, and says which where there are several; None is the first.

        Raises:
            UnknownNameError: If there is no such output.
        """
        if name is not None and name not in self.output_shapes:
            raise unknown_name("output", name, self.output_shapes)
        chosen = name or next(iter(self.output_shapes))
        which = f", output '{chosen}'" if len(self.output_shapes) > 1 else ""
        return replace(
            self,
            description=f"{self.description}{which}",
            output_shapes={SINGLE: self.output_shapes[chosen]},
            predict=lambda images: by_name(self.predict(images))[chosen],
        )


def predictor(path: str | Path) -> Predictor:
    """Load a graph, a checkpoint, an integer model, or an exported file, which the engine runs that the end of its name tells.

    Engines run in processes of their own. A `BitwrightWarning` says where a file holds other constants than were exported.

    Raises:
        FileFormatError: If the file is missing, damaged, or of another kind.
        MissingLibraryError: If the engine of an exported file is not installed.
    """
    if is_exported(path):
        return _exported(Path(path))
    found = load(path)
    if isinstance(found, Graph):
        what = f"{found.model} in float"
        return Predictor(what, found.input_shape, found.output_shapes, FloatModel(found).eval(), found.preprocessing)
    if isinstance(found, QuantizedModel):
        source = found.plan.source
        what = f"{source.model}, {found.plan.scheme.name}, as trained"
        return Predictor(what, source.input_shape, source.output_shapes, found.eval(), source.preprocessing)
    return _integer(found)


def _integer(model: IntegerModel) -> Predictor:
    description = f"{model.model}, {model.scheme.name}, in integers"
    return Predictor(description, model.input_shape, model.output_shapes, prepare(model).logits, model.preprocessing)


def _exported(path: Path) -> Predictor:
    if not path.is_file():
        raise FileFormatError(f"cannot read '{path}': there is no such file.")
    look_for_changes(path)
    found = known_engine(engine_of(path))
    require_installed(found)
    running = _Running(path, Setting(found.name, found.levels[-1], processors(), batch=0))
    predict: Callable[[Tensor], Returned] = running
    if running.kind != "float32":
        pixels = _pixels(path, running.kind)
        predict = lambda images: running(pixels.nearest(images))  # noqa: E731
    made = by_name(predict(torch.zeros(1, *running.shape)))
    shapes = {name: tuple(values.shape[1:]) for name, values in made.items()}
    return Predictor(f"{path.name} in {found.name}", running.shape, shapes, predict, stated_preprocessing(path))


def _pixels(path: Path, kind: str) -> Pixels:
    """How a file that takes pixels normalises them, as it states: of images that are normalised alike, it is given the pixels.

    Raises:
        FileFormatError: If it does not say.
    """
    pixels = images_from_words(stated(path).get("images", NORMALISED))
    if pixels is None:
        raise FileFormatError(
            f"'{path}' takes {kind}, and does not say how that is normalised: evaluate a file that takes float32 images."
        )
    return pixels


class _Running:
    """A file in an engine, in a process that ends with this object: real logits of float32 images.

    Raises:
        FileFormatError: If the engine cannot load the file.
    """

    def __init__(self, path: Path, setting: Setting) -> None:
        self._path, self._setting = path, setting
        self._process = EngineProcess(setting.engine)
        weakref.finalize(self, self._process.close)
        try:
            self.shape, self.kind = self._process.image(path, setting)
        except EngineError as error:
            raise FileFormatError(self._told(error)) from error

    def __call__(self, images: Tensor) -> Returned:
        try:
            setting = self._setting._replace(batch=len(images))
            made = self._process.logits(self._path, images.numpy(), setting, real=True)
            return returned({name: torch.from_numpy(values) for name, values in by_name(made).items()})
        except EngineError as error:
            raise EngineError(self._told(error)) from error

    def _told(self, error: EngineError) -> str:
        """What an engine said, with the file's name."""
        return str(error) if f"'{self._path}'" in str(error) else f"cannot run '{self._path}': {error}"
