# SPDX-License-Identifier: MIT
"""A model that is not proved is refused wherever it comes from: in files that were signed again, and in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import ExportError, FileFormatError, LoweringError
from bitwright.export import FORMS
from bitwright.graph import capture
from bitwright.graph.nodes import AvgPool2d
from bitwright.integer import IntegerModel, Multipliers, QuantParams, load, lower, prepare
from bitwright.integer.ops import IntegerAdd, IntegerAvgPool2d, IntegerConv2d, IntegerLinear, IntegerRequantize
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.bounds import largest_pair_sum
from bitwright.integer.proof.certificate import float32_agrees
from bitwright.integer.proof.ranges import accumulators
from bitwright.integer.proof.recheck import check_op, recheck
from bitwright.integer.shapes import shape_of
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from export.published import tail
from graph.networks import randomized
from phases import INTEGER

Change = Callable[[IntegerModel], IntegerModel]


class Network(nn.Module):
    """A stem, a residual block, both poolings, a concatenation, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 8, 1)
        self.classify = nn.Linear(16 * 4, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.stem(images).relu(), 2)
        x = (x + self.inner(x)).relu()
        x = nn.functional.avg_pool2d(torch.cat([x, self.wide(x).relu()], 1), 2)
        return self.classify(x.flatten(1))


@cache
def proved() -> IntegerModel:
    """That network at 6 bits of weights and 5 of activations, its outer layers at 8."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    graph = capture(randomized(Network()), (3, 8, 8), name="network")
    return lower(calibrate(quantize(graph, Scheme.uniform(graph.layers, Precision(6, 5))), [images], "minmax"))


def found(kind: type) -> Any:
    """The first operation of a kind."""
    return next(op for op in proved() if isinstance(op, kind))


def changed(name: str, **values: Any) -> Change:
    """With another operation in the place of one."""
    return lambda model: replace(model, ops=tuple(replace(op, **values) if op.name == name else op for op in model))


def _worth(model: IntegerModel, unit: npt.NDArray[np.float64]) -> IntegerModel:
    """With another unit of its output."""
    return replace(model, outputs=single_output("classify", unit))


def reformatted(name: str, window: TensorFormat) -> Change:
    """With another format of one tensor."""
    return rescaled_format(name, format=window)


def rescaled_format(name: str, **values: Any) -> Change:
    """With another format or scale of one tensor."""
    return lambda model: replace(model, formats={**model.formats, name: replace(model.formats[name], **values)})


def claimed(name: str, **values: Any) -> Change:
    """With other facts about one operation."""
    return lambda model: replace(model, facts={**model.facts, name: {**model.facts[name], **values}})


def rescaled(op: Any, **values: Any) -> Change:
    """With another rescaling."""
    return changed(op.name, rescale=replace(op.rescale, **values))


def unproved(op: Any, *, shifts: bool) -> Change:
    """With the nearest multipliers, or shifts, that theorem B refutes."""
    model = proved()
    low, high = accumulators(op, [(0, 0)], model)
    b, c = op.rescale.multipliers.multiplier, op.rescale.multipliers.shift
    for step in range(1, 20):
        made = Multipliers(b, c + step) if shifts else Multipliers(b + step, c)
        if not float32_agrees(made, low, high, op.rescale.low, op.rescale.high).all():
            return rescaled(op, multipliers=made)
    raise AssertionError("every candidate was proved")


CONV, POOL, ADD, NARROWER, LINEAR = (
    (lambda kind=kind: found(kind))
    for kind in (IntegerConv2d, IntegerAvgPool2d, IntegerAdd, IntegerRequantize, IntegerLinear)
)
LAYER = "layer 'inner'"


def inner() -> Any:
    """The layer that most changes are made to."""
    return proved().layers()["inner"]


TAMPERED: dict[str, tuple[Callable[[], Change], str]] = {
    "weights": (lambda: changed("inner", weight=np.full_like(inner().weight, 31)), f"{LAYER}: its facts say .* no acc"),
    "weights' shape": (lambda: changed("inner", weight=inner().weight[:, :4]), "'inner' does not fit its inputs"),
    "weight bits": (lambda: changed("classify", weight_bits=4), "layer 'classify': expected weights of 4 bits"),
    "bias beyond int32": (
        lambda: changed("classify", bias=np.full(5, 2**31 - 1, np.int32)),
        "layer 'classify': an accumulator can reach",
    ),
    "bias": (lambda: changed("inner", bias=inner().bias + np.int32(2**20)), f"{LAYER}: its facts say"),
    "one bias": (lambda: changed("inner", bias=inner().bias[:1]), "'inner' does not fit its inputs or arrays"),
    "multiplier": (lambda: unproved(inner(), shifts=False), f"{LAYER}, channel .* is not proved"),
    "shift": (
        lambda: unproved(proved().layers()["stem"], shifts=True),
        "layer 'stem', channel .* is not proved",
    ),
    "31 bits": (
        lambda: rescaled(inner(), multipliers=Multipliers(np.full(8, 2**31 - 1), np.full(8, 40))),
        f"{LAYER}, channel 0: its multiplier 2147483647",
    ),
    "number of multipliers": (
        lambda: rescaled(inner(), multipliers=Multipliers(np.full(3, 5), np.full(3, 9))),
        "'inner' does not fit its inputs or arrays",
    ),
    "residual range": (lambda: rescaled(inner(), high=300), f"{LAYER}: expected a clamp within"),
    "format": (lambda: reformatted("inner", TensorFormat.unsigned(7)), f"{LAYER}: expected a clamp within"),
    "signed format": (lambda: reformatted("stem", TensorFormat.symmetric(8)), "layer 'stem': expected a clamp within"),
    "wider format": (lambda: reformatted(CONV().inputs[0], TensorFormat.symmetric(16)), "layer 'stem': its facts say"),
    "format of a move": (lambda: reformatted("max_pool", TensorFormat.unsigned(9)), "'max_pool': expected the format of what"),
    "scale of images": (lambda: changed(proved().ops[0].name, scale=0.5), "expected a format of the scale 0.5"),
    "scale of their format": (lambda: rescaled_format(proved().ops[0].name, scale=0.5), "expected a format of the scale"),
    "scale of a term": (lambda: rescaled_format("inner", scale=0.5), f"addition '{ADD().name}': expected the multiplier"),
    "scale of a mean": (lambda: rescaled_format(POOL().name, scale=0.5), f"'{POOL().name}': expected a multiplier near"),
    "scale of a residual": (lambda: rescaled_format(NARROWER().name, scale=0.5), f"'{NARROWER().name}': expected a multiplier n"),
    "unit": (lambda: lambda model: _worth(model, -model.outputs["logits"].unit), "output 'logits': expected positive"),
    "number of units": (lambda: lambda model: _worth(model, np.ones(3)), "expected one unit of its output 'logits', or one a ch"),
    "output": (lambda: lambda model: replace(model, outputs=single_output("stem")), "output|unit"),
    "term": (lambda: changed(ADD().name, multipliers=(2 * ADD().multipliers[0], 1)), f"addition '{ADD().name}'"),
    "sum": (lambda: changed(ADD().name, multipliers=(2**17, 2**17)), f"addition '{ADD().name}': its sum can reach"),
    "shift of a sum": (lambda: changed(ADD().name, shift=1), f"addition '{ADD().name}': expected the multiplier"),
    "clamp of a sum": (lambda: changed(ADD().name, high=2**10), f"'{ADD().name}': its integers can reach"),
    "window of a mean": (lambda: changed(POOL().name, kernel=(2, 3)), f"'{POOL().name}' makes"),
    "step of a window": (lambda: changed("inner", stride=(2, 2)), r"'inner' makes \(8, 2, 2\), but says"),
    "padding": (lambda: changed("inner", padding=(0, 0)), r"'inner' makes \(8, 2, 2\), but says"),
    "groups": (lambda: changed("inner", groups=2), "'inner' does not fit its inputs"),
    "source": (lambda: changed("inner", inputs=("nothing",)), "'inner' reads 'nothing' before it is made"),
    "order": (
        lambda: lambda model: replace(model, ops=(*model.ops[:1], *model.ops[:0:-1])),
        "before it is made",
    ),
    "proofs": (lambda: claimed("inner", theorem_a=0, theorem_b=7, exhaustive=0), f"{LAYER}: 8 multipliers, but 7 proofs"),
    "largest accumulator": (lambda: claimed("inner", largest_accumulator=3), f"{LAYER}: its facts say .* exceeds 3"),
    "safe without VNNI": (lambda: claimed("stem", avx2_safe=True), "layer 'stem': its facts say that no CPU saturates"),
}  # fmt: skip


def test_what_lowering_proved_is_proved_again(tmp_path: Path) -> None:
    """In memory, and from its file; so are the published multipliers of 31 bits, which have no certificates."""
    model = proved()
    assert largest_pair_sum(model.layers()["stem"].weight, model.formats[model.ops[0].name]) > 2**15
    assert all(name in model.facts for name in (ADD().name, POOL().name, NARROWER().name))
    recheck(model)
    model.save(tmp_path / "model")
    load(tmp_path / "model")
    recheck(tail(3, 3))


@pytest.mark.parametrize("what", TAMPERED)
def test_tampered_models_are_refused(what: str, tmp_path: Path) -> None:
    """Every field: the file, though signed again, at load; the model in memory by `prepare` and by every exporter."""
    change, words = TAMPERED[what]
    model = change()(proved())
    if what != "weight bits":  # which decide how many bytes there are
        model.save(tmp_path / "model")
        with pytest.raises(FileFormatError, match=words):
            load(tmp_path / "model")
    with pytest.raises(LoweringError, match=words):
        prepare(model)
    for form in FORMS:
        with pytest.raises(ExportError, match=f"the model is not proved: .*{words}"):
            form.export(model, tmp_path / f"exported{form.suffix}")
    assert [path.name for path in tmp_path.iterdir() if path.name != "model"] == []


def test_published_arithmetic_stays_within_int32() -> None:
    """Multipliers of 31 bits claim no certificate; bounds and sums are checked all the same."""
    model = tail(3, 3)
    conv = model.layers()["conv"]
    with pytest.raises(LoweringError, match="layer 'conv': an accumulator can reach"):
        recheck(changed("conv", bias=np.full_like(conv.bias, 2**31 - 1))(model))
    with pytest.raises(LoweringError, match="addition 'sum': its sum can reach"):
        recheck(changed("sum", multipliers=(2**44, 2**44))(model))
    negative = changed("sum", low=-5)(model)
    with pytest.raises(LoweringError, match="'mean': expected a mean of values that are not negative"):
        recheck(negative)


def test_every_operation_is_checked() -> None:
    """What is no operation on integers is refused by name, and every other kind has a shape."""
    stray = AvgPool2d(
        name="stray", inputs=(proved().ops[0].name,), shape=(3, 4, 4), kernel=(2, 2), stride=(2, 2), padding=(0, 0)
    )
    model = proved()
    with pytest.raises(LoweringError, match=r"'stray' does not fit .*AvgPool2d is no operation on integers"):
        recheck(
            replace(model, ops=(model.ops[0], stray), formats={**model.formats, "stray": QuantParams.symmetric(8, 1.0)})
        )
    for function in (check_op, shape_of):
        assert not [kind for kind in INTEGER if function.dispatch(kind) is function.dispatch(object)]
    wide = replace(model, formats={**model.formats, "classify": QuantParams.symmetric(16, 1.0)})
    with pytest.raises(LoweringError, match="layer 'classify': expected no format"):
        recheck(wide)
