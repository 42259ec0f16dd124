# SPDX-License-Identifier: MIT
"""OpenVINO files give the reference executor's logits in OpenVINO's CPU plugin, integer for integer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.benchmark import ENGINES, compare, load_engine
from bitwright.data import load_data
from bitwright.data.fit import fit
from bitwright.errors import ExportError, FileFormatError
from bitwright.export import Pixels, Target, export_openvino, to_openvino
from bitwright.export.openvino.kernels import DOUBLED, INT8, PARTS
from bitwright.graph.nodes import Flatten
from bitwright.integer import IntegerModel, QuantParams, lower, run
from bitwright.integer.multipliers import Multipliers
from bitwright.integer.ops import IntegerAvgPool2d, Quantize, ReciprocalQuantize
from bitwright.integer.outputs import single_output
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from export.equality import assert_equal
from export.models import (
    ARCHITECTURES,
    FULL_SIZE,
    FURTHER,
    RESNET20,
    changed,
    clothes,
    images_alone,
    integer_model,
    model_of_clothes,
    of_scale,
    on_images,
)
from export.one_layer import convolution, extremes
from export.published import constants
from graph.networks import Called, captured

openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def facts(path: Path) -> dict[str, str]:
    """What a file says about itself."""
    model = openvino.Core().read_model(str(path))
    keys = ("bitwright", "target", "images", "engine", "kernels", "saturation")
    return {key: model.get_rt_info(["bitwright", key]).astype(str) for key in keys}


def assert_equal_on(model: IntegerModel, images: Tensor, path: Path) -> dict[str, str]:
    """All integers are equal; returns the kernel of each layer."""
    assert_equal("openvino", model, images, path)
    return json.loads(facts(path)["kernels"])


@pytest.mark.parametrize(
    ("precision", "residual_bits", "bytes_at_least"),
    [("W8A8", 8, 0), ("W4A8", 8, 20), ("W3A5", 8, 20), ("W4A4", 16, 18)],
)
def test_resnet20(precision: str, residual_bits: int, bytes_at_least: int, tmp_path: Path) -> None:
    """Every width of weights, activations and streams gives equal logits, on 8-bit kernels where those cannot saturate."""
    model, images = integer_model(RESNET20, 32, precision, residual_bits)
    kernels = assert_equal_on(model, images, tmp_path / "model.xml")
    assert list(kernels) == list(model.layers())
    assert list(kernels.values()).count(INT8) >= bytes_at_least


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str, tmp_path: Path) -> None:
    """Linear bottlenecks, channel shuffles, concatenations, rounded-up pooling: each has its exact form."""
    model, images = integer_model(name, 64, "W4A4")
    assert INT8 in assert_equal_on(model, images, tmp_path / "model.xml").values()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
@pytest.mark.parametrize(("name", "size"), [*FULL_SIZE, *FURTHER])
def test_full_size_networks(name: str, size: int, precision: str, tmp_path: Path) -> None:
    """Networks of the zoo, at full resolution, give equal logits."""
    model, images = integer_model(name, size, precision)
    assert_equal_on(model, images, tmp_path / "model.xml")


def test_8_bit_kernels_are_really_used(tmp_path: Path) -> None:
    """OpenVINO runs exactly the layers that the file names on kernels of bytes."""
    model, _ = integer_model(RESNET20, 32, "W4A8")
    export_openvino(model, tmp_path / "model.xml")
    compiled = openvino.Core().compile_model(str(tmp_path / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    precisions = [
        entry["runtimePrecision"].astype(str) for entry in info if entry["layerType"].astype(str) == "Convolution"
    ]
    kernels = list(json.loads(facts(tmp_path / "model.xml")["kernels"]).values())
    assert precisions.count("u8") == len(kernels) == 22
    assert {kernel: kernels.count(kernel) for kernel in (INT8, DOUBLED)} == {INT8: 20, DOUBLED: 2}


def test_sums_beyond_float32_are_cut(tmp_path: Path) -> None:
    """Logits that can exceed 2**24 are parts of sums, added as int32; within the network, such sums are clamped, or refused."""
    network = Called(
        lambda self, images: self.last(self.wide(self.first(images).relu()).relu().flatten(1)),
        first=nn.Conv2d(3, 96, 3, padding=1),
        wide=nn.Conv2d(96, 8, 8),
        last=nn.Linear(8, 10),
    )
    with torch.no_grad():
        network.wide.weight.uniform_(0.5, 1.0)
        network.wide.weight[:, ::2] *= -1
    graph = captured(network)
    images = torch.randn(16, 3, 8, 8)
    scheme = Scheme.uniform(graph.layers, Precision.parse("W8A8"))
    model = lower(calibrate(quantize(graph, scheme), [images], "minmax"))
    assert assert_equal_on(model, images, tmp_path / "model.xml")["wide"] == DOUBLED
    layer = model.layers()["wide"]
    until = model.ops[: model.ops.index(layer)]
    formats = {name: params for name, params in model.formats.items() if name != "wide"}
    last = replace(layer, rescale=None)
    raw = replace(model, ops=(*until, last), formats=formats, facts={}, outputs=single_output("wide"))
    assert assert_equal_on(raw, images, tmp_path / "raw.xml")["wide"] == PARTS
    alone = replace(last, bias=np.full_like(layer.bias, 2**25))
    assert assert_equal_on(replace(raw, ops=(*until, alone)), images, tmp_path / "raw.xml")
    cut = replace(last, groups=2, weight=np.full((8, 48, 64, 64), 10, dtype=np.int8))
    with pytest.raises(
        ExportError, match=r"'wide' in float32, which needs sums of at most 2\*\*24, but those can reach"
    ):
        to_openvino(on_images(cut, QuantParams.unsigned(8, 1.0), (96, 64, 64)))


def test_bounds_are_tight(tmp_path: Path) -> None:
    """Positive and negative products partly cancel: a layer is cut where a sum leaves 2**24, not where magnitudes would."""
    source = QuantParams.unsigned(8, 1.0)
    for channels, kernel in ((1024, DOUBLED), (1056, PARTS)):
        weight = np.resize(np.array([127, -127], dtype=np.int8), (3, channels, 1, 1))
        assert (np.abs(weight[0].astype(int)) * source.quant_max).sum() > 1.9 * 2**24
        model = convolution(weight, np.array([0, 9, -9], dtype=np.int32), source, (1, 1))
        assert assert_equal_on(model, torch.from_numpy(extremes(model)), tmp_path / "model.xml")["layer"] == kernel


def test_a_stream_too_wide_to_average_is_refused() -> None:
    """An average over too large a window of 16-bit values is refused, with its place."""
    pool = IntegerAvgPool2d(
        name="pool", inputs=("images",), shape=(3, 1, 1), rescale=None, kernel=(32, 32), stride=(1, 1), padding=(0, 0)
    )
    with pytest.raises(ExportError, match=r"2\*\*24 at 'pool', got up to .* Use residual_bits: 8"):
        to_openvino(on_images(pool, QuantParams.unsigned(16, 0.01), (3, 32, 32)))


@pytest.mark.parametrize("table", [False, True])
def test_images_of_pixels(table: bool, tmp_path: Path) -> None:
    """A file that takes uint8 pixels gives the integers of the normalised images, by an affine form or by a table."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    pixels = IMAGENET
    if table:  # a scale of two pixel values, around a pixel value, has only ties: they go to even
        model = of_scale(model, 2 / 255)
        pixels = Pixels((128 / 255,) * 3, (1.0,) * 3)
    made = export_openvino(model, tmp_path / "model.xml", pixels=pixels)
    assert ("Gather" in {node.get_type_name() for node in made.get_ops()}) == table
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    (result,) = compare(model, {"openvino": tmp_path / "model.xml"}, [images], pixels=pixels)
    assert result.exact


def test_pixels_of_mnist(tmp_path: Path) -> None:
    """Real digits as they are stored, against the images that training sees."""
    data = load_data("mnist-5k", image_size=32, channels=3)
    digits = fit(data.test.pixels[:100], 32).expand(-1, 3, -1, -1)
    model, _ = integer_model(RESNET20, 32, "W4A8")
    pixels = Pixels(data.mean, data.std)
    export_openvino(model, tmp_path / "model.xml", pixels=pixels)
    images, _ = data.test.read(range(100))
    assert np.array_equal(load_engine("openvino", tmp_path / "model.xml")(digits.numpy()), run(model, images).numpy())


@pytest.mark.data
@pytest.mark.parametrize("precision", ["W8A8", "W4A8"])
def test_real_clothes(precision: str, tmp_path: Path) -> None:
    """All logits of 500 real images are equal."""
    model = model_of_clothes(precision)
    export_openvino(model, tmp_path / "model.xml")
    batches = (clothes().test.read(range(start, start + 100))[0] for start in range(0, 500, 100))
    (result,) = compare(model, {"openvino": tmp_path / "model.xml"}, batches)
    assert (result.equal_images, result.images) == (500, 500)


def test_quotients_are_rounded_as_divisions(tmp_path: Path) -> None:
    """Images whose quotient by the scale lies next to a half tell a division from a product with the inverse."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    scale = np.float32(model.ops[0].scale)
    halves = (np.arange(-127, 127, dtype=np.float32) + np.float32(0.5)) * scale
    near = np.concatenate([halves, np.nextafter(halves, np.float32(9)), np.nextafter(halves, np.float32(-9))])
    wrong = np.rint(near * (np.float32(1) / scale)) != np.rint(near / scale)
    assert wrong.any()
    images = torch.from_numpy(np.resize(near[wrong], (4, 3, 32, 32)))
    assert_equal_on(images_alone(model), images, tmp_path / "model.xml")


def test_the_file_states_its_conditions(tmp_path: Path) -> None:
    """Scheme, certificates, target, images and kernels are in the file; with dot products, unsigned inputs are bytes."""
    model, _ = integer_model(RESNET20, 32, "W8A8")
    export_openvino(model, tmp_path / "model.xml", Target.VNNI, IMAGENET)
    found = facts(tmp_path / "model.xml")
    assert json.loads(found["bitwright"])["scheme"] == model.scheme.to_dict()
    assert json.loads(found["bitwright"])["layers"] == model.facts
    assert found["target"] == "vnni"
    assert "uint8 pixels" in found["images"]
    assert "INFERENCE_PRECISION_HINT f32" in found["engine"]
    assert list(json.loads(found["kernels"]).values()).count(INT8) == 22
    assert "22 int8, 0 int8, doubled, 0 float32" in found["saturation"]


def test_four_bit_weights_are_packed(tmp_path: Path) -> None:
    """A file of 4-bit weights takes about half of an 8-bit one's."""
    sizes = {}
    for precision in ("W8A8", "W4A4"):
        export_openvino(integer_model(RESNET20, 32, precision)[0], tmp_path / "model.xml")
        sizes[precision] = (tmp_path / "model.bin").stat().st_size
    weights = sum(op.weight.size for op in integer_model(RESNET20, 32, "W4A4")[0].layers().values())
    assert sizes["W4A4"] < sizes["W8A8"] - 0.95 * weights / 2


def test_multipliers_of_31_bits(tmp_path: Path) -> None:
    """Those with an equal float32 multiplier become it; others are refused, by the name of the layer."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    layer = next(iter(model.layers().values()))
    assert layer.rescale is not None
    given = layer.rescale.multipliers
    long = replace(layer.rescale, multipliers=Multipliers(2**7 * given.multiplier + 1, given.shift + 7))
    published = changed(model, layer, rescale=long)
    export_openvino(published, tmp_path / "model.xml")
    (result,) = compare(published, {"openvino": tmp_path / "model.xml"}, [images])
    assert result.exact
    without = constants(np.array([2**20], np.int32), Multipliers(np.array([2**31 - 1]), np.array([31])))
    with pytest.raises(
        ExportError, match=r"'conv' in float32, having neither .*: channel 0: expected a ratio of at most 24"
    ):
        to_openvino(without)


@pytest.mark.parametrize("pixels", [None, Pixels((0.45,), (0.226,))])
def test_images_times_a_reciprocal(pixels: Pixels | None, tmp_path: Path) -> None:
    """Published models multiply images by the reciprocal of their scale: near halves, that is another integer than a quotient."""
    scale = 0.013
    op = ReciprocalQuantize(name="input", inputs=(), shape=(1, 32, 32), place="", scale=scale, low=-128, high=127)
    flat = Flatten(name="flat", inputs=("input",), shape=(1024,), place="")
    params = QuantParams.symmetric(8, scale)
    formats = {"input": params, "flat": params}
    model = IntegerModel("images", Scheme("none", {}), (op, flat), formats, single_output("flat", np.array([scale])))
    if pixels is None:
        halves = (np.arange(-130, 130) + 0.5).astype(np.float32) * np.float32(scale)
        near = np.concatenate([halves, *(np.nextafter(halves, np.float32(end)) for end in (-9, 9))])
        images = torch.from_numpy(np.resize(near, (1, 1, 32, 32)))
        other = replace(model, ops=(Quantize(**vars(op)), flat))
        assert not torch.equal(run(model, images), run(other, images))
    else:
        images = torch.arange(1024).remainder(256).to(torch.uint8).reshape(1, 1, 32, 32)
    for engine in (name for name in ("openvino", "litert") if ENGINES[name].installed):
        path = tmp_path / f"model{ENGINES[engine].form.suffix}"
        ENGINES[engine].form.export(model, path, Target.ANY, pixels)
        (result,) = compare(model, {engine: path}, [images], pixels=pixels)
        assert result.exact


def test_other_names_and_files_are_refused(tmp_path: Path) -> None:
    """The weights need a name of their own beside the file; noise is no model."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    with pytest.raises(ExportError, match=r"ends in \.xml, got .*model\.onnx"):
        export_openvino(model, tmp_path / "model.onnx")
    (tmp_path / "noise.xml").write_text("noise")
    with pytest.raises(FileFormatError, match=r"OpenVINO cannot read .*noise\.xml"):
        load_engine("openvino", tmp_path / "noise.xml")


def test_why_published_models_are_refused() -> None:
    """The plugin computes int64 modulo 2**32 and float64 in float32: neither holds a product with a 31-bit multiplier."""
    factor, values = 2**31 - 1, np.array([[1, 2, 2**20 + 1]])
    for dtype, kept in ((np.int64, False), (np.float64, False), (np.float32, True)):
        source = openvino.opset13.parameter([1, 3], dtype)
        product = openvino.opset13.multiply(source, openvino.opset13.constant(np.array([factor], dtype)))
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(openvino.Model([product], [source]), "CPU", options)
        got = compiled(values.astype(dtype))[0]
        assert np.array_equal(got, values.astype(dtype) * dtype(factor)) is kept
