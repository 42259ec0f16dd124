# SPDX-License-Identifier: MIT
"""Published and recomputed figures side by side: where they agree, and the reason where they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.zoo import row, rows, verify, zoo_table
from bitwright.zoo.conventions import Hypothesis, printed, reason
from bitwright.zoo.registry import data_text
from bitwright.zoo.regression import recompute, write_recomputed
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


def check(models: set[str]) -> None:
    """Agreement and reasons of all rows of some networks."""
    table = zoo_table(published for published in rows() if published.model in models)
    names = {entry.row.name for entry in table}
    assert {entry.row.name for entry in table if entry.size.agrees} == AGREEING_SIZES & names
    assert {entry.row.name for entry in table if entry.bops.agrees} == AGREEING_BOPS & names
    unexplained = [{entry.row.name for entry in table if entry.size.reason.startswith("unexplained")}]
    unexplained += [{entry.row.name for entry in table if entry.bops.reason.startswith("unexplained")}]
    assert unexplained == [UNEXPLAINED_SIZES & names, UNEXPLAINED_BOPS & names]
    for entry in table:
        assert entry.size.agrees == (entry.size.reason == "")
        assert entry.bops.agrees == (entry.bops.reason == "")


def test_resnets() -> None:
    """All 24 rows of ResNet18 and ResNet50."""
    check({"resnet18", "resnet50"})


@pytest.mark.slow
def test_other_networks() -> None:
    """The three float rows of the others."""
    check({"resnet101", "resnet101b", "inceptionv3"})


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


def test_verify_finds_nothing() -> None:
    """The committed figures are those of the captured graphs."""
    assert verify(["resnet18", "resnet50"]) == ()


@pytest.mark.slow
def test_verify_finds_nothing_in_the_whole_zoo(tmp_path: Path) -> None:
    """All networks, and the file of the figures is the one that would be written today."""
    assert verify() == ()
    write_recomputed(tmp_path / "recomputed.json")
    assert (tmp_path / "recomputed.json").read_text() == data_text("recomputed.json")


def test_verify_names_every_regression() -> None:
    """A changed count, a lost and a new scheme are each one line."""
    expected = json.loads(json.dumps(recompute(["resnet18"])))
    expected["resnet18"]["macs"] += 1
    expected["resnet18"]["schemes"]["bops0.5"]["bops"] -= 64
    expected["resnet18"]["schemes"]["w2a2"] = {"weight_bits": 1, "bops": 2}
    del expected["resnet18"]["schemes"]["uniform8"]
    faults = verify(["resnet18"], expected=expected)
    assert [fault.split(" expected")[0] for fault in faults] == [
        "resnet18: macs:",
        "resnet18: schemes: bops0.5: bops:",
        "resnet18: schemes: w2a2:",
        "resnet18: schemes: uniform8:",
    ]
    assert "resnet18: macs: expected 1814073345, got 1814073344." in faults
