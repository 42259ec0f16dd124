# SPDX-License-Identifier: MIT
"""Precisions and schemes: text round trips, and all faults of a file told at once."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bitwright.errors import BudgetError, FileFormatError, SchemeError, UnknownNameError
from bitwright.scheme import BUDGET_UNITS, MAX_BITS, MIN_BITS, Budget, Precision, Scheme

WIDTHS = st.integers(MIN_BITS, MAX_BITS)
PRECISIONS = st.builds(Precision, WIDTHS, WIDTHS)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20)
SCHEMES = st.builds(Scheme, NAMES, st.dictionaries(NAMES, PRECISIONS, max_size=8), st.sampled_from([8, 16]))


@given(PRECISIONS)
def test_parse_is_the_inverse_of_str(precision: Precision) -> None:
    """A precision is read back from its text, in any case and with spaces around it."""
    for text in (str(precision), str(precision).lower(), f"  {precision}\n"):
        assert Precision.parse(text) == precision


@given(st.integers(-20, 300))
def test_one_number_stands_for_both(bits: int) -> None:
    """One number from 2 to 8 is the width of weights and activations; others are refused."""
    if MIN_BITS <= bits <= MAX_BITS:
        assert Precision.parse(str(bits)) == Precision(bits, bits)
    else:
        with pytest.raises(SchemeError):
            Precision.parse(str(bits))


@given(st.one_of(st.text(max_size=8), st.from_regex(r"\A[wW]?\d{1,3}[aA]?\d{0,3}\Z")))
def test_any_text_is_a_precision_or_refused(text: str) -> None:
    """No text whatever makes `parse` fail in another way than SchemeError, or gives a width out of range."""
    try:
        precision = Precision.parse(text)
    except SchemeError:
        return
    assert all(MIN_BITS <= bits <= MAX_BITS for bits in (precision.weight_bits, precision.act_bits))
    assert text.strip().isascii()


@pytest.mark.parametrize(
    "text",
    ["", "W4", "A8", "W4A", "4/8", "W4A8x", "four", "²", "W٤A٤", "-4", "4.0", "None", "9" * 9999],
    ids=lambda text: ascii(text[:6]),
)
def test_other_texts_are_refused(text: str) -> None:
    """What is no precision is refused with an example; digits are ASCII."""
    with pytest.raises(SchemeError, match="such as W4A8, got"):
        Precision.parse(text)


@pytest.mark.parametrize(
    ("weight_bits", "act_bits", "message"),
    [(1, 8, "weight bits must be 2 to 8, got 1"), (8, 9, "activation bits must be 2 to 8, got 9")],
)
def test_widths_out_of_range_are_refused(weight_bits: int, act_bits: int, message: str) -> None:
    """Both widths are from 2 to 8, and the message says which is not."""
    with pytest.raises(SchemeError, match=message):
        Precision(weight_bits, act_bits)


def test_uniform_keeps_the_ends() -> None:
    """The first and last layer keep 8 bits unless told otherwise; the name is the precision's unless given."""
    scheme = Scheme.uniform(["stem", "body", "neck", "fc"], Precision(2, 4))
    assert scheme.name == "W2A4"
    assert [str(precision) for precision in scheme.layers.values()] == ["W8A8", "W2A4", "W2A4", "W8A8"]
    other = Scheme.uniform(["stem", "body", "fc"], Precision(4, 4), name="all4", first_and_last=Precision(4, 4))
    assert other.name == "all4"
    assert set(other.layers.values()) == {Precision(4, 4)}


def test_uniform_of_one_layer_and_of_none() -> None:
    """A network of one layer is its own first and last; one without layers has an empty scheme."""
    assert Scheme.uniform(["fc"], Precision(2, 2)).layers == {"fc": Precision(8, 8)}
    assert Scheme.uniform([], Precision(2, 2)).layers == {}


def test_residual_streams_have_8_or_16_bits() -> None:
    """No engine adds streams of other widths."""
    with pytest.raises(SchemeError, match="residual_bits must be 8 or 16, got 12, in scheme 'odd'"):
        Scheme("odd", residual_bits=12)


def test_a_scheme_fits_exactly_its_layers() -> None:
    """The layers may come in any order."""
    scheme = Scheme("any", {"a": Precision(4, 4), "b": Precision(8, 8)})
    scheme.check(["b", "a"])


def test_unknown_and_missing_layers_are_told_together() -> None:
    """A scheme of another model is refused with the unknown layer, what it may have meant, and those without bits."""
    scheme = Scheme("mine", {"conv1": Precision(4, 4), "fc1": Precision(8, 8)})
    with pytest.raises(
        SchemeError,
        match=r"scheme 'mine' does not fit the model \(1 unknown, 2 missing layers\): "
        r"unknown layer 'fc1': did you mean 'fc'\? Known: conv1, conv2, fc; no precision for conv2, fc$",
    ):
        scheme.check(["conv1", "conv2", "fc"])


def test_a_long_list_of_missing_layers_is_cut() -> None:
    """Five missing layers are enough to see what is wrong."""
    with pytest.raises(SchemeError, match=r"\(0 unknown, 50 missing layers\): no precision for 0, 1, 2, 3, 4 …$"):
        Scheme("empty").check(str(number) for number in range(50))


@given(SCHEMES)
def test_a_scheme_survives_its_dictionary_and_yaml(scheme: Scheme) -> None:
    """Name, streams and every layer, in order, come back from the text."""
    assert Scheme.from_dict(scheme.to_dict()) == scheme
    restored = Scheme.from_dict(yaml.safe_load(yaml.safe_dump(scheme.to_dict(), sort_keys=False)))
    assert restored == scheme
    assert list(restored.layers) == list(scheme.layers)


def test_file_round_trip(tmp_path: Path) -> None:
    """A saved scheme is readable YAML in the order of execution, and loads equal."""
    scheme = Scheme("bops0.5", {"stem": Precision(8, 8), "0": Precision(2, 4), "fc": Precision(8, 8)}, 16)
    scheme.save(tmp_path / "scheme.yaml")
    assert (tmp_path / "scheme.yaml").read_text() == (
        "name: bops0.5\nresidual_bits: 16\nlayers:\n  stem: W8A8\n  '0': W2A4\n  fc: W8A8\n"
    )
    assert Scheme.load(tmp_path / "scheme.yaml") == scheme


def test_a_hand_written_file_may_be_short(tmp_path: Path) -> None:
    """One number stands for both widths, and streams default to 8 bits."""
    (tmp_path / "scheme.yaml").write_text("name: mine\nlayers: {stem: 8, 7: w4a8}\n")
    loaded = Scheme.load(tmp_path / "scheme.yaml")
    assert loaded == Scheme("mine", {"stem": Precision(8, 8), "7": Precision(4, 8)}, 8)


def test_all_faults_are_told_together(tmp_path: Path) -> None:
    """One reading of the message is enough to correct the file."""
    (tmp_path / "scheme.yaml").write_text(
        "nmae: mine\n3: 4\nresidual_bits: twelve\nlayers: {a: W9A8, b: four, c: W4A4}\n"
    )
    with pytest.raises(FileFormatError) as caught:
        Scheme.load(tmp_path / "scheme.yaml")
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "scheme.yaml"))
    assert "\n" not in message
    for fault in (
        "unknown key 'nmae': did you mean 'name'?",
        "unknown key '3'",
        "missing key 'name'",
        "layer 'a': weight bits must be 2 to 8, got 9",
        "layer 'b': expected a precision such as W4A8, got 'four'",
        "residual_bits must be 8 or 16, got 'twelve'",
    ):
        assert fault in message


@pytest.mark.parametrize("value", [12, None, 8.5, "8", True, [8]])
def test_wrong_streams_are_told_with_the_other_faults(value: object) -> None:
    """`residual_bits` of a file is checked like the rest of it."""
    with pytest.raises(FileFormatError, match=r"missing key 'name'.*residual_bits must be 8 or 16"):
        Scheme.from_dict({"residual_bits": value, "layers": {}})


@pytest.mark.parametrize("layers", [None, ["stem"], "W4A4", 4])
def test_layers_must_be_a_mapping(layers: object) -> None:
    """A list of layers, or one precision for all, is no scheme."""
    with pytest.raises(
        FileFormatError, match=f"'layers' must map layer names to precisions, got {re.escape(repr(layers))}"
    ):
        Scheme.from_dict({"name": "mine", "layers": layers})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "expected a mapping with 'name' and 'layers', got .'a', 'b'."),
        (b"", "got an empty file"),
        (b"{", "cannot read a scheme from"),
        (b"\xff\xfe\xff", "expected a scheme, got bytes of no kind that is known here"),
        (b"name: !!python/object/apply:os.getcwd []\nlayers: {}\n", "cannot read a scheme from"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """What is no YAML mapping is refused, and a tag that would run code is an error, not a call."""
    (tmp_path / "scheme.yaml").write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        Scheme.load(tmp_path / "scheme.yaml")


def test_a_deployment_is_kept_and_checked(tmp_path: Path) -> None:
    """`deploy` travels with the scheme, is left out where it says nothing, and others than the known ones are refused."""
    scheme = Scheme("mine", {"fc": Precision(8, 8)}, deploy="tensorrt")
    scheme.save(tmp_path / "scheme.yaml")
    assert Scheme.load(tmp_path / "scheme.yaml") == scheme
    assert "deploy" not in replace(scheme, deploy="any").to_dict()
    with pytest.raises(
        UnknownNameError, match="unknown deployment of scheme 'mine' 'tensort': did you mean 'tensorrt'"
    ):
        replace(scheme, deploy="tensort")
    with pytest.raises(FileFormatError, match="deploy must be any or tensorrt, got 'gpu'"):
        Scheme.from_dict({"name": "mine", "layers": {}, "deploy": "gpu"})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(FileFormatError, match=r"cannot read a scheme from '.*nowhere\.yaml': .*No such file"):
        Scheme.load(tmp_path / "nowhere.yaml")


@given(st.sampled_from(sorted(BUDGET_UNITS)), st.floats(0, 1e300), st.booleans())
def test_a_budget_is_read_back_from_its_text(kind: str, limit: float, relative: bool) -> None:
    """To the last bit, however small or large."""
    budget = Budget(kind, limit / 1e300 if relative else limit, relative)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("size0.5", Budget("size", 0.5, True)),
        ("size_0.5", Budget("size", 0.5, True)),
        ("modelsize_0.5", Budget("size", 0.5, True)),
        ("bops.25", Budget("bops", 0.25, True)),
        ("latency=4.2ms", Budget("latency", 4.2)),
        ("size=7.9MB", Budget("size", 7.9)),
        ("bops=72", Budget("bops", 72)),
    ],
)
def test_budgets_as_people_write_them(text: str, budget: Budget) -> None:
    """With and without underscore and unit."""
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("half", BudgetError, "expected a budget such as size0.5 or bops=72G, got 'half'"),
        ("size=-1", BudgetError, "expected a budget"),
        ("size=1e3", BudgetError, "expected a budget"),
        ("size2", BudgetError, "write size=2MB for an absolute one"),
        ("size=7G", BudgetError, "MB"),
        ("speed0.5", UnknownNameError, "unknown budget 'speed'"),
    ],
)
def test_other_texts_are_no_budgets(text: str, error: type[Exception], message: str) -> None:
    """Each is refused with what is expected."""
    with pytest.raises(error, match=message):
        Budget.parse(text)


def test_a_form_of_activations_is_kept_and_checked(tmp_path: Path) -> None:
    """`activations` likewise: schemes are asymmetric unless they say otherwise."""
    scheme = Scheme("mine", {"fc": Precision(8, 8)}, activations="symmetric")
    scheme.save(tmp_path / "scheme.yaml")
    assert Scheme.load(tmp_path / "scheme.yaml") == scheme
    assert "activations" not in replace(scheme, activations="asymmetric").to_dict()
    assert Scheme.from_dict({"name": "mine", "layers": {}}).activations == "asymmetric"
    with pytest.raises(UnknownNameError, match="unknown form of activations of scheme 'mine' 'affine'"):
        replace(scheme, activations="affine")
    with pytest.raises(FileFormatError, match="activations must be asymmetric or symmetric, got 'affine'"):
        Scheme.from_dict({"name": "mine", "layers": {}, "activations": "affine"})


@pytest.mark.parametrize(("text", "drop"), [("accuracy=2%", "2%"), ("accuracy0.01", "0.01"), ("accuracy", "1%")])
def test_an_accuracy_is_no_budget(text: str, drop: str) -> None:
    """No sum of sensitivities keeps one: the message names what does."""
    with pytest.raises(
        BudgetError,
        match=rf"accuracy is measured.*bitwright auto GRAPH --data DATA --max-drop {re.escape(drop)} -o FILE",
    ):
        Budget.parse(text)
