# SPDX-License-Identifier: MIT
"""Triton's kernels give the integers of the reference executor: in its interpreter everywhere, on the GPU where there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bitwright.errors import LoweringError, UnknownNameError
from bitwright.integer import prepare, run
from export.models import RESNET20, integer_model
from integer.triton_cases import CASES

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def _python(program: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    folders = os.pathsep.join([str(Path(__file__).parents[2] / "src"), str(Path(__file__).parents[1])])
    variables = {**os.environ, "PYTHONPATH": folders, **environment}
    return subprocess.run([sys.executable, str(program)], capture_output=True, text=True, env=variables, timeout=240)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str]:
    """What each case found in a process of its own, whose Triton interprets."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    done = _python(Path(__file__).with_name("triton_cases.py"), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CASES)
def test_interpreted(name: str, interpreted: dict[str, str]) -> None:
    """Every integer of every tensor equals the reference executor's."""
    assert interpreted[name] == "equal"


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str) -> None:
    """The same cases on the tensor cores."""
    assert CASES[name]("cuda") == "equal"


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["reference", "torch", "triton", "triton-bf16", "triton-fp16"])
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
def test_resnet18_on_cuda(precision: str, tf32: bool, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole network at full resolution equals the CPU's reference in every tensor, with TF32 forbidden and allowed."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    model, images = integer_model("pytorchcv:resnet18", 224, precision)
    expected: dict[str, torch.Tensor] = {}
    got: dict[str, torch.Tensor] = {}
    run(model, images[:2], expected.__setitem__)
    if kernels == "reference":
        run(model, images[:2].cuda(), got.__setitem__)
    else:
        prepare(model, "cuda", kernels).run(images[:2], got.__setitem__)
    wrong = {name: int((got[name].cpu().double() != expected[name].double()).sum()) for name in expected}
    assert sum(wrong.values()) == 0, wrong


def test_refused_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, without a device, and by a wrong name: one line that says what to take instead."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    with pytest.raises(LoweringError, match=r"expected a CUDA device, got 'cpu'\. Take kernels='torch'"):
        prepare(model, "cpu", "triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LoweringError, match="PyTorch finds no CUDA device on this machine"):
        prepare(model, "cuda", "triton")
    with pytest.raises(UnknownNameError, match="did you mean 'triton'"):
        prepare(model, "cpu", "tritn")


def test_refused_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of PyTorch without Triton says so."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(LoweringError, match="Triton is not installed"):
        prepare(model, "cuda", "triton")


def test_benchmark_refuses_without_cuda() -> None:
    """One line, and a failing exit code."""
    done = _python(BENCHMARK, CUDA_VISIBLE_DEVICES="")
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "benchmarks/gpu.py measures a CUDA device, and PyTorch finds none on this machine."
    ]
