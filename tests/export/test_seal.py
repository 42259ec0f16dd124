# SPDX-License-Identifier: MIT
"""Exported files say which integers they hold, and one byte of a constant that is another is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from bitwright.benchmark import ENGINES, load_engine
from bitwright.errors import FileFormatError
from bitwright.export import form_of
from bitwright.export.seal import CHECKED_LENGTH, NOT_CHECKED, constants, contents, model_digest, state_checked, stated
from bitwright.integer.reader import load_integer
from random_networks import RandomModel, random_model

SEED = 2
"""Of a network that no engine is refused."""


@pytest.fixture(scope="module")
def given() -> RandomModel:
    """The model."""
    return random_model(SEED)


@pytest.fixture(params=ENGINES)
def exported(
    request: pytest.FixtureRequest, given: RandomModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A file for each engine."""
    engine = ENGINES[request.param]
    if not engine.installed:
        pytest.skip(f"the extra '{engine.name}' is not installed")
    path = tmp_path_factory.mktemp("sealed") / f"model{engine.form.suffix}"
    engine.form.export(given.model, path, given.target, given.pixels)
    return engine.name, path


def test_a_file_states_its_integers(given: RandomModel, exported: tuple[str, Path]) -> None:
    """The digest is the model's, that of the constants is found again, and what is stated of a run changes neither.

    A byte of a constant that is another one, is found.
    """
    engine, path = exported
    facts = stated(path)
    assert facts["digest"] == model_digest(given.model)
    assert facts["contents"] == contents(path)
    assert facts["checked"] == NOT_CHECKED
    size = path.stat().st_size
    state_checked(path, f'equal at "batch" 1 & <2>, {"very " * 100}long')
    assert stated(path)["checked"].startswith("equal at batch 1  2, very")
    assert len(stated(path)["checked"]) <= CHECKED_LENGTH
    assert path.stat().st_size == size
    assert stated(path)["contents"] == contents(path)
    assert np.array_equal(load_engine(engine, path)(given.images), given.logits)

    place = path.with_suffix(".bin") if path.suffix == ".xml" else path
    data = bytearray(place.read_bytes())
    # Some constants are stored as other bytes than their own: as numbers of varying length.
    stored = [constant.values for constant in constants(path) if constant.values in data]
    data[len(data) // 2 if path.suffix == ".so" else data.index(max(stored, key=len))] ^= 1
    place.write_bytes(data)
    assert stated(path)["contents"] != contents(path)

    cut = path.with_name(f"cut{path.suffix}")
    cut.write_bytes(path.read_bytes()[: size // 2])
    if path.suffix != ".so":  # whose halves are bytes as well
        with pytest.raises(FileFormatError, match=f"cannot read .*cut\\{path.suffix}"):
            contents(cut)


def test_what_another_program_wrote_states_nothing(given: RandomModel, tmp_path: Path) -> None:
    """No metadata of ours, no statement; another order and other names of the same constants are the same contents."""
    form_of("onnx").export(given.model, tmp_path / "model.onnx", given.target, given.pixels)
    made = onnx.load(tmp_path / "model.onnx")
    kept = list(made.graph.initializer)
    del made.metadata_props[:], made.graph.initializer[:]
    made.graph.initializer.extend(reversed(kept))
    onnx.save(made, tmp_path / "other.onnx")
    assert stated(tmp_path / "other.onnx") == {}
    assert contents(tmp_path / "other.onnx") == stated(tmp_path / "model.onnx")["contents"]


def test_the_digest_is_of_integers(given: RandomModel, tmp_path: Path) -> None:
    """What lowering noted does not change it, nor does a file between; one weight does."""
    digest = model_digest(given.model)
    assert model_digest(replace(given.model, facts={})) == digest
    given.model.save(tmp_path / "model.integer")
    assert model_digest(load_integer(tmp_path / "model.integer")) == digest
    name, layer = next(iter(given.model.layers().items()))
    weight = layer.weight.copy()
    weight.reshape(-1)[0] = 0 if weight.reshape(-1)[0] else 1
    ops = tuple(replace(layer, weight=weight) if op.name == name else op for op in given.model)
    assert model_digest(replace(given.model, ops=ops)) != digest
