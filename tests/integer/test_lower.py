# SPDX-License-Identifier: MIT
"""Lowering: the integers of the QuantizedModel are those of the IntegerModel, in every tensor."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import FileFormatError
from bitwright.graph import Graph, capture, load_model
from bitwright.integer import IntegerModel, run
from bitwright.integer.execution.reference import execute_op
from bitwright.integer.ops import IntegerConv2d, IntegerLinear
from bitwright.integer.reader import load_integer
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize
from integer.certified import certified


@cache
def settled(name: str, size: int, channels: int = 3) -> tuple[Graph, Tensor]:
    """A network with random weights whose batch norm knows its statistics, and images."""
    torch.manual_seed(0)
    network = load_model(name)
    images = torch.randn(4, channels, size, size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()(images)
    return capture(network.eval(), (channels, size, size), name=name), images


def quantized(graph: Graph, images: Tensor, precision: Precision) -> QuantizedModel:
    """The network at one precision, first and last layers at 8 bits."""
    return calibrate(quantize(graph, Scheme.uniform(graph.layers, precision)), [images])


def differing(model: QuantizedModel, integer: IntegerModel, images: Tensor) -> dict[str, int]:
    """Elements that differ, by tensor; every tensor of the integer model is looked at."""
    trained: dict[str, Tensor] = {}
    reference: dict[str, Tensor] = {}
    with torch.no_grad():
        model(images, lambda name, value: trained.__setitem__(name, value.values.clone()))
    run(integer, images, lambda name, value: reference.__setitem__(name, value.clone()))
    assert len(reference) == len(integer.ops)
    return {name: int((trained[name].double() != value.double()).sum()) for name, value in reference.items()}


@pytest.mark.parametrize("precision", ["W8A8", "W4A4", "W2A2", "W4A8", "W8A3"])
def test_resnet20_is_trained_as_lowered(precision: str) -> None:
    """After lowering, the float32 forward of the QuantizedModel gives every integer of the IntegerModel."""
    graph, images = settled("pytorchcv:resnet20_cifar10", 32)
    model = quantized(graph, images, Precision.parse(precision))
    integer = certified(model)
    assert sum(differing(model, integer, torch.randn(8, 3, 32, 32)).values()) == 0


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("export.short:mobilenet_v2", 64),
        ("export.short:shufflenet_v2", 64),
        ("torchvision:squeezenet1_1", 64),
        pytest.param("pytorchcv:resnet18", 96, marks=pytest.mark.slow),
        pytest.param("pytorchcv:mobilenetv2_w1", 96, marks=pytest.mark.slow),
        pytest.param("pytorchcv:shufflenetv2_w1", 96, marks=pytest.mark.slow),
        pytest.param("pytorchcv:squeezenet_v1_1", 224, marks=pytest.mark.slow),
        pytest.param("torchvision:mobilenet_v2", 96, marks=pytest.mark.slow),
    ],
)
def test_architectures_are_trained_as_lowered(name: str, size: int) -> None:
    """Depthwise, shuffled and concatenated networks, and those with residuals, keep every integer too."""
    if size != 224 and name.startswith("pytorchcv"):
        torch.manual_seed(0)
        network = load_model(name, in_size=size)
        for module in network.modules():
            if isinstance(module, nn.AvgPool2d):
                module.kernel_size = module.stride = size // 32
        images = torch.randn(4, 3, size, size)
        network.train()(images)
        graph = capture(network.eval(), (3, size, size), name=name)
    else:
        graph, images = settled(name, size)
    model = quantized(graph, images, Precision(4, 4))
    integer = certified(model)
    assert sum(differing(model, integer, images).values()) == 0


def test_literal_convolution() -> None:
    """The executor's convolution is the literal sum of products, rescaled in Python integers."""
    graph, images = settled("pytorchcv:resnet20_cifar10", 32)
    integer = certified(quantized(graph, images[:1], Precision(4, 4)))
    values: dict[str, Tensor] = {}
    run(integer, images[:1], lambda name, value: values.__setitem__(name, value.clone()))
    op = next(op for op in integer if isinstance(op, IntegerConv2d) and op.stride == (2, 2))
    source = np.pad(values[op.inputs[0]][0].numpy(), ((0, 0), *[(pad, pad) for pad in op.padding]))
    out = values[op.name][0].numpy()
    assert op.rescale is not None
    for channel in range(0, out.shape[0], 5):
        b, c = int(op.rescale.multipliers.multiplier[channel]), int(op.rescale.multipliers.shift[channel])
        for row in range(out.shape[1]):
            for column in range(out.shape[2]):
                window = source[:, 2 * row : 2 * row + op.weight.shape[2], 2 * column : 2 * column + op.weight.shape[3]]
                total = int((window.astype(int) * op.weight[channel].astype(int)).sum()) + int(op.bias[channel])
                floor, rest = divmod(total * b, 1 << c)
                half = (1 << c) // 2
                rounded = floor + (rest > half or (rest == half and floor % 2 == 1))
                assert out[channel, row, column] == min(max(rounded, op.rescale.low), op.rescale.high)


def test_negative_activations_keep_their_sign() -> None:
    """MobileNetV2's linear bottlenecks carry negative integers, at the fewest bits and the most."""
    graph, images = settled("export.short:mobilenet_v2", 64)
    for bits in (2, 8):
        integer = certified(quantized(graph, images, Precision(bits, bits)))
        values: dict[str, Tensor] = {}
        run(integer, images, lambda name, value, into=values: into.__setitem__(name, value.clone()))
        linear = [node.name for node in graph if node.name in graph.layers and getattr(node, "bounds", None) is None][
            :-1
        ]
        assert len(linear) == 5
        for name in linear:
            assert integer.formats[name].format.negative
            assert int(values[name].min()) < 0, (bits, name)


def test_round_trip(tmp_path: Path) -> None:
    """A saved and loaded model gives the same logits, and its weights take their bit width on disk."""
    graph, images = settled("pytorchcv:resnet20_cifar10", 32)
    integer = certified(quantized(graph, images, Precision(4, 4)))
    integer.save(tmp_path / "model.safetensors")
    loaded = load_integer(tmp_path / "model.safetensors")
    assert torch.equal(run(loaded, images), run(integer, images))
    assert loaded.scheme == integer.scheme
    assert loaded.facts == integer.facts


@pytest.mark.parametrize("damage", ["truncate", "flip", "header"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    """A truncated file, and one with a changed byte in weights or structure, is refused."""
    graph, images = settled("pytorchcv:resnet20_cifar10", 32)
    data = bytearray(certified(quantized(graph, images, Precision(8, 8))).to_bytes())
    if damage == "truncate":
        del data[-100:]
    elif damage == "flip":
        data[-1000] ^= 1
    else:
        at = bytes(data).index(b"shift")
        data[at] ^= 1
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(data))
    with pytest.raises(FileFormatError, match=r"write it again|no integer model"):
        load_integer(path)


def test_every_operation_has_a_reference() -> None:
    """Each kind of layer is registered with the executor."""
    assert {IntegerConv2d, IntegerLinear} <= set(execute_op.registry)
