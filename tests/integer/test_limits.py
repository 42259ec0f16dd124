# SPDX-License-Identifier: MIT
"""One size on each side of every limit at which another arithmetic, or another proof, takes over: the same integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import LoweringError
from bitwright.graph import capture
from bitwright.integer import IntegerModel, Multipliers, QuantParams, prepare, run
from bitwright.integer.execution.exact_sums import int8_exact
from bitwright.integer.ops import IntegerAvgPool2d, IntegerConv2d, IntegerRequantize, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.bounds import FLOAT32_EXACT, SATURATING_SUM, largest_pair_sum
from bitwright.integer.proof.certificate import EXHAUSTIVE, certify_requantize
from bitwright.integer.proof.recheck import recheck
from bitwright.integer.proof.theorems import max_short_shift
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from graph.networks import randomized
from integer.certified import certified


class Pooled(nn.Module):
    """A row of values, averaged as one window."""

    def __init__(self, area: int) -> None:
        super().__init__()
        self.first, self.pool, self.last = nn.Conv2d(1, 1, 1), nn.AvgPool2d((1, area)), nn.Conv2d(1, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.pool(self.first(images).relu())).flatten(1)  # type: ignore[no-any-return]


class PooledStream(nn.Module):
    """A residual that an addition and a pooling read."""

    def __init__(self, area: int) -> None:
        super().__init__()
        self.first, self.second, self.third, self.fourth = (nn.Conv2d(1, 1, 1) for _ in range(4))
        self.pool, self.last = nn.AvgPool2d((1, area)), nn.Conv2d(2, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = (self.first(images) + self.second(images)).relu()
        y = self.fourth((x + self.third(x)).relu()).relu()
        return self.last(torch.cat([self.pool(x), self.pool(y)], 1)).flatten(1)  # type: ignore[no-any-return]


def assert_lowered_as_trained(network: nn.Module, width: int, residual_bits: int) -> IntegerModel:
    """The trained model, the reference and the fast executor agree in every tensor, on the largest image too."""
    torch.manual_seed(width)
    graph = capture(randomized(network), (1, 1, width))
    images = torch.cat(
        [torch.randn(6, 1, 1, width), torch.full((1, 1, 1, width), 9.0), torch.full((1, 1, 1, width), -9.0)]
    )
    layers = Scheme.uniform(graph.layers, Precision(8, 8)).layers
    model = calibrate(quantize(graph, Scheme("limits", layers, residual_bits)), [images[:6]], "minmax")
    integer = certified(model)
    recheck(integer)
    kept: list[dict[str, Tensor]] = [{}, {}, {}]
    with torch.no_grad():
        model(images, lambda name, value: kept[0].__setitem__(name, value.values.clone()))
    run(integer, images, lambda name, value: kept[1].__setitem__(name, value.clone()))
    prepare(integer).run(images, lambda name, value: kept[2].__setitem__(name, value.clone()))
    for name, values in kept[1].items():
        assert torch.equal(values.double(), kept[0][name].double()), name
        assert torch.equal(values.double(), kept[2][name].double()), name
    return integer


@pytest.mark.parametrize("area", [257, 258, 514, 515])
def test_averages_of_bytes(area: int) -> None:
    """All sums of 257 bytes are tried, of more a theorem speaks; no area between is refused."""
    model = assert_lowered_as_trained(Pooled(area), area, 8)
    (pool,) = (op for op in model if isinstance(op, IntegerAvgPool2d))
    assert bool(model.facts[pool.name]["exhaustive"]) == (255 * area < EXHAUSTIVE) == (area == 257)


@pytest.mark.parametrize("area", [1, 2, 256, 257])
def test_averages_of_streams(area: int) -> None:
    """Windows of one and two values of 16 bits, and of as many as float32 holds the sum of, and one more."""
    model = assert_lowered_as_trained(PooledStream(area), area, 16)
    pool = next(op for op in model if isinstance(op, IntegerAvgPool2d))
    params = model.formats[pool.inputs[0]]
    assert params.format == TensorFormat.unsigned(16)
    assert (area * params.quant_max > FLOAT32_EXACT) == (area == 257)


@pytest.mark.parametrize("span", [EXHAUSTIVE - 1, EXHAUSTIVE])
def test_tensors_are_tried_or_proved(span: int) -> None:
    """The last tensor whose values are all tried, and the first that a theorem is for; both hold for every value."""
    certified = certify_requantize(0.00271, -5, span - 5, 0, 255)
    assert certified.theorem == (("exhaustive",) if span < EXHAUSTIVE else ("B",))
    values = np.arange(-5, span - 4)
    exact = np.array([int(certified.multipliers.multiplier[0]) * int(value) for value in values], dtype=object)
    shift = int(certified.multipliers.shift[0])
    expected = [max(0, min(255, round(value / 2**shift))) for value in map(int, exact)]
    got = np.clip(np.rint(values.astype(np.float32) * certified.multipliers.as_float32()), 0, 255)
    assert got.astype(int).tolist() == expected
    with pytest.raises(LoweringError, match="bounds within int32"):
        certify_requantize(0.5, 0, 2**31, 0, 255)


def one_layer(weight: npt.NDArray[np.int8], bias: int, multiplier: int, shift: int) -> IntegerModel:
    """A 1 x 1 convolution of bytes, requantized to 16 bits."""
    channels = weight.size
    params, wide = QuantParams.unsigned(8, 1.0), QuantParams.symmetric(16, 1.0)
    rescale = Rescale(Multipliers(np.array([multiplier]), np.array([shift])), wide.quant_min, wide.quant_max)
    ops = (
        Quantize(name="images", inputs=(), shape=(channels, 1, 1), scale=1.0, low=params.quant_min, high=params.quant_max),
        IntegerConv2d(
            name="layer", inputs=("images",), shape=(1, 1, 1), rescale=rescale, weight=weight.reshape(1, channels, 1, 1),
            weight_bits=8, bias=np.array([bias], np.int32), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1,
        ),
    )  # fmt: skip
    return IntegerModel("one", Scheme("none", {}), ops, {"images": params, "layer": wide}, single_output("layer"))


def assert_prepared(model: IntegerModel) -> None:
    """Both executors agree, at the ends of the bytes and between."""
    channels = model.input_shape[0]
    images = torch.stack([torch.full((channels, 1, 1), float(value)) for value in range(256)])
    assert torch.equal(prepare(model).run(images), run(model, images))


@pytest.mark.parametrize("beyond", [0, 1])
def test_products_beyond_float64(beyond: int) -> None:
    """The largest accumulator whose product with 31 bits float64 holds, and the next one."""
    multiplier = 2**31 - 1
    largest = 2**53 // multiplier
    assert_prepared(one_layer(np.array([1], np.int8), largest - 255 + beyond, multiplier, 38))


@pytest.mark.parametrize("beyond", [0, 1])
def test_sums_beyond_float32(beyond: int) -> None:
    """The largest sum that float32 holds, and the next one, with a multiplier of which all integers are asked."""
    assert_prepared(one_layer(np.array([1], np.int8), FLOAT32_EXACT - 255 + beyond, 12_345_679, 33))


@pytest.mark.parametrize("beyond", [0, 1])
def test_short_multipliers(beyond: int) -> None:
    """The longest shift of theorem A for signed 16 bits, and the next one."""
    shift = max_short_shift(-(2**15), 2**15 - 1) + beyond
    assert_prepared(one_layer(np.array([127, 3], np.int8), -5, 2**shift // 2 + 1, shift))


@pytest.mark.parametrize(("second", "safe"), [(64, True), (65, False)])
def test_pairs_that_saturate(second: int, safe: bool) -> None:
    """Two weights whose products of bytes fill 16 bits, and one more."""
    weight = np.array([[64, second]], np.int8)
    params = QuantParams.unsigned(8, 1.0)
    assert (largest_pair_sum(weight, params) <= SATURATING_SUM) == safe
    if safe:
        assert int8_exact(weight, params) == int8_exact(np.zeros((1, 1), np.int8), params)
    assert_prepared(one_layer(weight, 0, 3, 1))


def test_magnitudes_beyond_bytes() -> None:
    """Inputs of 8 bits run on the kernels for bytes, of 9 on others."""
    for bits in (8, 9):
        params, out = QuantParams.unsigned(bits, 1.0), QuantParams.unsigned(8, 1.0)
        half = Rescale(Multipliers(np.array([1]), np.array([bits - 7])), 0, 255)
        ops = (
            Quantize(name="images", inputs=(), shape=(4, 1, 1), scale=1.0, low=0, high=params.quant_max),
            IntegerRequantize(name="half", inputs=("images",), shape=(4, 1, 1), rescale=half),
        )
        assert_prepared(
            IntegerModel("one", Scheme("none", {}), ops, {"images": params, "half": out}, single_output("half"))
        )
