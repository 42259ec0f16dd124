# SPDX-License-Identifier: MIT
"""The table of sensitivities survives a round trip, and refuses what is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitwright.errors import FileFormatError, UnknownNameError
from bitwright.kinds import what_is
from bitwright.report import sensitivity_table
from bitwright.scheme import Precision
from bitwright.sensitivity import LayerSensitivity, SensitivityTable

STEM = LayerSensitivity("stem", 4, 6.0, 0.5, 100, True, {8: 1e-17, 2: 0.1, 4: 1 / 3})
HEAD = LayerSensitivity("head.fc", 2, -3.0, 0.25, 1000, False, {4: 0.5, 8: 0.0})
READ = LayerSensitivity("body", 10, 5.0, 0.3, 50, True, {4: 2.0, 8: 0.125}, 0.4)
BODY = LayerSensitivity("body", 8, 4.0, 0.6, 50, True, {4: 1.0, 8: 0.25}, 0.8, activations=READ)
MEASURED = LayerSensitivity("neck", 3, 0.0, 0.0, 9, True, {}, None, {2: (0.5, 0.125), 8: (-0.01, 0.02)})
TABLE = SensitivityTable((STEM, HEAD, BODY, MEASURED), "gauss_newton_trace", "small", "mnist-5k", 32, 7)


def test_round_trip(tmp_path: Path) -> None:
    """What was saved is what is loaded, to the last bit."""
    TABLE.save(tmp_path / "table.json")
    assert SensitivityTable.load(tmp_path / "table.json") == TABLE


def test_the_output_is_kept_and_shown(tmp_path: Path) -> None:
    """Of several outputs, the one that was measured; a file without is of all."""
    table = replace(TABLE, output="boxes")
    table.save(tmp_path / "table.json")
    assert SensitivityTable.load(tmp_path / "table.json") == table != TABLE
    assert "output boxes" in repr(table)
    assert "output boxes" in str(sensitivity_table(table).title)
    assert "output" not in TABLE.to_dict()
    with pytest.raises(FileFormatError, match="'output' must be a text or null, got 3"):
        SensitivityTable.from_dict({**TABLE.to_dict(), "output": 3})


def test_loss_increase_is_mean_trace_times_perturbation() -> None:
    """|tr(H)| / n times the squared perturbation, with the error of the trace; a negative trace is no reward."""
    assert STEM.loss_increase(Precision(4, 8)) == 6.0 / 4 * (1 / 3)
    assert STEM.loss_increase(Precision(4, 2)) == STEM.loss_increase(Precision(4, 8))
    assert HEAD.loss_increase(Precision(4, 4)) == 0.75
    assert HEAD.loss_increase_standard_error(Precision(4, 4)) == 0.25 / 2 * 0.5
    assert HEAD.loss_increase(Precision(8, 8)) == 0.0
    assert (HEAD.mean_trace(), HEAD.mean_trace_standard_error()) == (-1.5, 0.125)


def test_loss_increase_adds_what_the_layer_reads() -> None:
    """Weight bits choose the one term, activation bits the other; errors of sampling and images count, and add up."""
    assert BODY.loss_increase(Precision(4, 8)) == 4.0 / 8 * 1.0 + 5.0 / 10 * 0.125
    assert BODY.loss_increase(Precision(8, 4)) == 4.0 / 8 * 0.25 + 5.0 / 10 * 2.0
    assert BODY.mean_trace_standard_error() == 1.0 / 8
    assert BODY.loss_increase_standard_error(Precision(4, 8)) == 1.0 / 8 + 0.5 / 10 * 0.125
    with pytest.raises(UnknownNameError, match="layer 'body' was not measured at 3 activation bits, only at 4, 8"):
        BODY.loss_increase(Precision(4, 3))


def test_measured_increases_count_as_they_are() -> None:
    """No curvature comes in; below zero there is nothing but noise, which counts as zero."""
    assert MEASURED.loss_increase(Precision(2, 8)) == 0.5
    assert MEASURED.loss_increase(Precision(8, 8)) == 0.0
    assert MEASURED.loss_increase_standard_error(Precision(8, 8)) == 0.02
    with pytest.raises(UnknownNameError, match="layer 'neck' was not measured at 4 weight bits, only at 2, 8"):
        MEASURED.loss_increase(Precision(4, 8))


def test_lookups_name_what_is_there() -> None:
    """An unknown layer or width is answered with the known ones."""
    assert TABLE.find("head.fc") is HEAD
    assert TABLE.unconverged() == ("head.fc",)
    with pytest.raises(
        UnknownNameError, match=r"unknown layer 'steam': did you mean 'stem'\? Known: body, head.fc, neck"
    ):
        TABLE.find("steam")
    with pytest.raises(UnknownNameError, match=r"layer 'head.fc' was not measured at 3 weight bits, only at 4, 8"):
        HEAD.loss_increase(Precision(3, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": "x"}, "unknown key 'metrics': did you mean 'metric'?"),
        ({"layers": {}}, "'layers' must be a list, got dict"),
        ({"batch": "many"}, "'batch' and 'seed' must be whole numbers, got 'many' and 7"),
        ({"seed": 0.5}, "got 32 and 0.5"),
        ({"layers": [1]}, "layer 0: expected a mapping with"),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Each message names the file and the fault."""
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**TABLE.to_dict(), **change}))
    with pytest.raises(FileFormatError) as caught:
        SensitivityTable.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trace": "high"}, "'trace' must be a finite number, got 'high'"),
        ({"trace_standard_error": float("nan")}, "'trace_standard_error' must be a finite number, got nan"),
        ({"parameters": 0}, "'parameters' must be a whole number, at least 1, got 0"),
        ({"probes": 1.5}, "'probes' must be a whole number, at least 0, got 1.5"),
        ({"probes": True}, "'probes' must be a whole number, at least 0, got True"),
        ({"converged": "yes"}, "'converged' must be true or false, got 'yes'"),
        ({"perturbation": [1]}, "'perturbation' must map bit widths to finite numbers, got [1]"),
        ({"perturbation": {"four": 1}}, "'perturbation' must map bit widths to finite numbers"),
        ({"perturbation": {"4": float("inf")}}, "'perturbation' must map bit widths to finite numbers"),
        ({"data_standard_error": "x"}, "'data_standard_error' must be a finite number or null, got 'x'"),
        ({"increase": {"4": 1.0}}, "'increase' must map bit widths to pairs of finite numbers, got {'4': 1.0}"),
        ({"increase": {"4": [1.0, float("nan")]}}, "'increase' must map bit widths to pairs of finite numbers"),
        ({"activations": {**READ.to_dict(), "probes": -1}}, "layer 0: activations: 'probes' must be a whole number"),
        ({"activations": 3}, "activations: expected a mapping with"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"layer": "head.fc"}, "layer 'head.fc' appears twice"),
    ],
)
def test_malformed_layers_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Each message names the file, the layer and the fault."""
    entry = TABLE.to_dict()
    entry["layers"][0].update(change)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(entry))
    with pytest.raises(FileFormatError) as caught:
        SensitivityTable.load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("written", [{}, {"format": "bitwright.sensitivities.1"}, {"format": 2}])
def test_files_of_other_versions_are_refused(written: dict[str, Any]) -> None:
    """Metrics had other names there; the message says what to do, and nothing of keys."""
    entry = {key: value for key, value in TABLE.to_dict().items() if key != "format"} | written
    with pytest.raises(
        FileFormatError, match=r"^table: another version of Bitwright .* measure again with `bitwright sens"
    ):
        SensitivityTable.from_dict(entry, "table")


@pytest.mark.parametrize("format_name", [None, "bitwright.sensitivities.1"])
@pytest.mark.parametrize("lacking", [(), ("images",), ("metric",), ("images", "metric", "network", "task")])
def test_files_of_other_versions_are_sensitivities(
    tmp_path: Path, format_name: str | None, lacking: tuple[str, ...]
) -> None:
    """Whatever keys they had: what is said is that they are to be measured again, and not that they are a scheme."""
    path = tmp_path / "table.json"
    written = {key: value for key, value in TABLE.to_dict().items() if key not in ("format", *lacking)}
    path.write_text(json.dumps(written if format_name is None else {"format": format_name, **written}))
    assert what_is(path) == "sensitivities"
    with pytest.raises(FileFormatError, match="another version of Bitwright wrote these sensitivities: measure again"):
        SensitivityTable.load(path)


def test_all_faults_come_together(tmp_path: Path) -> None:
    """One message for every key that is missing and every layer that is malformed."""
    entry = TABLE.to_dict()
    del entry["layers"][0]["trace"], entry["layers"][1]["probes"]
    with pytest.raises(FileFormatError, match=r"layer 0: missing key 'trace'; layer 1: missing key 'probes'"):
        SensitivityTable.from_dict(entry)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    """Missing, truncated, binary, or JSON of another kind."""
    path = tmp_path / "table.json"
    with pytest.raises(FileFormatError, match=r"(cannot read|expected) sensitivities"):
        SensitivityTable.load(path)
    TABLE.save(path)
    text = path.read_bytes()
    for content in (text[: len(text) // 2], b"\x00\xff", b""):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"(cannot read|expected) sensitivities"):
            SensitivityTable.load(path)
    path.write_text("[]")
    with pytest.raises(
        FileFormatError,
        match="expected a mapping with batch, data, format, images, layers, metric, model, network, seed, task, got list",
    ):
        SensitivityTable.load(path)


def test_activations_that_did_not_converge_are_told(tmp_path: Path) -> None:
    """A layer counts as converged when both its weights and what it reads do."""
    table = replace(TABLE, layers=(STEM, replace(BODY, activations=replace(READ, converged=False))))
    assert table.unconverged() == ("body",)


def test_numbers_that_json_lacks_are_not_written(tmp_path: Path) -> None:
    """A table with an infinite standard error is refused instead of written as no JSON."""
    path = tmp_path / "table.json"
    with pytest.raises(ValueError, match="JSON"):
        replace(TABLE, layers=(replace(STEM, trace=float("inf")),)).save(path)
    assert not path.exists()
