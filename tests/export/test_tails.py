# SPDX-License-Identifier: MIT
"""Float tails of ONNX files: further outputs behind the integers, which stay what they are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bitwright.benchmark import checked_export, load_engine
from bitwright.benchmark.checked_tails import differing_tail
from bitwright.errors import ExportError, UnknownNameError
from bitwright.export import export_onnx, export_qdq, form_of
from bitwright.integer import IntegerModel, lower, run
from several_outputs import images, quantized


@pytest.fixture(scope="module")
def model() -> IntegerModel:
    """Logits of five classes and maps of six channels, at 4 bits."""
    return lower(quantized("tuple", 4))


@pytest.mark.parametrize("export", [export_onnx, export_qdq])
def test_tails_are_further_outputs(export: Callable[..., object], model: IntegerModel, tmp_path: Path) -> None:
    """Of every kind, over the classes; the integers and their worth are those of the file without, and sessions read these."""
    path = tmp_path / "model.onnx"
    export(model, path, tail={"output0": "softmax", "output1": "sigmoid"})
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = load_engine("onnxruntime", path)
    assert session.outputs == ("output0", "output1")
    given = images(3)
    for name, wanted in run(model, given).items():
        assert np.array_equal(session.integers(given.numpy())[name], wanted.numpy())
    real = session.logits(given.numpy())
    runner = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    chances, shares = runner.run(["output0_softmax", "output1_sigmoid"], {"images": given.numpy()})
    np.testing.assert_allclose(chances, torch.from_numpy(real["output0"]).softmax(1), rtol=1e-5)
    np.testing.assert_allclose(shares, torch.from_numpy(real["output1"]).sigmoid(), rtol=1e-5)
    export(model, path, tail="log_softmax")
    names = [output.name for output in onnx.load(path).graph.output]
    assert names[-2:] == ["output0_log_softmax", "output1_log_softmax"]
    assert differing_tail(path, {"output0": "log_softmax", "output1": "log_softmax"}, given) is None


def test_a_wrong_tail_is_no_file(model: IntegerModel, tmp_path: Path) -> None:
    """What is written is run: a tail that computes something else is refused, and removed."""
    path = tmp_path / "model.onnx"

    def write(part: IntegerModel, place: Path) -> None:
        export_onnx(part, place, tail={"output0": "softmax"})
        made = onnx.load(place)
        made.graph.node[-1].op_type = "LogSoftmax"
        onnx.save(made, place)

    with pytest.raises(ExportError, match=r"'output0_softmax' of '.*' is not what its name says"):
        checked_export(write, model, path, form_of("onnx"), tail={"output0": "softmax"})
    assert not path.exists()


def test_no_engine_is_loaded_before_it_runs() -> None:
    """Whoever imports what compares engines need not have them."""
    code = "import sys, bitwright.benchmark; sys.exit('onnxruntime' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("tail", "message"), [("softmin", "unknown tail 'softmin'"), ({"output2": "softmax"}, "unknown output 'output2'")]
)
def test_what_is_no_tail_is_refused(tail: str, message: str, model: IntegerModel, tmp_path: Path) -> None:
    """Unknown kinds and outputs, without a file."""
    with pytest.raises(UnknownNameError, match=message):
        export_onnx(model, tmp_path / "model.onnx", tail=tail)
    assert not (tmp_path / "model.onnx").exists()
