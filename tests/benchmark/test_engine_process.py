# SPDX-License-Identifier: MIT
"""An engine in a process of its own: its crash is an error, and the next request is answered again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from bitwright.benchmark import EngineProcess, Setting
from bitwright.errors import EngineError, UnknownNameError
from bitwright.export import export_onnx
from random_networks import random_model

SETTING = Setting("onnxruntime", "all", threads=1, batch=2)


def test_a_crash_is_an_error(tmp_path: Path) -> None:
    """Killed, or ended by what it loads: the signal is named, and a new process answers."""
    given = random_model(0)
    export_onnx(given.model, tmp_path / "model.onnx", given.target, given.pixels)
    with EngineProcess("onnxruntime") as process:
        for _ in range(2):
            assert np.array_equal(process.logits(tmp_path / "model.onnx", given.images, SETTING), given.logits)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSEGV)
            with pytest.raises(EngineError, match="onnxruntime was ended by SIGSEGV"):
                process.logits(tmp_path / "model.onnx", given.images, SETTING)
        assert process.pid is None


def test_a_refusal_is_an_error_and_the_process_goes_on(tmp_path: Path) -> None:
    """No such file, no such level, images of another shape: the engine's own words; what follows is answered."""
    given = random_model(0)
    export_onnx(given.model, tmp_path / "model.onnx", given.target, given.pixels)
    with EngineProcess("onnxruntime", {"OMP_NUM_THREADS": "1"}) as process:
        with pytest.raises(EngineError, match="found none at"):
            process.logits(tmp_path / "absent.onnx", given.images, SETTING)
        with pytest.raises(EngineError, match="optimisation level of onnxruntime 'most'"):
            process.logits(tmp_path / "model.onnx", given.images, SETTING._replace(level="most"))
        with pytest.raises(EngineError, match="invalid dimensions"):
            process.logits(tmp_path / "model.onnx", given.images[:, :, :, :0], SETTING)
        first = process.pid
        assert np.array_equal(process.logits(tmp_path / "model.onnx", given.images, SETTING), given.logits)
        assert process.pid == first
    with pytest.raises(UnknownNameError, match="did you mean 'onnxruntime'"):
        EngineProcess("onnxruntim")
