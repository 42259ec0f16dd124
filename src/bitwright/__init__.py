# SPDX-License-Identifier: MIT
"""Mixed-precision integer quantization of convolutional networks: what you evaluate is what you deploy.

Every arrow of the way from a model to an engine is one function, and all of them are here:

    graph = capture(load_model("pytorchcv:resnet18", pretrained=True), (3, 224, 224))
    table = measure_sensitivity(graph, images, labels)
    scheme = ...                                      # `allocate`, or Scheme.uniform
    model, _ = fine_tune(graph, scheme, data, TrainSettings(epochs=1))
    integer = lower(model)                            # proved, or refused
    export_onnx(integer, "resnet18.onnx")             # the same integers
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bitwright.errors import BitwrightError
from bitwright.scheme import Precision, Scheme

if TYPE_CHECKING:
    from bitwright.data import load as load_data
    from bitwright.export import export_onnx
    from bitwright.graph import FloatModel, Graph, capture, load_model
    from bitwright.integer import IntegerModel, load, logits, lower, run
    from bitwright.sensitivity import SensitivityTable
    from bitwright.training import QuantizedModel, TrainSettings, calibrate, evaluate, fine_tune, quantize, train

__version__ = "0.1.0"

# Imported when they are first used, so that `import bitwright` and the command line's --help do not wait for PyTorch.
_SOURCES = {
    "FloatModel": "graph",
    "Graph": "graph",
    "IntegerModel": "integer",
    "QuantizedModel": "training",
    "SensitivityTable": "sensitivity",
    "TrainSettings": "training",
    "calibrate": "training",
    "capture": "graph",
    "evaluate": "training",
    "export_onnx": "export",
    "fine_tune": "training",
    "load": "integer",
    "load_data": "data:load",
    "load_model": "graph",
    "logits": "integer",
    "lower": "integer",
    "quantize": "training",
    "run": "integer",
    "train": "training",
}

__all__ = [
    "BitwrightError",
    "FloatModel",
    "Graph",
    "IntegerModel",
    "Precision",
    "QuantizedModel",
    "Scheme",
    "SensitivityTable",
    "TrainSettings",
    "__version__",
    "calibrate",
    "capture",
    "evaluate",
    "export_onnx",
    "fine_tune",
    "load",
    "load_data",
    "load_model",
    "logits",
    "lower",
    "quantize",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'bitwright' has no attribute '{name}'")
    package, _, attribute = _SOURCES[name].partition(":")
    return getattr(import_module(f"bitwright.{package}"), attribute or name)


def __dir__() -> list[str]:
    return __all__
