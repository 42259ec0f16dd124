# SPDX-License-Identifier: MIT
"""What windows gain: `python benchmarks/windows.py --json benchmarks/results/windows.json`.

A small network whose activations are clamped to [-0.1, 3] is trained in float, then quantized with activations of 2 to 8 bits and
weights of 8, with windows and with symmetric formats: calibrated alone, and fine-tuned for two epochs. Counted are right guesses
of the integer models on test images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.benchmark import environment
from bitwright.data import ImageData, batches, load_data
from bitwright.graph import Graph, capture
from bitwright.integer import lower, prepare
from bitwright.scheme import ACTIVATIONS, Precision, Scheme
from bitwright.training import QuantizedModel, TrainSettings, calibrate, evaluate, fit, quantize, train


class Clamped(nn.Module):
    """Three convolutions with clamps just below zero, a mean and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(self.block(1, 16, 2), self.block(16, 32, 2), self.block(32, 32, 1))
        self.head = nn.Linear(32, 10)

    @staticmethod
    def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.Hardtanh(-0.1, 3.0))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def quantized(graph: Graph, bits: int, activations: str, data: ImageData) -> QuantizedModel:
    """Calibrated on 512 training images; the images themselves keep 8 bits."""
    first, *others = graph.layers
    layers = {first: Precision(8, 8)} | dict.fromkeys(others, Precision(8, bits))
    scheme = Scheme(f"W8A{bits}", layers, activations=activations)
    return calibrate(quantize(graph, scheme), [data.calibration(512)[0]])


def top1(model: QuantizedModel, data: ImageData) -> float:
    """Percent, in integers."""
    return percent(prepare(lower(model)).logits, data)


def percent(predict: Callable[[Tensor], Tensor], data: ImageData) -> float:
    """Right guesses on test images."""
    found = evaluate(predict, data.batches("test", 250))
    return found.leading


def measure(graph: Graph, bits: int, activations: str, data: ImageData, seed: int) -> dict[str, Any]:
    """One row."""
    calibrated = top1(quantized(graph, bits, activations, data), data)
    model = quantized(graph, bits, activations, data)
    settings = TrainSettings(epochs=2, learning_rate=0.02, seed=seed)
    train(model, batches(data.train, 64, shuffle=True, seed=seed), settings)
    row = {"act_bits": bits, "activations": activations, "calibrated": calibrated, "trained": top1(model.eval(), data)}
    print(row, flush=True)
    return row


def main() -> None:
    """Print the rows, and keep them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    data = load_data("mnist-5k")
    network = Clamped()
    fit(network, data, TrainSettings(epochs=4, learning_rate=0.1, seed=options.seed))
    graph = capture(network.eval(), (1, 28, 28), name="clamped")
    with torch.no_grad():
        in_float = percent(network, data)
    print({"float": in_float}, flush=True)
    rows = [
        measure(graph, bits, activations, data, options.seed) for bits in (8, 4, 3, 2) for activations in ACTIVATIONS
    ]
    found = {"environment": asdict(environment()), "seed": options.seed, "float": in_float, "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
