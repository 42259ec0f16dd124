# SPDX-License-Identifier: MIT
"""What it costs to be exact without VNNI: `python benchmarks/saturation.py --json benchmarks/results/saturation.json`.

Models at W8A8 are made safe for sums of 16 bits with narrower weights alone, with 7-bit activations alone, and with the cheaper
of the two for each format (`lower --target avx2 --data`). Counted are the change of the logits against the model as it was (root
mean square over that of the logits, on test images) and right guesses. Then each format is changed alone, both ways: how often is
the cheaper way the one that was foreseen?

Models are files with the data set they are of: graphs, which are calibrated at W8A8, or checkpoints. By default those that
`bitwright demo` and `python benchmarks/metrics.py` leave in `runs`.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

import torch
from torch import Tensor

from bitwright.benchmark import environment
from bitwright.data import ImageData, load_data
from bitwright.graph import Graph
from bitwright.integer import IntegerModel, lower, prepare
from bitwright.integer import load as load_model
from bitwright.integer.lowering.saturation_choice import SaturationChoice, SaturationChoices, against_saturation
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize

MODELS = (
    "runs/demo-mnist-5k/W8A8.checkpoint=mnist-5k",
    "runs/metrics/resnet20.graph=fashion-mnist",
    "runs/metrics/resnet20.graph=fashion-mnist=16",
    "runs/metrics/mobilenetv2-small.graph=fashion-mnist",
)
CALIBRATION, BATCH = 512, 250
LOWER = importlib.import_module("bitwright.integer.lowering.lower")  # the name in its package is that of the function


def quantized(path: str, data: ImageData, residual_bits: int) -> QuantizedModel:
    """A checkpoint as it is, a graph calibrated at W8A8."""
    found = load_model(path)
    if isinstance(found, QuantizedModel):
        return found
    assert isinstance(found, Graph)
    uniform = Scheme.uniform(found.layers, Precision(8, 8))
    images, _ = data.calibration(CALIBRATION)
    return calibrate(quantize(found, replace(uniform, residual_bits=residual_bits)), [images])


@contextmanager
def always(seven_bits: bool) -> Iterator[None]:
    """Every choice is the same."""
    with patch.object(SaturationChoice, "seven_bits", new_callable=PropertyMock, return_value=seven_bits):
        yield


@contextmanager
def only(found: SaturationChoices, tensor: str) -> Iterator[None]:
    """One format is made safe, as found; the others stay as they are."""
    layers = found.chosen[tensor].layers
    part = SaturationChoices(
        {tensor: found.chosen[tensor]},
        {name: params for name, params in found.formats.items() if name == tensor},
        {name: weights for name, weights in found.weights.items() if name in layers},
    )
    with patch.object(LOWER, "against_saturation", return_value=part):
        yield


class Case:
    """A model, the logits that it gave before, and what it gives made safe."""

    def __init__(self, path: str, data: str, residual_bits: int, count: int, chosen_on: int) -> None:
        shape = load_model(path)
        graph = shape if isinstance(shape, Graph) else shape.plan.source  # type: ignore[union-attr]
        images = load_data(data, channels=graph.input_shape[0], image_size=graph.input_shape[1])
        self.model = quantized(path, images, residual_bits)
        self.test, self.labels = images.test.read(range(min(count, len(images.test))))
        self.chosen_on, _ = images.calibration(chosen_on)
        self.before = self.logits(lower(self.model))

    def logits(self, model: IntegerModel) -> Tensor:
        """Of the test images."""
        ready = prepare(model)
        return torch.cat([ready.logits(part) for part in torch.split(self.test, BATCH)])

    def safe(self) -> IntegerModel:
        """As `lower --target avx2 --data` makes it."""
        return lower(self.model, avoid_saturation=True, images=self.chosen_on)

    def change(self, model: IntegerModel) -> dict[str, float]:
        """Change of the logits, and right guesses in percent."""
        after = self.logits(model)
        moved = (after - self.before).square().sum() / self.before.square().sum()
        return {"logit_change": float(moved.sqrt()), "top1_percent": self.top1(after)}

    def top1(self, logits: Tensor) -> float:
        """Right guesses in percent."""
        return 100 * float((logits.argmax(1) == self.labels).double().mean())

    def found(self) -> SaturationChoices:
        """The choices, with what each was expected to cost."""
        self.model.certify({})
        with torch.no_grad():
            return against_saturation(self.model, self.chosen_on)


def measure(case: Case) -> dict[str, Any]:
    """One row of the table, and one of each format."""
    row: dict[str, Any] = {"top1_percent": case.top1(case.before), "images": len(case.labels)}
    row["either"] = case.change(case.safe())
    found = case.found()
    row["formats"] = {"activations": len(found.formats), "weights": len(found.chosen) - len(found.formats)}
    ways: dict[str, SaturationChoices] = {}
    for name, seven_bits in (("weights", False), ("activations", True)):
        with always(seven_bits):
            row[name], ways[name] = case.change(case.safe()), case.found()
    row["by_format"] = []
    for tensor, choice in found.chosen.items():
        measured = {}
        for name, way in ways.items():
            with always(name == "activations"), only(way, tensor):
                measured[name] = case.change(case.safe())["logit_change"]
        foreseen = "activations" if tensor in found.formats else "weights"
        row["by_format"].append(
            {**asdict(choice), "measured": measured, "right": measured[foreseen] == min(measured.values())}
        )
    return row


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="FILE=DATA[=RESIDUAL_BITS]")
    parser.add_argument("--images", type=int, default=1000, help="of the test split")
    parser.add_argument("--chosen-on", type=int, default=32, help="training images")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print("| model | before | weights | activations | either | formats: activations / weights | foreseen |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for given in arguments.models:
        path, data, *bits = given.split("=")
        residual_bits = int(bits[0]) if bits else 8
        row = measure(Case(path, data, residual_bits, arguments.images, arguments.chosen_on))
        rows.append({"file": path, "data": data, "residual_bits": residual_bits, **row})
        right = sum(entry["right"] for entry in row["by_format"])
        cells = [
            f"{100 * row[name]['logit_change']:.2f} %, {row[name]['top1_percent']:.1f}"
            for name in ("weights", "activations", "either")
        ]
        kinds = row["formats"]
        print(
            f"| {path}, {data}, {residual_bits}-bit streams | {row['top1_percent']:.1f} | {' | '.join(cells)} "
            f"| {kinds['activations']} / {kinds['weights']} | {right} of {len(row['by_format'])} |"
        )
    if arguments.json:
        facts = {"environment": environment().to_dict(), "chosen_on": arguments.chosen_on, "rows": rows}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
