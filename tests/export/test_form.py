# SPDX-License-Identifier: MIT
"""The forms of exported files say all that is known of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.benchmark import ENGINES
from bitwright.errors import ExportError, UnknownNameError
from bitwright.export import FORMS, Form, companions, form_of, is_exported


def test_engines_and_forms_are_for_one_another() -> None:
    """Each engine reads a form, and each form has an engine that reads it; names are told apart within an engine."""
    assert {engine.form.engine for engine in ENGINES.values()} == {form.engine for form in FORMS}
    assert len({(form.engine, form.name) for form in FORMS}) == len(FORMS)


def test_forms_are_found_by_name() -> None:
    """The first form of an engine is its default; a form of another engine and an unknown one are refused."""
    assert form_of("onnx").name == "qoperator"
    assert form_of("onnx", "qdq").name == "qdq"
    with pytest.raises(ExportError, match="--form qdq is for the engine onnx, got tvm"):
        form_of("tvm", "qdq")
    with pytest.raises(UnknownNameError, match="unknown form 'qqd': did you mean 'qdq'"):
        form_of("onnx", "qqd")
    with pytest.raises(UnknownNameError, match="unknown engine 'onxn': did you mean 'onnx'"):
        form_of("onxn")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.engine}{form.name}")
def test_options_of_other_forms_are_refused(form: Form) -> None:
    """An option that a form would ignore names the engine that takes it."""
    if "tvm_target" in form.options:
        form.require_options(["tvm_target"])
        return
    with pytest.raises(ExportError, match=f"--tvm-target is for the engine tvm, got {form.engine}"):
        form.require_options(["tvm_target"])


def test_files_are_known_by_their_names() -> None:
    """The end of a name tells an exported file, and what lies beside it."""
    assert all(is_exported(f"model{form.suffix}") for form in FORMS)
    assert not is_exported("model.safetensors")
    assert companions("model.xml") == (Path("model.bin"),)
    assert companions("model.onnx") == companions("model.safetensors") == ()
