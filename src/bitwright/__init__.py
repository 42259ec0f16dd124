# SPDX-License-Identifier: MIT
"""Mixed-precision integer quantization of convolutional networks: what you evaluate is what you deploy.

Every arrow of the way from a model to an engine is one function, and all of them are here:

    graph = capture(load_model("pytorchcv:resnet18", pretrained=True), (3, 224, 224))
    table = measure_sensitivity(graph, *data.calibration(64))
    found = allocate(graph_problem(graph, table), [Budget.parse("size0.5")])
    model, _ = fine_tune(graph, found.scheme, data, TrainSettings(epochs=1))
    integer = lower(model)                            # proved, or refused
    export_onnx(integer, "resnet18.onnx")             # the same integers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.errors import BitwrightError
from bitwright.lazy import lazily
from bitwright.scheme import Budget, Precision, Scheme

if TYPE_CHECKING:
    from bitwright.allocation import Allocation, LatencyTable, allocate, graph_problem, pareto_frontier
    from bitwright.auto import AutoSettings, auto_quantize
    from bitwright.benchmark import compare, time_interleaved
    from bitwright.data import load_data
    from bitwright.demo import run_demo
    from bitwright.export import export_float_onnx, export_onnx
    from bitwright.graph import FloatModel, Graph, capture, load_model
    from bitwright.integer import IntegerModel, load, logits, lower, prepare, run
    from bitwright.reconstruction import ReconstructionSettings, reconstruct
    from bitwright.report import compare_layers
    from bitwright.sensitivity import SensitivitySettings, SensitivityTable, measure_sensitivity
    from bitwright.task import Task, load_task
    from bitwright.training import (
        Checkpointing,
        Hooks,
        QuantizedModel,
        TrainSettings,
        calibrate,
        correct_norm,
        evaluate,
        fine_tune,
        fit,
        load_quantized,
        quantize,
        save_quantized,
        train,
    )

__version__ = "0.2.0"

# Imported when they are first used, so that `import bitwright` and the command line's --help do not wait for PyTorch.
_SOURCES = {
    "Allocation": "allocation",
    "AutoSettings": "auto",
    "Checkpointing": "training",
    "FloatModel": "graph",
    "Graph": "graph",
    "Hooks": "training",
    "IntegerModel": "integer",
    "LatencyTable": "allocation",
    "QuantizedModel": "training",
    "ReconstructionSettings": "reconstruction",
    "SensitivitySettings": "sensitivity",
    "SensitivityTable": "sensitivity",
    "Task": "task",
    "TrainSettings": "training",
    "allocate": "allocation",
    "auto_quantize": "auto",
    "calibrate": "training",
    "capture": "graph",
    "compare": "benchmark",
    "compare_layers": "report",
    "correct_norm": "training",
    "evaluate": "training",
    "export_float_onnx": "export",
    "export_onnx": "export",
    "fine_tune": "training",
    "fit": "training",
    "graph_problem": "allocation",
    "load": "integer",
    "load_data": "data",
    "load_model": "graph",
    "load_quantized": "training",
    "load_task": "task",
    "logits": "integer",
    "lower": "integer",
    "measure_sensitivity": "sensitivity",
    "pareto_frontier": "allocation",
    "prepare": "integer",
    "quantize": "training",
    "reconstruct": "reconstruction",
    "run": "integer",
    "run_demo": "demo",
    "save_quantized": "training",
    "time_interleaved": "benchmark",
    "train": "training",
}

__all__ = [
    "Allocation",
    "AutoSettings",
    "BitwrightError",
    "Budget",
    "Checkpointing",
    "FloatModel",
    "Graph",
    "Hooks",
    "IntegerModel",
    "LatencyTable",
    "Precision",
    "QuantizedModel",
    "ReconstructionSettings",
    "Scheme",
    "SensitivitySettings",
    "SensitivityTable",
    "Task",
    "TrainSettings",
    "__version__",
    "allocate",
    "auto_quantize",
    "calibrate",
    "capture",
    "compare",
    "compare_layers",
    "correct_norm",
    "evaluate",
    "export_float_onnx",
    "export_onnx",
    "fine_tune",
    "fit",
    "graph_problem",
    "load",
    "load_data",
    "load_model",
    "load_quantized",
    "load_task",
    "logits",
    "lower",
    "measure_sensitivity",
    "pareto_frontier",
    "prepare",
    "quantize",
    "reconstruct",
    "run",
    "run_demo",
    "save_quantized",
    "time_interleaved",
    "train",
]


__getattr__ = lazily(__name__, _SOURCES)


def __dir__() -> list[str]:
    return __all__
