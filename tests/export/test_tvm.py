# SPDX-License-Identifier: MIT
"""Libraries that TVM compiles give the reference executor's integers, whichever form their kernels take."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.benchmark import compare, load_engine, side_by_side
from bitwright.data import load_data
from bitwright.errors import ExportError, FileFormatError, MissingLibraryError
from bitwright.export import Pixels, export_tvm
from bitwright.graph import capture
from bitwright.graph.nodes import Concat
from bitwright.integer import IntegerModel, QuantParams, lower, run
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN, Multipliers
from bitwright.integer.ops import IntegerAdd, IntegerConv2d, IntegerRequantize, Quantize, ReciprocalQuantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from bitwright.zoo import import_checkpoint
from export.equality import assert_equal
from export.models import FULL_SIZE, RESNET20, integer_model
from graph.networks import randomized
from zoo.test_importing import trained

tvm = pytest.importorskip("tvm", reason="the extra 'tvm' is not installed")
compilers = pytest.importorskip("tvm.support.cc")

pytestmark = pytest.mark.skipif(compilers.get_cc() is None, reason="no C compiler to link what TVM makes")


class Everything(nn.Module):
    """One of each operation, with sizes that fill no block: strides, dilation, groups, few and odd channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.project = nn.Conv2d(20, 20, 1)
        self.grouped = nn.Conv2d(20, 12, 3, padding=2, dilation=2, groups=2)
        self.few = nn.Conv2d(12, 5, (1, 3), stride=(2, 1), padding=(0, 1))
        self.classify = nn.Linear(27 * 4, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).relu()
        x = (x + self.project(self.depthwise(x).relu())).relu()
        a, b = x.chunk(2, 1)
        x = torch.cat([b, a], 1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 4, channels // 4, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        y = self.grouped(x)
        z = self.few(y)
        pooled = nn.functional.avg_pool2d(torch.cat([x.chunk(2, 1)[0], y], 1), 2)
        x = torch.cat([pooled, nn.functional.max_pool2d(z, (1, 2))], 1)
        return self.classify(x.flatten(1))


@cache
def everything(precision: str, residual_bits: int = 8) -> tuple[IntegerModel, Tensor]:
    """That network in integers; and images."""
    torch.manual_seed(0)
    images = torch.randn(7, 3, 15, 15)
    graph = capture(randomized(Everything()), (3, 15, 15), name="everything")
    uniform = Scheme.uniform(graph.layers, Precision.parse(precision))
    scheme = Scheme(uniform.name, uniform.layers, residual_bits)
    return lower(calibrate(quantize(graph, scheme), [images], "minmax")), images


def assert_equal_in_tvm(model: IntegerModel, images: Tensor, folder: Path, tvm_target: str | None = None) -> None:
    """All integers are equal, on one thread and on two."""
    export = partial(export_tvm, tvm_target=tvm_target)
    assert_equal("tvm", model, images, folder / "model.so", export=export, threads=(1, 2))


@pytest.mark.parametrize(
    ("precision", "residual_bits"),
    [("W8A8", 16), *(pytest.param(name, 8, marks=pytest.mark.slow) for name in ("W4A4", "W6A8", "W2A2", "W5A3"))],
)
def test_every_operation(precision: str, residual_bits: int, tmp_path: Path) -> None:
    """Each operation, in words and in bytes, with sizes that are no multiples of anything."""
    model, images = everything(precision, residual_bits)
    kinds = {type(op).__name__ for op in model}
    assert kinds >= {"IntegerConv2d", "IntegerAdd", "IntegerAvgPool2d", "IntegerLinear", "IntegerRequantize"}
    assert kinds >= {"Concat", "Slice", "ChannelShuffle", "MaxPool2d", "Flatten", "Quantize"}
    assert_equal_in_tvm(model, images, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["x86-64", "haswell"])
def test_other_processors(target: str, tmp_path: Path) -> None:
    """Without AVX2, LLVM makes of the words what it can: the same integers."""
    assert_equal_in_tvm(*everything("W4A8"), tmp_path, target)


def direct(ops: list[object], formats: dict[str, QuantParams], shape: tuple[int, ...]) -> IntegerModel:
    """A model of some operations behind one that quantizes at scale 1."""
    first = Quantize(
        name="x", inputs=(), shape=shape, scale=1.0, low=formats["x"].quant_min, high=formats["x"].quant_max
    )
    made = (first, *ops)
    return IntegerModel("direct", Scheme("none", {}), made, formats, single_output(made[-1].name))  # type: ignore[attr-defined]


RATIOS = {
    "certified": (12_345_677, 30, "x", 700),
    "31 bits": (2_000_000_011, 40, "raised", 2**16),
    "halves": (3, 4, "x", 10_000),
    "half of int32": (1, 1, "raised", 2**16),
    "more than one": (2_147_483_647, 28, "x", 2**16),
    "no shift": (5, 0, "x", 2**16),
    "longest shift": (2_147_483_629, 62, "raised", 3),
}
"""Multiplier, shift, what is multiplied, and how many different results there are at least."""


def test_requantization(tmp_path: Path) -> None:
    """Both families of multipliers, ties, ratios above one, the whole of int32: every integer of a 16-bit tensor."""
    shape, wide = (1, 256, 256), QuantParams.symmetric(32, 1.0)

    def op(name: str, source: str, multiplier: int, shift: int) -> IntegerRequantize:
        rescale = Rescale(Multipliers(np.array([multiplier]), np.array([shift])), INT32_MIN, INT32_MAX)
        return IntegerRequantize(name=name, inputs=(source,), shape=shape, rescale=rescale)

    ops = [op("raised", "x", 65_535, 0), *(op(name, ratio[2], *ratio[:2]) for name, ratio in RATIOS.items())]
    together = Concat(name="all", inputs=tuple(RATIOS), shape=(len(RATIOS), 256, 256))
    formats = {"x": QuantParams.symmetric(16, 1.0)} | {made.name: wide for made in (*ops, together)}
    model = direct([*ops, together], formats, shape)
    images = torch.arange(-(2**15), 2**15, dtype=torch.float32).reshape(1, *shape)
    assert_equal_in_tvm(model, images, tmp_path)
    for channel, (_, _, _, least) in zip(run(model, images)[0], RATIOS.values(), strict=True):
        assert len(channel.unique()) >= least


def test_additions_beyond_32_bits(tmp_path: Path) -> None:
    """Sums of unclamped streams as the published models add them, and scaled ones that only int64 holds."""
    shape = (3, 16, 16)
    formats = {name: QuantParams.symmetric(32, 1.0) for name in ("a", "sum", "total")} | {
        "x": QuantParams.symmetric(16, 1.0)
    }
    rescale = Rescale(Multipliers(np.array([2_147_483_647]), np.array([15])), INT32_MIN, INT32_MAX)
    ops = [
        IntegerRequantize(name="a", inputs=("x",), shape=shape, rescale=rescale),
        IntegerAdd(name="sum", inputs=("a", "x"), shape=shape, multipliers=(3, 70_001), shift=5, low=INT32_MIN, high=INT32_MAX),
        IntegerAdd(name="total", inputs=("sum", "a"), shape=shape, multipliers=(1, 1), shift=0, low=0, high=INT32_MAX),
    ]  # fmt: skip
    images = torch.randint(-(2**15), 2**15, (5, *shape)).float()
    assert len(run(direct(ops, formats, shape), images).unique()) > 100
    assert_equal_in_tvm(direct(ops, formats, shape), images, tmp_path)


def test_images_near_halves(tmp_path: Path) -> None:
    """Scales of which a division and a product with the reciprocal differ: each as its operation says."""
    shape, scale = (3, 20, 37), 0.0317
    images = torch.randint(-9000, 9000, (2, *shape)).float() * torch.tensor(scale) / 64
    logits = []
    for kind in (Quantize, ReciprocalQuantize):
        op = kind(name="x", inputs=(), shape=shape, scale=scale, low=-128, high=127)
        model = IntegerModel(
            "x",
            Scheme("none", {}),
            (op,),
            {"x": QuantParams.symmetric(8, scale)},
            single_output("x", np.array([scale])),
        )
        logits.append(run(model, images))
        assert_equal_in_tvm(model, images, tmp_path)
    assert not torch.equal(*logits)


@pytest.mark.parametrize("weights", ["random", "largest"])
def test_byte_sums_stay_within_16_bits(weights: str) -> None:
    """For the worst images that there are, every sum between two widenings stays; words only where one step is too much."""
    from bitwright.export.tvm.kernels.convolution import Convolution, Products, with_bytes
    from bitwright.export.tvm.kernels.instructions import Instructions
    from bitwright.export.tvm.kernels.window import Window

    generator = np.random.default_rng(0)
    params = QuantParams.unsigned(8, 1.0)
    window = Window(9, 9, 48, 1, (3, 3), (1, 1), (1, 1), (1, 1), "uint8", "int16", 0, 2)
    spec = Convolution(window, 32, Products.WORDS, None, "int32", Instructions(avx2=True))
    forms = set()
    for bound in range(1, 128, 9):
        weight = generator.integers(-bound, bound + 1, (32, 48, 3, 3)).astype(np.int8)
        if weights == "largest":
            weight[...] = bound
        found = with_bytes(spec, weight, params)
        # Worst images: 255 wherever a weight is positive. Filters, kernel rows, then the run of columns and channels, in pairs.
        flat = weight.transpose(0, 2, 3, 1).reshape(32, 3, 144)
        runs = [np.maximum(sign * flat.astype(np.int64), 0).reshape(32, 3, 36, 2, 2).sum(4) * 255 for sign in (1, -1)]
        forms.add((found.products, found.int16_sums))
        if found.products is Products.WORDS:
            assert max(run.max() for run in runs) > 2**15 - 1
            continue
        count, steps = found.steps
        pieces = [np.pad(run, ((0, 0), (0, 0), (0, count * steps - 36), (0, 0))) for run in runs]
        sums = [run.reshape(32, 3, count, steps, 2).sum(3) for run in pieces]
        if found.pieces == 0:
            sums = [run.sum((1, 2)) for run in sums]
        assert max(run.max() for run in sums) <= 2**15 - 1
    assert forms == {(Products.WORDS, False), (Products.BYTES, True), (Products.BYTES, False)}


def test_a_library_says_what_it_is(tmp_path: Path) -> None:
    """Scheme, bounds, the input's scale and classes, and the processor; and it takes pixels if told how they were normalised."""
    model, _ = everything("W4A4")
    pixels = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    steps: list[tuple[int, int]] = []
    export_tvm(model, tmp_path / "model.so", pixels=pixels, progress=lambda done, total: steps.append((done, total)))
    assert [done for done, _ in steps] == list(range(1, len(model.ops) + 3))
    assert {total for _, total in steps} == {len(model.ops) + 2}
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / "model.so")), tvm.cpu())
    stated = json.loads(str(machine["bitwright"]()))
    assert stated["input"]["shape"] == [3, 15, 15]
    assert stated["input"]["dtype"] == "uint8"
    assert stated["input"]["scale"] == model.formats[model.ops[0].name].scale
    assert stated["output"] == {"shape": [7], "unit": model.outputs["logits"].unit.tolist()}
    assert stated["scheme"] == model.scheme.to_dict()
    assert stated["tvm"] == tvm.__version__
    images = torch.randint(0, 256, (8, 3, 15, 15), dtype=torch.uint8)
    (result,) = compare(model, {"tvm": tmp_path / "model.so"}, [images], pixels=pixels)
    assert result.exact
    integers, logits = machine["main"](tvm.runtime.tensor(images.numpy()))
    assert np.array_equal(
        logits.numpy(), integers.numpy().astype(np.float32) * model.outputs["logits"].unit.astype(np.float32)
    )
    (timed,) = side_by_side({"tvm": tmp_path / "model.so"}, batches=[2], rounds=1)
    assert (timed.engine, timed.batch) == ("tvm", 2)


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be exported or loaded is refused in one line, with what to do."""
    model, _ = everything("W4A4")
    with pytest.raises(ExportError, match=r"expected '\.so', got .*model\.tvm"):
        export_tvm(model, tmp_path / "model.tvm")
    with pytest.raises(ExportError, match="LLVM knows no CPU 'z80' of"):
        export_tvm(model, tmp_path / "model.so", tvm_target="z80")
    with pytest.raises(ExportError, match="does not understand the target"):
        export_tvm(model, tmp_path / "model.so", tvm_target='{"kind": "abacus"}')
    layer = next(op for op in model if isinstance(op, IntegerConv2d))
    broken = replace(layer, bias=np.full_like(layer.bias, INT32_MAX))
    with pytest.raises(ExportError, match=f"layer '{layer.name}': an accumulator can reach .* beyond int32"):
        export_tvm(replace(model, ops=tuple(broken if op is layer else op for op in model)), tmp_path / "model.so")
    (tmp_path / "model.so").write_bytes(b"no library")
    with pytest.raises(FileFormatError, match="TVM cannot read"):
        load_engine("tvm", tmp_path / "model.so")
    monkeypatch.setattr("bitwright.extras.find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match=r"tvm, which is not installed: pip install 'bitwright\[tvm\]'"):
        export_tvm(model, tmp_path / "model.so")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "precision", "residual_bits"),
    [
        (RESNET20, 32, "W8A8", 8),
        (RESNET20, 32, "W8A8", 16),
        (RESNET20, 32, "W2A2", 8),
        ("torchvision:mobilenet_v2", 64, "W4A4", 8),
        ("torchvision:shufflenet_v2_x1_0", 64, "W4A4", 8),
        ("torchvision:squeezenet1_1", 64, "W4A4", 8),
    ],
)
def test_architectures(name: str, size: int, precision: str, residual_bits: int, tmp_path: Path) -> None:
    """Residual tensors of both widths, linear bottlenecks, channel shuffles, concatenations."""
    assert_equal_in_tvm(*integer_model(name, size, precision, residual_bits), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
@pytest.mark.parametrize(("name", "size"), FULL_SIZE)
def test_full_size_networks(name: str, size: int, precision: str, tmp_path: Path) -> None:
    """Networks of the zoo, at full resolution, give equal logits."""
    assert_equal_in_tvm(*integer_model(name, size, precision), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "scheme"), [("resnet18", "bops_0.5"), ("resnet18", "w8a8"), ("resnet50", "latency0.5")]
)
def test_imported_models(model: str, scheme: str, tmp_path: Path) -> None:
    """Published arithmetic: multipliers of 31 bits, streams of 32, floors of means, images times a reciprocal."""
    twin, graph, images = trained(model, scheme, 64)
    torch.save(twin.quantized_checkpoint(), tmp_path / "quantized_checkpoint.pth.tar")
    imported = import_checkpoint(tmp_path / "quantized_checkpoint.pth.tar", model, scheme, graph=graph)
    assert_equal_in_tvm(imported, images, tmp_path)


@pytest.mark.data
@pytest.mark.slow
def test_fashion_mnist(tmp_path: Path) -> None:
    """Real pictures as they are stored: 1,000 of the test split, every logit."""
    data = load_data("fashion-mnist", image_size=32, channels=3)
    model, _ = integer_model(RESNET20, 32, "W4A4")
    export_tvm(model, tmp_path / "model.so")
    batches = [data.test.read(range(first, first + 100))[0] for first in range(0, 1000, 100)]
    (result,) = compare(model, {"tvm": tmp_path / "model.so"}, batches)
    assert (result.images, result.equal_images) == (1000, 1000)
