# SPDX-License-Identifier: MIT
"""Compensated rounding: what a weight loses, others take up, so that layers give the float network's results."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bitwright.errors import DataError, TrainingError
from bitwright.graph import Graph, capture
from bitwright.graph.execute import execute
from bitwright.graph.nodes import Conv2d, Layer
from bitwright.integer import run
from bitwright.quantizer.formats import TensorFormat
from bitwright.reconstruction import compensate_rounding, compensated_weights, compensation
from bitwright.reconstruction import damping as damping_module
from bitwright.reconstruction import second_moments as second_moments_of
from bitwright.reconstruction.compensated_weights import compensated, damped, refitted
from bitwright.reconstruction.damping import DAMPINGS, USUAL, cross_validated
from bitwright.reconstruction.second_moments import SecondMoments, joined, parted, second_moments
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize
from bitwright.training.quantized import Quantized
from integer.certified import certified
from reconstruction.test_bias_correction import Twice, folded
from training.small import digits, small_graph

WINDOW = TensorFormat(3, -3, 3)


def moments_of(rows: Tensor) -> Tensor:
    """Shape (groups, results, weights) to (groups, weights, weights)."""
    return rows.transpose(1, 2) @ rows / rows.shape[1]


def correlated(groups: int, weights: int, seed: int, results: int = 50) -> tuple[Tensor, Tensor]:
    """Weights of three channels a group, and what they are multiplied by."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, weights, weights, generator=generator, dtype=torch.float64)
    rows = torch.randn(groups, results, weights, generator=generator, dtype=torch.float64) @ mixing
    return 2 * torch.randn(groups, 3, weights, generator=generator, dtype=torch.float64), rows


def literal(weight: Tensor, matrix: Tensor, window: TensorFormat) -> Tensor:
    """Optimal brain surgery, of one channel: the inverse for the weights that are left is computed anew for each of them."""
    made = weight.clone()
    left = matrix.diagonal().argsort(descending=True).tolist()
    while left:
        inverse = torch.linalg.inv(matrix[left][:, left])
        integer = made[left[0]].round().clamp(window.quant_min, window.quant_max)
        lost, made[left[0]] = made[left[0]] - integer, integer
        changed = made[left[1:]] - lost / inverse[0, 0] * inverse[0, 1:]
        left = left[1:]
        made[left] = changed
    return made


@given(groups=st.integers(1, 3), weights=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_all_channels_at_once_are_the_literal_ones(groups: int, weights: int, columns: int, seed: int) -> None:
    """Of groups, in any number of parts."""
    weight, rows = correlated(groups, weights, seed)
    moments = moments_of(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compensated_weights, "COLUMNS", columns)
        made = compensated(weight, moments, WINDOW, USUAL)
    for group in range(groups):
        for channel in range(3):
            wanted = literal(weight[group, channel], damped(moments, USUAL)[group], WINDOW)
            assert torch.equal(made[group, channel], wanted)


def test_results_lose_less_than_by_the_nearest_integers() -> None:
    """Well below, in the mean over such layers."""

    def lost(integers: Tensor, weight: Tensor, rows: Tensor) -> float:
        return float((rows @ (integers - weight).transpose(1, 2)).square().mean())

    nearest, found = 0.0, 0.0
    for seed in range(20):
        weight, rows = correlated(2, 16, seed)
        weight = weight.clamp(WINDOW.quant_min, WINDOW.quant_max)
        nearest += lost(weight.round(), weight, rows)
        found += lost(compensated(weight, moments_of(rows), WINDOW, USUAL), weight, rows)
    assert found < 0.75 * nearest


def test_refitted_weights_are_least_squares() -> None:
    """Without damping, of inputs that differ from the float network's; equal inputs leave weights as they are."""
    weight, y = correlated(2, 5, 0)
    x = y + 0.3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    across = y.transpose(1, 2) @ x / x.shape[1]
    assert torch.equal(refitted(weight, SecondMoments(moments_of(y), moments_of(y)), USUAL), weight)
    made = refitted(weight, SecondMoments(moments_of(x), across), 0.0)
    wanted = torch.linalg.lstsq(x, y @ weight.transpose(1, 2)).solution.transpose(1, 2)
    assert torch.allclose(made, wanted)


def test_one_image_has_no_halves() -> None:
    """Its moments are all there are, and the usual damping is taken."""
    graph = capture(nn.Conv2d(2, 3, 3).eval(), (2, 5, 5), name="one")
    (node,) = graph.layers.values()
    image = torch.randn(1, 2, 5, 5)
    made = [Quantized(image, torch.ones(()))]
    assert len(second_moments(node, (2, 3, 3), [image], made, centred=True, generator=torch.Generator())) == 1
    assert cross_validated(torch.zeros(1, 3, 18), torch.ones(1, 3, 1), [], WINDOW) == USUAL


def test_damping_is_as_large_as_half_of_the_images_shows() -> None:
    """The best of all, by the literal distance of the other half's results; more of it the fewer results there are."""
    chosen = list[float]()
    for results in (8, 16, 4000):
        found = list[float]()
        for seed in range(5):
            weight, y = correlated(1, 12, seed, results=2 * results)
            x = y + 0.5 * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            scale = weight.abs().amax(2, keepdim=True) / WINDOW.quant_max
            halves = [(x[:, :results], y[:, :results]), (x[:, results:], y[:, results:])]
            moments = [SecondMoments(moments_of(x), y.transpose(1, 2) @ x / results) for x, y in halves]
            damping = cross_validated(weight, scale, moments, WINDOW)
            losses = {part: literally_lost(weight, scale, moments, halves, part) for part in DAMPINGS}
            place = DAMPINGS.index(damping)
            assert losses[damping] == min(losses[part] for part in DAMPINGS[max(place - 1, 0) : place + 2])
            found.append(damping)
        chosen.append(sum(math.log(damping) for damping in found))
    assert chosen[0] > chosen[1] > chosen[2]


def test_damping_is_found_on_some_of_many_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly spaced: that of these channels alone."""
    weight, y = correlated(2, 6, 0)
    moments = [SecondMoments(moments_of(half), moments_of(half)) for half in y.chunk(2, 1)]
    seen = list[Tensor]()

    def compensating(weight: Tensor, *given: object) -> Tensor:
        seen.append(weight)
        return compensated(weight, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(damping_module, "compensated", compensating)
    monkeypatch.setattr(damping_module, "CHANNELS", 2)
    found = cross_validated(weight, torch.full((2, 3, 1), 0.5).double(), moments, WINDOW)
    assert {tuple(part.shape) for part in seen} == {(2, 2, 6)}
    monkeypatch.setattr(damping_module, "CHANNELS", 3)
    assert found == cross_validated(weight[:, [0, 2]], torch.full((2, 2, 1), 0.5).double(), moments, WINDOW)


def literally_lost(
    weight: Tensor, scale: Tensor, moments: list[SecondMoments], halves: list[tuple[Tensor, Tensor]], damping: float
) -> float:
    """Of each half's results, by weights of the other one, but for the part that weights do not change."""
    lost = 0.0
    for fitted, (x, y) in zip(moments, halves[::-1], strict=True):
        made = compensated(refitted(weight / scale, fitted, damping), fitted.made, WINDOW, damping) * scale
        wanted = y @ weight.transpose(1, 2)
        lost += float((x @ made.transpose(1, 2) - wanted).square().sum(2).mean() - wanted.square().sum(2).mean())
    return lost


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, (3, 1), (2, 1), (0, 1), (2, 1), groups=2), nn.Conv2d(4, 4, 1, 3),
        nn.Conv2d(4, 8, 3, 2, 1, groups=4), nn.Sequential(nn.Flatten(), nn.Linear(4 * 9 * 8, 3)),
    ],
)  # fmt: skip
def test_moments_are_of_all_windows(layer: nn.Module, centred: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no more than are looked at: those of the unfolded images, of each group and half, some images at once."""
    monkeypatch.setattr(second_moments_of, "AT_ONCE", 3 * second_moments_of.SAMPLES)
    graph = capture(layer.eval(), (4, 9, 8), name="one")
    (node,) = graph.layers.values()
    kernel = graph.parameters[node.weight].shape[1:]
    real, made = torch.randn(10, 4, 9, 8), torch.randn(10, 4, 9, 8)
    real, made = (values if isinstance(node, Conv2d) else values.flatten(1) for values in (real, made))
    scale = torch.tensor(0.5)
    whole, *halves = second_moments(
        node, kernel, real.split(6), [Quantized(part / scale, scale) for part in made.split(6)],
        centred=centred, generator=torch.Generator(),
    )  # fmt: skip
    each = len(real) // 2
    for found, images in zip((whole, *halves), (slice(None), slice(each), slice(each, None)), strict=True):
        y, x = (unfolded(node, values[images], kernel).double() for values in (real, made))
        if centred:
            y, x = (rows - rows.mean(1, keepdim=True) for rows in (y, x))
        assert torch.allclose(found.made, moments_of(x), atol=1e-6)
        assert torch.allclose(found.across, y.transpose(1, 2) @ x / x.shape[1], atol=1e-6)


@pytest.mark.parametrize("deviation", [0.0, 0.03])
def test_moments_of_values_far_from_zero_are_no_noise(deviation: float) -> None:
    """Their squares are a billion times the variance; of constants it is zero, and not less, so that weights can be found."""
    graph = capture(nn.Conv2d(4, 6, 1).eval(), (4, 9, 8), name="one")
    (node,) = graph.layers.values()
    real = 1000.1 + deviation * torch.randn(10, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    given = [Quantized(real, torch.ones(()))]
    found = second_moments(node, (4, 1, 1), [real], given, centred=True, generator=torch.Generator())
    x = real.double().movedim(1, 0).flatten(1)
    assert torch.allclose(found[0].made[0], torch.cov(x, correction=0), rtol=1e-4, atol=1e-5 * deviation**2)
    weight = torch.randn(1, 6, 4, dtype=torch.float64)
    assert torch.allclose(refitted(weight, found[0], 0.01), weight)


def unfolded(node: Layer, values: Tensor, kernel: torch.Size) -> Tensor:
    """Shape (groups, results of all images, weights of a channel)."""
    if not isinstance(node, Conv2d):
        return values[None]
    windows = F.unfold(values, kernel[1:], node.dilation, node.padding, node.stride)
    return windows.transpose(1, 2).flatten(0, 1).reshape(-1, node.groups, kernel.numel()).transpose(0, 1)


def at(precision: str, graph: Graph) -> QuantizedModel:
    """The network, quantized and calibrated, with batch norm as it was."""
    scheme = Scheme.uniform(graph.layers, Precision.parse(precision))
    return calibrate(quantize(graph, scheme), [digits().calibration(128)[0]]).eval()


def distance(model: QuantizedModel, images: Tensor) -> float:
    """The squared distance of the logits from the float network's."""
    (output,) = model.plan.graph.outputs
    with torch.no_grad():
        wanted = execute(model.plan.graph, model.plan.source.parameters, images)
        return float((model.integers(images)[output].real() - wanted).square().mean())


@pytest.mark.parametrize("precision", ["W2A8", "W3A8", "W4A4"])
@pytest.mark.parametrize("network", [folded, small_graph])
def test_logits_come_closer(network: Callable[[], Graph], precision: str) -> None:
    """On images that it did not see, with batch norm and without; and what is evaluated is what is lowered."""
    model = at(precision, network())
    unseen = digits().test.read(range(200))[0]
    before, told = distance(model, unseen), list[tuple[int, int]]()
    scales = {name: value.clone() for name, value in model.activations.state_dict().items()}
    images = digits().calibration(256)[0]
    assert compensate_rounding(model, images, progress=lambda done, total, **_: told.append((done, total))) is model
    assert distance(model, unseen) < 0.6 * before
    assert told == [(done, len(model.plan.graph.layers)) for done in range(1, len(model.plan.graph.layers) + 1)]
    assert all(torch.equal(model.activations.state_dict()[name], scale) for name, scale in scales.items())
    integers = certified(model)
    with torch.no_grad():
        assert torch.equal(model.integers(unseen)["logits"].values.to(torch.int32), run(integers, unseen))


def test_wide_layers_are_solved_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which hold less than the whole: moments are those on its diagonal, and logits come closer all the same."""
    rows = torch.randn(2, 30, 7)
    for parts in (1, 2, 3, 7):
        cut = parted(rows, parts)
        assert cut.shape[0] == 2 * parts
        assert torch.equal(joined(cut, 2, 7), rows)
    graph = capture(nn.Conv2d(4, 6, 3, groups=2).eval(), (4, 9, 8), name="one")
    (node,) = graph.layers.values()
    real, made = [torch.randn(3, 4, 9, 8)], [Quantized(torch.randn(3, 4, 9, 8), torch.ones(()))]
    whole, *_ = second_moments(node, (2, 3, 3), real, made, centred=True, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(second_moments_of, "MOST", 300)
    found, *_ = second_moments(node, (2, 3, 3), real, made, centred=True, generator=torch.Generator().manual_seed(0))
    assert found.made.shape == found.across.shape == (6, 6, 6)
    for name in ("made", "across"):
        matrix = getattr(whole, name)
        for part in range(6):
            begin = 6 * (part % 3)
            wanted = matrix[part // 3, begin : begin + 6, begin : begin + 6]
            assert torch.allclose(getattr(found, name)[part], wanted, atol=1e-6)
    model = at("W2A8", small_graph())
    images = digits().calibration(256)[0]
    before = distance(model, images)
    compensate_rounding(model, images)
    assert distance(model, images) < 0.6 * before


def test_weights_that_two_layers_share_stay() -> None:
    """What suits one of them need not suit the other; others change."""
    graph = capture(Twice().eval(), (1, 28, 28), name="twice")
    model = at("W2A4", graph)
    compensate_rounding(model, digits().calibration(64)[0])
    first, _, last = graph.layers.values()
    parameters = model.parameters_by_name()
    assert torch.equal(parameters[first.weight], graph.parameters[first.weight])
    assert not torch.equal(parameters[last.weight], graph.parameters[last.weight])


class SharedNorm(nn.Module):
    """Two convolutions with one batch norm, then a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, bias=False), nn.Conv2d(6, 6, 3, bias=False)
        self.norm, self.fc = nn.BatchNorm2d(6), nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.first(images)))
        return self.fc(torch.relu(self.norm(self.second(features))).mean((2, 3)))


def test_means_count_where_nothing_takes_care_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch norm that two layers share stays as it is, and so do means, then; others are corrected."""
    torch.manual_seed(0)
    graph, images = capture(SharedNorm().eval(), (1, 28, 28), name="shared"), digits().calibration(128)[0]
    centred = list[bool]()

    def told(*given: object, **named: object) -> list[SecondMoments]:
        centred.append(bool(named["centred"]))
        return second_moments(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(compensation, "second_moments", told)
    model = at("W3A8", graph)
    statistics = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    before = distance(model, images)
    compensate_rounding(model, images)
    assert centred == [False, False, True]
    assert distance(model, images) < 0.5 * before
    assert statistics
    assert all(torch.equal(model.state_dict()[name], value) for name, value in statistics.items())


def test_it_is_the_same_every_time() -> None:
    """The results that are looked at are drawn with a seed."""
    made = [compensate_rounding(at("W2A4", small_graph()), digits().calibration(64)[0]) for _ in range(2)]
    first, second = (model.state_dict() for model in made)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_cannot_be_compensated_is_refused() -> None:
    """Before any work."""
    graph = small_graph()
    with pytest.raises(TrainingError, match="not calibrated"):
        compensate_rounding(quantize(graph, Scheme.uniform(graph.layers, Precision(4, 4))), torch.zeros(1, 1, 28, 28))
    with pytest.raises(DataError, match="needs images"):
        compensate_rounding(at("W4A4", graph), torch.zeros(0, 1, 28, 28))
