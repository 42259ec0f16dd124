# SPDX-License-Identifier: MIT
"""Integer models for the tests of exporters, each made once in a session."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.data import ImageData, load_data
from bitwright.graph import Graph, capture, load_model
from bitwright.graph.nodes import Node
from bitwright.integer import IntegerModel, QuantParams, lower
from bitwright.integer.ops import Quantize
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.bounds import FLOAT32_EXACT
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize

RESNET20 = "pytorchcv:resnet20_cifar10"

FULL_SIZE = (
    ("pytorchcv:resnet18", 224),
    ("pytorchcv:resnet50", 224),
    ("pytorchcv:inceptionv3", 299),
    ("pytorchcv:mobilenetv2_w1", 224),
)
"""Networks of the zoo, with the width of their images, that every engine runs."""

ARCHITECTURES = (
    "export.short:mobilenet_v2",
    "export.short:shufflenet_v2",
    "torchvision:squeezenet1_1",
    pytest.param("torchvision:mobilenet_v2", marks=pytest.mark.slow),
    pytest.param("torchvision:shufflenet_v2_x1_0", marks=pytest.mark.slow),
)
"""Linear bottlenecks, channel shuffles, concatenations, rounded-up pooling, for images of 64 pixels; whole networks are slow."""

FURTHER = (("pytorchcv:densenet121", 224), ("torchvision:googlenet", 224))
"""Networks of other shapes: dense concatenations, parallel branches."""


@cache
def graph_of(name: str, size: int) -> tuple[Graph, Tensor]:
    """A network with random weights whose batch norm knows its statistics, captured; and images."""
    torch.manual_seed(0)
    network = load_model(name)
    images = torch.randn(8, 3, size, size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(images)
    return capture(network.eval(), (3, size, size), name=name), images


@cache
def integer_model(name: str, size: int, precision: str, residual_bits: int = 8) -> tuple[IntegerModel, Tensor]:
    """The network at one precision (first and last layers at 8 bits), calibrated by its extremes and lowered; and images."""
    graph, images = graph_of(name, size)
    uniform = Scheme.uniform(graph.layers, Precision.parse(precision))
    scheme = Scheme(uniform.name, uniform.layers, residual_bits)
    return lower(calibrate(quantize(graph, scheme), [images], "minmax")), images


def changed(model: IntegerModel, op: Node, **values: Any) -> IntegerModel:
    """`model` with other values of one operation, of which it claims nothing any more."""
    ops = tuple(replace(other, **values) if other.name == op.name else other for other in model)
    return replace(model, ops=ops, facts={name: facts for name, facts in model.facts.items() if name != op.name})


def of_scale(model: IntegerModel, scale: float) -> IntegerModel:
    """`model` with another scale of its images."""
    first = model.ops[0]
    formats = {**model.formats, first.name: replace(model.formats[first.name], scale=scale)}
    return replace(changed(model, first, scale=scale), formats=formats)


def images_alone(model: IntegerModel) -> IntegerModel:
    """The quantization of the images that `model` begins with, and nothing else."""
    first = model.ops[0].name
    return replace(model, ops=model.ops[:1], outputs=single_output(first, np.array([model.formats[first].scale])))


def on_images(op: Node, params: QuantParams, shape: tuple[int, ...]) -> IntegerModel:
    """One operation that makes accumulators of quantized images, and returns them."""
    scale, low, high = params.scale, params.quant_min, params.quant_max
    first = Quantize(name="images", inputs=(), shape=shape, scale=scale, low=low, high=high)
    ops = (first, op.reading("images"))
    return IntegerModel("one", Scheme("none", {}), ops, {"images": params}, single_output(op.name))


@cache
def model_of_wide_sums() -> tuple[IntegerModel, Tensor]:
    """ResNet20 at W4A4 whose logits are larger by 2**24, so that float32 cannot hold them; and images."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    layer = model.layers()["output"]
    return changed(model, layer, bias=layer.bias + np.int32(FLOAT32_EXACT)), images


@cache
def clothes() -> ImageData:
    """Fashion-MNIST as the demo shows it to ResNet20."""
    return load_data("fashion-mnist", image_size=32, channels=3)


@cache
def model_of_clothes(precision: str) -> IntegerModel:
    """ResNet20 with the ranges that real images gave."""
    graph, _ = graph_of(RESNET20, 32)
    images, _ = clothes().train.read(range(64))
    scheme = Scheme.uniform(graph.layers, Precision.parse(precision))
    return lower(calibrate(quantize(graph, scheme), [images], "minmax"))
