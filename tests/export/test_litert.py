# SPDX-License-Identifier: MIT
"""LiteRT files give the reference executor's logits in the interpreter with XNNPACK, integer for integer, or are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bitwright.benchmark import compare, load_engine
from bitwright.errors import ExportError, FileFormatError
from bitwright.export import Pixels, export_litert, to_litert
from bitwright.export.litert_builder import LitertBuilder
from bitwright.integer import IntegerModel, run
from bitwright.integer.ops import IntegerConv2d
from export.models import (
    FULL_SIZE,
    FURTHER,
    RESNET20,
    changed,
    clothes,
    images_alone,
    integer_model,
    model_of_clothes,
    of_scale,
)

pytest.importorskip("ai_edge_litert", reason="the extra 'litert' is not installed")

IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def assert_equal(model: IntegerModel, images: Tensor, path: Path) -> None:
    """All int32 logits are equal at batch 1, at the whole batch, and at batch 1 again."""
    export_litert(model, path)
    expected = run(model, images).numpy()
    predict = load_engine("litert", path)
    for count in (1, len(images), 1):
        got = predict(images[:count].numpy())
        assert got.dtype == np.int32
        assert np.array_equal(got, expected[:count]), count


@pytest.mark.parametrize(
    "precision", ["W8A8", "W3A5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("W4A8", "W4A4", "W2A2"))]
)
def test_resnet20(precision: str, tmp_path: Path) -> None:
    """Every width of weights and activations gives equal logits."""
    model, images = integer_model(RESNET20, 32, precision)
    assert_equal(model, images, tmp_path / "model.tflite")


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:mobilenet_v2",
        pytest.param("torchvision:shufflenet_v2_x1_0", marks=pytest.mark.slow),
        "torchvision:squeezenet1_1",
    ],
)
def test_architectures(name: str, tmp_path: Path) -> None:
    """Linear bottlenecks, channel shuffles, concatenations, rounded-up pooling: each has its exact form."""
    model, images = integer_model(name, 64, "W4A4")
    assert_equal(model, images, tmp_path / "model.tflite")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
@pytest.mark.parametrize(("name", "size"), [*FULL_SIZE, *FURTHER])
def test_full_size_networks(name: str, size: int, precision: str, tmp_path: Path) -> None:
    """Networks of the zoo, at full resolution, give equal logits."""
    model, images = integer_model(name, size, precision)
    assert_equal(model, images, tmp_path / "model.tflite")


@pytest.mark.data
def test_real_clothes(tmp_path: Path) -> None:
    """All logits of 500 real images are equal."""
    model = model_of_clothes("W4A8")
    export_litert(model, tmp_path / "model.tflite")
    batches = (clothes().test.read(range(start, start + 100))[0] for start in range(0, 500, 100))
    (result,) = compare(model, {"litert": tmp_path / "model.tflite"}, batches)
    assert (result.equal_images, result.images) == (500, 500)


def test_images_of_pixels(tmp_path: Path) -> None:
    """A file that takes uint8 pixels gives the integers of the normalised images, or is refused."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    export_litert(model, tmp_path / "model.tflite", pixels=IMAGENET)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    (result,) = compare(model, {"litert": tmp_path / "model.tflite"}, [images], pixels=IMAGENET)
    assert result.exact
    with pytest.raises(ExportError, match="no gain and offset give the integers of all pixels"):
        to_litert(of_scale(model, 2 / 255), Pixels((128 / 255,) * 3, (1.0,) * 3))


def test_quotients_are_rounded_as_divisions(tmp_path: Path) -> None:
    """Images whose quotient by the scale lies next to a half tell a division from a product with the inverse."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    scale = np.float32(model.ops[0].scale)
    halves = (np.arange(-127, 127, dtype=np.float32) + np.float32(0.5)) * scale
    near = np.concatenate([halves, np.nextafter(halves, np.float32(9)), np.nextafter(halves, np.float32(-9))])
    wrong = np.rint(near * (np.float32(1) / scale)) != np.rint(near / scale)
    assert wrong.any()
    images = torch.from_numpy(np.resize(near[wrong], (4, 3, 32, 32)))
    assert_equal(images_alone(model), images, tmp_path / "model.tflite")


def test_logits_beyond_float32_are_summed_in_parts(tmp_path: Path) -> None:
    """Where a class's sum can exceed 2**24, parts of it are added as int32; and so can a bias."""
    model, images = integer_model(RESNET20, 32, "W8A8")
    before = model.ops[: model.ops.index(model.layers()["output"])]
    weight = np.random.default_rng(0).integers(20, 40, (10, 16, 32, 32)).astype(np.int8)
    wide = [op for op in before if op.shape == (16, 32, 32)][-1]
    until = before[: before.index(wide) + 1]
    sums = IntegerConv2d(
        name="sums", inputs=(wide.name,), shape=(10, 1, 1), rescale=None, weight=weight,
        weight_bits=8, bias=np.full(10, 2**25 + 1, dtype=np.int32), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1,
    )  # fmt: skip
    wider = replace(model, ops=(*until, sums), output="sums", output_unit=np.ones(1))
    assert int(run(wider, images).max()) > 2**25
    assert_equal(wider, images, tmp_path / "model.tflite")
    heavy = replace(sums, weight=np.full_like(weight, 127))
    with pytest.raises(ExportError, match=r"'sums' in float32, which holds 2\*\*24, but its sums can be larger"):
        to_litert(replace(wider, ops=(*until, heavy)))


def test_refusals(tmp_path: Path) -> None:
    """Wide streams, clamps that no kernel has, grouped convolutions, noise: each is one clear error."""
    with pytest.raises(ExportError, match=r"at most 8 bits, but '.*' has 16\. Use residual_bits: 8"):
        to_litert(integer_model(RESNET20, 32, "W8A8", 16)[0])
    model, _ = integer_model(RESNET20, 32, "W4A4")
    with pytest.raises(ExportError, match=r"no clamp to \[-7, 7\] for 'x'"):
        LitertBuilder(model, None).store("x", (4, 4, 4), -7, 7)
    layer = list(model.layers().values())[1]
    halves = layer.weight[:, : layer.weight.shape[1] // 2]
    with pytest.raises(ExportError, match=rf"2 groups of channels \('{layer.name}'\)"):
        to_litert(changed(model, layer, groups=2, weight=halves))
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
