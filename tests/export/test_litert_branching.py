# SPDX-License-Identifier: MIT
"""Functions that branch, in LiteRT files: all results, also of few bits, whose clamps are ReLUs, and of windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.quantizer.formats import TensorFormat
from export.equality import assert_equal
from export.litert_files import operators
from export.operations import table

pytest.importorskip("ai_edge_litert", reason="the extra 'litert' is not installed")

SILU, SQUARE, HARDSWISH = ("x", "silu"), ("x", "x", "mul"), ("x", "hardswish")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("window", [TensorFormat.symmetric(8), TensorFormat(8, -31, 224)])
@pytest.mark.parametrize("program", [SILU, SQUARE])
def test_scales_are_those_of_the_ends(
    program: tuple[str, ...], window: TensorFormat, bits: int, tmp_path: Path
) -> None:
    """No constant is multiplied by, and every entry is the model's."""
    case = table(program, window, bits)
    assert_equal("litert", case.model, case.images, tmp_path / "model.tflite")
    names = operators(tmp_path / "model.tflite")
    assert names[names.index("DEQUANTIZE") - 1] == "RESHAPE"
    assert names[names.index("DEQUANTIZE") :].count("MUL") == 2  # of the function, and of the output


def test_chains_are_left_to_xnnpack(tmp_path: Path) -> None:
    """A function that reads its input once keeps its multiplications."""
    case = table(HARDSWISH)
    assert_equal("litert", case.model, case.images, tmp_path / "model.tflite")
    names = operators(tmp_path / "model.tflite")
    assert names[names.index("DEQUANTIZE") :].count("MUL") == 3
