# SPDX-License-Identifier: MIT
"""Any file that turns images into logits, as one function: Bitwright's own kinds, and what was exported for engines."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bitwright.benchmark.engines import ENGINES, engine_of, load_engine
from bitwright.errors import FileFormatError
from bitwright.graph import FloatModel, Graph
from bitwright.integer import IntegerModel, load, prepare
from bitwright.training import QuantizedModel


@dataclass(frozen=True)
class Predictor:
    """Images to logits.

    Attributes:
        description: What computes them, in words.
        input_shape: (channels, height, width) of an image.
        predict: float32 images (batch, channels, height, width) to real logits (batch, classes).
    """

    description: str
    input_shape: tuple[int, ...]
    predict: Callable[[Tensor], Tensor]


def predictor(path: str | Path) -> Predictor:
    """Load a graph, a checkpoint, an integer model, or an exported file, which the engine runs that the end of its name tells.

    Raises:
        FileFormatError: If the file is missing, damaged, or of another kind.
        ExportError: If the engine of an exported file is not installed.
    """
    if Path(path).suffix in {engine.suffix for engine in ENGINES.values()}:
        return _exported(Path(path))
    found = load(path)
    if isinstance(found, Graph):
        return Predictor(f"{found.model} in float", found.input_shape, FloatModel(found).eval())
    if isinstance(found, QuantizedModel):
        source = found.plan.source
        return Predictor(f"{source.model}, {found.plan.scheme.name}, as trained", source.input_shape, found.eval())
    return _integer(found)


def _integer(model: IntegerModel) -> Predictor:
    description = f"{model.model}, {model.scheme.name}, in integers"
    return Predictor(description, model.input_shape, prepare(model).logits)


def _exported(path: Path) -> Predictor:
    if not path.is_file():
        raise FileFormatError(f"cannot read '{path}': there is no such file.")
    engine = engine_of(path)
    session = load_engine(engine, path, threads=os.cpu_count() or 1)
    if session.kind != "float32":
        raise FileFormatError(
            f"'{path}' takes {session.kind}, but float images are evaluated: export it without --data for that; "
            "both forms compute the same integers."
        )

    def predict(images: Tensor) -> Tensor:
        return torch.from_numpy(session.logits(images.numpy()))

    return Predictor(f"{path.name} in {engine}", session.shape, predict)
