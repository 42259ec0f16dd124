# SPDX-License-Identifier: MIT
"""Cross-layer equalisation: the float network stays, the ranges of channels between two layers become alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import FileFormatError
from bitwright.graph import Graph, capture
from bitwright.graph.evaluate import folded_weight
from bitwright.graph.execute import execute
from bitwright.graph.nodes import Layer, Linear
from bitwright.reconstruction import ReconstructionSettings, equalised, reconstruct
from bitwright.reconstruction.equalisation import pairs
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from training.small import digits, small_graph


def captured(*layers: nn.Module) -> Graph:
    """A chain, with weights that are the same each time."""
    return capture(nn.Sequential(*layers).eval(), (1, 28, 28), name="chain")


def chain() -> Graph:
    """All kinds of pairs: dense, depthwise, in groups, with and without norm and offset, behind pools, dropout and flattening."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(8))  # of either sign
        norm.bias.copy_(torch.randn(8))
        norm.running_mean.copy_(torch.randn(8))  # type: ignore[union-attr]
    return captured(
        nn.Conv2d(1, 8, 3, 2, 1, bias=False), norm, nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.Dropout(),
        nn.Conv2d(12, 8, 3, groups=4), nn.ReLU(), nn.AvgPool2d(2, 2), nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10),
    )  # fmt: skip


def uneven(graph: Graph, spread: float = 6.0) -> Graph:
    """The same function, its channels between pairs scaled apart by up to 2 to the power of `spread`."""
    parameters = {name: tensor.clone() for name, tensor in graph.parameters.items()}
    generator = torch.Generator().manual_seed(1)
    for pair in pairs(graph):
        count = len(parameters[pair.first.weight])
        factor = torch.exp2(spread * (2 * torch.rand(count, generator=generator) - 1))
        norm = pair.first.norm
        for name in (pair.first.weight, pair.first.bias) if norm is None else (norm.weight, norm.bias):
            if name is not None:
                parameters[name] *= factor.reshape(-1, *[1] * (parameters[name].dim() - 1))
        weight = parameters[pair.second.weight]
        groups = 1 if isinstance(pair.second, Linear) else pair.second.groups  # type: ignore[attr-defined]
        if isinstance(pair.second, Linear):  # behind a map that was flattened: one weight for each of its pixels
            factor = torch.cat([scale.expand(weight.shape[1] // count) for scale in factor])
        of_outputs = factor.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1)
        weight /= of_outputs.reshape(*of_outputs.shape, *[1] * (weight.dim() - 2))
    return graph.with_parameters(parameters)


def unevenness(graph: Graph) -> float:
    """The largest power of two between what makes a channel and what reads it."""
    worst = 0.0
    for pair in pairs(graph):
        made = folded_weight(pair.first, graph.parameters)[0].flatten(1).abs().amax(1)
        for channel, size in enumerate(made.tolist()):
            read = reading(pair.second, channel, len(made), graph)
            worst = max(worst, abs(float(torch.tensor(size / read).log2())))
    return worst


def reading(layer: Layer, channel: int, channels: int, graph: Graph) -> float:
    """The largest weight that reads a channel: by what a one in it changes, one output at a time."""
    weight = folded_weight(layer, graph.parameters)[0].abs()
    if isinstance(layer, Linear):
        pixels = weight.shape[1] // channels
        return float(weight[:, channel * pixels : (channel + 1) * pixels].max())
    width = weight.shape[1]
    rows = len(weight) // layer.groups  # type: ignore[attr-defined]
    group, place = divmod(channel, width)
    return float(weight[group * rows : (group + 1) * rows, place].max())


def outputs(graph: Graph, images: Tensor) -> Tensor:
    """In float."""
    with torch.no_grad():
        made = execute(graph, graph.parameters, images)
    assert isinstance(made, Tensor)
    return made


@pytest.mark.parametrize("graph", [chain(), small_graph()], ids=["chain", "residual"])
def test_the_float_network_stays_and_channels_become_alike(graph: Graph) -> None:
    """Logits are the same to the bit, and what makes a channel is at most twice what reads it, or half."""
    graph, images = uneven(graph), digits().test.read(range(50))[0]
    before = {name: tensor.clone() for name, tensor in graph.parameters.items()}
    made = equalised(graph)
    assert torch.equal(outputs(made, images), outputs(graph, images))
    assert unevenness(graph) > 6
    assert unevenness(made) <= 1.001
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.parameters.items()), (
        "it wrote in its argument"
    )
    assert all(torch.equal(tensor, equalised(made).parameters[name]) for name, tensor in made.parameters.items())


def test_integers_of_it_are_closer_to_floats() -> None:
    """Where channels were uneven, which one scale for all of a tensor does badly."""
    graph, images = uneven(chain()), digits().calibration(128)[0]

    def error(network: Graph) -> float:
        scheme = Scheme.uniform(network.layers, Precision(8, 4))
        model = calibrate(quantize(network, scheme), [images]).eval()
        with torch.no_grad():
            return float((model(images) - outputs(graph, images)).square().mean())

    assert error(equalised(graph)) < 0.5 * error(graph)


def names(graph: Graph) -> list[tuple[str, str]]:
    """Of the pairs."""
    return [(pair.first.weight, pair.second.weight) for pair in pairs(graph)]


class Tied(nn.Module):
    """A convolution in two places, the second of them read by a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 1, 3, 1, 1), nn.Conv2d(1, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.relu(self.conv(torch.relu(self.conv(images))))).mean((2, 3))


def test_pairs_are_those_that_scale() -> None:
    """Not behind clamps at other numbers than zero, not what is added or returned, not what two layers share."""
    assert len(names(chain())) == 6
    assert names(small_graph()) == [("stem.0.weight", "down.0.weight"), ("block.0.weight", "block.3.weight")]
    first, second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
    for between, count in ((nn.ReLU(), 1), (nn.ReLU6(), 0), (nn.Hardtanh(), 0), (nn.LeakyReLU(), 0)):
        assert len(names(captured(first, between, second, nn.AdaptiveAvgPool2d(1), nn.Flatten()))) == count
    assert names(capture(Tied().eval(), (1, 28, 28), name="tied")) == []


def test_dead_channels_are_left_as_they_are() -> None:
    """Weights of nothing with an offset: factors for them would make the offset the range of the tensor."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
    with torch.no_grad():
        first.weight[0] *= 1e-12
        first.weight[1].zero_()
    graph = captured(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    made = equalised(graph)
    bias = graph.layers["0"].bias
    assert bias is not None
    assert torch.equal(made.parameters[bias][:2], graph.parameters[bias][:2])


def test_the_network_before_equalisation_is_no_reference() -> None:
    """Refused for what was made from the equalised one, however few its bits; taken for what was not, and so is the equalised."""
    graph, images = uneven(chain()), digits().calibration(64)[0]
    equal = equalised(graph)
    few = ReconstructionSettings(steps=2, batch_size=8)
    for network, reference, right in ((graph, graph, True), (equal, equal, True), (equal, graph, False)):
        model = calibrate(quantize(network, Scheme.uniform(network.layers, Precision(2, 4))), [images])
        model.settle_norm([images])
        if right:
            reconstruct(model, images, few, reference=reference)
            reconstruct(model, images, few, reference=reference)
        else:
            with pytest.raises(FileFormatError, match="was quantized after equalisation"):
                reconstruct(model, images, few, reference=reference)
