# SPDX-License-Identifier: MIT
"""Tiny networks in which one operation reads a tensor of one format and writes one of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bitwright.graph.nodes import ChannelShuffle, Concat, Flatten, MaxPool2d, Node, Slice
from bitwright.integer import IntegerModel, Multipliers, QuantParams
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerLayer,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    Rescale,
)
from bitwright.integer.outputs import single_output
from bitwright.scheme import Precision, Scheme

FORMATS = {
    "2 bits": QuantParams.symmetric(2, 2.0),
    "8 bits": QuantParams.unsigned(8, 1 / 64),
    "8 bits, signed": QuantParams.symmetric(8, 1 / 32),
    "16 bits": QuantParams.unsigned(16, 1 / 16384),
    "16 bits, signed": QuantParams.symmetric(16, 1 / 8192),
    "32 bits": QuantParams.symmetric(32, 1 / 8192),
}
MAKERS = ("input", "conv")
READERS = (
    "add", "average", "concat", "conv", "depthwise", "flatten", "itself", "linear", "max", "output", "requantize",
    "shuffle", "slice",
)  # fmt: skip
"""How an operation reads the tensor; `itself` adds it to itself, `output` is the network's end."""

CHANNELS, SIDE = 4, 6


def pairs(reader: str) -> Iterator[tuple[str, str, str, str]]:
    """Who makes a tensor, its format, who reads it, and the format of what that writes: all that can be written down."""
    rescaled = reader in ("add", "average", "conv", "depthwise", "itself", "linear", "requantize")
    for maker in MAKERS:
        for source in FORMATS:
            for result in FORMATS if rescaled else ("the same",):
                yield maker, source, reader, result


def network(maker: str, source: str, reader: str, result: str) -> IntegerModel:
    """The network of one pair, with multipliers that are powers of two: exact in every arithmetic that holds the sums."""
    made = FORMATS[source]
    formats = {"tensor": made}
    ops: list[Node] = []
    if maker == "input":
        ops.append(_quantize("tensor", made))
    else:
        formats["input"] = FORMATS["8 bits, signed"]
        ops += [_quantize("input", formats["input"]), _conv("tensor", "input", made)]
    if reader == "add":
        ops.insert(1, _requantize("other", ops[0].name, FORMATS["8 bits"]))
        formats["other"] = FORMATS["8 bits"]
    if reader == "linear":
        ops.append(Flatten(name="flat", inputs=("tensor",), shape=(CHANNELS * SIDE * SIDE,), place=""))
        formats["flat"] = made
    read = _reader(reader, FORMATS.get(result, made))
    name = "tensor"
    if read is not None:
        ops.append(read)
        name, formats["read"] = "read", FORMATS.get(result, made)
    layers = [op.name for op in ops if isinstance(op, IntegerLayer)]
    scheme = Scheme.uniform(layers or ["none"], Precision(8, 8))
    return IntegerModel("pair", scheme, tuple(ops), formats, single_output(name, np.array([formats[name].scale])))


def _reader(reader: str, result: QuantParams) -> Node | None:
    common: dict[str, Any] = {"name": "read", "inputs": ("tensor",), "place": "", "shape": (CHANNELS, SIDE, SIDE)}
    once = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    match reader:
        case "output":
            return None
        case "add":
            return _add("read", ("tensor", "other"), result)
        case "itself":
            return _add("read", ("tensor", "tensor"), result)
        case "requantize":
            return _requantize("read", "tensor", result)
        case "conv":
            return _conv("read", "tensor", result)
        case "depthwise":
            return _conv("read", "tensor", result, groups=CHANNELS)
        case "linear":
            weight = _weights(3, CHANNELS * SIDE * SIDE)
            flat: Any = {**common, "shape": (3,), "inputs": ("flat",)}
            return IntegerLinear(rescale=_rescale(result, 3), weight=weight, weight_bits=8, bias=_bias(3), **flat)
        case "average":
            return IntegerAvgPool2d(rescale=_rescale(result), kernel=(3, 3), stride=(1, 1), padding=(1, 1), **common)
        case "max":
            return MaxPool2d(kernel=(3, 3), ceil_mode=False, **once, **common)
        case "concat":
            return Concat(**{**common, "inputs": ("tensor", "tensor"), "shape": (2 * CHANNELS, SIDE, SIDE)})
        case "flatten":
            return Flatten(**{**common, "shape": (CHANNELS * SIDE * SIDE,)})
        case "slice":
            return Slice(**{**common, "shape": (2, SIDE, SIDE)}, start=1, stop=3)
        case "shuffle":
            return ChannelShuffle(groups=2, **common)
    raise ValueError(reader)


def _quantize(name: str, params: QuantParams) -> Node:
    return Quantize(
        name=name, inputs=(), shape=(CHANNELS, SIDE, SIDE), place="", scale=params.scale,
        low=params.quant_min, high=params.quant_max,
    )  # fmt: skip


def _conv(name: str, source: str, params: QuantParams, groups: int = 1) -> Node:
    weight = _weights(CHANNELS, CHANNELS // groups, 3, 3)
    common: dict[str, Any] = {"shape": (CHANNELS, SIDE, SIDE), "place": "", "rescale": _rescale(params, CHANNELS)}
    once = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    return IntegerConv2d(
        name=name, inputs=(source,), weight=weight, weight_bits=8, bias=_bias(CHANNELS), groups=groups, **once, **common
    )


def _add(name: str, sources: tuple[str, str], params: QuantParams) -> Node:
    return IntegerAdd(
        name=name, inputs=sources, shape=(CHANNELS, SIDE, SIDE), place="", multipliers=(3, 5), shift=2,
        low=params.quant_min, high=params.quant_max,
    )  # fmt: skip


def _requantize(name: str, source: str, params: QuantParams) -> Node:
    return IntegerRequantize(
        name=name, inputs=(source,), shape=(CHANNELS, SIDE, SIDE), place="", rescale=_rescale(params)
    )


def _rescale(params: QuantParams, channels: int = 1) -> Rescale:
    return Rescale(Multipliers(np.full(channels, 1), np.full(channels, 3)), params.quant_min, params.quant_max)


def _weights(*shape: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    return np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)


def _bias(channels: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.random.default_rng(1).integers(-1000, 1000, channels).astype(np.int32)
