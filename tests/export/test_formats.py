# SPDX-License-Identifier: MIT
"""Whatever the formats of what an operation reads and writes, an ONNX file is exact, or the model is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.benchmark import load_engine
from bitwright.errors import BitwrightError, ExportError
from bitwright.export import Pixels, export_onnx
from bitwright.export.pixels import quotient_rises
from bitwright.graph import capture
from bitwright.integer import IntegerModel, lower, run
from bitwright.integer.ops import Quantize
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from export.formats import CHANNELS, READERS, SIDE, network, pairs

PIXELS = Pixels((0.5,) * CHANNELS, (0.25,) * CHANNELS)


def assert_exact(model: IntegerModel, images: Tensor, path: Path, pixels: Pixels | None = None) -> None:
    """The file gives the integers of the model without optimisation and with all of it."""
    export_onnx(model, path, pixels=pixels)
    expected = run(model, images if pixels is None else pixels.normalise(images)).numpy()
    for level in ("none", "all"):
        got = load_engine("onnxruntime", path, level=level)(images.numpy())
        assert np.array_equal(got, expected), level


@pytest.mark.parametrize("reader", READERS)
def test_every_format_is_exact_or_refused(reader: str, tmp_path: Path) -> None:
    """Every maker and format of a tensor, read in every way: equal integers, or one line that says what to do."""
    images = 3 * torch.randn(3, CHANNELS, SIDE, SIDE)
    exact, refused = 0, []
    for pair in pairs(reader):
        try:
            assert_exact(network(*pair), images, tmp_path / "model.onnx")
            exact += 1
        except BitwrightError as error:
            refused.append((pair, str(error)))
    assert exact >= 10
    for (maker, source, *_), words in refused:
        # Lowering makes none of these: layers read at most 8 bits, and images have at most 16.
        assert source not in ("2 bits", "8 bits", "8 bits, signed"), words
        assert reader in ("average", "conv", "depthwise", "linear") or (maker, source) == ("input", "32 bits"), words
        assert "\n" not in words


@pytest.mark.parametrize("source", ["8 bits", "8 bits, signed", "16 bits", "16 bits, signed"])
def test_images_at_thresholds(source: str, tmp_path: Path) -> None:
    """Images at each value where their integer changes, next to it, and beyond all: wide streams divide as bytes do."""
    model = network("input", source, "output", "the same")
    first = model.ops[0]
    assert isinstance(first, Quantize)
    rises = quotient_rises(first)
    edges = np.concatenate([[np.nextafter(rises, np.float32(side)) for side in (-np.inf, np.inf)], [rises]]).reshape(-1)
    ends = np.array([-3e38, -1e30, -0.0, 0.0, 1e30, 3e38], np.float32)
    values = np.concatenate([edges, ends])
    size = CHANNELS * SIDE * SIDE
    images = torch.from_numpy(np.resize(values, (-(-len(values) // size), CHANNELS, SIDE, SIDE)))
    assert_exact(model, images, tmp_path / "model.onnx")


@pytest.mark.parametrize("source", ["2 bits", "8 bits", "8 bits, signed", "16 bits", "16 bits, signed"])
@pytest.mark.parametrize("exponent", [0, -9])
def test_pixels_of_every_format(source: str, exponent: int, tmp_path: Path) -> None:
    """All 256 pixels become the integers of the normalised images, by a gain and an offset or by a table."""
    model = network("input", source, "itself", "16 bits, signed")
    pixels = Pixels((0.5,) * CHANNELS, (2.0**exponent,) * CHANNELS)
    images = torch.arange(256, dtype=torch.uint8).repeat(9 * CHANNELS).reshape(-1, CHANNELS, SIDE, SIDE)
    assert_exact(model, images, tmp_path / "model.onnx", pixels)


class AroundTheImage(nn.Module):
    """Additions that read the image, or what only moves it."""

    def __init__(self, move: nn.Module) -> None:
        super().__init__()
        self.move = move
        self.conv = nn.Conv2d(4, 4, 3, 1, 1)
        self.linear = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        moved = self.move(images)
        return self.linear(torch.relu(moved + self.conv(moved)).mean((2, 3)))


@pytest.mark.parametrize(
    "move", [nn.Identity(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.ChannelShuffle(2), nn.Hardtanh(-0.5, 0.5)]
)
def test_streams_that_begin_with_the_image(move: nn.Module, tmp_path: Path) -> None:
    """With `residual_bits: 16`, an addition that reads the image makes it a tensor of 16 bits."""
    images = torch.randn(4, 4, 8, 8)
    graph = capture(AroundTheImage(move).eval(), (4, 8, 8))
    scheme = Scheme("wide", dict.fromkeys(graph.layers, Precision(8, 8)), 16)
    model = lower(calibrate(quantize(graph, scheme), [images], "minmax"))
    assert any(params.bit_width == 16 for params in model.formats.values())
    assert_exact(model, images, tmp_path / "model.onnx")
    pixels = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    assert_exact(model, pixels, tmp_path / "pixels.onnx", PIXELS)


def test_bytes_are_asked_for_by_name() -> None:
    """A layer that reads 16 bits is refused with the tensor and what to do, not by an overflow."""
    with pytest.raises(
        ExportError, match=r"'tensor': expected at most 8 bits .* got 16 bits\. Requantize the tensor first"
    ):
        export_onnx(network("conv", "16 bits", "conv", "8 bits"), "unwritten.onnx")
