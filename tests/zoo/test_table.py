# SPDX-License-Identifier: MIT
"""Published and recomputed figures side by side: where they agree, and the reason where they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.zoo import changed_figures, row, rows, zoo_table
from bitwright.zoo.conventions import Hypothesis, printed, reason
from bitwright.zoo.counting import count_network
from bitwright.zoo.counts import all_models, stored_counts
from bitwright.zoo.registry import data_text
from bitwright.zoo.regression import figures, write_figures
from bitwright.zoo.table import Comparison

# Rows whose printed digits the plain conventions give.
AGREEING_SIZES = {
    *("resnet18-baseline", "resnet18-uniform8", "resnet18-uniform4", "resnet50-uniform4", "inceptionv3-baseline"),
}
AGREEING_BOPS = {
    *("resnet18-baseline", "resnet18-uniform8", "resnet18-bops0.25", "resnet18-latency0.25"),
    *("resnet50-baseline", "resnet50-uniform8", "resnet50-uniform4", "inceptionv3-baseline"),
}
UNEXPLAINED_SIZES = {"resnet50-baseline", "resnet101-baseline", "resnet101b-baseline"}
UNEXPLAINED_BOPS = {"resnet18-bops0.5"}


def test_agreement_and_reasons() -> None:
    """Of all 27 rows: where the digits agree, and where no reason is known."""
    table = zoo_table()
    assert len(table) == 27
    assert {entry.row.name for entry in table if entry.size.agrees} == AGREEING_SIZES
    assert {entry.row.name for entry in table if entry.bops.agrees} == AGREEING_BOPS
    assert {entry.row.name for entry in table if entry.size.reason.startswith("unexplained")} == UNEXPLAINED_SIZES
    assert {entry.row.name for entry in table if entry.bops.reason.startswith("unexplained")} == UNEXPLAINED_BOPS
    for entry in table:
        assert entry.size.agrees == (entry.size.reason == "")
        assert entry.bops.agrees == (entry.bops.reason == "")


def test_figures_and_reasons() -> None:
    """Ours stay as they are; the hypotheses behind the published figures are recomputed."""
    (entry,) = zoo_table([row("resnet50-size0.5")])
    assert (round(entry.size.recomputed, 4), round(entry.bops.recomputed, 3)) == (18.6965, 200.668)
    assert entry.size.reason == "interior in 10**6 bytes, plus 1.416 (fitted): 18.96"
    assert entry.bops.reason == "pytorchcv's FLOPs, 1000 for 1024 in the interior: 197.21"
    (entry,) = zoo_table([row("resnet50-size0.25")])
    change = "with features.stage3.unit6.body.conv1.conv at 8 bits, unlike the published bits"
    assert entry.size.reason == f"interior in 10**6 bytes, plus 1.416 (fitted), {change}: 16.01"
    assert entry.bops.reason == f"pytorchcv's FLOPs, 1000 for 1024 in the interior, {change}: 168.31"
    (entry,) = zoo_table([row("resnet50-uniform8")])
    assert entry.size.reason == "a quarter of the published float size: 24.45"
    (entry,) = zoo_table([row("resnet18-bops0.5")])
    assert entry.bops.reason == "unexplained; pytorchcv's FLOPs, 1000 for 1024 in the interior: 72.83"


@pytest.mark.parametrize(
    ("value", "decimals", "text"), [(24.45, 1, "24.5"), (24.449, 1, "24.4"), (116.5, 0, "117"), (0.05, 1, "0.1")]
)
def test_printed(value: float, decimals: int, text: str) -> None:
    """Halves go up, as in print."""
    assert printed(value, decimals) == text


def test_reasons_claim_nothing_that_does_not_fit() -> None:
    """A hypothesis counts only where it gives the printed digits."""
    assert reason(9.9, 1, iter([Hypothesis(9.5, "no"), Hypothesis(9.87, "yes")])) == "yes: 9.87"
    assert reason(9.9, 1, iter([Hypothesis(9.5, "no")])) == "unexplained; no: 9.50"
    assert reason(9.9, 1, iter([])) == "unexplained"
    assert not Comparison(9.9, 9.84, 1, "").agrees


def test_the_committed_figures_follow_from_the_stored_counts() -> None:
    """Of every network and scheme, and the file is the one that they would give today."""
    assert changed_figures() == ()


@pytest.mark.parametrize(
    "model",
    [model if model == "resnet18" else pytest.param(model, marks=pytest.mark.slow) for model in all_models()],
)
def test_stored_counts_are_those_of_the_captured_network(model: str) -> None:
    """Layer by layer; and so are all rows of the table."""
    assert count_network(model) == stored_counts(model)
    assert changed_figures([model], counts=count_network) == ()
    chosen = [published for published in rows() if published.model == model]
    assert zoo_table(chosen, counts=count_network) == zoo_table(chosen)


def test_figures_are_written_as_they_are_committed(tmp_path: Path) -> None:
    """To the byte."""
    write_figures(tmp_path / "counts.json", stored_counts)
    assert (tmp_path / "counts.json").read_text() == data_text("counts.json")


def test_changed_figures_are_all_named() -> None:
    """A changed count, a lost and a new scheme are each one line."""
    expected = json.loads(json.dumps(figures(stored_counts, ["resnet18"])))
    expected["resnet18"]["macs"] += 1
    expected["resnet18"]["layers"]["output"][0] -= 1
    expected["resnet18"]["schemes"]["bops0.5"]["bops"] -= 64
    expected["resnet18"]["schemes"]["w2a2"] = {"weight_bits": 1, "bops": 2}
    del expected["resnet18"]["schemes"]["uniform8"]
    faults = changed_figures(["resnet18"], expected=expected)
    assert [fault.split(" expected")[0] for fault in faults] == [
        "resnet18: macs:",
        "resnet18: layers: output:",
        "resnet18: schemes: bops0.5: bops:",
        "resnet18: schemes: w2a2:",
        "resnet18: schemes: uniform8:",
    ]
    assert "resnet18: macs: expected 1814073345, got 1814073344." in faults
