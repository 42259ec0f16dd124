# SPDX-License-Identifier: MIT
"""What the process of test_full_disk.py does: `full_disk.py FULL FOLDER` saves what FOLDER holds on a disk that is full."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bitwright.errors import OutputError
from bitwright.export import form_of
from bitwright.integer.reader import load_integer
from bitwright.report.plots import plot_bits
from bitwright.sensitivity import SensitivityTable
from bitwright.training import save_quantized
from bitwright.training.model import QuantizedModel
from reliability.formats import FORMATS, _go_on_training


def saves(folder: Path) -> dict[str, Callable[[Path], object]]:
    """Every way to write a file, by the name of the file."""
    found: dict[str, Callable[[Path], object]] = {}
    for form in FORMATS[:9]:  # what has values of its own; the others are kept by work that goes on
        value: Any = form.load(folder / form.name)
        found[form.name] = partial(save_quantized, model=value) if isinstance(value, QuantizedModel) else value.save
    table = SensitivityTable.load(folder / "tiny.sensitivities.json")
    model = load_integer(folder / "tiny.integer")
    for name, suffix in (("onnx", "onnx"), ("openvino", "xml"), ("litert", "tflite"), ("qonnx", "onnx")):
        found[f"{name}.{suffix}"] = partial(form_of(name).export, model)
    found["plot.png"] = lambda path: plot_bits(path, table, [model.scheme])
    found["training.state"] = _go_on_training
    return found


def main(full: Path, folder: Path) -> None:
    """Fill the disk, then save everything there: each is refused by its name, and leaves nothing."""
    torch.set_num_threads(1)
    ready = saves(folder)
    before = sorted(full.iterdir())
    for name, save in ready.items():
        try:
            save(full / name)
        except OutputError as error:
            told = str(error)
            assert str((full / name).with_suffix("")) in told, told
            assert "No space left on device" in told, told
        else:
            raise AssertionError(f"{name} was written")
        assert sorted(full.iterdir()) == before, name
    print(len(ready))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
