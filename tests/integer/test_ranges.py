# SPDX-License-Identifier: MIT
"""The range of every tensor holds all that is seen, and is reached by the worst image."""

from __future__ import annotations

import numpy as np
import torch

from bitwright.graph.nodes import Concat
from bitwright.integer import IntegerModel, Multipliers, QuantParams, run
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerFloorAvgPool2d,
    IntegerRequantize,
    Quantize,
    Rescale,
)
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.ranges import tensor_ranges
from bitwright.scheme import Precision, Scheme

ONE = Multipliers(np.array([1]), np.array([0]))
WIDE = QuantParams.symmetric(32, 1.0)
BYTE = QuantParams.symmetric(8, 1.0)


def network() -> IntegerModel:
    """One pixel of one channel: times 100 and -3, summed with itself, halved, averaged."""

    def names(name: str, *inputs: str, channels: int = 1) -> dict:
        return {"name": name, "inputs": inputs, "shape": (channels, 1, 1), "place": ""}

    window = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0)}
    ops = (
        Quantize(**names("input"), scale=1.0, low=-128, high=127),
        IntegerConv2d(
            **names("conv", "input", channels=2),
            rescale=Rescale(Multipliers(np.array([3, 1]), np.array([1, 0])), INT32_MIN, INT32_MAX),
            weight=np.array([100, -3], np.int8).reshape(2, 1, 1, 1),
            weight_bits=8,
            bias=np.array([5, 0], np.int32),
            dilation=(1, 1),
            groups=1,
            stride=(1, 1),
            padding=(0, 0),
        ),
        IntegerAdd(**names("sum", "conv", "conv", channels=2), multipliers=(1, 2), shift=1, low=0, high=INT32_MAX),
        IntegerRequantize(
            **names("half", "sum", channels=2),
            rescale=Rescale(Multipliers(np.array([1]), np.array([1])), 0, 20_000),
        ),
        IntegerFloorAvgPool2d(**names("mean", "half", channels=2), **window),
        IntegerAvgPool2d(**names("pool", "mean", channels=2), rescale=Rescale(ONE, 0, 100), **window),
        Concat(**names("both", "pool", "conv", channels=4)),
    )
    formats = {op.name: BYTE if op.name == "input" else WIDE for op in ops}
    scheme = Scheme.uniform(["conv"], Precision(8, 8))
    return IntegerModel("test", scheme, ops, formats, single_output("both"))


def test_ends_are_reached() -> None:
    """The two extreme images, and the one at zero, reach both ends of every tensor."""
    model = network()
    seen: dict[str, list[int]] = {}
    images = torch.arange(-128.0, 128.0).reshape(-1, 1, 1, 1)
    run(model, images, observe=lambda name, values: seen.update({name: [int(values.min()), int(values.max())]}))
    ranges = tensor_ranges(model)
    assert ranges == {name: tuple(ends) for name, ends in seen.items()}
    assert ranges["conv"] == (round((-12_800 + 5) * 3 / 2), round((12_700 + 5) * 3 / 2))
    assert ranges["half"] == (0, 14294)  # a half, to even
    assert ranges["both"] == (ranges["conv"][0], ranges["conv"][1])
