# SPDX-License-Identifier: MIT
"""Checkpoints: a round trip keeps every bit, damage is refused, a kill leaves the old file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bitwright.errors import FileFormatError
from bitwright.integer import load, lower, run
from bitwright.integer.reader import load_integer
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, load_quantized, quantize, save_quantized
from training.small import digits, small_graph, small_quantized


def test_a_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    """The loaded model has the same state, the same settings, and lowers to the same integers."""
    graph = small_graph()
    scheme = Scheme("W3A5", Scheme.uniform(graph.layers, Precision(3, 5)).layers, 16)
    options = {"act_percentile": 99.0, "weight_percentile": 98.0, "per_channel": False, "bias_bits": 20}
    model = quantize(graph, scheme, ranges="ema", momentum=-1, free_norm=False, **options)  # type: ignore[arg-type]
    calibrate(model, [digits().calibration(32)[0]])
    save_quantized(tmp_path / "model", model)
    loaded = load_quantized(tmp_path / "model")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert (loaded.plan.scheme, loaded.quantizing, loaded.free_norm) == (model.plan.scheme, model.quantizing, False)
    images = digits().calibration(16)[0]
    assert torch.equal(run(lower(loaded), images), run(lower(model), images))


def test_any_file_is_known_by_its_content(tmp_path: Path) -> None:
    """`load` gives what was saved: a graph, a quantized model, an integer model."""
    model = small_quantized()
    small_graph().save(tmp_path / "a")
    save_quantized(tmp_path / "b", model)
    lower(model).save(tmp_path / "c")
    kinds = [type(load(tmp_path / name)).__name__ for name in "abc"]
    assert kinds == ["Graph", "QuantizedModel", "IntegerModel"]


@pytest.mark.parametrize("damage", ["truncated", "emptied", "a weight", "the scheme", "another kind", "no file"])
def test_damage_is_refused(tmp_path: Path, damage: str) -> None:
    """Nothing of a file that is not as it was written is loaded."""
    path = tmp_path / "model"
    model = small_quantized()
    save_quantized(path, model)
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[-50:]
    elif damage == "emptied":
        data.clear()
    elif damage == "a weight":
        data[-77] ^= 4
    elif damage == "the scheme":
        data[data.index(b"W4A4") + 1] = ord("5")
    elif damage == "another kind":
        data = bytearray(lower(model).to_bytes())
    path.write_bytes(bytes(data))
    if damage == "no file":
        path.unlink()
    with pytest.raises(FileFormatError, match=str(path)):
        load_quantized(path)


def test_a_kill_during_a_save_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process that saves without pause is killed: what it leaves loads, and gives the logits it had."""
    path = tmp_path / "model"
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from bitwright.integer import lower\nfrom training.small import small_quantized\n"
        f"model = lower(small_quantized())\nwhile True:\n    model.save({str(path)!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not path.exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    images = digits().calibration(8)[0]
    assert torch.equal(run(load_integer(path), images), run(lower(small_quantized()), images))


def test_another_scheme_starts_from_the_trained_floats() -> None:
    """The float network inside has the graph as captured, whatever quantizers stood in it."""
    model = small_quantized("W2A2", residual_bits=16)
    graph = model.float_graph()
    assert [node.name for node in graph] == [node.name for node in small_graph()]
    assert isinstance(model, QuantizedModel)
    assert len(model.plan.graph.nodes) > len(graph.nodes)
