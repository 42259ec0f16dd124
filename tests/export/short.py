# SPDX-License-Identifier: MIT
"""Published architectures with few blocks, of each kind at least one, found as `export.short:mobilenet_v2`."""

from __future__ import annotations

from torch import nn
from torchvision import models
from torchvision.models.mobilenetv3 import InvertedResidualConfig


def mobilenet_v2(num_classes: int = 100) -> nn.Module:
    """Bottlenecks without expansion, with it, with a stride, and with a residual: five linear ones."""
    return models.MobileNetV2(num_classes, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 1]])


def shufflenet_v2(num_classes: int = 100) -> nn.Module:
    """Units that halve the image, and one that keeps half of the channels; all end in a shuffle."""
    return models.ShuffleNetV2([2, 1, 1], [24, 48, 96, 192, 512], num_classes)


def densenet() -> nn.Module:
    """Two blocks, of three and two layers that read all before them, and the transition between."""
    return models.DenseNet(8, (3, 2), 16, num_classes=10)


def mobilenet_v3(num_classes: int = 10) -> nn.Module:
    """Blocks with a gate and without, with a residual and without, after ReLU and after hard-swish: three gates."""
    blocks = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(16, 3, 72, 24, False, "RE", 2, 1, 1.0),
        InvertedResidualConfig(24, 5, 96, 40, True, "HS", 2, 1, 1.0),
        InvertedResidualConfig(40, 5, 240, 40, True, "HS", 1, 1, 1.0),
    ]
    return models.MobileNetV3(blocks, 256, num_classes)
