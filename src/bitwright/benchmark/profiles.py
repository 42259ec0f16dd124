# SPDX-License-Identifier: MIT
"""Where the time of an exported file goes, by operator, as its engine counts it.

An operator that is no product and takes a tenth of the time is a form to look at again: a scalar reference kernel at the input of
a network once took a third of it.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.benchmark.engines import known_engine
from bitwright.benchmark.runtimes import load_engine

Images = npt.NDArray[Any]
Profiler = Callable[[Path, Images, int], dict[str, float]]
"""From a file, images and a number of threads to microseconds by operator."""

PRODUCTS = frozenset(
    {
        "Conv", "ConvInteger", "FusedConv", "QLinearConv", "Gemm", "QGemm", "MatMul", "MatMulInteger", "QLinearMatMul",  # ONNX
        "Convolution", "GroupConvolution", "FullyConnected",  # OpenVINO
        "convolution", "depthwise", "product",  # TVM
    }
)  # fmt: skip
"""Convolutions and matrix products, by the engines' names for them."""

_RUNS = 2  # the first one allocates


def profile(engine: str, path: str | Path, images: Images, *, threads: int = 1) -> dict[str, float] | None:
    """Shares of the time of one batch by operator, the largest first; None for engines that do not tell.

    Args:
        engine: That runs the file.
        path: The path of the file.
        images: One batch.
        threads: How many the engine may use.

    Raises:
        UnknownNameError: If there is no such engine.
    """
    known_engine(engine)
    if engine not in PROFILERS:
        return None
    spent = PROFILERS[engine](Path(path), images, threads)
    total = sum(spent.values()) or 1.0
    return {name: part / total for name, part in sorted(spent.items(), key=lambda item: -item[1])}


def conspicuous(shares: Mapping[str, float], least: float = 0.1) -> list[str]:
    """The operators that are no products and take at least that share.

    >>> conspicuous({"QLinearConv": 0.7, "QuantizeLinear": 0.2, "Add": 0.1, "Cast": 0.0})
    ['QuantizeLinear', 'Add']
    """
    return [name for name, share in shares.items() if share >= least and name not in PRODUCTS]


def described(shares: Mapping[str, float]) -> str:
    """One line.

    >>> described({"QLinearConv": 0.75, "QuantizeLinear": 0.25})
    'QLinearConv 75 %, QuantizeLinear 25 %; at least 10 % without being a convolution: QuantizeLinear'
    """
    parts = [f"{name} {100 * share:.0f} %" for name, share in shares.items() if share >= 0.01]
    named = ", ".join(conspicuous(shares)) or "nothing"
    return f"{', '.join(parts)}; at least 10 % without being a convolution: {named}"


def _onnxruntime(path: Path, images: Images, threads: int) -> dict[str, float]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.intra_op_num_threads, options.log_severity_level = True, threads, 3
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(_RUNS):
            session.run(None, {session.get_inputs()[0].name: images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    return spent


def _openvino(path: Path, images: Images, threads: int) -> dict[str, float]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()
    for _ in range(_RUNS):
        request.infer([np.ascontiguousarray(images)])
    spent: dict[str, float] = defaultdict(float)
    for node in request.get_profiling_info():
        spent[node.node_type] += node.real_time.total_seconds() * 1e6
    return spent


def _tvm(path: Path, images: Images, threads: int) -> dict[str, float]:
    load_engine("tvm", path, threads=threads)  # sets how many threads there are
    import tvm
    from tvm.relax import VirtualMachine

    machine = VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    spent: dict[str, float] = defaultdict(float)
    begun: list[float] = []

    def watch(function: Any, name: str, before: bool, result: Any, *arguments: Any) -> None:
        if before:
            begun.append(time.perf_counter())
        else:
            spent[re.sub(r"_\d+$", "", name)] += (time.perf_counter() - begun.pop()) * 1e6

    machine.set_instrument(watch)
    for _ in range(_RUNS):
        machine["main"](tvm.runtime.tensor(np.ascontiguousarray(images)))
    return spent


PROFILERS: dict[str, Profiler] = {"onnxruntime": _onnxruntime, "openvino": _openvino, "tvm": _tvm}
"""By engine. LiteRT's Python package tells nothing of what XNNPACK does inside of it."""
