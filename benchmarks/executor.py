# SPDX-License-Identifier: MIT
"""The fast integer executor against float PyTorch: `python benchmarks/executor.py [MODEL ...] --json FILE`.

Random weights, random images, batch 8. Four float forms are the baselines: the module as its source defines it, evaluating; the
same in channels-last order; and both with batch norm folded into the convolutions. All run interleaved in one process, on one
thread unless `--threads` says more; every integer is compared with the literal reference executor's before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from settled import settled
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bitwright.benchmark import environment, time_interleaved
from bitwright.graph import capture
from bitwright.integer import lower, prepare, run
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize

MODELS = ("pytorchcv:resnet18", "pytorchcv:resnet50", "pytorchcv:mobilenetv2_w1")
PRECISIONS = ("W8A8", "W4A4")


def folded(network: nn.Module) -> nn.Module:
    """A copy with every batch norm folded into the convolution before it in the same block."""
    made = copy.deepcopy(network)
    for block in made.modules():
        names = list(block._modules)
        for first, second in pairwise(names):
            convolution, norm = block._modules[first], block._modules[second]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(block, first, fuse_conv_bn_eval(convolution, norm))
                setattr(block, second, nn.Identity())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    return made


def floats(network: nn.Module, images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The baselines, checked against one another."""
    found: dict[str, Callable[[], Tensor]] = {}
    expected = network(images)
    for name, module in (("module", network), ("folded", folded(network))):
        for suffix, layout in (("", torch.contiguous_format), (" channels-last", torch.channels_last)):
            made = copy.deepcopy(module).to(memory_format=layout)
            ordered = images.contiguous(memory_format=layout)
            torch.testing.assert_close(made(ordered), expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))
            found[f"float {name}{suffix}"] = lambda made=made, ordered=ordered: made(ordered)
    return found


@torch.inference_mode()
def measure(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """Latencies of one network in every form, and the speed-ups of the integer ones."""
    with torch.inference_mode(False):
        network, calibration = settled(name)
        graph = capture(network, tuple(calibration.shape[1:]), name=name)
        models = {}
        for precision in PRECISIONS:
            scheme = Scheme.uniform(graph.layers, Precision.parse(precision))
            models[precision] = lower(calibrate(quantize(graph, scheme), [calibration]))
    images = torch.randn(batch, *calibration.shape[1:])
    functions = floats(network, images)
    baselines = list(functions)
    arithmetic = {}
    for precision, model in models.items():
        prepared = prepare(model)
        equal = torch.equal(prepared.run(images[:2]), run(model, images[:2]))
        if not equal:
            raise SystemExit(f"{name}, {precision}: the executors differ")
        arithmetic[precision] = dict(Counter(prepared.arithmetic.values()))
        functions[precision] = lambda prepared=prepared: prepared.run(images)
    timings = time_interleaved(functions, rounds=rounds, warmup=1)
    speedups = {
        precision: {baseline: timings.speedup(precision, baseline).to_dict() for baseline in baselines}
        for precision in PRECISIONS
    }
    for precision, rows in speedups.items():
        figures = ", ".join(f"{row['median']:.2f} x {baseline}" for baseline, row in rows.items())
        print(f"{name} {precision} ({arithmetic[precision]}): {figures}", flush=True)
    latencies = {key: timings.latency(key).to_dict() for key in functions}
    return {
        "model": name,
        "batch": batch,
        "arithmetic": arithmetic,
        "latency_ms": latencies,
        "speedup": speedups,
        "equal": True,
    }


def main() -> None:
    """Measure, print, and write JSON if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [measure(name, arguments.batch, arguments.rounds) for name in arguments.models]
    if arguments.json:
        arguments.json.parent.mkdir(exist_ok=True)
        where = environment().to_dict()
        found = {"environment": where, "threads": arguments.threads, "rounds": arguments.rounds, "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
