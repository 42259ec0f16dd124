# SPDX-License-Identifier: MIT
"""What passes rewrite is lowered like what needs no rewriting: all integers are those of training, and of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.export import export_onnx
from bitwright.graph import capture
from bitwright.integer import run
from bitwright.scheme import Precision
from graph.networks import IMAGE, Called, randomized
from integer.certified import certified
from integer.test_lower import differing, quantized

Forward = Callable[[nn.Module, Tensor], Tensor]


def constants(m: nn.Module, x: Tensor) -> Tensor:
    """Affine maps on every way that they can go, differences, weighted sums, and maxima of two tensors."""
    x = m.normed(2 * x - 1)
    y = 1 - F.relu6(m.conv(x) * m.scale) * 0.25
    x = torch.maximum(x, torch.sub(x, F.relu(y), alpha=0.5)) - F.max_pool2d(F.relu(x), 3, 1, 1) * m.scale
    return (m.head(x.mean((2, 3)) * 3) + m.offset) / 0.07


def moves(m: nn.Module, x: Tensor) -> Tensor:
    """Values that only change their places, in every way, and zeros around them."""
    x = F.relu(m.normed(F.pad(x, (1, 2, 0, 1)).flip(3)))
    y = F.pixel_shuffle(m.conv(x[:, :, ::2, 1:]), 2)
    y = F.interpolate(F.pixel_unshuffle(y[..., :8, :8], 2), scale_factor=2)
    y = F.pad(y + x.mean((2, 3), keepdim=True), (1, 2, 0, 1), mode="reflect")
    return F.pad(x[:, ::2, :, :8], (2, 1, 0, 0, 3, 1)) + y


def windows(m: nn.Module, x: Tensor) -> Tensor:
    """Transposed convolution with batch norm, and pools of windows that are not alike."""
    x = F.relu(m.norm(m.up(F.avg_pool2d(m.normed(x), 3, 2, 1, count_include_pad=False))))
    x = F.adaptive_avg_pool2d(x, (3, 5)) + F.adaptive_max_pool2d(x, (3, 5))
    return m.head(F.avg_pool2d(x, 2, 2, ceil_mode=True).sum((2, 3)))


NETWORKS: dict[str, Forward] = {"constants": constants, "moves": moves, "windows": windows}


def network(forward: Forward) -> nn.Module:
    """Layers for every forward function."""
    torch.manual_seed(3)
    return randomized(
        Called(
            forward,
            normed=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1)),
            conv=nn.Conv2d(8, 8, 3, padding=1),
            up=nn.ConvTranspose2d(8, 8, 4, 2, 1),
            norm=nn.BatchNorm2d(8),
            head=nn.Linear(8, 4),
            scale=nn.Parameter(torch.linspace(-1, 2, 8).view(8, 1, 1)),
            offset=nn.Parameter(torch.randn(4)),
        )
    )


@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
@pytest.mark.parametrize("name", NETWORKS)
def test_equal_integers(name: str, precision: str, tmp_path: Path) -> None:
    """Training's forward, the reference executor and ONNX Runtime agree, at batch 1, 2 and 5."""
    images = torch.randn(5, *IMAGE)
    model = quantized(capture(network(NETWORKS[name]), IMAGE), images, Precision.parse(precision))
    integer = certified(model)
    assert sum(differing(model, integer, images).values()) == 0
    logits = run(integer, images)
    assert len(logits.unique()) > 8
    export_onnx(integer, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch in (1, 2, 5):
        (got,) = session.run(["logits_int32"], {"images": images[:batch].numpy()})
        assert (got == logits[:batch].numpy()).all()
