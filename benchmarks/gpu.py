# SPDX-License-Identifier: MIT
"""The integer path against float networks on a GPU: `python benchmarks/gpu.py [MODEL ...] --json FILE`.

Random weights and images, batch 1, 8 and 64. The float forms are float32, TF32 and bfloat16, channels-last, with batch norm
folded. Every form is recorded in a CUDA graph; the graphs take turns, and events on the device time them. Before anything is
timed, the integers are compared with those of the reference executor on the CPU.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from executor import folded, settled
from torch import Tensor

from bitwright.benchmark import environment
from bitwright.benchmark.timing import Spread
from bitwright.files import write_json
from bitwright.graph import capture
from bitwright.integer import lower, prepare, run
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize

MODELS = ("pytorchcv:resnet18", "pytorchcv:resnet50")
PRECISIONS = ("W8A8", "W4A4")
BATCHES = (1, 8, 64)
REPLAYS = 20
FLOATS = {"float32": (torch.float32, False), "tf32": (torch.float32, True), "bfloat16": (torch.bfloat16, True)}


def recorded(function: Callable[[], Tensor]) -> torch.cuda.CUDAGraph:
    """The work of `function` as a CUDA graph, after three calls on a side stream that compile and allocate."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph


def milliseconds(graph: torch.cuda.CUDAGraph) -> float:
    """Mean time of a replay on the device."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / REPLAYS


def measure(name: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Rows for one network, as they come: latencies of every form at every batch size."""
    network, images = settled(name)
    graph = capture(network, tuple(images.shape[1:]), name=name)
    integers, arithmetic = {}, {}
    for precision in PRECISIONS:
        scheme = Scheme.uniform(graph.layers, Precision.parse(precision))
        model = lower(calibrate(quantize(graph, scheme), [images]))
        expected = run(model, images[:2])
        for kernels in ("torch", "triton", "triton-bf16"):
            prepared = prepare(model, "cuda", kernels)
            if not torch.equal(prepared.run(images[:2]).cpu(), expected):
                raise SystemExit(f"{name}, {precision}, {kernels}: the integers differ from the reference executor's")
            integers[f"{precision} {kernels}"] = prepared
            arithmetic[f"{precision} {kernels}"] = dict(Counter(prepared.arithmetic.values()))
    plain = folded(network).cuda().to(memory_format=torch.channels_last)
    modules = {form: copy.deepcopy(plain).to(kind) for form, (kind, _) in FLOATS.items()}
    for batch in BATCHES:
        yield row(name, batch, rounds, modules, integers, arithmetic, images.shape[1:])


@torch.inference_mode()
def row(
    name: str,
    batch: int,
    rounds: int,
    modules: dict[str, Any],
    integers: dict[str, Any],
    arithmetic: dict[str, Any],
    shape: torch.Size,
) -> dict[str, Any]:
    """Latencies at one batch size."""
    images = torch.randn(batch, *shape, device="cuda").contiguous(memory_format=torch.channels_last)
    graphs, read = {}, []
    for form, module in modules.items():
        kind, allowed = FLOATS[form]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        values = images.to(kind)
        read.append(values)  # a graph reads the memory that it was recorded with
        graphs[form] = recorded(lambda module=module, values=values: module(values))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    for form, prepared in integers.items():
        graphs[form] = recorded(lambda prepared=prepared: prepared.run_unchecked(images))
    times: dict[str, list[float]] = {form: [] for form in graphs}
    for number in range(rounds + 1):
        for form, graph in graphs.items():
            taken = milliseconds(graph)
            if number:  # the first round warms up
                times[form].append(taken)
    latency = {form: Spread.of(values).to_dict() for form, values in times.items()}
    figures = ", ".join(f"{form} {spread['median']:.3f}" for form, spread in latency.items())
    print(f"{name}, batch {batch}, ms: {figures}", flush=True)
    return {"model": name, "batch": batch, "latency_ms": latency, "rounds_ms": times, "arithmetic": arithmetic}


def main() -> None:
    """Measure, print, and write JSON if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py measures a CUDA device, and PyTorch finds none on this machine.")
    where = {
        **environment().to_dict(),
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "triton": version("triton"),
    }
    rows = []
    for name in arguments.models:
        for found in measure(name, arguments.rounds):
            rows.append(found)
            if arguments.json:  # after each: a machine that is lent may be gone before the last
                kept = {"environment": where, "rounds": arguments.rounds, "replays": REPLAYS, "rows": rows}
                write_json(arguments.json, kept)


if __name__ == "__main__":
    main()
