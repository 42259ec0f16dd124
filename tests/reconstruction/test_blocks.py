# SPDX-License-Identifier: MIT
"""Blocks: where they are cut, and that running them one after another is running the network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from bitwright.graph import Graph, capture, load_model
from bitwright.graph.execute import execute
from bitwright.quantizer import plan
from bitwright.reconstruction import blocks
from bitwright.reconstruction.blocks import run_float, run_quantized
from bitwright.scheme import Precision, Scheme
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.quantized import Quantized
from training.small import SHAPE, digits, small_graph, small_quantized

NETWORKS = (
    "export.short:mobilenet_v2",
    "export.short:densenet",
    "torchvision:resnet18",
    "torchvision:squeezenet1_1",
    pytest.param("torchvision:mobilenet_v2", marks=pytest.mark.slow),
    pytest.param("pytorchcv:densenet40_k12_cifar10", marks=pytest.mark.slow),
)


def expanded(graph: Graph) -> Graph:
    """With the Requantize nodes of mixed widths."""
    widths = [Precision(8, 4 + number % 5) for number in range(len(graph.layers))]
    return plan(graph, Scheme("mixed", dict(zip(graph.layers, widths, strict=True)))).graph


@pytest.mark.parametrize("name", NETWORKS)
def test_every_node_but_the_image_is_in_one_block(name: str) -> None:
    """Each block has layers, reads what the one before it made, and together they are the network in its order."""
    graph = expanded(capture(load_model(name), (3, 32, 32)))
    found = blocks(graph)
    assert [node.name for block in found for node in block.nodes] == [node.name for node in graph.nodes[1:]]
    assert found[0].source == graph.nodes[0].name
    assert found[-1].result == graph.outputs["logits"]
    for before, after in pairwise(found):
        assert after.source == before.result
    for block in found:
        assert block.layers
        inside = {block.source}
        for node in block.nodes:
            assert inside.issuperset(node.inputs)
            inside.add(node.name)


def test_a_residual_block_stays_whole() -> None:
    """Between the two ends of a skip connection there is no cut, and everywhere else there is."""
    names = [[layer.name for layer in block.layers] for block in blocks(small_graph())]
    assert names == [["stem.0"], ["down.0"], ["block.0", "block.3"], ["fc"]]


def test_blocks_in_float_are_the_network() -> None:
    """The same operations in the same order: equal to the bit."""
    graph = small_graph()
    images, _ = digits().calibration(16)
    values = images
    for block in blocks(graph):
        values = run_float(block, values, graph.parameters)[block.result]
    assert torch.equal(values, execute(graph, graph.parameters, images))


@torch.no_grad()
def test_blocks_in_integers_are_the_quantized_network() -> None:
    """So are the integers."""
    model = small_quantized("W4A4").eval()
    images, _ = digits().calibration(16)
    graph, context = model.plan.graph, model.context()
    assert images.shape[1:] == SHAPE
    made = fake_quantize(graph.nodes[0], [Quantized(images, torch.ones(()))], context)
    for block in blocks(graph):
        made = run_quantized(block, made, context)[block.result]
    assert torch.equal(made.values, model.integers(images)["logits"].values)
