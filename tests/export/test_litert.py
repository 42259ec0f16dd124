# SPDX-License-Identifier: MIT
"""LiteRT files give the reference executor's logits in the interpreter with XNNPACK, integer for integer, or are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.benchmark import compare, load_engine
from bitwright.errors import ExportError, FileFormatError
from bitwright.export import Pixels, export_litert, to_litert
from bitwright.export.pixels import affine, quotient_rises
from bitwright.graph.nodes import Concat, MaxPool2d, Slice
from bitwright.integer import IntegerModel, Multipliers, QuantParams, run
from bitwright.integer.multipliers import add_multipliers
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerRequantize,
    Quantize,
    ReciprocalQuantize,
    Rescale,
)
from bitwright.integer.outputs import single_output
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import Precision, Scheme
from export.equality import assert_equal
from export.litert_files import RUNS, run_in_child
from export.models import (
    ARCHITECTURES,
    FULL_SIZE,
    FURTHER,
    RESNET20,
    clothes,
    integer_model,
    model_of_clothes,
    of_scale,
)
from export.one_layer import convolution

pytest.importorskip("ai_edge_litert", reason="the extra 'litert' is not installed")

IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    "precision", ["W8A8", "W3A5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("W4A8", "W4A4", "W2A2"))]
)
def test_resnet20(precision: str, tmp_path: Path) -> None:
    """Every width of weights and activations gives equal logits."""
    model, images = integer_model(RESNET20, 32, precision)
    assert_equal("litert", model, images, tmp_path / "model.tflite")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str, tmp_path: Path) -> None:
    """Linear bottlenecks, channel shuffles, concatenations, rounded-up pooling: each has its exact form."""
    model, images = integer_model(name, 64, "W4A4")
    assert_equal("litert", model, images, tmp_path / "model.tflite")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
@pytest.mark.parametrize(("name", "size"), [*FULL_SIZE, *FURTHER])
def test_full_size_networks(name: str, size: int, precision: str, tmp_path: Path) -> None:
    """Networks of the zoo, at full resolution, give equal logits."""
    model, images = integer_model(name, size, precision)
    assert_equal("litert", model, images, tmp_path / "model.tflite")


@pytest.mark.data
def test_real_clothes(tmp_path: Path) -> None:
    """All logits of 500 real images are equal."""
    model = model_of_clothes("W4A8")
    export_litert(model, tmp_path / "model.tflite")
    batches = (clothes().test.read(range(start, start + 100))[0] for start in range(0, 500, 100))
    (result,) = compare(model, {"litert": tmp_path / "model.tflite"}, batches)
    assert (result.equal_images, result.images) == (500, 500)


def test_images_of_pixels(tmp_path: Path) -> None:
    """A file that takes uint8 pixels gives the integers of the normalised images, by a table where no gain and offset do."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    export_litert(model, tmp_path / "model.tflite", pixels=IMAGENET)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    (result,) = compare(model, {"litert": tmp_path / "model.tflite"}, [images], pixels=IMAGENET)
    assert result.exact
    ties = of_scale(model, 2 / 255)
    halves = Pixels((128 / 255,) * 3, (1.0,) * 3)
    assert affine(halves.table(ties.ops[0]), -128, 127) is None
    export_litert(ties, tmp_path / "ties.tflite", pixels=halves)
    (result,) = compare(ties, {"litert": tmp_path / "ties.tflite"}, [images], pixels=halves)
    assert result.exact


@pytest.mark.parametrize("kind", [Quantize, ReciprocalQuantize])
@pytest.mark.parametrize(
    "params", [QuantParams.symmetric(8, 0.0186), QuantParams.unsigned(5, 0.3), QuantParams.symmetric(16, 7e-5)]
)
def test_images_at_every_threshold(kind: type, params: QuantParams, tmp_path: Path) -> None:
    """Images at, and four numbers around, every quotient that rounds up, tiny ones and huge ones."""
    shape = (2, 5, 7)
    first = kind(
        name="input", inputs=(), shape=shape, place="", scale=params.scale, low=params.quant_min, high=params.quant_max
    )
    model = IntegerModel(
        "images",
        Scheme.uniform([], Precision(8, 8)),
        (first,),
        {"input": params},
        single_output("input", np.array([params.scale])),
    )
    near = [quotient_rises(first)]
    for _ in range(4):
        near = [np.nextafter(near[0], np.float32(-9)), *near, np.nextafter(near[-1], np.float32(9))]
    largest = np.finfo(np.float32).max
    ends = np.array([3e38, -3e38, largest, -largest, 0.0, -0.0, 1e-45, -1e-45], dtype=np.float32)
    values = np.concatenate([*near, ends])
    images = np.resize(values, (-(-values.size // 70), *shape)).astype(np.float32)
    scale = np.float32(params.scale)
    with np.errstate(over="ignore"):
        assert (
            np.rint(images / scale) != np.rint(images * (1 / scale))
        ).any()  # which of both it is makes a difference
    assert_equal("litert", model, torch.from_numpy(images), tmp_path / "model.tflite")


def test_logits_beyond_float32_are_summed_in_parts(tmp_path: Path) -> None:
    """Where a class's sum can exceed 2**24, or its bias, channels are cut into parts, or weights, which are added as int32."""
    model, images = integer_model(RESNET20, 32, "W8A8")
    before = model.ops[: model.ops.index(model.layers()["output"])]
    weight = np.random.default_rng(0).integers(20, 40, (10, 16, 32, 32)).astype(np.int8)
    wide = [op for op in before if op.shape == (16, 32, 32)][-1]
    until = before[: before.index(wide) + 1]
    sums = IntegerConv2d(
        name="sums", inputs=(wide.name,), shape=(10, 1, 1), rescale=None, weight=weight,
        weight_bits=8, bias=np.full(10, 2**25 + 1, dtype=np.int32), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1,
    )  # fmt: skip
    for layer in (sums, replace(sums, weight=np.full_like(weight, 127))):
        wider = replace(model, ops=(*until, layer), outputs=single_output("sums"))
        assert int(run(wider, images).max()) > 2**25
        assert_equal("litert", wider, images, tmp_path / "model.tflite")


@pytest.mark.parametrize("last", [True, False])
def test_groups(last: bool, tmp_path: Path) -> None:
    """Any number of groups, of inputs and of outputs of each, down to one channel: on bytes, and as float32 sums."""
    generator, source, result = np.random.default_rng(0), QuantParams.symmetric(8, 1.0), QuantParams.unsigned(8, 1.0)
    expected = {}
    for groups, inputs, outputs, kernel in product((1, 2, 4), (1, 3), (1, 2, 3), (1, 3)):
        weight = generator.integers(-127, 128, (groups * outputs, inputs, kernel, kernel)).astype(np.int8)
        bias = generator.integers(-500, 500, len(weight)).astype(np.int32)
        reach = 64.0 * np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1).clip(min=1)
        scaled = {} if last else {"result": result, "largest": reach}
        model = convolution(
            weight, bias, source, (5, 7), groups=groups, padding=(kernel // 2, 0), stride=(1, kernel // 2 + 1), **scaled
        )
        name = f"{groups} groups, {inputs} to {outputs}, {kernel}"
        images = generator.integers(-128, 128, (3, *model.input_shape)).astype(np.float32)
        export_litert(model, tmp_path / f"{name}.tflite")
        np.save(tmp_path / f"{name}.npy", images)
        expected[name] = run(model, torch.from_numpy(images)).numpy()
    got = run_in_child(tmp_path)
    assert len(got) == len(expected) * len(RUNS) == 36 * 6
    for name, logits in expected.items():
        assert len(np.unique(logits)) > 10, name
        for batch, threads in RUNS:
            assert np.array_equal(got[f"{name} batch {batch} threads {threads}"], logits[:batch]), (
                name,
                batch,
                threads,
            )


CLAMPS = [(0, 255), (-128, 127), (0, 100), (-7, 7), (-8, 7), (-100, 90), (-3, 0), (5, 60), (-90, -20)]


@pytest.mark.parametrize("what", ["layer", "sum", "requantized", "image"])
def test_every_clamp(what: str, tmp_path: Path) -> None:
    """Whatever clamp is fused into what makes a tensor of 8 bits, every integer and every end of it comes out."""
    generator = np.random.default_rng(0)
    for low, high in CLAMPS:
        params = QuantParams(TensorFormat.of(8, negative=low < 0), 1.0)
        model = clamped(what, params, low, high)
        images = torch.from_numpy(3 * generator.integers(-128, 128, (8, 2, 4, 8)).astype(np.float32))
        got = run(model, images)
        assert (int(got.min()), int(got.max())) == (low, high)
        assert_equal("litert", model, images, tmp_path / "model.tflite")


def clamped(what: str, params: QuantParams, low: int, high: int) -> IntegerModel:
    """One operation of each kind that clamps."""
    source = QuantParams.symmetric(8, 1.0)
    common = {"shape": (2, 4, 8), "place": ""}
    once = Rescale(Multipliers(np.array([3]), np.array([0])), low, high)
    made = {
        "layer": IntegerConv2d(
            name="made", inputs=("input",), rescale=once, weight=np.ones((2, 1, 1, 1), np.int8), weight_bits=8,
            bias=np.zeros(2, np.int32), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=2, **common,
        ),
        "sum": IntegerAdd(name="made", inputs=("input", "input"), multipliers=(3, 3), shift=1, low=low, high=high, **common),
        "requantized": IntegerRequantize(name="made", inputs=("input",), rescale=once, **common),
        "image": Quantize(name="made", inputs=(), scale=1.0, low=low, high=high, **common),
    }  # fmt: skip
    first = Quantize(name="input", inputs=(), scale=1.0, low=-128, high=127, **common)
    ops = (made["image"],) if what == "image" else (first, made[what])
    scheme = Scheme.uniform([], Precision(8, 8))
    return IntegerModel("clamped", scheme, ops, {"input": source, "made": params}, single_output("made"))


def test_residuals_of_16_bits(tmp_path: Path) -> None:
    """Residual tensors of 16 bits are float32 tensors of integers."""
    model, images = integer_model(RESNET20, 32, "W4A8", 16)
    assert max(params.bit_width for params in model.formats.values()) == 16
    assert_equal("litert", model, images, tmp_path / "model.tflite")


def test_additions_on_bytes(tmp_path: Path) -> None:
    """Every pair of integers is added as in the model: on bytes where no sum lies at a half, else in float32."""
    byte = 0, 255
    cases = [((3, 5, 3), False), ((1, 1, 0), True), (add_multipliers(0.6, 0.4, byte, byte), True)]
    cases += [(add_multipliers(1e-3, 2e-3, byte, byte), True), (add_multipliers(2e-4, 1e-4, byte, byte), False)]
    for (a, b, shift), on_bytes in cases:
        params = QuantParams.unsigned(8, 1.0)
        common = {"shape": (1, 256, 256), "place": ""}
        first = Quantize(name="input", inputs=(), scale=1.0, low=0, high=255, shape=(2, 256, 256), place="")
        halves = [Slice(name=name, inputs=("input",), start=at, stop=at + 1, **common) for at, name in enumerate("ab")]
        total = IntegerAdd(name="sum", inputs=("a", "b"), multipliers=(a, b), shift=shift, low=0, high=255, **common)
        formats = dict.fromkeys(("input", "a", "b", "sum"), params)
        scheme = Scheme.uniform([], Precision(8, 8))
        model = IntegerModel("sum", scheme, (first, *halves, total), formats, single_output("sum"))
        images = torch.from_numpy(np.stack(np.meshgrid(np.arange(256), np.arange(256)))[None].astype(np.float32))
        assert_equal("litert", model, images, tmp_path / "model.tflite")
        assert (kinds_of(tmp_path / "model.tflite", "ADD") == {"INT8"}) is on_bytes


def kinds_of(path: Path, operator: str) -> set[str]:
    """The types of what the operators of a name make."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    (graph,) = made.subgraphs
    names = {value: name for name, value in vars(schema.TensorType).items()}
    wanted = getattr(schema.BuiltinOperator, operator)
    return {
        names[graph.tensors[node.outputs[0]].type]
        for node in graph.operators
        if made.operatorCodes[node.opcodeIndex].builtinCode == wanted
    }


def test_concatenated_clamps(tmp_path: Path) -> None:
    """Tensors of one format and different clamps meet at one zero point."""
    params = QuantParams.symmetric(8, 1.0)
    common = {"shape": (2, 4, 8), "place": ""}
    ops = [Quantize(name="input", inputs=(), scale=1.0, low=-128, high=127, **common)]
    for low, high in CLAMPS[1:]:
        limits = Rescale(Multipliers(np.array([1]), np.array([0])), low, min(high, 127))
        ops.append(IntegerRequantize(name=f"{low}", inputs=("input",), rescale=limits, **common))
    names = tuple(op.name for op in ops)
    ops.append(Concat(name="all", inputs=names, shape=(2 * len(names), 4, 8), place=""))
    formats = dict.fromkeys((*names, "all"), params)
    model = IntegerModel("concat", Scheme.uniform([], Precision(8, 8)), tuple(ops), formats, single_output("all"))
    images = torch.from_numpy(np.random.default_rng(0).integers(-128, 128, (4, 2, 4, 8)).astype(np.float32))
    assert_equal("litert", model, images, tmp_path / "model.tflite")


@pytest.mark.parametrize("signed", [True, False])
def test_dilated_maxima(signed: bool, tmp_path: Path) -> None:
    """LiteRT's pooling knows no dilation; strided slices do."""
    params = QuantParams(TensorFormat.of(8, negative=signed), 1.0)
    first = Quantize(
        name="input", inputs=(), shape=(3, 9, 11), place="", scale=1.0, low=params.quant_min, high=params.quant_max
    )
    images = torch.from_numpy(np.random.default_rng(0).integers(-128, 128, (3, 3, 9, 11)).astype(np.float32))
    for kernel, stride, padding, dilation in [((3, 3), (1, 1), (1, 1), (2, 2)), ((2, 3), (2, 1), (1, 0), (3, 2))]:
        size = torch.nn.functional.max_pool2d(images, kernel, stride, padding, dilation).shape[1:]
        pool = MaxPool2d(
            name="pool", inputs=("input",), shape=tuple(size), place="", kernel=kernel, stride=stride,
            padding=padding, dilation=dilation, ceil_mode=False,
        )  # fmt: skip
        formats = {"input": params, "pool": params}
        scheme = Scheme.uniform([], Precision(8, 8))
        model = IntegerModel("pool", scheme, (first, pool), formats, single_output("pool"))
        assert_equal("litert", model, images, tmp_path / "model.tflite")


def test_refusals(tmp_path: Path) -> None:
    """A window of one channel that float32 does not hold, noise: each is one clear error."""
    scheme = Scheme.uniform([], Precision(8, 8))
    params = QuantParams.unsigned(16, 1.0)
    first = Quantize(name="input", inputs=(), shape=(1, 20, 20), place="", scale=1.0, low=0, high=2**16 - 1)
    mean = IntegerAvgPool2d(
        name="mean",
        inputs=("input",),
        shape=(1, 1, 1),
        place="",
        rescale=None,
        kernel=(20, 20),
        stride=(1, 1),
        padding=(0, 0),
    )
    with pytest.raises(ExportError, match=r"'mean' in float32, which holds 2\*\*24, but a window of it can be larger"):
        to_litert(IntegerModel("mean", scheme, (first, mean), {"input": params}, single_output("mean")))
    (tmp_path / "noise.tflite").write_bytes(b"noise")
    with pytest.raises(FileFormatError, match=r"LiteRT cannot read .*noise\.tflite"):
        load_engine("litert", tmp_path / "noise.tflite")


def test_the_file_states_its_conditions() -> None:
    """Scheme, certificates, images and the engine's conditions are in the file's metadata."""
    from ai_edge_litert import schema_py_generated as schema

    model, _ = integer_model(RESNET20, 32, "W4A4")
    made = schema.ModelT.InitFromObj(schema.Model.GetRootAs(to_litert(model, IMAGENET)))
    facts = {entry.name.decode(): bytes(made.buffers[entry.buffer].data).decode() for entry in made.metadata}
    assert json.loads(facts["bitwright.bitwright"]) == {"scheme": model.scheme.to_dict(), "layers": model.facts}
    assert "uint8 pixels" in facts["bitwright.images"]
    assert "XNNPACK" in facts["bitwright.engine"]
