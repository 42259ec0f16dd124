# SPDX-License-Identifier: MIT
"""The deployment examples run as a user would run them, without Bitwright, and print the class of the reference executor."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitwright.benchmark import known_engine
from bitwright.export import Pixels
from bitwright.integer import IntegerModel, logits
from export.models import RESNET20, integer_model, model_of_wide_sums

FOLDER = Path(__file__).parent.parent.parent / "examples" / "deploy"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def test_there_are_examples() -> None:
    """The tests below look at the real folder."""
    assert {
        "litert_classify.py",
        "onnxruntime_classify.py",
        "openvino_classify.py",
        "qonnx_classify.py",
        "tvm_classify.py",
    } <= {script.name for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_examples_need_no_bitwright(script: Path) -> None:
    """A product pastes them: they import the engine, NumPy and an image reader."""
    nodes = list(ast.walk(ast.parse(script.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not [name for name in names if name.split(".")[0] in ("bitwright", "torch")]


@pytest.mark.parametrize(
    ("engine", "file"),
    [("onnxruntime", "model.onnx"), ("openvino", "model.xml"), ("qonnx", "model.onnx"), ("tvm", "model.so")],
)
def test_examples_print_the_class(engine: str, file: str, tmp_path: Path) -> None:
    """An image file in, the reference executor's class out."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    classify(model, engine, file, tmp_path)


def test_logits_beyond_float32(tmp_path: Path) -> None:
    """A QONNX file whose logits are int32 runs in the same script."""
    model, _ = model_of_wide_sums()
    classify(model, "qonnx", "model.onnx", tmp_path)


def classify(model: IntegerModel, engine: str, file: str, tmp_path: Path) -> None:
    """Run the example of an engine on one image of pixels, and compare the class that it prints."""
    found = known_engine(engine)
    pytest.importorskip(found.package, reason=f"the extra '{engine}' is not installed")
    pixels = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found.form.export(model, tmp_path / file, pixels=pixels)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
    command = [sys.executable, str(FOLDER / f"{engine}_classify.py"), file, "image.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=100)
    assert int(done.stdout) == int(logits(model, pixels.normalise(image)).argmax())
