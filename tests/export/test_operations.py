# SPDX-License-Identifier: MIT
"""Operations x engines: each gives the integers of the reference on all that the operation can be given."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.benchmark import ENGINES, load_engine
from bitwright.errors import ExportError
from bitwright.export import export_qdq
from bitwright.integer import load, prepare, run
from export.equality import assert_equal
from export.operations import CASES, FURTHER, Case, of_batch
from export.unoptimised import unoptimised

REFUSED: dict[tuple[str, str], str] = {}
"""By engine and operation, the words in which an exporter refuses it."""

BATCHES = (1, 2, 5)


def _check(case: Case, engine: str) -> None:
    """Export, run at every level and batch, and compare all integers."""
    assert_equal(engine, case.model, case.images, export=unoptimised if engine == "tvm" else None, batches=BATCHES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", ENGINES)
def test_operation_in_engine(engine: str, name: str) -> None:
    """All integers are equal at batch 1, 2 and 5 and at every level, or the exporter refuses in the words of `REFUSED`."""
    if reason := REFUSED.get((engine, name)):
        with pytest.raises(ExportError, match=reason):
            _check(CASES[name](), engine)
        return
    _check(CASES[name](), engine)


@pytest.mark.slow
@pytest.mark.parametrize("name", FURTHER)
@pytest.mark.parametrize("engine", ENGINES)
def test_further_operation_in_engine(engine: str, name: str) -> None:
    """Every function, from formats of all kinds."""
    _check(FURTHER[name](), engine)


@pytest.mark.parametrize("name", CASES)
def test_operation_between_quantize_and_dequantize(name: str, tmp_path: Path) -> None:
    """ONNX Runtime gives the same integers from the QDQ form, at its lowest and highest level."""
    case, path = CASES[name](), tmp_path / "model.onnx"
    export_qdq(case.model, path)
    images, given = of_batch(case, 2)
    for level in ("none", "all"):
        got = load_engine("onnxruntime", path, threads=1, level=level)(given)
        assert (got != run(case.model, images).numpy()).sum() == 0


@pytest.mark.parametrize("name", CASES)
def test_operation_in_the_executors(name: str, tmp_path: Path) -> None:
    """The fast executor gives the integers of the reference, and so does the model that was saved and loaded."""
    case = CASES[name]()
    images, _ = of_batch(case, 5)
    expected = run(case.model, images)
    assert len(expected.unique()) > 2
    assert prepare(case.model).run(images).equal(expected)
    case.model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert run(again, images).equal(expected)  # type: ignore[arg-type]
    assert again.to_bytes() == case.model.to_bytes()  # type: ignore[union-attr]
