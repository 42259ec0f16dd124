# SPDX-License-Identifier: MIT
"""What reads files of engines: each turns one into functions from images to logits.

One runtime is one function in the registry. A process that runs an engine imports this module alone, without PyTorch. What an
integer model returns are its int32 logits, or these times their unit; a float model returns its float32 logits as either. A model
with several outputs returns all, by name.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError, FileFormatError, unknown_name
from bitwright.extras import installed, require

Predict = Callable[[npt.NDArray[Any]], Any]
"""From images [batch, channels, height, width], as the file wants them, to logits [batch, classes]; several outputs by name."""

INTEGERS = "_int32"
"""The end of the name of an output's integers; its real numbers have the name without it."""


@dataclass(frozen=True)
class Session:
    """A file, ready to run; called with images, it gives `integers`.

    Attributes:
        shape: The shape of an image: (channels, height, width).
        kind: Type of its values: `float32` for normalised images, `uint8` for pixels.
        integers: To int32 logits; those of a float model are float32. A dict of these by name where there are several outputs.
        logits: To real logits; likewise.
        outputs: The names of the outputs; that of a single one decides nothing.
    """

    shape: tuple[int, ...]
    kind: str
    integers: Predict
    logits: Predict
    outputs: tuple[str, ...] = ("logits",)

    def __call__(self, images: npt.NDArray[Any]) -> Any:
        return self.integers(images)


Load = Callable[[Path, int, str], Session]
"""From a file, a number of threads and an optimisation level to a session."""


@dataclass(frozen=True)
class Runtime:
    """What runs the files of one engine.

    Attributes:
        name: For instance `onnxruntime`.
        package: The module that must be importable.
        reads: The engine that `bitwright export` writes such files for.
        levels: Optimisation levels that can be asked for, the default last.
        load: Reads a file.
        threaded: Whether the number of threads is a setting of its.
    """

    name: str
    package: str
    reads: str
    levels: tuple[str, ...]
    load: Load
    threaded: bool = True

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return installed(self.package)


RUNTIMES: dict[str, Runtime] = {}


def runtime(
    name: str, package: str, reads: str, levels: tuple[str, ...] = ("default",), *, threaded: bool = True
) -> Callable[[Load], Load]:
    """Register a function as the runtime `name`."""

    def register(load: Load) -> Load:
        if name in RUNTIMES:
            raise ValueError(f"there is a runtime '{name}' already.")
        RUNTIMES[name] = Runtime(name, package, reads, levels, load, threaded)
        return load

    return register


def load_engine(name: str, path: str | Path, *, threads: int = 1, level: str | None = None) -> Session:
    """A file, ready to run.

    Args:
        name: The name of the engine.
        path: What was exported for it.
        threads: How many it may use.
        level: One of its optimisation levels; None takes its default, the highest.

    Raises:
        UnknownNameError: If there is no such engine or level.
        MissingLibraryError: If the engine is not installed.
        ExportError: If the file is missing.
        FileFormatError: If the engine cannot read the file.
    """
    if name not in RUNTIMES:
        raise unknown_name("engine", name, RUNTIMES)
    found = RUNTIMES[name]
    chosen = found.levels[-1] if level is None else level
    if chosen not in found.levels:
        raise unknown_name(f"optimisation level of {name}", chosen, found.levels)
    require_installed(found)
    if not Path(path).is_file():
        raise ExportError(f"expected a file for {name}, found none at '{path}'. Export the model first.")
    return found.load(Path(path), threads, chosen)


def require_installed(engine: Runtime) -> None:
    """Refuse an engine whose package is not there.

    Raises:
        MissingLibraryError: It names the extra.
    """
    require(engine.package, f"the engine {engine.name}")


_ONNXRUNTIME_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


@runtime("onnxruntime", "onnxruntime", "onnx", tuple(_ONNXRUNTIME_LEVELS))
def _(path: Path, threads: int, level: str) -> Session:
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
    outputs = outputs_of(names)
    given = session.get_inputs()[0]
    shape = tuple(size if isinstance(size, int) else 0 for size in given.shape[1:])
    kind = "float32" if given.type == "tensor(float)" else given.type.removeprefix("tensor(").removesuffix(")")

    def reading(wanted: list[str]) -> Predict:
        return lambda images: _by_name(outputs, map(np.asarray, session.run(wanted, {given.name: images})))

    return Session(shape, kind, reading(integers_of(outputs, names)), reading(reals_of(outputs, names)), outputs)


@runtime("litert", "ai_edge_litert", "litert")
def _(path: Path, threads: int, level: str) -> Session:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
    except ValueError as error:
        raise FileFormatError(f"LiteRT cannot read '{path}': {' '.join(str(error).split())}") from error
    (given,) = interpreter.get_input_details()
    places = {entry["name"]: entry["index"] for entry in interpreter.get_output_details()}
    outputs = outputs_of(list(places))
    sized: list[tuple[int, ...]] = []

    def reading(wanted: list[str]) -> Predict:
        def predict(images: npt.NDArray[Any]) -> Any:
            if [images.shape] != sized:
                interpreter.resize_tensor_input(given["index"], list(images.shape))
                interpreter.allocate_tensors()
                sized[:] = [images.shape]
            interpreter.set_tensor(given["index"], images)
            interpreter.invoke()
            return _by_name(outputs, (np.asarray(interpreter.get_tensor(places[name])) for name in wanted))

        return predict

    shape, kind = tuple(map(int, given["shape"][1:])), np.dtype(given["dtype"]).name
    return Session(shape, kind, reading(integers_of(outputs, places)), reading(reals_of(outputs, places)), outputs)


@runtime("openvino", "openvino", "openvino")
def _(path: Path, threads: int, level: str) -> Session:
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
    given = compiled.inputs[0]
    sizes = list(given.partial_shape)[1:]
    shape = tuple(size.get_length() if size.is_static else 0 for size in sizes)

    ports = {name: port for port in compiled.outputs for name in sorted(port.get_names())}
    outputs = outputs_of(list(ports))

    def reading(wanted: list[str]) -> Predict:
        def predict(images: npt.NDArray[Any]) -> Any:
            found = compiled(np.ascontiguousarray(images))
            return _by_name(outputs, (np.array(found[ports[name]]) for name in wanted))

        return predict

    kind = given.element_type.to_dtype().name
    return Session(shape, kind, reading(integers_of(outputs, ports)), reading(reals_of(outputs, ports)), outputs)


@runtime("qonnx", "qonnx", "qonnx", threaded=False)
def _(path: Path, threads: int, level: str) -> Session:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    try:
        stored = ModelWrapper(str(path))
        facts = {entry.key: entry.value for entry in stored.model.metadata_props}
        units = json.loads(facts["output_unit"])
        names = [output.name for output in stored.model.graph.output]
        outputs = outputs_of(names)
        shape = tuple(stored.get_tensor_shape("images")[1:])
    except Exception as error:  # protobuf raises a type of its own for each fault
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileFormatError(f"qonnx cannot read '{path}': {reason}") from error
    sized: dict[tuple[int, ...], Any] = {}

    def computed(images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        if images.shape not in sized:  # the package knows no dynamic batch
            model = ModelWrapper(str(path))
            model.set_tensor_shape("images", list(images.shape))
            for name in names:
                model.set_tensor_shape(name, [len(images), *stored.get_tensor_shape(name)[1:]])
            sized[images.shape] = model.transform(InferShapes(), make_deepcopy=False, cleanup=False)
        found = execute_onnx(sized[images.shape], {"images": images.astype(np.float32)})
        if any(not np.array_equal(found[name], np.rint(found[name])) for name in names):
            raise ExportError(f"expected integers from '{path}', got fractions.")
        return [np.asarray(found[name]).astype(np.int32) for name in names]

    def scaled(integers: npt.NDArray[Any], unit: Any) -> npt.NDArray[Any]:
        factor = np.array(unit, dtype=np.float32)
        if factor.ndim != integers.ndim - 1:
            factor = factor.reshape(-1, *[1] * (integers.ndim - 2))
        return np.asarray(integers.astype(np.float32) * factor)

    def predict(images: npt.NDArray[Any]) -> Any:
        return _by_name(outputs, computed(images))

    def real(images: npt.NDArray[Any]) -> Any:
        each = [units] if len(outputs) == 1 else [units[name] for name in outputs]
        return _by_name(outputs, map(scaled, computed(images), each))

    # Pixels are float32 as everything is in QONNX; `predict` makes them so.
    kind = "uint8" if facts.get("images", "").startswith("uint8") else "float32"
    return Session(shape, kind, predict, real, outputs)


_tvm_threads: list[int] = []
"""How many TVM was last told to use."""


@runtime("tvm", "tvm", "tvm")
def _(path: Path, threads: int, level: str) -> Session:
    # Read when TVM starts its threads, which it would bind to cores, and with them the thread that all other engines run on.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))
    # Idle threads yield 300,000 times before they sleep: on a busy machine, a process then takes minutes to end.
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "1000")
    import tvm
    from tvm.relax import VirtualMachine

    any_core = 1
    try:
        _require_whole_elf(path)
        # The system's linker takes a name that it has loaded before for the same library, whatever is in the file now.
        with tempfile.TemporaryDirectory() as folder:
            library = shutil.copy(path, folder)
            machine = VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
            main, facts = machine["main"], json.loads(str(machine["bitwright"]()))
            given, outputs = facts["input"], tuple(facts.get("outputs", ["logits"]))
    except Exception as error:  # from the linker, from TVM's own functions, or for want of them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileFormatError(f"TVM cannot read '{path}': {reason}") from error
    configure = tvm.get_global_func("runtime.config_threadpool")

    def reading(first: int) -> Predict:
        def predict(images: npt.NDArray[Any]) -> Any:
            if _tvm_threads != [threads]:  # its threads are the process's, not the library's
                configure(any_core, threads)
                _tvm_threads[:] = [threads]
            found = main(tvm.runtime.tensor(np.ascontiguousarray(images)))
            return _by_name(outputs, (np.asarray(found[first + 2 * place].numpy()) for place in range(len(outputs))))

        return predict

    return Session(tuple(given["shape"]), given["dtype"], reading(0), reading(1), outputs)


def outputs_of(names: list[str]) -> tuple[str, ...]:
    """The outputs of a file that returns tensors of these names: of an integer model, those that have integers.

    >>> outputs_of(["boxes_int32", "boxes", "logits_int32"]), outputs_of(["score"])
    (('boxes', 'logits'), ('score',))
    """
    found = [name.removesuffix(INTEGERS) for name in names if name.endswith(INTEGERS)]
    return tuple(found or names)


def integers_of(outputs: Iterable[str], names: Container[str]) -> list[str]:
    """The tensors of integers among those of a file; of a float model, its real ones."""
    return [f"{name}{INTEGERS}" if f"{name}{INTEGERS}" in names else name for name in outputs]


def reals_of(outputs: Iterable[str], names: Container[str]) -> list[str]:
    """The tensors of real numbers among those of a file, where it has them."""
    return [name if name in names else f"{name}{INTEGERS}" for name in outputs]


def _by_name(outputs: tuple[str, ...], values: Iterable[npt.NDArray[Any]]) -> Any:
    """The one array, or all by the names of the outputs."""
    found = dict(zip(outputs, values, strict=True))
    return found if len(found) > 1 else found[outputs[0]]


def _require_whole_elf(path: Path) -> None:
    """Refuse a 64-bit ELF library without its end, the section headers: to map it would end the process with SIGBUS."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(64).ljust(64, b"\0")
    if head[:6] != b"\x7fELF\x02\x01":
        return  # whatever loads it looks at it as a whole
    (offset,), (entry, count) = struct.unpack_from("<Q", head, 40), struct.unpack_from("<HH", head, 58)
    if size < max(len(head), offset + entry * count):
        raise ValueError(f"the library is cut off at {size} bytes")
