# SPDX-License-Identifier: MIT
"""`benchmarks/photographs.py` on pictures made here: which are taken, how they are cut, and what is counted."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
photographs = importlib.import_module("photographs")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures, of which eleven are large enough, one is grey, and one has a name twice."""
    generator = np.random.default_rng(0)
    for number in range(12):
        shape = (40 if number == 0 else 640, 700, 3)
        picture = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        (picture.convert("L") if number == 1 else picture).save(tmp_path / f"{number}.jpg")
    (tmp_path / "again.jpg").symlink_to(tmp_path / "5.jpg")
    return tmp_path


def test_crops_are_of_large_photographs_and_a_seed_decides(pictures: Path) -> None:
    """Each photograph once, in an order of its own, and as many crops of each."""
    found = photographs.photographs([pictures])
    assert sorted(path.name for path in found) == sorted(f"{number}.jpg" for number in range(1, 12))
    made = photographs.crops(found, 33, 32)
    assert made.shape == (33, 3, 32, 32)
    assert torch.equal(made, photographs.crops(found, 33, 32))
    assert len({image.numpy().tobytes() for image in made}) == 33
    assert -1 <= float(made.min()) < 0 < float(made.max()) <= 1


def test_few_photographs_are_refused(tmp_path: Path) -> None:
    """In one line."""
    with pytest.raises(SystemExit, match="expected 10 photographs of 600 pixels or more, got 0"):
        photographs.photographs([tmp_path])


def test_agreement_and_noise_are_those_of_logits() -> None:
    """Two of four rows name the same class; noise of a tenth of the signal is 20 dB."""
    real = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert photographs.compared(real, real) == {"agreement_percent": 100, "sqnr_db": math.inf}
    swapped = real.clone()
    swapped[:2] = swapped[:2].flip(1)
    assert photographs.compared(real, swapped)["agreement_percent"] == 50
    assert photographs.compared(real, 1.1 * real)["sqnr_db"] == pytest.approx(20, abs=0.01)


def test_the_page_has_every_row() -> None:
    """What failed says why; a way without rows has no line."""
    images = {"crops": 2000, "calibration": 256, "judged": 40, "others": 10, "sure": 0.31}
    row = {"agreement_percent": 98.76, "sqnr_db": 21.04}
    where = {"processor": "a processor"}
    found = {
        "images": images,
        "environment": where,
        "rows": {"net/W8A8/calibrated": row, "net/W4A4/calibrated": {"failed": "too few"}},
    }
    page = photographs.page(found)
    assert "2,000 crops of 40 photographs" in " ".join(page.split())
    assert "Measured on a processor." in " ".join(page.split())
    assert "| calibrated | 98.8 %, 21.0 dB |  |  | too few |" in page
    assert "| reconstructed |" not in page


def test_the_page_says_where_answers_are_lost() -> None:
    """One line for each kind of tensor, where they were measured."""
    row = {"agreement_percent": 94.0, "sqnr_db": 23.3, "crops": 200}
    sources = {"net/W8A8/all weights": row, "net/W8A8/bfloat16": row, "other/W8A8/both": row}
    table = list(photographs.source_table("net", sources))
    assert "200 of the crops" in table[0]
    assert table[2:] == [
        "| rounded | W8A8 |",
        "| --- | --- |",
        *(f"| {k} | 94.0 %, 23.3 dB |" for k in ("all weights", "bfloat16")),
        "",
    ]
    assert list(photographs.source_table("net", {})) == []
