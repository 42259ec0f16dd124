# SPDX-License-Identifier: MIT
"""The head of `docs/accuracy.md`: networks at a glance, beside the best that other quantizers make of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO

from matplotlib.figure import Figure

FASTER = "learning_rate=0.02:weight_decay=0.0001"
WIDTHS = ("W8A8", "W4A4", "W3A3", "W2A2")
OURS = {
    "calibrated": "calibrated",
    "reconstructed": "reconstructed",
    "qat2": "trained, 2 epochs",
    f"qat2:{FASTER}": "trained, 2 epochs, rate 0.02, decay 0.0001",
}
"""Ways of Bitwright, and what they are called here; others are in the table of the network."""
LEAST = 85.0
"""Percent, below which the picture has no room."""

Groups = Mapping[tuple[str, str, str], list[float | str]]


def cell(group: list[float | str]) -> str:
    """Mean and standard error over seeds, and how many there are where they are not one."""
    top1 = known(group)
    if not top1:
        return str(group[0]) if group else ""
    if len(top1) == 1:
        return f"{top1[0]:.2f} (one seed)"
    return f"{statistics.mean(top1):.2f} ± {_error(top1):.2f} ({len(top1)} seeds)"


def known(group: list[float | str]) -> list[float]:
    """The accuracies of a group's seeds, without those that failed."""
    return [value for value in group if isinstance(value, int | float)]


def _error(top1: list[float]) -> float:
    return statistics.stdev(top1) / len(top1) ** 0.5 if len(top1) > 1 else 0.0


def is_trained(way: str) -> bool:
    """Whether a way, of ours or of a peer, has seen labels."""
    return "qat" in way


def best_peer(rows: Groups, network: str, width: str, trained: bool) -> str:
    """The peer of the largest mean, and its figure; empty where there is none."""
    found = {
        way.removeprefix("peer-"): group
        for (name, bits, way), group in rows.items()
        if (name, bits) == (network, width) and way.startswith("peer-") and is_trained(way) == trained and known(group)
    }
    if not found:
        return ""
    best = max(found, key=lambda way: statistics.mean(known(found[way])))
    return f"{cell(found[best])}, {best}"


def glance(rows: Groups, network: str, widths: Sequence[str] = WIDTHS) -> Iterator[str]:
    """A table of some widths: what Bitwright makes, and behind each kind the best of others; without lines that are empty."""
    yield f"| {network} | {' | '.join(widths)} |"
    yield f"| --- |{' --- |' * len(widths)}"
    for trained, others in ((False, "best of others, without labels"), (True, "best of others, trained, 2 epochs")):
        lines = {
            words: [cell(rows.get((network, width, way), [])) for width in widths]
            for way, words in OURS.items()
            if is_trained(way) == trained
        }
        lines[others] = [best_peer(rows, network, width, trained) for width in widths]
        yield from (f"| {words} | {' | '.join(cells)} |" for words, cells in lines.items() if any(cells))
    yield ""


def drawn(rows: Groups, network: str) -> bytes:
    """The same as a picture, the bytes of a PNG, with all that others make: accuracy over bits, without labels and with them."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    places = {width: place for place, width in enumerate(WIDTHS)}
    floats = known(rows.get((network, "float", "float"), []))
    for axes, trained in zip(panels, (False, True), strict=True):
        if floats:
            axes.axhline(floats[0], color="0.4", linestyle="--", linewidth=1, label="float")
        ways = dict.fromkeys(way for name, _, way in rows if name == network and way.startswith("peer-"))
        for way in (*OURS, *ways):
            points = {
                places[width]: known(rows[network, width, way])
                for width in WIDTHS
                if is_trained(way) == trained and known(rows.get((network, width, way), []))
            }
            if points:
                ours = way in OURS
                axes.errorbar(
                    list(points),
                    [statistics.mean(group) for group in points.values()],
                    [_error(group) for group in points.values()],
                    label=OURS.get(way, way.removeprefix("peer-")),
                    fmt="o-" if ours else "x:",
                    linewidth=2 if ours else 1,
                    capsize=2,
                )  # fmt: skip
        axes.set_title("with labels, 2 epochs" if trained else "without labels")
        axes.set_xticks(range(len(WIDTHS)), WIDTHS)
        axes.set_xlim(-0.3, len(WIDTHS) - 0.7)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, loc="lower left")
    panels[0].set_ylim(LEAST, 94.5)
    panels[0].set_ylabel(f"top-1 of {network}, %")
    made = BytesIO()
    figure.savefig(made, dpi=150)
    return made.getvalue()
