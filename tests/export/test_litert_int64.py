# SPDX-License-Identifier: MIT
"""LiteRT computes the published models' arithmetic in int64 and int32, halves and numbers beyond 2**24 included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.benchmark import ENGINES, compare
from bitwright.errors import ExportError
from bitwright.export import Pixels, export_litert
from bitwright.integer import IntegerModel, Multipliers, QuantParams, run
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN
from bitwright.integer.ops import IntegerAdd, IntegerRequantize, Rescale
from bitwright.integer.outputs import single_output
from export.published import constants, exactly, near_halves, tail

pytestmark = pytest.mark.skipif(not ENGINES["litert"].installed, reason="the extra 'litert' is not installed")


def in_litert(model: IntegerModel, images: torch.Tensor, folder: Path, pixels: Pixels | None = None) -> np.ndarray:
    """The integers of the reference executor, which LiteRT's are equal to."""
    export_litert(model, folder / "model.tflite", pixels=pixels)
    (result,) = compare(model, {"litert": folder / "model.tflite"}, [images], pixels=pixels)
    assert result.exact
    return run(model, images if pixels is None else pixels.normalise(images)).numpy()


def test_next_to_halves(tmp_path: Path) -> None:
    """Products that lie next to a half, of results up to 2**31, are those of rational numbers."""
    accumulators, multipliers = near_halves(300)
    expected = exactly(accumulators, multipliers)
    kept = [index for index, value in enumerate(expected) if INT32_MIN < value < INT32_MAX]
    multipliers = Multipliers(multipliers.multiplier[kept], multipliers.shift[kept])
    model = constants(accumulators[kept].astype(np.int32), multipliers)
    got = in_litert(model, torch.zeros(1, 1, 1, 1), tmp_path).reshape(-1).tolist()
    assert got == [expected[index] for index in kept]
    assert max(map(abs, got)) > 2**28


@pytest.mark.parametrize(("low", "high"), [(INT32_MIN, INT32_MAX), (0, 2**15 - 1), (-8, 7)])
def test_halves_go_to_even(low: int, high: int, tmp_path: Path) -> None:
    """Short multipliers meet halves all the time, on both sides of zero; clamps hold."""
    generator = np.random.default_rng(0)
    shift = generator.integers(0, 12, 2000)
    odd = 2 * generator.integers(0, 8, 2000) + 1
    bias = generator.integers(-(2**9), 2**9, 2000) << np.maximum(shift - 1, 0)
    multipliers = Multipliers(odd << 20, (shift + 20).astype(np.int32))
    halves = int(((bias * odd) % (1 << shift) * 2 == 1 << shift).sum())
    assert halves > 500
    got = in_litert(
        constants(bias.astype(np.int32), multipliers, low=low, high=high), torch.zeros(1, 1, 1, 1), tmp_path
    )
    assert got.reshape(-1).tolist() == [max(low, min(high, value)) for value in exactly(bias, multipliers)]


@pytest.mark.parametrize("pixels", [None, Pixels([0.5], [0.25])])
def test_streams_and_means(pixels: Pixels | None, tmp_path: Path) -> None:
    """An unclamped sum is added to itself, averaged, and requantized: by 31 bits, and by a float32 number."""
    torch.manual_seed(0)
    images = torch.randn(4, 1, 7, 7) if pixels is None else torch.randint(0, 256, (4, 1, 7, 7), dtype=torch.uint8)
    in_litert(tail(7, 7, shift=1), images, tmp_path, pixels)
    model = tail(7, 7)
    in_litert(model, images, tmp_path, pixels)
    for multiplier, shift in ((2**31 - 1, 42), (3, 8)):
        ratio = Rescale(Multipliers(np.array([multiplier]), np.array([shift])), -128, 127)
        last = IntegerRequantize(
            name="last", inputs=(model.outputs["logits"].tensor,), shape=model.ops[-1].shape, rescale=ratio
        )
        formats = {**model.formats, "last": QuantParams.symmetric(8, 1.0)}
        in_litert(
            replace(model, ops=(*model.ops, last), formats=formats, outputs=single_output("last")),
            images,
            tmp_path,
            pixels,
        )


def test_what_has_no_exact_form_is_refused() -> None:
    """By the name of the operation."""
    model = tail(7, 7)

    def changed(kind: type, **values: object) -> IntegerModel:
        return replace(model, ops=tuple(replace(op, **values) if isinstance(op, kind) else op for op in model))

    with pytest.raises(ExportError, match=r"mean, rounded down, of whole images only \('.*'\)"):
        export_litert(tail(7, 3), "unwritten.tflite")
    with pytest.raises(ExportError, match=r"but 'sum' can reach 21032960 with a shift of 1"):
        export_litert(changed(IntegerAdd, multipliers=(10, 30), shift=1), "unwritten.tflite")
    with pytest.raises(ExportError, match=r"no remainder of 2\*\*63 at 'conv'"):
        export_litert(
            constants(np.array([2**30], np.int32), Multipliers(np.array([2**31 - 1]), np.array([62]))),
            "unwritten.tflite",
        )
