# SPDX-License-Identifier: MIT
"""Channels whose weights are next to nothing, as published networks have them, train and lower like others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitwright.graph import Graph, capture
from bitwright.integer import prepare
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import Precision, Scheme
from bitwright.training import Ranges, calibrate, quantize
from integer.certified import certified
from training.small import digits, small_graph

SIZES = (1e-8, 1e-14, 1e-30, 0.0)
"""Of weights; InceptionV3 of torchvision has channels of 3e-10, whose variance is 2e-14."""


def shrunken() -> Graph:
    """The small network, with a channel of each size in every layer that has batch norm, whose statistics fit."""
    graph = small_graph()
    tensors = {name: tensor.clone() for name, tensor in graph.parameters.items()}
    sizes = torch.tensor(SIZES)
    for layer, norm in (("stem.0", "stem.1"), ("down.0", "down.1"), ("block.0", "block.1"), ("block.3", "block.4")):
        for name in (f"{layer}.weight", f"{layer}.bias", f"{norm}.running_mean", f"{norm}.running_var"):
            if name in tensors:
                some = tensors[name][: len(sizes)]
                factor = sizes.square() if name.endswith("var") else sizes
                some *= factor.reshape(-1, *[1] * (some.dim() - 1))
    return graph.with_parameters(tensors)


@pytest.mark.parametrize("ranges", list(Ranges))
@pytest.mark.parametrize("free_norm", [True, False])
def test_they_train_and_lower(ranges: Ranges, free_norm: bool) -> None:
    """Every number stays finite, the loss falls, and the integers are those of the module."""
    graph = shrunken()
    images, labels = digits().calibration(64)
    model = quantize(graph, Scheme.uniform(graph.layers, Precision(8, 8)), ranges=ranges, free_norm=free_norm)
    calibrate(model, [images], "minmax").settle_norm([images])
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.settle_norm([images])
    assert torch.equal(prepare(certified(model)).logits(images), model(images))


def test_a_layer_without_norm_keeps_its_biases() -> None:
    """Where weights are tiny and the bias is not, the channel is its bias: it does not run out of int32."""
    conv = nn.Conv2d(1, len(SIZES), 3)
    with torch.no_grad():
        conv.weight *= torch.tensor(SIZES).reshape(-1, 1, 1, 1)
        conv.bias.fill_(0.5)
    graph = capture(nn.Sequential(conv, nn.ReLU(), nn.Conv2d(len(SIZES), 2, 1)), (1, 8, 8))
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = calibrate(quantize(graph, Scheme.uniform(graph.layers, Precision(8, 8))), [images], "minmax")
    integer = certified(model)
    seen = {}
    prepare(integer).run(images, lambda name, values: seen.setdefault(name, values))
    made = integer.formats["0"]
    assert made.quant_max == TensorFormat.unsigned(8).quant_max
    real = seen["0"][:, 1:] * made.scale
    assert float((real - 0.5).abs().max()) <= made.scale
