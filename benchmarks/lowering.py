# SPDX-License-Identifier: MIT
"""Seconds that lowering takes, for networks of the zoo: `python benchmarks/lowering.py [MODEL ...] --json FILE`.

Random weights, calibrated on four random images; certification, which takes nearly all of the time, depends on scales alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from settled import settled

from bitwright.benchmark import environment
from bitwright.graph import capture
from bitwright.integer import lower
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize

PRECISIONS = ("W8A8", "W4A4", "W2A2")


def measure(name: str, repeats: int, widths: list[int]) -> list[dict[str, Any]]:
    """One row for each precision and width of the residual tensors."""
    network, images = settled(name)
    graph = capture(network, tuple(images.shape[1:]), name=name)
    rows = []
    for precision in PRECISIONS:
        for residual_bits in widths:
            uniform = Scheme.uniform(graph.layers, Precision.parse(precision))
            model = calibrate(quantize(graph, Scheme(uniform.name, uniform.layers, residual_bits)), [images])
            seconds = []
            for _ in range(repeats):
                begin = time.perf_counter()
                integer = lower(model)
                seconds.append(time.perf_counter() - begin)
            moved = sum(facts.get("channels_rescaled", 0) for facts in integer.facts.values())
            row = {
                "model": name, "precision": precision, "residual_bits": residual_bits,
                "median_s": statistics.median(seconds), "least_s": min(seconds), "most_s": max(seconds),
                "channels_rescaled": moved,
            }  # fmt: skip
            rows.append(row)
            print(
                "  ".join(
                    f"{key} {value:.2f}" if isinstance(value, float) else f"{value}" for key, value in row.items()
                )
            )
    return rows


def main() -> None:
    """Measure, print, and write JSON if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["pytorchcv:resnet50"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--residual-bits", type=int, nargs="+", choices=(8, 16), default=[8])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    where = environment().to_dict()
    print(where)
    rows = [row for name in arguments.models for row in measure(name, arguments.repeats, arguments.residual_bits)]
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": where, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
