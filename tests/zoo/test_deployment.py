# SPDX-License-Identifier: MIT
"""Imported models evaluate, export, verify and benchmark like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from bitwright.benchmark import ENGINES, compare, verify
from bitwright.errors import ExportError
from bitwright.export import export_litert, export_onnx, export_openvino, export_qonnx
from bitwright.integer import run
from bitwright.integer.ops import IntegerConv2d
from bitwright.integer.proof.float32_multipliers import in_float32, with_float32_multipliers
from zoo.networks import imported

published = pytest.mark.parametrize(
    ("model", "scheme", "side"),
    [
        ("resnet18", "bops_0.5", 32),
        *(
            pytest.param(model, scheme, side, marks=pytest.mark.slow)
            for model in ("resnet18", "resnet50")
            for scheme, side in (("uniform8", 224), ("latency_0.5", 224), ("uniform4", 64))
        ),
    ],
)


@published
def test_onnx(model: str, scheme: str, side: int, tmp_path: Path) -> None:
    """ONNX Runtime gives the integers of the published arithmetic at all its optimisation levels."""
    made, images = imported(model, scheme, side, tmp_path)
    export_onnx(made, tmp_path / "model.onnx")
    results = compare(made, {"onnxruntime": tmp_path / "model.onnx"}, [images[:1], images])
    assert [result.level for result in results] == ["none", "basic", "extended", "all"]
    assert all(result.exact for result in results)
    assert results[0].images == 4
    assert (tmp_path / "model.onnx").stat().st_size < 1.03 * len(made.to_bytes())


@pytest.mark.skipif(not ENGINES["litert"].installed, reason="the extra 'litert' is not installed")
@published
def test_litert(model: str, scheme: str, side: int, tmp_path: Path) -> None:
    """LiteRT gives the integers of the published arithmetic: streams in int32, 31-bit multipliers in int64."""
    made, images = imported(model, scheme, side, tmp_path)
    export_litert(made, tmp_path / "model.tflite")
    (result,) = compare(made, {"litert": tmp_path / "model.tflite"}, [images[:1], images])
    assert result.exact
    assert result.images == 4
    # Weights of layers that are summed in float32 are stored as int8 too.
    assert (tmp_path / "model.tflite").stat().st_size < 1.06 * sum(
        layer.weight.size for layer in made.layers().values()
    )


@pytest.mark.parametrize(("scheme", "everywhere"), [("w4a4", True), ("bops_0.5", False)])
def test_as_many_layers_as_possible_are_fast(scheme: str, everywhere: bool, tmp_path: Path) -> None:
    """All layers of four bits within the blocks get float32 multipliers, and the integers of every tensor stay the same."""
    made, images = imported("resnet18", scheme, 32, tmp_path)
    narrowed = with_float32_multipliers(made)
    seen: dict[str, list] = {}
    for model in (made, narrowed):
        run(model, images, observe=lambda name, values: seen.setdefault(name, []).append(values.numpy()))
    assert all(np.array_equal(*pair) for pair in seen.values())
    inner = [op for op in narrowed if isinstance(op, IntegerConv2d) and op.name.endswith("body.conv1.conv")]
    assert len(inner) == 8
    assert all(in_float32(op.rescale) for op in inner) == everywhere
    assert any(in_float32(op.rescale) for op in inner)


def test_the_standard_gives_the_same(tmp_path: Path) -> None:
    """ONNX's own reference implementation computes the same integers."""
    made, images = imported("resnet18", "bops_0.5", 32, tmp_path)
    (got,) = ReferenceEvaluator(export_onnx(made, tmp_path / "model.onnx")).run(
        ["logits_int32"], {"images": images[:1].numpy()}
    )
    assert np.array_equal(got, run(made, images[:1]).numpy())


@pytest.mark.skipif(not ENGINES["openvino"].installed, reason="the extra 'openvino' is not installed")
def test_openvino_is_refused_by_name(tmp_path: Path) -> None:
    """Its CPU plugin has nothing beyond float32 and int32, which published streams need: the first layer of one is named."""
    made, _ = imported("resnet18", "bops_0.5", 32, tmp_path)
    with pytest.raises(
        ExportError, match=r"OpenVINO computes 'features\..*' in float32, having neither float64 nor int64"
    ):
        export_openvino(made, tmp_path / "model.xml")


def test_qonnx_is_refused_by_name(tmp_path: Path) -> None:
    """Float32 has no 31-bit multipliers; where no engine was asked for by name, the others are verified all the same."""
    made, images = imported("resnet18", "bops_0.5", 32, tmp_path)
    with pytest.raises(ExportError, match=r"QONNX .* 31-bit multipliers of 'features.init_block.conv.conv'"):
        export_qonnx(made, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="31-bit multipliers"):
        verify(made, [images], ["onnxruntime", "qonnx"])
    names: list[str] = []
    results = verify(made, [images[:1]], refused=lambda name, error: names.append(name))
    assert "onnxruntime" in {result.engine for result in results}
    assert not {result.engine for result in results} & set(names)
