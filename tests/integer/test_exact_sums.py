# SPDX-License-Identifier: MIT
"""Sums of products are exact on every kernel, up to the very bounds that allow it; and so is what is done block by block."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitwright.integer import QuantParams
from bitwright.integer.execution.blockwise import blocks, scale_round_, weighted_sum
from bitwright.integer.execution.exact_sums import ExactSums
from bitwright.integer.ops import IntegerConv2d, IntegerLinear
from bitwright.integer.proof.bounds import exact_parts
from bitwright.quantizer.formats import TensorFormat

CPU = torch.device("cpu")


def convolution(
    weight: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], groups: int = 1, stride: int = 1
) -> IntegerConv2d:
    """A layer with padding, so that zeros are among its inputs."""
    pad = weight.shape[2] // 2
    return IntegerConv2d(
        name="layer", inputs=("input",), shape=(len(weight), 9, 9), place="here", rescale=None, weight=weight,
        weight_bits=8, bias=bias, stride=(stride, stride), padding=(pad, pad), dilation=(1, 1), groups=groups,
    )  # fmt: skip


def extremes(params: QuantParams, channels: int, weight: npt.NDArray[np.int8]) -> Tensor:
    """Random images, and ones that drive the first output to its largest and smallest sum."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(params.quant_min, params.quant_max + 1, (5, channels, 9, 9), generator=generator)
    signs = torch.from_numpy(weight[0].astype(np.int64)).sum((1, 2)) > 0
    column = torch.where(signs, params.quant_max, params.quant_min).reshape(-1, 1, 1)
    images[0, : len(column)], images[1, : len(column)] = column, params.quant_max + params.quant_min - column
    images[2] = params.quant_max
    return images


def literal(op: IntegerConv2d, images: Tensor) -> Tensor:
    """The sums in int64."""
    weight, bias = torch.from_numpy(op.weight.astype(np.int64)), torch.from_numpy(op.bias.astype(np.int64))
    return F.conv2d(images, weight, bias, op.stride, op.padding, op.dilation, op.groups)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(1, 8, 1), (3, 16, 3), (64, 8, 1), (160, 8, 3), (700, 4, 1), (1100, 3, 1), (300, 4, 3)]),
    st.integers(2, 8), st.booleans(), st.sampled_from([3, 63, 64, 65, 127]), st.sampled_from([1, 2]),
    st.sampled_from([0, 1000, 2**24, 2**30]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_kernel_is_exact(
    shape: tuple[int, int, int], bits: int, signed: bool, most: int, stride: int, largest_bias: int, seed: int
) -> None:
    """int64 convolution gives the same sums, rounded once to float32 and as they are."""
    inputs, outputs, side = shape
    random = np.random.default_rng(seed)
    weight = random.integers(-most, most + 1, (outputs, inputs, side, side)).astype(np.int8)
    weight[0] = np.where(random.random((inputs, side, side)) < 0.1, -most, most)
    bias = random.integers(-largest_bias, largest_bias + 1, outputs).astype(np.int32)
    params = QuantParams(TensorFormat.of(bits, negative=signed), 0.1)
    op = convolution(weight, bias, stride=stride)
    images = extremes(params, inputs, weight)
    sums = ExactSums(op, params, (inputs, 9, 9), CPU)
    expected = literal(op, images)
    assert torch.equal(sums.exact(images.float()).double(), expected.double())
    assert torch.equal(sums.rounded(images.float()), expected.float())


@pytest.mark.parametrize("inputs", [1000, 1100, 2200])
def test_signed_inputs_of_bytes(inputs: int) -> None:
    """Weights of one sign and inputs near their end: oneDNN's sums of stored bytes are about twice those of the layer."""
    random = np.random.default_rng(0)
    weight = np.full((4, inputs, 1, 1), 63, dtype=np.int8)
    weight[:, 0] = [[[1]], [[-1]], [[2]], [[3]]]
    op = convolution(weight, np.array([0, 1, -5, 77], dtype=np.int32))
    params = QuantParams.symmetric(8, 0.1)
    images = torch.from_numpy(random.integers(120, 128, (4, inputs, 9, 9)))
    sums = ExactSums(op, params, (inputs, 9, 9), CPU)
    expected = literal(op, images)
    assert torch.equal(sums.exact(images.float()).double(), expected.double())
    assert torch.equal(sums.rounded(images.float()), expected.float())


@pytest.mark.parametrize(("groups", "inputs"), [(16, 16), (4, 32)])
def test_grouped_convolutions(groups: int, inputs: int) -> None:
    """Depthwise and grouped ones too."""
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (32, inputs // groups, 3, 3)).astype(np.int8)
    op = convolution(weight, np.arange(32, dtype=np.int32), groups)
    params = QuantParams.symmetric(8, 0.1)
    images = extremes(params, inputs, weight)
    assert torch.equal(ExactSums(op, params, (inputs, 9, 9), CPU).rounded(images.float()), literal(op, images).float())


def test_linear_layers_are_cut_along_their_features() -> None:
    """A matrix product with too long sums: three parts, for vectors and for rows of vectors."""
    weight = np.full((3, 1400), 127, dtype=np.int8)
    op = IntegerLinear(
        name="layer", inputs=("input",), shape=(3,), place="here", rescale=None, weight=weight, weight_bits=8,
        bias=np.array([1, -5, 7], dtype=np.int32),
    )  # fmt: skip
    sums = ExactSums(op, QuantParams.unsigned(8, 0.1), (1400,), CPU)
    assert (len(sums.kernels), sums.kind) == (3, "float32")
    for values in (torch.full((2, 1400), 255.0), torch.full((2, 5, 1400), 255.0)):
        expected = 1400 * 127 * 255 + torch.tensor([1, -5, 7])
        assert torch.equal(sums.exact(values), expected.double().expand(*values.shape[:-1], 3))


def test_wide_inputs_are_added_in_float64() -> None:
    """Sixteen-bit inputs have products that TF32 and bfloat16 would round."""
    weight = np.full((1, 2, 1, 1), 127, dtype=np.int8)
    op = convolution(weight, np.zeros(1, dtype=np.int32))
    sums = ExactSums(op, QuantParams.symmetric(16, 0.1), (2, 9, 9), CPU)
    assert sums.kind == "float64"
    assert torch.equal(
        sums.exact(torch.full((1, 2, 9, 9), -32768.0)), torch.full((1, 1, 9, 9), -2.0 * 127 * 32768).double()
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 2**20, 2**24 - 1]),
    st.booleans(),
)
def test_parts_stay_within_float32(inputs: int, outputs: int, seed: int, largest_bias: int, stored: bool) -> None:
    """The parts follow one another, cover all channels, and none exceeds 2**24 at the worst inputs, as stored too if asked."""
    random = np.random.default_rng(seed)
    weight = random.integers(-128, 128, (outputs, inputs, 3, 3)).astype(np.int8)
    bias = random.integers(-largest_bias, largest_bias + 1, outputs).astype(np.int32)
    params = QuantParams(TensorFormat.of(8, negative=bool(seed % 2)), 0.1)
    parts = exact_parts(weight, bias, params, stored=stored)
    if parts is None:
        assert largest_bias
        return
    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert parts[-1][1] == inputs
    for start, stop in parts:
        rows = weight[:, start:stop].astype(np.int64).reshape(outputs, -1)
        offset = bias.astype(np.int64) if start == 0 else np.zeros(outputs, dtype=np.int64)
        for each in (params, params.stored) if stored else (params,):
            ends = np.sort(np.stack([rows * each.quant_min, rows * each.quant_max]), axis=0)
            assert (ends[1].sum(1) + offset.clip(min=0)).max() <= 2**24
            assert (ends[0].sum(1) + offset.clip(max=0)).min() >= -(2**24)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_blocks_change_nothing(layout: torch.memory_format, kind: torch.dtype, generator: torch.Generator) -> None:
    """Scaling and adding block by block are what they are at once, in both layouts, on more elements than a block has."""
    shape = (3, 40, 41, 37)
    first, second = (
        torch.randint(-(2**15), 2**15, shape, generator=generator).float().contiguous(memory_format=layout)
        for _ in range(2)
    )
    ratio = torch.rand(40, generator=generator, dtype=kind) / 64
    expected = (first.to(kind) * ratio.reshape(-1, 1, 1)).clamp(-128, 127).round().float()
    assert torch.equal(scale_round_(first.clone(memory_format=torch.preserve_format), ratio, -128, 127), expected)
    assert sum(block.numel() for block in blocks(first)) == first.numel()
    assert (len(blocks(first)) > 1) is (layout is torch.channels_last)
    total = (first / 256 + second / 512).clamp(0, 255).round()
    mixed = second.contiguous(memory_format=torch.contiguous_format)
    for other in (second, mixed):
        assert torch.equal(weighted_sum(first, other, (1 / 256, 1 / 512), 0, 255, reuse=False), total)
    assert torch.equal(weighted_sum(first, second, (1 / 256, 1 / 512), 0, 255, reuse=True), total)
