# SPDX-License-Identifier: MIT
"""Any file that turns images into logits, as one function: Bitwright's own kinds, and ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

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
    """Load a graph, a checkpoint, an integer model, or an ONNX file.

    Raises:
        FileFormatError: If the file is missing, damaged, or of another kind.
    """
    if Path(path).suffix == ".onnx":
        return _onnx(Path(path))
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


def _onnx(path: Path) -> Predictor:
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a type of its own for each fault
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileFormatError(f"cannot read an ONNX model from '{path}': {reason}") from error
    (given,) = session.get_inputs()
    if given.type != "tensor(float)":
        raise FileFormatError(
            f"'{path}' takes {given.type}, but float images are evaluated: export it without --data for that; "
            "both forms compute the same integers."
        )

    def predict(images: Tensor) -> Tensor:
        (got,) = session.run(["logits"], {given.name: images.numpy()})
        return torch.from_numpy(got)

    return Predictor(f"{path.name} in ONNX Runtime", tuple(given.shape[1:]), predict)
