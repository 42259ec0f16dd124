# SPDX-License-Identifier: MIT
"""What the studies on Fashion-MNIST share: small networks, trained in float once, and the loss of every held-out image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import EfficientNet, MobileNetV2, MobileNetV3
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig

from bitwright.cli.console import bar
from bitwright.data import ImageData, load_data
from bitwright.graph import Graph, capture, load_model
from bitwright.graph.weights_file import find_weights
from bitwright.training import Checkpointing, QuantizedModel, TrainSettings, fit

IMAGE_SIZE = 32
BATCH = 250
WEIGHTS = Path(__file__).parent / "weights"
"""Float weights that rows of `results/accuracy.json` are of: `NETWORK.safetensors`."""

MOBILENET_BLOCKS = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 40, 2, 2], [6, 80, 1, 2]]
"""Expansion, channels, blocks, stride: the shapes of MobileNetV2, of which the width multiplier takes half."""

MOBILENETV3_BLOCKS = [
    (16, 3, 16, 16, True, "RE", 1),
    (16, 3, 72, 24, False, "RE", 2),
    (24, 3, 88, 24, False, "RE", 1),
    (24, 5, 96, 40, True, "HS", 2),
    (40, 5, 240, 40, True, "HS", 1),
    (40, 5, 240, 40, True, "HS", 1),
    (40, 5, 120, 48, True, "HS", 1),
    (48, 5, 144, 48, True, "HS", 1),
    (48, 5, 288, 96, True, "HS", 1),
    (96, 5, 576, 96, True, "HS", 1),
    (96, 5, 576, 96, True, "HS", 1),
]
"""Channels, kernel, expanded and resulting channels, gate, function, stride: MobileNetV3-small, two strides of 2 less."""

EFFICIENTNET_BLOCKS = [(1, 3, 1, 16, 16, 1), (6, 3, 1, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 2)]
"""Expansion, kernel, stride, channels, resulting channels, blocks: four stages of EfficientNet-B0, half as deep or less."""


def resnet20(data: ImageData) -> nn.Module:
    """ResNet20 of He et al. 2016, 0.27 million weights."""
    return load_model("pytorchcv:resnet20_cifar10", in_channels=data.shape[0], num_classes=len(data.classes))


def mobilenetv2_small(data: ImageData) -> nn.Module:
    """MobileNetV2 of Sandler et al. 2018 with six inverted residuals of half width."""
    network = MobileNetV2(len(data.classes), width_mult=0.5, inverted_residual_setting=MOBILENET_BLOCKS, dropout=0.0)
    network.features[0][0] = nn.Conv2d(data.shape[0], 16, 3, stride=2, padding=1, bias=False)
    return network


def mobilenetv3_small(data: ImageData) -> nn.Module:
    """MobileNetV3-small of Howard et al. 2019 for small images: gates, hard-swish, kernels of 5 x 5."""
    blocks = [InvertedResidualConfig(*block, dilation=1, width_mult=1.0) for block in MOBILENETV3_BLOCKS]
    network = MobileNetV3(blocks, last_channel=256, num_classes=len(data.classes), dropout=0.0)
    network.features[0][0] = nn.Conv2d(data.shape[0], 16, 3, stride=2, padding=1, bias=False)
    return network


def efficientnet_small(data: ImageData) -> nn.Module:
    """EfficientNet of Tan and Le 2019 for small images: gates and SiLU."""
    blocks = [MBConvConfig(*block) for block in EFFICIENTNET_BLOCKS]
    network = EfficientNet(blocks, dropout=0.0, stochastic_depth_prob=0.0, num_classes=len(data.classes))
    network.features[0][0] = nn.Conv2d(data.shape[0], 16, 3, stride=2, padding=1, bias=False)
    return network


NETWORKS = {
    "resnet20": resnet20,
    "mobilenetv2-small": mobilenetv2_small,
    "mobilenetv3-small": mobilenetv3_small,
    "efficientnet-small": efficientnet_small,
}


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a study was asked for, as JSON values."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}


def fashion_mnist() -> ImageData:
    """The data set, with borders up to 32 x 32."""
    return load_data("fashion-mnist", image_size=IMAGE_SIZE)


def trained(name: str, data: ImageData, settings: TrainSettings, folder: Path) -> Graph:
    """The captured network with float weights, trained unless `folder` holds it already."""
    path = folder / f"{name}.graph"
    if path.exists():
        return Graph.load(path)
    torch.manual_seed(settings.seed)
    network = NETWORKS[name](data)
    with bar(f"float weights of {name}") as progress:
        fit(network, data, settings, checkpoint=Checkpointing(folder / f"{name}.state", resume=True), progress=progress)
    graph = capture(network, data.shape, name=name)
    graph.save(path)
    return graph


def float_network(
    name: str, data: ImageData, settings: TrainSettings, folder: Path, weights: Path | None = None
) -> Graph:
    """The captured network with the float weights of a file, of `folder`, or of `WEIGHTS`; where none has any, trained."""
    path, beside = folder / f"{name}.graph", WEIGHTS / f"{name}.safetensors"
    if weights is None and not path.exists() and beside.exists():
        weights = beside
    if weights is not None:
        with_weights(name, data, weights).save(path)
    return trained(name, data, settings, folder)


def with_weights(name: str, data: ImageData, path: Path) -> Graph:
    """The captured network with the float weights of a file: a state dict, as safetensors or torch.save writes it."""
    network = NETWORKS[name](data)
    find_weights(network, path).load_into(network)
    return capture(network.eval(), data.shape, name=name)


@torch.inference_mode()
def losses(model: QuantizedModel | nn.Module, data: ImageData, images: int) -> tuple[Tensor, float]:
    """Cross entropy of each of the first held-out images, float64 [images], and the part that is classified correctly."""
    found, right = [], 0
    for batch, labels in data.batches("test", BATCH):
        logits = model(batch)
        found.append(F.cross_entropy(logits, labels, reduction="none").double())
        right += int((logits.argmax(1) == labels).sum())
        if BATCH * len(found) >= images:
            break
    return torch.cat(found), right / (BATCH * len(found))
