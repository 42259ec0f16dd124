# SPDX-License-Identifier: MIT
"""`docs/accuracy.md` and the page of trials: means and standard errors over seeds, what failed, and what nobody measured."""

from __future__ import annotations

import importlib
import json
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
accuracy_page = importlib.import_module("accuracy_page")
accuracy_trials = importlib.import_module("accuracy_trials")
accuracy_glance = importlib.import_module("accuracy_glance")
TRAINING = {"learning_rate": 0.01, "weight_decay": 5e-4, "batch_size": 128}


def test_cells_say_how_many_seeds_they_are_of() -> None:
    """A mean has a standard error from two seeds on; a row without a figure says why; an absent one is empty."""
    rows = {
        "net/float/float/0": {"top1_percent": 95.0},
        **{f"net/W4A4/qat2/{seed}": {"top1_percent": 92.0 + 2 * seed} for seed in range(2)},
        "net/W2A2/qat2/0": {"top1_percent": 90.5},
        "net/W2A2/peer-x/0": {"failed": "ValueError: no such width"},
        "net/W4A4/peer-y:well/0": {"top1_percent": 80.0, "settings": {"y": "1.2", "torch": "3"}},
        "net/W4A4/peer-y/0": {"top1_percent": 70.0, "settings": {"y": "1.2"}},
        "net/W4A4/peer-aimet/0": {"top1_percent": 75.0, "settings": {"aimet-torch": "2.4"}},
    }
    made = accuracy_page.page({"rows": rows}, TRAINING)
    for line in (
        "In float: 95.00 (one seed).",
        "| way | W4A4 | W2A2 |",
        "| qat2 | 93.00 ± 1.00 (2 seeds) | 90.50 (one seed) |",
        "| peer-x |  | ValueError: no such width |",
        "| peer-y:well | 80.00 (one seed) |  |",
        "Peers: y 1.2, aimet-torch 2.4.",
        "- cpu: net float, net qat2, net peer-y, net peer-aimet",
    ):
        assert line in made.splitlines()
    assert "mobilenetv2-small qat10" in made.replace("\n", " ")


def test_trials_are_sorted_by_divergence() -> None:
    """A table for each width: the mean over seeds, the least divergence first, failures last, and no mixed scheme."""
    trials = {
        "net/W2A2/qat2:momentum=9/0": {"failed": "TrainingError: diverged"},
        "net/W2A2/qat2/0": {"top1_percent": 90.0, "agreement_percent": 91.5, "divergence": 0.02, "images": 4000},
        "net/W2A2/qat2:momentum=0/0": {"top1_percent": 91.0, "agreement_percent": 92.5, "divergence": 0.0123},
        "net/W3A3/qat2:momentum=0/0": {"top1_percent": 92.0, "agreement_percent": 93.0, "divergence": 0.01},
        "net/W3A3/qat2:momentum=0/1": {"top1_percent": 94.0, "agreement_percent": 94.0, "divergence": 0.03},
        "net/random3-1/calibrated/0": {"top1_percent": 90.0, "agreement_percent": 91.5, "divergence": 0.02},
    }
    made = accuracy_trials.trials_page({"trials": trials}, {"steps": 200, "seed": 0}).splitlines()
    begin = made.index("| net W2A2 | top-1 % | agrees with float % | divergence |")
    assert made[begin + 2 : begin + 9] == [
        "| qat2:momentum=0 | 91.00 | 92.50 | 12.30 |",
        "| qat2 | 90.00 | 91.50 | 20.00 |",
        "| qat2:momentum=9 | TrainingError: diverged | | |",
        "",
        "| net W3A3 | top-1 % | agrees with float % | divergence |",
        "| --- | --- | --- | --- |",
        "| qat2:momentum=0 | 93.00 ± 1.00 (2 seeds) | 93.50 | 20.00 |",
    ]
    assert "steps 200." in made
    assert not any("random3" in line for line in made)
    assert any("on 4,000 training images" in line for line in made)


def test_a_glance_has_the_best_of_others() -> None:
    """By the mean of its seeds, apart for those that saw labels; what failed is no best, and what nobody measured is empty."""
    rows = {
        "net/W4A4/calibrated/0": {"top1_percent": 91.0},
        "net/W4A4/peer-x/0": {"top1_percent": 90.0},
        "net/W4A4/peer-x/1": {"top1_percent": 84.0},
        "net/W4A4/peer-y:well/0": {"top1_percent": 88.0},
        "net/W4A4/peer-x:qat2/0": {"top1_percent": 93.0},
        "net/W2A2/peer-x/0": {"failed": "ValueError: no such width"},
        "other/W2A2/peer-x/0": {"top1_percent": 99.0},
    }
    made = list(accuracy_glance.glance(accuracy_page.grouped(rows), "net"))
    assert made[:2] == ["| net | W8A8 | W4A4 | W3A3 | W2A2 |", "| --- | --- | --- | --- | --- |"]
    assert "| calibrated |  | 91.00 (one seed) |  |  |" in made
    assert "| best of others, without labels |  | 88.00 (one seed), y:well |  |  |" in made
    assert "| best of others, trained, 2 epochs |  | 93.00 (one seed), x:qat2 |  |  |" in made


def test_what_bounds_figures_has_them_all() -> None:
    """A sentence with a figure that nobody measured is none; with all of them it is there."""
    rows = {"resnet20/float/float/0": {"top1_percent": 94.0}}
    rows |= {f"{'/'.join(place)}/0": {"top1_percent": 90.0} for place in accuracy_page.BOUNDED.values()}
    assert "What bounds these figures" in accuracy_page.page({"rows": rows}, TRAINING)
    del rows["resnet20/W2A2/peer-brevitas:qat2/0"]
    made = accuracy_page.page({"rows": rows}, TRAINING)
    assert "What bounds these figures" not in made
    assert "## At a glance" in made


def test_the_picture_shows_what_was_measured() -> None:
    """A row more is a mark more; one of another network is none."""

    def drawn(**rows: float) -> bytes:
        found = {name.replace("_", "/"): {"top1_percent": top1} for name, top1 in rows.items()}
        with Image.open(BytesIO(accuracy_glance.drawn(accuracy_page.grouped(found), "net"))) as picture:
            return picture.convert("RGB").tobytes()

    one = drawn(net_W4A4_calibrated_0=91.0)
    assert drawn(net_W4A4_calibrated_0=91.0, other_W2A2_calibrated_0=90.0) == one
    assert drawn(net_W4A4_calibrated_0=91.0, net_W2A2_calibrated_0=90.0) != one


def test_mixed_schemes_have_a_table_of_their_own() -> None:
    """Top-1 from the rows, divergence from the trials, and how many random schemes are worse."""
    rows = {
        f"net/{width}/calibrated/{seed}": {"top1_percent": 90.0 + seed}
        for width in ("search3", "W3A8")
        for seed in (0, 1)
    }
    rows |= {f"net/random3-{number}/calibrated/0": {"top1_percent": 88.0 + number} for number in (1, 2, 3)}
    trials = {"net/search3/calibrated/0": {"divergence": 0.001}, "net/random3-1/calibrated/0": {"divergence": 0.002}}
    made = accuracy_page.page({"rows": rows, "trials": trials}, TRAINING).splitlines()
    both = "90.50 ± 0.50 (2 seeds)"
    assert f"| net | calibrated | top-1 % | {both} | {both} | 90.00, 91.00 | 2 of 3 random |" in made
    assert "| net | calibrated | divergence | 1.00 (one seed) |  | 2.00, 2.00 | 1 of 1 random |" in made
    assert not any("random3-" in line or "search3" in line for line in made)


def test_the_page_is_that_of_the_rows() -> None:
    """Every figure of the committed results stands in the committed page."""
    found = json.loads((BENCHMARKS / "results" / "accuracy.json").read_text())
    text = (BENCHMARKS.parent / "docs" / "accuracy.md").read_text()
    for (_, width, _), group in accuracy_page.grouped(found["rows"]).items():
        assert accuracy_page.is_mixed(width) or accuracy_glance.cell(group) in text
    tried = (BENCHMARKS.parent / "docs" / "accuracy_trials.md").read_text()
    usual = {name: row for name, row in found["trials"].items() if not accuracy_page.is_mixed(name.split("/")[1])}
    assert all(line in tried for line in accuracy_trials.trial_tables(usual))
    assert all(line in text for line in accuracy_glance.glance(accuracy_page.grouped(found["rows"]), "resnet20"))
    assert all(
        line in text for line in accuracy_page.mixed_table(found["rows"], found["trials"]) if line.count("|") > 8
    )


def test_the_readme_has_the_means_of_the_rows() -> None:
    """Float, the best of others and ours, at each width."""
    rows = accuracy_page.grouped(json.loads((BENCHMARKS / "results" / "accuracy.json").read_text())["rows"])
    text = (BENCHMARKS.parent / "README.md").read_text()

    def means(words: list[str]) -> str:
        return " | ".join(word.split()[0] for word in words)

    others = [accuracy_glance.best_peer(rows, "resnet20", width, False) for width in accuracy_glance.WIDTHS]
    ours = [accuracy_glance.cell(rows["resnet20", width, "reconstructed"]) for width in accuracy_glance.WIDTHS]
    assert f" | {means(others)} |" in text
    assert f" | {means(ours)} |" in text.replace("**", "")
    assert f"float {means([accuracy_glance.cell(rows['resnet20', 'float', 'float'])])} %" in text
