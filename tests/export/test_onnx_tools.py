# SPDX-License-Identifier: MIT
"""What other people's tools make of ONNX files: equal logits, or an error, or what docs/engines.md says of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import version_converter

from bitwright.export import to_onnx, to_qdq
from bitwright.graph import capture
from bitwright.integer import IntegerModel, lower, run
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from cli.networks import small

FORMS: dict[str, Callable[[IntegerModel], onnx.ModelProto]] = {"qdq": to_qdq, "qoperator": to_onnx}

every_file = pytest.mark.parametrize(
    ("form", "residual_bits", "weight_bits"),
    [(form, residual_bits, bits) for form in FORMS for residual_bits in (8, 16) for bits in (4, 8)],
)


@cache
def made(residual_bits: int, weight_bits: int) -> tuple[IntegerModel, torch.Tensor]:
    """A residual network, its inner layer at `weight_bits`; and images."""
    torch.manual_seed(0)
    images = torch.randn(5, 1, 28, 28)
    graph = capture(small().eval(), (1, 28, 28))
    bits = (Precision(8, 8), Precision(weight_bits, 8), Precision(8, 6))
    scheme = Scheme("tools", dict(zip(graph.layers, bits, strict=True)), residual_bits)
    return lower(calibrate(quantize(graph, scheme), [images], "minmax")), images


def session(file: bytes | str) -> onnxruntime.InferenceSession:
    """At the default level, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def logits(file: onnx.ModelProto | str, images: torch.Tensor) -> npt.NDArray[np.int32]:
    """What ONNX Runtime computes from a file."""
    loaded = session(file if isinstance(file, str) else file.SerializeToString())
    return np.asarray(loaded.run(["logits_int32"], {"images": images.numpy()})[0])


def given(
    form: str, residual_bits: int, weight_bits: int
) -> tuple[onnx.ModelProto, torch.Tensor, npt.NDArray[np.int32]]:
    """A file, images, and the logits of the model, which are of many values."""
    model, images = made(residual_bits, weight_bits)
    expected = run(model, images).numpy()
    assert np.unique(expected).size > 20
    return FORMS[form](model), images, expected


@every_file
@pytest.mark.filterwarnings("ignore")  # the tool's own
def test_onnxslim(form: str, residual_bits: int, weight_bits: int) -> None:
    """Equal; its fusion of Conv and Mul fails on convolutions without constant weights, as those of QDQ files."""
    onnxslim = pytest.importorskip("onnxslim")
    file, images, expected = given(form, residual_bits, weight_bits)
    skipped = ["FusionConvMul"] if form == "qdq" else None
    assert np.array_equal(logits(onnxslim.slim(file, skip_fusion_patterns=skipped), images), expected)


@every_file
@pytest.mark.filterwarnings("ignore")  # the tool's own
def test_onnxsim(form: str, residual_bits: int, weight_bits: int) -> None:
    """Equal; it warns of INT4 tensors, which it leaves as they are."""
    onnxsim = pytest.importorskip("onnxsim")
    file, images, expected = given(form, residual_bits, weight_bits)
    assert np.array_equal(logits(onnxsim.simplify(file)[0], images), expected)


@every_file
def test_later_opsets(form: str, residual_bits: int, weight_bits: int) -> None:
    """Equal in every later opset that ONNX's converter and ONNX Runtime know."""
    file, images, expected = given(form, residual_bits, weight_bits)
    for opset in range(22, 26):
        assert np.array_equal(logits(version_converter.convert_version(file, opset), images), expected), opset


@every_file
def test_earlier_opsets(form: str, residual_bits: int, weight_bits: int) -> None:
    """Equal where ONNX's converter has a way; it has none for types that begin at 21, nor below 16 (QDQ: 14), and says so."""
    file, images, expected = given(form, residual_bits, weight_bits)
    converted = []
    for opset in range(13, 21):
        try:
            earlier = version_converter.convert_version(file, opset)
        except RuntimeError:
            continue
        assert np.array_equal(logits(earlier, images), expected), opset
        converted.append(opset)
    first = 14 if form == "qdq" else 16
    later = form == "qoperator" and (weight_bits == 4 or residual_bits == 16)
    assert converted == ([] if later else list(range(first, 21)))


@every_file
def test_ort_format(form: str, residual_bits: int, weight_bits: int, tmp_path: Path) -> None:
    """Optimised, saved in ORT's own format, and loaded again: equal."""
    file, images, expected = given(form, residual_bits, weight_bits)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert np.array_equal(logits(str(tmp_path / "model.ort"), images), expected)


@every_file
@pytest.mark.filterwarnings("ignore")  # the tool's own
def test_half_precision_is_not_exact(form: str, residual_bits: int, weight_bits: int) -> None:
    """ONNX Runtime's converter to float16 makes files that do not load, or that compute something else."""
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    file, images, expected = given(form, residual_bits, weight_bits)
    narrow = float16.convert_float_to_float16(file, keep_io_types=True)
    if form == "qoperator":
        with pytest.raises(Exception, match=r"float16.* of operator \(QLinearConv\)"):
            session(narrow.SerializeToString())
    else:
        assert not np.array_equal(logits(narrow, images), expected)


RUN = """
import fs from 'node:fs';
import * as ort from 'onnxruntime-web';
ort.env.wasm.numThreads = 1;
const [,, file, images, ...shape] = process.argv;
const session = await ort.InferenceSession.create(fs.readFileSync(file), {executionProviders: ['wasm']});
const bytes = fs.readFileSync(images);
const data = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const given = {images: new ort.Tensor('float32', data, shape.map(Number))};
const {logits_int32} = await session.run(given, ['logits_int32']);
console.log(JSON.stringify(Array.from(logits_int32.data)));
"""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime-web."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm and node are not installed")
    folder = tmp_path_factory.mktemp("web")
    try:
        command = ["npm", "install", "--no-audit", "--no-fund", "onnxruntime-web"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=240)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm cannot install onnxruntime-web here")
    (folder / "run.mjs").write_text(RUN)
    return folder


@pytest.mark.slow
@every_file
def test_onnxruntime_web(form: str, residual_bits: int, weight_bits: int, web: Path) -> None:
    """In WebAssembly, under node: equal, at batches of one and five."""
    file, images, expected = given(form, residual_bits, weight_bits)
    onnx.save(file, web / "model.onnx")
    for count in (1, 5):
        (web / "images.bin").write_bytes(images[:count].numpy().tobytes())
        shape = map(str, (count, *images.shape[1:]))
        command = ["node", "run.mjs", "model.onnx", "images.bin", *shape]
        done = subprocess.run(command, cwd=web, check=True, capture_output=True, text=True, timeout=120)
        assert json.loads(done.stdout) == expected[:count].reshape(-1).tolist()
