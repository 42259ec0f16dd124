# SPDX-License-Identifier: MIT
"""Quantizers: rounding errors, gradients of learned scales, moving ranges."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bitwright.errors import TrainingError
from bitwright.graph import Graph, capture
from bitwright.integer import run
from bitwright.quantizer import TensorFormat
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize
from bitwright.training.quantizers import ActivationQuantizer, QuantizerSettings, Ranges, WeightQuantizer
from integer.certified import certified
from training.small import digits, small_graph, small_quantized

BITS = st.integers(2, 8)
WEIGHTS = st.lists(st.floats(-4, 4, width=32), min_size=6, max_size=6)


@given(WEIGHTS, BITS, st.sampled_from(list(Ranges)))
def test_errors_are_half_a_step_inside_the_range(values: list[float], bits: int, ranges: Ranges) -> None:
    """Weights within the range are off by half a step at most, zero is exact, and integers stay within the format."""
    weight = torch.tensor(values).reshape(2, 3)
    quantizer = WeightQuantizer(2, bits, QuantizerSettings(ranges=ranges)).eval()
    quantizer.calibrate(weight)
    integers, scale = quantizer(weight)
    assert bool((integers == integers.round()).all())
    assert int(integers.min()) >= quantizer.format.quant_min
    assert int(integers.max()) <= quantizer.format.quant_max
    assert bool((integers[weight == 0] == 0).all())
    columns = scale[:, None]
    inside = (weight >= columns * quantizer.format.quant_min) & (weight <= columns * quantizer.format.quant_max)
    error = (integers * columns - weight).abs()
    assert bool((error <= columns * 0.5 * (1 + 1e-5))[inside].all())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_gradient_of_a_learned_scale_is_that_of_the_paper(bits: int) -> None:
    """LSQ, equation 3: `round(v / s) - v / s` inside the clamp range, its ends outside, times 1 / sqrt(elements * levels).

    Where that is more than 1 / levels**2, as here at 4 and 8 bits, this is the factor.
    """
    weight = torch.linspace(-3, 3, 24).reshape(2, 12).double()
    quantizer = WeightQuantizer(2, bits).double().train()
    with torch.no_grad():
        quantizer.scale.fill_(0.37)
    integers, scale = quantizer(weight)
    upstream = torch.linspace(1, 2, 24).reshape(2, 12).double()
    (integers * scale[:, None] * upstream).sum().backward()

    def literal(value: Tensor) -> Tensor:
        ratio = value / 0.37
        if ratio <= quantizer.format.quant_min:
            return torch.tensor(float(quantizer.format.quant_min))
        if ratio >= quantizer.format.quant_max:
            return torch.tensor(float(quantizer.format.quant_max))
        return ratio.round() - ratio

    factor = min((12 * quantizer.format.quant_max) ** -0.5, quantizer.format.quant_max**-2)
    assert (factor == quantizer.format.quant_max**-2) == (bits != 2)
    expected = [
        factor * sum(float(literal(value)) * float(up) for value, up in zip(row, ups, strict=True))
        for row, ups in zip(weight, upstream, strict=True)
    ]
    assert quantizer.scale.grad is not None
    torch.testing.assert_close(quantizer.scale.grad, torch.tensor(expected).double())


class Branches(nn.Module):
    """Three branches of different ranges, concatenated in one order and computed in another."""

    def __init__(self, computed: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 3, 1)
        self.branches = nn.ModuleDict({name: nn.Conv2d(3, 2, 1) for name in "abc"})
        self.last = nn.Conv2d(6, 3, 1)
        self.computed = computed
        with torch.no_grad():
            self.branches["b"].weight.mul_(8)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images).relu()
        found = {name: self.branches[name](features).relu() for name in self.computed}
        pooled = nn.functional.max_pool2d(torch.cat([found["a"], found["b"]], 1), 2)
        return self.last(torch.cat([pooled, nn.functional.max_pool2d(found["c"], 2)], 1))


@cache
def branches(computed: str) -> Graph:
    """The network, captured."""
    return capture(Branches(computed).eval(), (1, 4, 4))


@pytest.mark.parametrize("momentum", [0.5, 0.99, -1])
@pytest.mark.parametrize("percentile", [None, 90.0])
def test_a_shared_scale_moves_once_a_batch(momentum: float, percentile: float | None) -> None:
    """Tensors that are concatenated are worth the same within a batch; the order in which they are computed has no part in it."""
    images = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    logits, scales = [], []
    for computed in ("abc", "cba", "bac"):
        graph = branches(computed)
        scheme = Scheme.uniform(graph.layers, Precision(4, 4))
        model = quantize(graph, scheme, ranges="ema", momentum=momentum, act_percentile=percentile)
        calibrate(model, [images], "minmax")  # the others draw samples, in the order of the nodes
        (shared,) = model.plan.shared()
        before = model.activation_quantizer(shared).scale.clone()
        seen: list[tuple[str, Tensor]] = []
        with torch.no_grad():
            model.train()
            logits.append(model(30 * images, observe=lambda name, found, seen=seen: seen.append((name, found.scale))))
        together = [scale for name, scale in seen if model.plan.quantizer_of[name] == shared]
        assert len(together) == 7  # of convolutions, concatenations and pools
        assert all(scale.equal(before) for scale in together)
        scales.append(model.activation_quantizer(shared).scale)
        assert not scales[-1].equal(before)
    assert all(found.equal(logits[0]) for found in logits)
    assert all(scale.equal(scales[0]) for scale in scales)


def test_the_gradient_of_weights_passes_inside_and_stops_outside() -> None:
    """Straight through, but for weights that the clamp holds."""
    weight = torch.tensor([[-9.0, -0.3, 0.2, 9.0]], requires_grad=True)
    quantizer = WeightQuantizer(1, 4, QuantizerSettings(ranges=Ranges.FIXED))
    integers, scale = quantizer(weight)
    (integers * scale[:, None]).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


@given(BITS, st.booleans(), st.floats(0.01, 0.99))
def test_a_moving_range_is_a_weighted_mean(bits: int, signed: bool, momentum: float) -> None:
    """`ema` moves the scale towards what the batch needs; a format without negatives ignores the low end."""
    spec = TensorFormat.of(bits, negative=signed)
    quantizer = ActivationQuantizer(spec, QuantizerSettings(ranges=Ranges.EMA, momentum=momentum))
    quantizer.observe(torch.tensor(-5.0), torch.tensor(3.0))
    need = max(3 / spec.quant_max, -5 / spec.quant_min) if signed else 3 / spec.quant_max
    assert float(quantizer.scale) == pytest.approx(momentum + (1 - momentum) * need, rel=1e-5)


def test_a_running_maximum_never_shrinks() -> None:
    """Momentum -1 keeps the widest range seen."""
    quantizer = ActivationQuantizer(TensorFormat.unsigned(8), QuantizerSettings(ranges=Ranges.EMA, momentum=-1))
    for high, expected in ((510.0, 2.0), (255.0, 2.0), (765.0, 3.0)):
        quantizer.observe(torch.tensor(0.0), torch.tensor(high))
        assert float(quantizer.scale) == expected


def test_a_scale_that_is_not_finite_stops_with_its_name() -> None:
    """A diverged training names the tensor, in one line."""
    model = small_quantized().train()
    with torch.no_grad():
        model.activation_quantizer("down.0").scale.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"the scale of 'down\.0' became nan: the training diverged"):
        model(digits().calibration(4)[0])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("elements", [9, 576])
def test_no_scale_moves_faster_than_a_clipped_weight(bits: int, elements: int) -> None:
    """One step of descent changes a channel's scale by no larger part than it changes the weight that is clipped."""
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(1, elements, generator=generator)
    weight[0, 0] = 4.0
    weight.requires_grad_(True)
    quantizer = WeightQuantizer(1, bits).train()
    with torch.no_grad():
        quantizer.scale.fill_(4.0 / (quantizer.format.quant_max + 0.5))  # clipped for certain
    integers, scale = quantizer(weight)
    pull = torch.zeros(1, elements)
    pull[0, 0] = 1.0
    (integers * scale[:, None] * pull).sum().backward()
    assert quantizer.scale.grad is not None
    relative_step = float(quantizer.scale.grad.abs() / quantizer.scale.detach())
    assert 0 < relative_step <= (1 + 0.5 / quantizer.format.quant_max) / 4.0 * (1 + 1e-6)


captured = cache(small_graph)


def ema(**options: Any) -> QuantizedModel:
    """The small network at W4A4 with moving ranges, calibrated."""
    graph = captured()
    scheme = Scheme.uniform(graph.layers, Precision(4, 4))
    return calibrate(quantize(graph, scheme, ranges="ema", **options), [digits().calibration(64)[0]], "minmax")


@given(st.floats(0.5, 100.0), st.booleans(), st.integers(1, 40))
def test_a_percentile_moves_the_range(percentile: float, signed: bool, count: int) -> None:
    """A batch's range ends at its value of rank round(N p / 100), and below at that of this rank from above."""
    spec = TensorFormat.of(8, negative=signed)
    settings = QuantizerSettings(ranges=Ranges.EMA, momentum=0.0, act_percentile=percentile)
    quantizer = ActivationQuantizer(spec, settings)
    values = torch.randn(1, 1, count, generator=torch.Generator().manual_seed(count))
    quantizer.follow(values, torch.tensor([0.5]))
    ordered = (0.5 * values).flatten().sort().values.tolist()
    rank = max(1, round(count * percentile / 100)) - 1
    low, high = ordered[::-1][rank], ordered[rank]
    need = max(high / spec.quant_max, low / spec.quant_min) if signed else high / spec.quant_max
    assert float(quantizer.scale) == pytest.approx(max(need, torch.finfo(torch.float32).tiny))


def test_a_percentile_follows_every_batch() -> None:
    """In training the ranges of a network move with each batch's percentile; they are narrower than by extremes."""
    wide, narrow = ema(momentum=0.5), ema(momentum=0.5, act_percentile=90.0)
    images = digits().calibration(96)[0]
    scales = []
    for model in (wide, narrow):
        for batch in images.split(32):
            model.train()(batch)
            scales.append(float(model.activation_quantizer("down.0").scale))
    assert len(set(scales)) == 6
    assert all(small < large for small, large in zip(scales[3:], scales[:3], strict=True))


@given(st.floats(0.5, 100.0), st.sampled_from([2, 4, 8]), st.integers(1, 30))
def test_a_percentile_of_weights(percentile: float, bits: int, count: int) -> None:
    """Per channel, the limits have the ranks ceil(N p / 100) and ceil(N (100 - p) / 100); the farther is the last integer."""
    weight = torch.randn(3, count, generator=torch.Generator().manual_seed(count))
    quantizer = WeightQuantizer(3, bits, QuantizerSettings(ranges=Ranges.EMA, weight_percentile=percentile)).train()
    quantizer(weight)
    for row, scale in zip(weight, quantizer.scale, strict=True):
        ordered = row.sort().values.tolist()
        high, low = (ordered[max(1, math.ceil(count * part / 100)) - 1] for part in (percentile, 100 - percentile))
        need = max(high / quantizer.format.quant_max, low / quantizer.format.quant_min)
        extreme = max(ordered[-1] / quantizer.format.quant_max, ordered[0] / quantizer.format.quant_min)
        assert float(scale) == pytest.approx(need if need > 0 else extreme)


def test_weights_without_batch_norm_are_not_clipped() -> None:
    """The percentile of weights is of layers with batch norm, as published: the classifier keeps its largest weight."""
    whole, clipped = ema(), ema(weight_percentile=80.0)
    same = {
        name: torch.equal(whole.weight_quantizer(name).scale, clipped.weight_quantizer(name).scale)
        for name in whole.plan.graph.layers
    }
    assert same == {name: name == "fc" for name in same}


def test_one_scale_for_a_layer() -> None:
    """Without a scale for each channel all have that of the widest, and the lowered model has the integers of the trained one."""
    each, one = ema(), ema(per_channel=False)
    for name in one.plan.graph.layers:
        found = one.weight_quantizer(name).scale
        assert found.tolist() == [float(each.weight_quantizer(name).scale.max())] * len(found)
    images = digits().calibration(16)[0]
    integer = certified(one)
    assert torch.equal(run(integer, images).double() * torch.from_numpy(integer.outputs["logits"].unit), one(images))


@pytest.mark.parametrize("bits", [4, 8])
def test_narrow_biases_are_clamped(bits: int) -> None:
    """Biases of few bits saturate at the limit of these bits, in training and, the same integers, after lowering."""
    free, narrow = ema(free_norm=False), ema(free_norm=False, bias_bits=bits)
    limit = 2 ** (bits - 1) - 1
    lowered = {model: certified(model) for model in (free, narrow)}
    largest = {model: max(int(abs(op.bias).max()) for op in made.layers().values()) for model, made in lowered.items()}
    assert largest[narrow] == limit < largest[free]
    images = digits().calibration(16)[0]
    integer = lowered[narrow]
    assert torch.equal(run(integer, images).double() * torch.from_numpy(integer.outputs["logits"].unit), narrow(images))
    assert not torch.equal(narrow.train()(images), free.train()(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.5}, "a momentum of ranges from 0 to 1, or -1, got 1.5"),
        ({"act_percentile": 0.0}, "percentile of activation ranges above 0 and at most 100, got 0.0"),
        ({"weight_percentile": 101.0}, "percentile of weight ranges above 0 and at most 100, got 101.0"),
        ({"bias_bits": 1}, "biases of 2 to 32 bits, got 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    """Each is named with what it may be; all others are kept as given."""
    with pytest.raises(TrainingError, match=message):
        QuantizerSettings(**options)
    assert asdict(QuantizerSettings(momentum=1)) == {**QuantizerSettings().to_dict(), "momentum": 1}


class Readings(TorchDispatchMode):
    """Counts how often a number is read from a tensor, each of which waits for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def deep(layers: int) -> QuantizedModel:
    """Convolutions with batch norm and SiLU, whose windows are asymmetric, calibrated."""
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU()) for _ in range(layers)]
    network = nn.Sequential(nn.Conv2d(1, 8, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    graph = capture(network.eval(), (1, 8, 8))
    model = quantize(graph, Scheme.uniform(graph.layers, Precision.parse("W4A4")))
    return calibrate(model, [torch.randn(64, 1, 8, 8)]).train()


def test_a_pass_reads_its_numbers_together() -> None:
    """However many tensors there are: a GPU is not waited for once for each."""
    counts = []
    for layers in (2, 6):
        model = deep(layers)
        with Readings() as readings:
            model(torch.randn(4, 1, 8, 8)).sum().backward()
        counts.append(readings.count)
    assert counts[0] == counts[1] <= 4


def test_numbers_are_read_anew_in_every_pass() -> None:
    """A scale and a window that changed since the last pass are those of the next, and of what is asked in between."""
    model, images = deep(2), torch.randn(16, 1, 8, 8)
    quantizers = [q for q in model.activations.values() if isinstance(q, ActivationQuantizer)]
    before = model(images).detach()
    with torch.no_grad():
        for quantizer in quantizers:
            quantizer.scale.mul_(1.5)
            if quantizer.asymmetric:
                quantizer.quant_min.sub_(1)
    again = copy.deepcopy(model)
    assert torch.equal(model(images), again(images))
    assert not torch.equal(model(images), before)
    assert all(quantizer.step() == float(quantizer.scale.detach()) for quantizer in quantizers)
    assert any(quantizer.asymmetric for quantizer in quantizers)
