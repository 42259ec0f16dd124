# SPDX-License-Identifier: MIT
"""Integer models with several outputs: each int32 with its units, the same in training, in both executors and from a file."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import FileFormatError, LoweringError
from bitwright.graph import FloatModel, capture
from bitwright.graph.nodes import ChannelShuffle, Flatten, MaxPool2d, Slice
from bitwright.integer import IntegerModel, logits, prepare, run
from bitwright.integer.model import moved_from
from bitwright.integer.outputs import Output
from bitwright.integer.proof.recheck import recheck
from bitwright.integer.reader import load_integer
from bitwright.quantizer.units import across, moved_unit
from bitwright.returned import by_name
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from graph.networks import Called, randomized
from integer.certified import certified
from several_outputs import RETURNED, images, quantized


def assert_outputs(model: nn.Module, integer: IntegerModel, given: Tensor) -> None:
    """The integers of both executors, and the real numbers of these and of the lowered model in training."""
    expected = by_name(run(integer, given))
    ready = prepare(integer)
    for count in (1, 2, len(given)):
        for name, values in by_name(ready.run(given[:count])).items():
            assert values.dtype == torch.int32
            assert torch.equal(values, expected[name][:count])
    for name, real in by_name(logits(integer, given)).items():
        assert real.dtype == torch.float64
        assert torch.equal(by_name(model(given))[name], real)
        assert torch.equal(by_name(ready.logits(given))[name], real)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", RETURNED)
def test_outputs_are_those_of_training(name: str, bits: int, tmp_path: Path) -> None:
    """At any batch size, under the names of the module, and read from a file."""
    model = quantized(name, bits)
    integer = certified(model)
    assert integer.output_shapes == RETURNED[name][1]
    with torch.no_grad():
        assert_outputs(model, integer, images(5))
    integer.save(tmp_path / "model")
    read = load_integer(tmp_path / "model")
    assert list(read.outputs) == list(RETURNED[name][1])
    assert read.to_bytes() == integer.to_bytes()
    assert all(torch.equal(values, run(integer, images(5))[key]) for key, values in run(read, images(5)).items())


def test_accumulators_leave_where_nothing_computes_with_them() -> None:
    """What something else reads is quantized; an output of a layer, or of what moves its sums, is not."""
    integer = certified(quantized("features and logits", 4))
    assert integer.outputs["features"].tensor in integer.formats
    assert integer.outputs["logits"].tensor not in integer.formats
    integer = certified(quantized("twice", 4))
    assert {name for name, output in integer.outputs.items() if output.tensor in integer.formats} == {"maps.1"}
    assert certified(quantized("dataclass", 4)).outputs["boxes"].tensor not in integer.formats


MOVES: dict[str, Any] = {
    "slices": lambda m, x: tuple(m.conv(x).split([1, 5], 1)),
    "flattened": lambda m, x: m.conv(x).flatten(1),
    "shuffled": lambda m, x: m.conv(x).view(-1, 2, 3, 5, 5).transpose(1, 2).reshape(-1, 6, 5, 5),
    "pooled": lambda m, x: nn.functional.max_pool2d(m.conv(x), 2),
}


@pytest.mark.parametrize("move", MOVES)
def test_units_move_with_their_channels(move: str) -> None:
    """Accumulators that are cut, flattened, pooled or shuffled keep what each is worth, and come close to the float network."""
    torch.manual_seed(0)
    model = randomized(Called(MOVES[move], conv=nn.Conv2d(3, 6, 1)))
    with torch.no_grad():
        model.conv.weight.mul_(torch.tensor([1.0, 10, 100, 1, 10, 100]).reshape(-1, 1, 1, 1))
    graph = capture(model, (3, 5, 5))
    given = torch.randn(8, 3, 5, 5)
    trained = calibrate(quantize(graph, Scheme.uniform(graph.layers, Precision(8, 8))), [given], "minmax")
    integer = certified(trained)
    assert {moved_from(output.tensor, integer) for output in integer.outputs.values()} == {"conv"}
    assert not integer.formats.keys() & integer.returned
    with torch.no_grad():
        assert_outputs(trained, integer, given)
    real = by_name(logits(integer, given))
    for name, wanted in by_name(FloatModel(graph).eval().requires_grad_(False)(given)).items():
        assert float((real[name] - wanted).abs().max()) < 0.03 * float(wanted.abs().max())
        small = wanted.abs() < 0.1 * float(wanted.abs().max())  # whose channels would be far off at another unit
        assert float((real[name] - wanted)[small].abs().max()) < 0.03 * float(wanted.abs().max())


def test_units_of_moved_values() -> None:
    """One for all stays one; one a channel follows its channel; maxima of integers of unequal worth have none."""
    unit = torch.tensor([1.0, 2.0, 3.0, 4.0])
    flat = Flatten(name="flat", inputs=("x",), shape=(16,))
    cut = Slice(name="cut", inputs=("x",), shape=(2, 2, 2), start=1, stop=3)
    mixed = ChannelShuffle(name="mixed", inputs=("x",), shape=(4, 2, 2), groups=2)
    pool = MaxPool2d(
        name="pool",
        inputs=("x",),
        shape=(4, 1, 1),
        kernel=(2, 2),
        stride=(2, 2),
        padding=(0, 0),
        dilation=(1, 1),
        ceil_mode=False,
    )
    shape = (4, 2, 2)
    moved = {node.name: moved_unit(node, unit, shape) for node in (flat, cut, mixed, pool)}
    assert {name: None if value is None else value.tolist() for name, value in moved.items()} == {
        "flat": [1.0] * 4 + [2.0] * 4 + [3.0] * 4 + [4.0] * 4, "cut": [2.0, 3.0], "mixed": [1.0, 3.0, 2.0, 4.0],
        "pool": [1.0, 2.0, 3.0, 4.0],
    }  # fmt: skip
    one = torch.ones(())
    assert moved_unit(flat, one, shape) is one
    along_rows = torch.tensor([1.0, 2.0]).reshape(1, 2, 1)
    assert moved_unit(pool, along_rows, shape) is None
    kept = moved_unit(cut, along_rows, shape)
    assert kept is not None
    assert torch.equal(across(kept, 3).expand(2, 2, 2), along_rows.expand(2, 2, 2))


_READ = """
import sys, torch
from bitwright.integer import load, run
found = run(load(sys.argv[1]), torch.load(sys.argv[2]))
torch.save(found, sys.argv[3])
print(list(found))
"""


def test_another_process_reads_the_same(tmp_path: Path) -> None:
    """The file says all: names in order, and every integer."""
    integer = certified(quantized("twice", 4))
    integer.save(tmp_path / "model")
    torch.save(images(5), tmp_path / "images")
    places = [str(tmp_path / name) for name in ("model", "images", "found")]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", _READ, *places]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=100)
    assert done.stdout.strip() == str(list(RETURNED["twice"][1]))
    found = torch.load(tmp_path / "found")
    assert all(torch.equal(values, run(integer, images(5))[name]) for name, values in found.items())


def test_each_output_is_proved_again(tmp_path: Path) -> None:
    """A unit of another shape, sign or scale is refused by the name of its output, and so is a file that lacks one."""
    integer = certified(quantized("features and logits", 4))

    def other(name: str, unit: Any, tensor: str = "") -> IntegerModel:
        made = Output(tensor or integer.outputs[name].tensor, np.asarray(unit, dtype=np.float64))
        return replace(integer, outputs={**integer.outputs, name: made})

    for changed, message in (
        (other("logits", [-1.0]), "output 'logits': expected positive, finite units"),
        (other("features", [1.0]), "output 'features': expected its unit to be its scale"),
        (other("features", np.ones(3)), "expected one unit of its output 'features', or one a channel"),
        (other("features", [1.0], "absent"), "its output 'features', 'absent', is no operation"),
        (replace(integer, outputs={}), "it returns nothing"),
    ):
        with pytest.raises(LoweringError, match=message):
            recheck(changed)
        changed.save(tmp_path / "model")
        with pytest.raises(FileFormatError, match=message):
            load_integer(tmp_path / "model")
    data = integer.to_bytes().replace(b"output_unit:features", b"output_unit:featurez")
    (tmp_path / "model").write_bytes(data)
    with pytest.raises(FileFormatError):
        load_integer(tmp_path / "model")
