# SPDX-License-Identifier: MIT
"""Streams of 32 bits keep all of them where they are moved or selected: in both executors, and in engines."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bitwright.benchmark import ENGINES, load_engine
from bitwright.errors import ExportError
from bitwright.graph.nodes import ChannelShuffle, Concat, Flatten, MaxPool2d, Node, Slice
from bitwright.integer import IntegerModel, Multipliers, prepare, run
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN
from bitwright.integer.ops import IntegerConv2d, ReciprocalQuantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.bounds import FLOAT32_EXACT
from bitwright.scheme import Precision, Scheme
from export.published import BYTE, ONCE, WIDE

SIDE, CHANNELS = 6, 4
READING: dict[str, Any] = {"name": "moved", "inputs": ("residual",), "place": ""}
POOL: dict[str, Any] = {"kernel": (2, 2), **ONCE, "dilation": (1, 1), "ceil_mode": False}
MOVES: dict[str, Node] = {
    "maximum": MaxPool2d(shape=(CHANNELS, 5, 5), **READING, **POOL),
    "padded maximum": MaxPool2d(
        shape=(CHANNELS, 4, 4), **READING, **POOL | {"stride": (2, 2), "padding": (1, 1), "ceil_mode": True}
    ),
    "dilated maximum": MaxPool2d(shape=(CHANNELS, 4, 4), **READING, **POOL | {"dilation": (2, 2)}),
    "concatenation": Concat(shape=(2 * CHANNELS, SIDE, SIDE), **READING | {"inputs": ("residual", "residual")}),
    "slice": Slice(shape=(2, SIDE, SIDE), start=1, stop=3, **READING),
    "shuffle": ChannelShuffle(shape=(CHANNELS, SIDE, SIDE), groups=2, **READING),
    "flattening": Flatten(shape=(CHANNELS * SIDE**2,), **READING),
}


def literally(op: Node, residual: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """What `op` does to integers, place by place."""
    count = len(residual)
    if isinstance(op, MaxPool2d):
        (top, left), (down, right), (step, _) = op.padding, op.stride, op.dilation
        made = np.full((count, *op.shape), INT32_MIN, dtype=np.int64)
        for row, column in product(range(op.shape[1]), range(op.shape[2])):
            for y, x in product(range(op.kernel[0]), range(op.kernel[1])):
                place = row * down - top + y * step, column * right - left + x * step
                if min(place) >= 0 and max(place) < SIDE:
                    made[:, :, row, column] = np.maximum(made[:, :, row, column], residual[:, :, place[0], place[1]])
        return made
    if isinstance(op, Concat):
        return np.concatenate([residual, residual], 1)
    if isinstance(op, Slice):
        return residual[:, op.start : op.stop]
    if isinstance(op, ChannelShuffle):
        return residual.reshape(count, op.groups, -1, SIDE, SIDE).swapaxes(1, 2).reshape(count, *op.shape)
    assert isinstance(op, Flatten)
    return residual.reshape(count, -1)


@cache
def residual() -> tuple[IntegerModel, torch.Tensor]:
    """A convolution whose results lie far beyond 2**24, and images."""
    ratio = Multipliers(1_518_500_249 + 111_111_110 * np.arange(CHANNELS), np.full(CHANNELS, 15))
    weight = np.array([-127, 127, 3, -5], np.int8).reshape(CHANNELS, 1, 1, 1)
    ops = (
        ReciprocalQuantize(name="input", inputs=(), shape=(1, SIDE, SIDE), place="", scale=0.01, low=-128, high=127),
        IntegerConv2d(
            name="residual", inputs=("input",), rescale=Rescale(ratio, INT32_MIN, INT32_MAX), weight_bits=8,
            bias=np.array([3, -2, 0, 9], np.int32), weight=weight, dilation=(1, 1), groups=1,
            shape=(CHANNELS, SIDE, SIDE), place="", **ONCE,
        ),
    )  # fmt: skip
    formats = {"input": BYTE, "residual": WIDE}
    model = IntegerModel(
        "residual", Scheme.uniform(["residual"], Precision(8, 8)), ops, formats, single_output("residual")
    )
    generator = torch.Generator().manual_seed(0)
    return model, torch.randint(-130, 130, (3, 1, SIDE, SIDE), generator=generator) * 0.01


@pytest.mark.parametrize("kind", MOVES)
def test_no_bit_is_lost(kind: str, tmp_path: Path) -> None:
    """The integers are those of a literal twin, though most of them are no float32 numbers."""
    (alone, images), op = residual(), MOVES[kind]
    model = replace(
        alone, ops=(*alone.ops, op), formats={**alone.formats, "moved": WIDE}, outputs=single_output("moved")
    )
    expected = literally(op, run(alone, images).numpy().astype(np.int64))
    assert np.abs(expected).max() > 2 * FLOAT32_EXACT
    assert (expected.astype(np.float32).astype(np.int64) != expected).mean() > 0.2
    assert np.array_equal(run(model, images).numpy(), expected)
    assert np.array_equal(prepare(model).run(images).numpy(), expected)
    for name in ("onnxruntime", "litert"):  # TVM has them in int32, the others refuse their multipliers
        engine = ENGINES[name]
        path = tmp_path / f"{name}{engine.form.suffix}"
        if name == "litert" and isinstance(op, MaxPool2d):
            with pytest.raises(
                ExportError, match=r"maxima in float32, which holds 2\*\*24, but 'residual' can reach \d+"
            ):
                engine.form.export(model, path)
        elif engine.installed:
            engine.form.export(model, path)
            assert np.array_equal(load_engine(name, path)(images.numpy()), expected)
