# SPDX-License-Identifier: MIT
"""Engines: each turns an exported file into a function from images to logits.

One engine is one function in the registry. What an integer model returns are its int32 logits; a float model, its float32 ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError, FileFormatError, unknown_name

Predict = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""From images [batch, channels, height, width], as the file wants them, to logits [batch, classes]."""

Load = Callable[[Path, int, str], Predict]
"""From a file, a number of threads and an optimisation level to a prediction."""

INTEGER_OUTPUT = "logits_int32"


@dataclass(frozen=True)
class Engine:
    """An inference engine.

    Attributes:
        name: For instance `onnxruntime`.
        package: The module that must be importable.
        exporter: What writes its files; a name in `bitwright.export.EXPORTERS`.
        levels: Optimisation levels that can be asked for, the default last.
        suffix: Of its files' names.
        load: Reads a file.
    """

    name: str
    package: str
    exporter: str
    levels: tuple[str, ...]
    suffix: str
    load: Load

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return find_spec(self.package) is not None


ENGINES: dict[str, Engine] = {}


def engine(
    name: str, package: str, exporter: str, levels: tuple[str, ...] = ("default",), suffix: str = ".onnx"
) -> Callable[[Load], Load]:
    """Register a function as the engine `name`."""

    def register(load: Load) -> Load:
        if name in ENGINES:
            raise ValueError(f"there is an engine '{name}' already.")
        ENGINES[name] = Engine(name, package, exporter, levels, suffix, load)
        return load

    return register


def load_engine(name: str, path: str | Path, *, threads: int = 1, level: str | None = None) -> Predict:
    """A file, ready to run.

    Args:
        name: Of the engine.
        path: What was exported for it.
        threads: How many it may use.
        level: One of its optimisation levels; None takes its default, the highest.

    Raises:
        UnknownNameError: If there is no such engine or level.
        ExportError: If the engine is not installed, or the file is missing.
        FileFormatError: If the engine cannot read the file.
    """
    found = known_engine(name)
    chosen = found.levels[-1] if level is None else level
    if chosen not in found.levels:
        raise unknown_name(f"optimisation level of {name}", chosen, found.levels)
    if not found.installed:
        raise ExportError(f"{name} is not installed: pip install 'bitwright[{name}]'.")
    if not Path(path).is_file():
        raise ExportError(f"expected a file for {name}, found none at '{path}'. Export the model first.")
    return found.load(Path(path), threads, chosen)


def known_engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    return ENGINES[name]


_ONNXRUNTIME_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


@engine("onnxruntime", "onnxruntime", "onnx", tuple(_ONNXRUNTIME_LEVELS))
def _(path: Path, threads: int, level: str) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _ONNXRUNTIME_LEVELS[level])
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # its warnings are for those who wrote the file by hand
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a type of its own for each fault
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileFormatError(f"ONNX Runtime cannot read '{path}': {reason}") from error
    names = [output.name for output in session.get_outputs()]
    wanted = INTEGER_OUTPUT if INTEGER_OUTPUT in names else names[0]
    image = session.get_inputs()[0].name

    def predict(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(session.run([wanted], {image: images})[0])

    return predict


@engine("litert", "ai_edge_litert", "litert", suffix=".tflite")
def _(path: Path, threads: int, level: str) -> Predict:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
    except ValueError as error:
        raise FileFormatError(f"LiteRT cannot read '{path}': {' '.join(str(error).split())}") from error
    (given,) = interpreter.get_input_details()
    outputs = {entry["name"]: entry["index"] for entry in interpreter.get_output_details()}
    wanted = outputs.get(INTEGER_OUTPUT, next(iter(outputs.values())))
    shape: list[tuple[int, ...]] = []

    def predict(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if [images.shape] != shape:
            interpreter.resize_tensor_input(given["index"], list(images.shape))
            interpreter.allocate_tensors()
            shape[:] = [images.shape]
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(wanted))

    return predict


@engine("openvino", "openvino", "openvino", suffix=".xml")
def _(path: Path, threads: int, level: str) -> Predict:
    import openvino

    # Exact files need float32: with bfloat16, or inputs quantized anew, OpenVINO trades digits for speed where a CPU allows it.
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", options)
    except RuntimeError as error:
        raise FileFormatError(f"OpenVINO cannot read '{path}': {' '.join(str(error).split())}") from error
    found = [output for output in compiled.outputs if INTEGER_OUTPUT in output.get_names()]
    wanted = found[0] if found else compiled.outputs[0]

    def predict(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.array(compiled(np.ascontiguousarray(images))[wanted])

    return predict


@engine("qonnx", "qonnx", "qonnx")
def _(path: Path, threads: int, level: str) -> Predict:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    stored = ModelWrapper(str(path))
    sized: dict[tuple[int, ...], Any] = {}

    def predict(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if images.shape not in sized:  # the package knows no dynamic batch
            model = ModelWrapper(str(path))
            model.set_tensor_shape("images", list(images.shape))
            classes = stored.get_tensor_shape(INTEGER_OUTPUT)[1:]
            model.set_tensor_shape(INTEGER_OUTPUT, [len(images), *classes])
            sized[images.shape] = model.transform(InferShapes())
        logits = execute_onnx(sized[images.shape], {"images": images.astype(np.float32)})[INTEGER_OUTPUT]
        if not np.array_equal(logits, np.rint(logits)):
            raise ExportError(f"expected integers from '{path}', got fractions.")
        return np.asarray(logits).astype(np.int32)

    return predict


@engine("tvm", "tvm", "tvm", suffix=".so")
def _(path: Path, threads: int, level: str) -> Predict:
    # Read when TVM starts its threads, which it would bind to cores, and with them the thread that all other engines run on.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))
    # Idle threads yield 300,000 times before they sleep: on a busy machine, a process then takes minutes to end.
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "1000")
    import tvm
    from tvm.relax import VirtualMachine

    any_core = 1
    try:
        # The system's linker takes a name that it has loaded before for the same library, whatever is in the file now.
        with tempfile.TemporaryDirectory() as folder:
            library = shutil.copy(path, folder)
            main = VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())["main"]
    except Exception as error:  # from the linker, from TVM's own functions, or for want of them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileFormatError(f"TVM cannot read '{path}': {reason}") from error
    tvm.get_global_func("runtime.config_threadpool")(any_core, threads)

    def predict(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        integers, _ = main(tvm.runtime.tensor(np.ascontiguousarray(images)))
        return np.asarray(integers.numpy())

    return predict
