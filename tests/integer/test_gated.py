# SPDX-License-Identifier: MIT
"""Products and tables in a whole network: trained as lowered, proved again, refused where they were changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitwright.errors import ExportError, FileFormatError, LoweringError
from bitwright.export import FORMS
from bitwright.graph import capture
from bitwright.integer import IntegerModel, IntegerProduct, IntegerTable, QuantParams, load, prepare, run
from bitwright.integer.proof.recheck import recheck
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize
from export.operations import product
from graph.networks import Then
from integer.certified import certified
from integer.gated import gated_graph, gated_model, gated_quantized
from training.small import digits


def _differing(model: QuantizedModel, integer: IntegerModel, images: Tensor) -> dict[str, int]:
    """How many integers of each tensor the forward pass of training computes otherwise."""
    got: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}
    with torch.no_grad():
        model(images, lambda name, value: got.__setitem__(name, value.values))
    run(integer, images, lambda name, value: expected.__setitem__(name, value))
    counts = {name: int((got[name].double() != value.double()).sum()) for name, value in expected.items()}
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize(
    ("precision", "residual_bits", "ranges"),
    [
        ("W4A4", 8, "learned"),
        ("W8A8", 16, "ema"),
        pytest.param("W8A8", 8, "learned", marks=pytest.mark.slow),
        pytest.param("W4A8", 16, "learned", marks=pytest.mark.slow),
        pytest.param("W2A2", 16, "fixed", marks=pytest.mark.slow),
    ],
)
def test_every_integer_is_that_of_training(precision: str, residual_bits: int, ranges: str, tmp_path: Path) -> None:
    """After training: the forward pass, both executors and the loaded file, in every tensor on 500 images."""
    model = gated_quantized(precision, residual_bits, ranges, epochs=1)
    integer = certified(model)
    images = torch.cat([images for images, _ in digits().batches("test", 250)][:2])
    assert _differing(model, integer, images) == {}
    kinds = [type(op) for op in integer]
    assert (kinds.count(IntegerProduct), kinds.count(IntegerTable)) == (2, 8)
    expected = run(integer, images)
    assert len(expected.unique()) > 20
    assert prepare(integer).run(images).equal(expected)
    integer.save(tmp_path / "model")
    assert run(load(tmp_path / "model"), images).equal(expected)  # type: ignore[arg-type]


def test_training_moves_the_network() -> None:
    """Gradients pass through products and tables to the weights and to the scales before them."""
    model = gated_quantized("W4A4").train()
    images, _ = digits().calibration(32)
    model(images).square().sum().backward()
    for name in ("network.stem.0.weight", "network.squeeze.weight", "network.attend.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert float(gradient.abs().max()) > 0
    found = {name: value.grad for name, value in model.named_parameters() if name.startswith("activations.")}
    scales = [float(gradient.abs()) for gradient in found.values() if gradient is not None]
    assert sum(scale > 0 for scale in scales) >= 20


def test_choices_against_saturation_and_margins_get_along() -> None:
    """Formats that lose a bit for CPUs without dot products, and scales that move for a margin, in one model."""
    model = gated_quantized("W8A8")
    images = digits().calibration(64)[0]
    integer = certified(model, avoid_saturation=True, images=images)
    recheck(integer)
    assert any("against_saturation" in facts for facts in integer.facts.values())
    assert _differing(model, integer, images) == {}


def test_scales_that_are_shared_stay() -> None:
    """The tables that meet in a concatenation keep its scale, and are looked up unless they happen to have the margin."""
    integer = gated_model("W8A8")
    tables = [op for op in integer if isinstance(op, IntegerTable)]
    moved = {op.name: integer.facts[op.name]["relative_change"] for op in tables}
    (concat,) = [op for op in integer if type(op).__name__ == "Concat"]
    assert all(integer.formats[name] == integer.formats[concat.name] for name in concat.inputs)
    assert all(moved[name] == 0 for name in concat.inputs if name in moved)
    assert all(abs(change) <= 0.00501 for change in moved.values())
    assert sum(op.computable for op in tables) >= 6


def test_a_function_that_is_not_defined_is_refused() -> None:
    """By name and place, with what to do."""
    graph = capture(Then(lambda x: torch.log(x + 100.0)), (3, 8, 8))
    model = quantize(graph, Scheme.uniform(graph.layers, Precision(8, 8)))
    with pytest.raises(
        LoweringError, match=r"expected a function of all that its input can be, got none of -.*Clamp the input"
    ):
        certified(calibrate(model, [torch.randn(4, 3, 8, 8) * 500]))


Change = Callable[[IntegerModel], IntegerModel]


def _found(kind: type) -> Any:
    return next(op for op in gated_model("W8A8") if isinstance(op, kind))


def _changed(op: Any, **values: Any) -> Change:
    return lambda model: replace(
        model, ops=tuple(replace(other, **values) if other.name == op.name else other for other in model)
    )


def _format(name: str, **values: Any) -> Change:
    return lambda model: replace(model, formats={**model.formats, name: replace(model.formats[name], **values)})


def _moved(entries: Any) -> Any:
    """One entry, one step further."""
    moved = np.array(entries)
    moved[100] += 1
    return moved


TAMPERED: dict[str, tuple[Callable[[], Change], str]] = {
    "multiplier": (lambda: _changed(_found(IntegerProduct), multiplier=1, shift=1), "product .*is not proved"),
    "31 bits": (lambda: _changed(_found(IntegerProduct), multiplier=2**31 - 1, shift=40), "at most 24 significant bits"),
    "shift": (lambda: _changed(_found(IntegerProduct), shift=63), "does not fit its inputs"),
    "another ratio": (
        lambda: _changed(_found(IntegerProduct), shift=_found(IntegerProduct).shift + 1),
        "product .*expected a multiplier near|is not proved",
    ),
    "scale of a product": (lambda: _format(_found(IntegerProduct).name, scale=0.5), "product .*expected a multiplier near"),
    "clamp": (lambda: _changed(_found(IntegerProduct), high=300), "its integers can reach|is not proved"),
    "shape of a product": (lambda: _changed(_found(IntegerProduct), shape=(1, 1, 1)), "makes .*, but says"),
    "entry": (
        lambda: _changed(_found(IntegerTable), entries=_moved(_found(IntegerTable).entries)),
        "table .*expected the entry of",
    ),
    "too few entries": (
        lambda: _changed(_found(IntegerTable), entries=_found(IntegerTable).entries[:-1]),
        "table .*one entry for each integer",
    ),
    "function": (lambda: _changed(_found(IntegerTable), program=("x", "tanh")), "table .*expected the entry of"),
    "scale of a table": (lambda: _format(_found(IntegerTable).name, scale=0.5), "table .*expected the entry of"),
    "margin": (
        lambda: lambda model: _without_margin(model),
        "table .*says that engines may compute its function",
    ),
}  # fmt: skip


def _without_margin(model: IntegerModel) -> IntegerModel:
    """A table of the identity at equal scales but for a tie, whose entries are right."""
    op = _found(IntegerTable)
    params, source = model.formats[op.name], model.formats[op.inputs[0]]
    integers = np.arange(source.quant_min, source.quant_max + 1)
    ratio = source.scale * 0.5 / source.scale
    entries = np.clip(np.rint(integers * ratio), params.quant_min, params.quant_max).astype(np.int32)
    tie = _changed(op, program=("x", 0.5, "mul"), entries=entries, computable=True)(model)
    return _format(op.name, scale=source.scale)(tie)


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_changed_is_refused(what: str, tmp_path: Path) -> None:
    """At load, by `prepare`, and by every exporter."""
    change, words = TAMPERED[what]
    model = change()(gated_model("W8A8"))
    with pytest.raises(LoweringError, match=words):
        prepare(model)
    model.save(tmp_path / "model")
    with pytest.raises(FileFormatError, match=words):
        load(tmp_path / "model")
    for form in FORMS:
        with pytest.raises(ExportError, match=f"the model is not proved: .*({words})"):
            form.export(model, tmp_path / f"exported{form.suffix}")


def test_operands_of_more_than_a_byte_are_refused() -> None:
    """Their products are too many to be looked at."""
    model = product().model
    wide = QuantParams.symmetric(16, model.formats["a"].scale)
    formats = {**model.formats, **dict.fromkeys(("input", "a", "b"), wide)}
    with pytest.raises(LoweringError, match="product 'product': expected operands of at most 8 bits, got 16 and 16"):
        recheck(replace(model, formats=formats))


def test_the_plan_gives_bytes_to_products_and_tables() -> None:
    """Whatever the scheme: what they read has at most 8 bits, streams of 16 among them."""
    for precision, residual_bits in (("W2A2", 16), ("W4A4", 8)):
        integer = gated_model(precision, residual_bits)
        for op in integer:
            if isinstance(op, IntegerProduct | IntegerTable):
                assert all(integer.formats[name].bit_width <= 8 for name in op.inputs)
    assert len(gated_graph().layers) == 10
