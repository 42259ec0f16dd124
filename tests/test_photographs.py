# SPDX-License-Identifier: MIT
"""`benchmarks/photographs.py` on pictures made here: which are taken, how they are cut, and what is counted."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bitwright import Precision, Scheme, calibrate, capture, quantize

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
photographs = importlib.import_module("photographs")
photographs_page = importlib.import_module("photographs_page")
network_file = importlib.import_module("peers.network_file")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures, of which eleven are large enough, one is grey, and one has a name twice."""
    generator = np.random.default_rng(0)
    for number in range(12):
        shape = (40 if number == 0 else 640, 700, 3)
        picture = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        (picture.convert("L") if number == 1 else picture).save(tmp_path / f"{number}.jpg")
    (tmp_path / "again.jpg").symlink_to(tmp_path / "5.jpg")
    return tmp_path


def test_crops_are_of_large_photographs_and_a_seed_decides(pictures: Path) -> None:
    """Each photograph once, in an order of its own, and as many crops of each."""
    found = photographs.photographs([pictures])
    assert sorted(path.name for path in found) == sorted(f"{number}.jpg" for number in range(1, 12))
    made = photographs.crops(found, 33, 32)
    assert made.shape == (33, 3, 32, 32)
    assert torch.equal(made, photographs.crops(found, 33, 32))
    assert len({image.numpy().tobytes() for image in made}) == 33
    assert -1 <= float(made.min()) < 0 < float(made.max()) <= 1


def test_few_photographs_are_refused(tmp_path: Path) -> None:
    """In one line."""
    with pytest.raises(SystemExit, match="expected 10 photographs of 600 pixels or more, got 0"):
        photographs.photographs([tmp_path])


@pytest.fixture
def further(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures: nine red squares on nothing, one that is too small, one in a folder below."""
    folder = tmp_path_factory.mktemp("further")
    (folder / "below").mkdir()
    for number in range(10):
        pixels = np.zeros((120 if number else 90, 100, 4), np.uint8)
        pixels[:, :50] = 255, 0, 0, 255
        Image.fromarray(pixels).save(folder / ("below" if number == 5 else "") / f"{number}.png")
    return folder


def made_of_two(image: Tensor) -> Tensor:
    """Whether all rows are alike, as in the further pictures."""
    return (image == image[:, :1]).all()


def test_further_pictures_are_in_every_part(pictures: Path, further: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of them as asked for, beside a quarter of the crops; grey where they are transparent."""
    monkeypatch.setattr(photographs, "CALIBRATION", 64)
    monkeypatch.setattr(photographs, "WHOLE", (1.0, 1.0))
    paths = photographs.photographs([pictures])[:4]
    own = photographs.crops(paths, 16, 32)
    made = photographs.calibration(paths, [further], 32, 8)
    kinds = [bool(made_of_two(image)) for image in made]
    assert all(2 <= sum(kinds[first : first + 8]) <= 3 for first in (0, 8, 16))
    assert torch.equal(made[[not kind for kind in kinds]], own)
    for image in made[kinds]:
        red = torch.tensor([1.0, -127 / 128, -127 / 128])
        assert torch.allclose(image[:, :, 0], red[:, None], atol=0.02)
        assert torch.allclose(image[:, :, -1], torch.zeros(3, 1), atol=0.02)
    assert torch.equal(photographs.calibration(paths, [further], 32, 0), photographs.crops(paths, 64, 32))
    with pytest.raises(SystemExit, match="expected 10 further pictures of 100 pixels or more, got 9: --further"):
        photographs.calibration(paths, [further], 32, 10)


class Padded(nn.Conv2d):
    """A convolution that pads by a module of its own, as those of EfficientNet-Lite do."""

    def __init__(self, padding: nn.Module, **kwargs: int) -> None:
        super().__init__(4, 4, 3, 2, **kwargs)
        self.static_padding = padding

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(
            self.static_padding(images), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


def test_convolutions_become_those_of_torch(tmp_path: Path) -> None:
    """Which compute the same from the same weights, and which files of networks can have."""
    torch.manual_seed(0)
    network = nn.Sequential(
        Padded(nn.ZeroPad2d((0, 1, 0, 1))), nn.Sequential(Padded(nn.Identity(), groups=4, bias=False), nn.ReLU6()), nn.Flatten()
    )  # fmt: skip
    images = torch.randn(2, 4, 16, 16)
    wanted, sizes = network(images), sorted(value.shape for value in network.parameters())
    assert torch.equal(photographs.of_torch(network)(images), wanted)
    assert {type(module).__module__.startswith("torch.nn.modules") for module in network.modules()} == {True}
    assert sorted(value.shape for value in network.parameters()) == sizes
    network_file.write_network(network, tmp_path)
    assert torch.equal(network_file.read_network(tmp_path)(images), wanted)


class Tiny(nn.Module):
    """A depthwise convolution between two others, with batch norm, for five classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
            nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
        )  # fmt: skip
        with torch.no_grad():
            for _ in range(30):
                self.body(torch.randn(64, 3, 32, 32))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


def test_every_way_is_measured(pictures: Path, further: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole benchmark, and where answers are lost, on a network of ours: every way has a row, and so has every source."""
    errors = importlib.import_module("photograph_errors")
    for module in (photographs, errors):
        monkeypatch.setattr(module, "SIZES", {"tiny": 32})
        monkeypatch.setattr(module, "network", lambda _: Tiny().eval())
        monkeypatch.setattr(module, "CROPS", 60)
        monkeypatch.setattr(module, "CALIBRATION", 64)
    monkeypatch.setattr(photographs, "version", lambda _: "0")
    monkeypatch.setattr(errors, "COUNT", 30)
    given = ["--json", str(tmp_path / "rows.json"), "--photographs", str(pictures)]
    ways = (
        "calibrated", "kept", "settled", "peer-onnxruntime",
        "calibrated:further=6", "peer-onnxruntime:further=6", "reconstructed:steps=2:batch_size=8",
    )  # fmt: skip
    rows = [part for way in ways for part in ("--rows", f"tiny/W8A8/{way}")]
    more = [*(part for way in ways[-3:] for part in ("--way", way)), "--further", str(further)]
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["photographs.py", *given, *more, *rows, "--docs", str(page)])
    photographs.main()
    monkeypatch.setattr(sys, "argv", ["photograph_errors.py", *given, "--network", "tiny"])
    errors.main()
    found = json.loads((tmp_path / "rows.json").read_text())
    assert set(found["rows"]) == {f"tiny/W8A8/{way}" for way in ways}
    for way in ways:
        row = found["rows"][f"tiny/W8A8/{way}"]
        assert way == "settled" or row["sqnr_db"] > 15
        assert f"| {way} | {photographs_page.cell(row)} |" in page.read_text()
    for way in ways[-3:-1]:
        assert found["rows"][f"tiny/W8A8/{way}"]["calibration"] == 22
    assert {"unseen_error", "taken_back", "network_unseen_error", "network_taken_back"} <= found["rows"][
        f"tiny/W8A8/{ways[-1]}"
    ].keys()
    assert found["rows"]["tiny/W8A8/peer-onnxruntime"]["per_channel"]
    sources = {name.split("/")[2]: row["sqnr_db"] for name, row in found["sources"].items()}
    assert sources["both"] < min(sources["all weights"], sources["all activations"]) + 1
    assert sources["float16"] > sources["bfloat16"] > 15


def test_a_way_has_a_name_and_settings() -> None:
    """Those of the images and of residuals are this benchmark's; a recipe belongs to the name; others are handed on."""
    assert photographs.parted("peer-brevitas:example:crops=256:further=385") == (
        "peer-brevitas:example", {"residual_bits": 0, "further": 385, "crops": 256}, [],
    )  # fmt: skip
    assert photographs.parted("reconstructed:steps=0:residual_bits=16")[1:] == (
        {"residual_bits": 16, "further": 0, "crops": 0}, ["steps=0"],
    )  # fmt: skip


@pytest.mark.parametrize("way", ["peer-nobody", "peer-onnxruntime:steps=3", "peer-onnxruntime:residual_bits=16"])
def test_a_way_of_a_peer_that_is_none_is_refused(way: str, tmp_path: Path) -> None:
    """Before anything is quantized."""
    graph = capture(Tiny().eval(), (3, 32, 32), name="tiny")
    with pytest.raises(SystemExit, match=f"expected a way peer-NAME .* got '{way}'"):
        photographs.answers(graph, "W8A8", way, lambda *_: torch.zeros(0), torch.zeros(0), tmp_path)


@torch.no_grad()
def test_what_is_rounded_alone_is_rounded_in_the_float_network() -> None:
    """Nothing; the images; the weights of one layer, whose batch norm takes off what its mean has moved by."""
    errors = importlib.import_module("photograph_errors")
    graph = capture(Tiny().eval(), (3, 32, 32), name="tiny")
    images = torch.randn(50, 3, 32, 32)
    model = calibrate(quantize(graph, Scheme.uniform(graph.layers, Precision(3, 8))), [images])
    rounded, sources = errors.Rounded(model, images), errors.sources(model)
    network = Tiny().eval()
    torch.testing.assert_close(rounded.logits(images, (), ()), network(images), rtol=1e-4, atol=1e-4)
    scale = model.activation_quantizer("input").step()
    window = model.activation_quantizer("input").format
    seen = (images / scale).round().clamp(window.quant_min, window.quant_max) * scale
    torch.testing.assert_close(rounded.logits(images, *sources["images"]), network(seen), rtol=1e-4, atol=1e-4)
    (layer,), _ = sources["depthwise weights"]
    conv, norm = network.body[3], network.body[4]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    before = conv(network.body[:3](images)).mean((0, 2, 3))
    integers, steps = model.weight_quantizer(layer)(conv.weight)
    conv.weight.copy_(integers * steps.reshape(-1, 1, 1, 1))
    norm.running_mean += conv(network.body[:3](images)).mean((0, 2, 3)) - before
    made = rounded.logits(images, *sources["depthwise weights"])
    torch.testing.assert_close(made, network(images), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(made, rounded.logits(images, (), ()), atol=1e-3)


def test_agreement_and_noise_are_those_of_logits() -> None:
    """Two of four rows name the same class; noise of a tenth of the signal is 20 dB."""
    real = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert photographs.compared(real, real).items() >= {"agreement_percent": 100, "sqnr_db": math.inf}.items()
    swapped = real.clone()
    swapped[:2] = swapped[:2].flip(1)
    assert photographs.compared(real, swapped)["agreement_percent"] == 50
    assert photographs.compared(real, 1.1 * real)["sqnr_db"] == pytest.approx(20, abs=0.01)


def test_agreement_where_the_float_network_is_sure() -> None:
    """Of three classes, two rows have probabilities above a half: one of them is named otherwise. None sure, no figure."""
    real = torch.tensor([[0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3], [0.3, 0.3, 0.4]]).log()
    made = real.clone()
    made[1] = made[1].flip(0)[[1, 0, 2]]
    found = photographs.compared(real, made)
    assert (found["sure_crops"], found["sure_agreement_percent"], found["agreement_percent"]) == (2, 50, 75)
    assert photographs_page.cell(found) == f"75.0 %, {found['sqnr_db']:.1f} dB; of 2 sure 50.0 %"
    assert "sure_crops" not in photographs.compared(real[2:], made[2:])


def test_the_page_has_every_row() -> None:
    """What failed says why; a way without rows has no line."""
    images = {"crops": 2000, "calibration": 256, "judged": 40, "others": 10}
    here, there = {"processor": "a processor"}, {"processor": "another"}
    row = {"agreement_percent": 98.76, "sqnr_db": 21.04}
    rows = {
        "net/W4A8/kept": row | there, "net/W8A8/calibrated": row | here, "net/W4A4/calibrated": {"failed": "too few"} | here,
    }  # fmt: skip
    sure = {next(iter(rows)).split("/")[0]: {"sure": 0.314, "classes": 77}}
    page = photographs_page.page({"images": images, "rows": rows, "float": sure})
    assert "In float its largest probability is 0.31 in the mean, and it names 77 classes." in page
    assert "2,000 crops of 40 photographs" in " ".join(page.split())
    assert "Measured on a processor; net W4A8 kept on another." in " ".join(page.split())
    assert "| calibrated | 98.8 %, 21.0 dB |  |  | too few |" in page
    assert "| reconstructed |" not in page


def test_the_page_says_where_answers_are_lost() -> None:
    """One line for each kind of tensor, where they were measured."""
    row = {"agreement_percent": 94.0, "sqnr_db": 23.3, "crops": 200}
    sources = {"net/W8A8/all weights": row, "net/W8A8/bfloat16": row, "other/W8A8/both": row}
    table = list(photographs_page.source_table("net", sources))
    assert "200 of the crops" in table[0]
    assert table[2:] == [
        "| rounded | W8A8 |",
        "| --- | --- |",
        *(f"| {k} | 94.0 %, 23.3 dB |" for k in ("all weights", "bfloat16")),
        "",
    ]
    assert list(photographs_page.source_table("net", {})) == []
