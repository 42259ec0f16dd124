# SPDX-License-Identifier: MIT
"""The environment of a measurement: processor, instruction sets, versions."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest

from bitwright.benchmark import environment
from bitwright.export import Target


def test_this_machine() -> None:
    """Versions are those of the installed packages, and everything is JSON."""
    found = environment()
    assert found.packages["onnxruntime"] == onnxruntime.__version__
    assert "openvino" not in found.packages or found.packages["openvino"]
    assert found.cores >= 1
    assert json.loads(json.dumps(found.to_dict()))["processor"] == found.processor


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("model name\t: A\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", Target.VNNI),
        ("model name\t: B\nflags\t\t: fpu avx2 avx512f\n\nmodel name\t: C\nflags\t\t: avx_vnni\n", Target.ANY),
        ("Features\t: fp asimd asimddp\n", Target.VNNI),
        ("", Target.ANY),
    ],
)
def test_the_target_of_a_cpu(text: str, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8-bit dot products are believed only where the first processor lists them."""
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    monkeypatch.setitem(environment.__globals__, "_CPUINFO", file)
    found = environment()
    assert found.target is target
    assert found.processor


def test_it_is_printed_for_logs() -> None:
    """`make environment` names the processor and every instruction set that it has; continuous integration runs it first."""
    here = environment()
    shown = str(here)
    assert here.processor in shown
    assert f"instruction sets: {', '.join(here.instructions) or 'unknown'}; 8-bit dot products: " in shown
    assert all(f"{name} {found}" in shown for name, found in here.packages.items())
    root = Path(__file__).parents[2]
    assert "print(environment())" in (root / "Makefile").read_text(encoding="utf-8")
    steps = (root / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert steps.index("make environment") < steps.index("make test")
