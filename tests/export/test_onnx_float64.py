# SPDX-License-Identifier: MIT
"""31-bit multipliers and sums without a clamp have an exact ONNX form, or are refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from bitwright.benchmark import compare
from bitwright.errors import ExportError
from bitwright.export import Pixels, to_onnx
from bitwright.export.onnx.float64 import is_direct
from bitwright.integer import IntegerModel, Multipliers, run
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN
from bitwright.integer.ops import IntegerAdd, Rescale
from export.published import constants, exactly, near_halves, tail


def everywhere(model: IntegerModel, images: torch.Tensor, folder: Path) -> npt.NDArray[np.int32]:
    """The integers, equal in the reference executor, ONNX's own reference, and ONNX Runtime at all its levels."""
    made = to_onnx(model)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    expected = run(model, images).numpy()
    (got,) = ReferenceEvaluator(made).run(["logits_int32"], {"images": images.numpy()})
    assert np.array_equal(got, expected)
    results = compare(model, {"onnxruntime": folder / "model.onnx"}, [images])
    assert len(results) == 4
    assert all(result.exact for result in results)
    return expected


def test_products_beyond_float64_are_split(tmp_path: Path) -> None:
    """Next to halves, one float64 product gives other integers; the split one gives those of rational numbers."""
    accumulators, multipliers = near_halves(300)
    expected = exactly(accumulators, multipliers)
    kept = [index for index, value in enumerate(expected) if INT32_MIN < value < INT32_MAX]
    accumulators, expected = accumulators[kept], [expected[index] for index in kept]
    multipliers = Multipliers(multipliers.multiplier[kept], multipliers.shift[kept])
    assert sum(np.rint(accumulators * multipliers.real()) != expected) > len(kept) / 5
    model = constants(accumulators.astype(np.int32), multipliers)
    assert "Floor" in {node.op_type for node in to_onnx(model).graph.node}
    assert everywhere(model, torch.zeros(1, 1, 1, 1), tmp_path).reshape(-1).tolist() == expected


def test_small_products_need_no_split(tmp_path: Path) -> None:
    """Below 2**53 one product is exact, ties included."""
    generator = np.random.default_rng(0)
    bias = generator.integers(-(2**22), 2**22, 500)
    multipliers = Multipliers(generator.integers(2**30, 2**31, 500), generator.integers(31, 45, 500))
    model = constants(bias.astype(np.int32), multipliers)
    assert "Floor" not in {node.op_type for node in to_onnx(model).graph.node}
    assert everywhere(model, torch.zeros(1, 1, 1, 1), tmp_path).reshape(-1).tolist() == exactly(bias, multipliers)


def test_what_neither_form_holds_is_refused() -> None:
    """Large accumulators with shifts beyond 51."""
    multipliers = Multipliers(np.array([2**31 - 1]), np.array([53]))
    model = constants(np.array([2**30], np.int32), multipliers)
    with pytest.raises(
        ExportError, match=r"'conv', channel 0: expected a shift of at most 51 .* got 53: .* zoo import --float"
    ):
        to_onnx(model)


@given(st.integers(1, 2**31 - 1), st.integers(0, 62), st.integers(1, 2**31 - 1), st.integers(0, 2**15), st.data())
def test_direct_products_are_exact(b: int, c: int, bound: int, limit: int, data: st.DataObject) -> None:
    """Wherever the condition holds, accumulators up to the bound give the clamped integers of rational numbers."""
    multipliers = Multipliers(np.array([b]), np.array([c]))
    if not is_direct(Rescale(multipliers, -limit, limit), np.array([bound])):
        assert bound * b > 2**53
        return
    half = data.draw(st.integers(-limit - 1, limit)) * 2 + 1
    nearest = half * 2**c // (2 * b)  # next to a threshold
    value = max(-bound, min(bound, nearest + data.draw(st.integers(-1, 1))))
    expected = max(-limit, min(limit, round(Fraction(value * b, 1 << c))))
    assert int(np.clip(np.rint(value * multipliers.real()), -limit, limit)[0]) == expected


@pytest.mark.parametrize("shift", [0, 3])
def test_sums_and_means(shift: int, tmp_path: Path) -> None:
    """Streams of millions are added, rounded, clamped and averaged exactly."""
    images = torch.randn(50, 1, 7, 7)
    means = everywhere(tail(7, 7, shift=shift), images, tmp_path)
    assert means.max() > 2**16
    assert np.unique(means).size > 50


def test_means_of_parts_are_refused() -> None:
    """Only the mean of a whole image has an exact form."""
    with pytest.raises(
        ExportError, match=r"'mean': expected a mean over the whole image of 8 x 8, got windows of 7 x 7"
    ):
        to_onnx(tail(8, 7))


def test_sums_beyond_float64_are_refused() -> None:
    """No published model has any."""
    model = tail(2, 2)
    (add,) = (op for op in model if isinstance(op, IntegerAdd))
    ops = tuple(replace(op, multipliers=(2**34, 2**34)) if op is add else op for op in model)
    with pytest.raises(ExportError, match=r"'sum': expected sums of at most 2\*\*53"):
        to_onnx(replace(model, ops=ops))


def test_pixels(tmp_path: Path) -> None:
    """A file that takes pixels multiplies by the reciprocal as the published models do."""
    pixels = Pixels((0.45,), (0.226,))
    model = tail(7, 7)
    made = to_onnx(model, pixels=pixels)
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    images = torch.randint(0, 256, (50, 1, 7, 7), dtype=torch.uint8)
    results = compare(model, {"onnxruntime": tmp_path / "model.onnx"}, [images], pixels=pixels)
    assert all(result.exact for result in results)
