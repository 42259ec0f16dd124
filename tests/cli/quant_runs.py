# SPDX-License-Identifier: MIT
"""Runs of the documented command line in this process, on small photographs and a small network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bitwright.integer import IntegerModel, load_integer
from bitwright.training import QuantizedModel, Trained
from bitwright.training.checkpoint import load_trained

ACCURACY = re.compile(r"^ \* Acc@1 (\d+\.\d{3}) Acc@5 (\d+\.\d{3})$", re.MULTILINE)
BEST = re.compile(r"^Best acc at epoch (\d+): (\d+\.\d{3})$", re.MULTILINE)
SHORT = "-b 16 --epochs 1 --lr 0.02 -j 0 --data-percentage 0.4 --quant-scheme w4a4"


@dataclass(frozen=True)
class Run:
    """What a command printed, and what it wrote."""

    folder: Path
    out: str

    @property
    def accuracies(self) -> list[tuple[str, str]]:
        """Top-1 and top-5 of each validation."""
        return ACCURACY.findall(self.out)

    @property
    def integer(self) -> IntegerModel:
        return load_integer(self.folder / "quantized_checkpoint.safetensors")

    @property
    def model(self) -> QuantizedModel:
        return self.checkpoint()[0]

    def checkpoint(self, name: str = "checkpoint") -> tuple[QuantizedModel, Trained]:
        model, trained = load_trained(self.folder / f"{name}.safetensors")
        assert trained is not None
        return model, trained

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.model.state_dict().items() if name.startswith("network.")}

    def same_weights(self, other: Run) -> bool:
        return all(torch.equal(value, other.weights()[name]) for name, value in self.weights().items())

    def figures(self) -> list[dict[str, Any]]:
        """Of every epoch, but for those that no two runs have in common."""
        path = self.folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [{key: line[key] for key in line.keys() - {"seconds", "images_per_second"}} for line in lines]

    def same_files(self, other: Run) -> bool:
        timed = {"log.log", "metrics.jsonl"}
        names = {path.name for path in self.folder.iterdir()} - timed
        assert names == {path.name for path in other.folder.iterdir()} - timed
        assert self.figures() == other.figures()
        return all((self.folder / name).read_bytes() == (other.folder / name).read_bytes() for name in names)


Train = Callable[..., Run]


def small_photographs(root: Path, classes: int = 10, train: int = 8, val: int = 2, side: int = 40) -> Path:
    """An image folder of noisy stripes, each class with its own: enough images to settle batch norm on."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        for split, count in (("train", train), ("val", val)):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.normal(60, 20, (side, side, 3))
                pixels[3 * label : 3 * label + 8] += 90
                pixels[..., label % 3] += 10 * label
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")
    return root
