# SPDX-License-Identifier: MIT
"""Which sensitivity predicts best what quantizing a layer costs: `python benchmarks/metrics.py --json FILE --plot FILE`.

Truth, on Fashion-MNIST's held-out images: all layers at 8 bits but one, whose weights get 2, 3 or 4; the increase of the loss
over that with 8 bits everywhere, as it is (post-training) and after quantization-aware training of both, with the same seed.
Each metric ranks all pairs of a layer and a width; Spearman's correlation with the truth says how well, with an interval from
drawing layers anew. Every measurement is kept in --folder at once: an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fashion import BATCH, NETWORKS, fashion_mnist, losses, options, trained
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from bitwright.benchmark import environment
from bitwright.cli.console import bar
from bitwright.data import ImageData
from bitwright.files import write_json
from bitwright.graph import Graph
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity import SensitivityTable, measure_sensitivity
from bitwright.training import TrainSettings, fine_tune

WIDTHS = (2, 3, 4)
BASE = Precision(8, 8)
METRICS = ("hessian_trace", "hutchinson_trace", "top_eigenvalue", "empirical_fisher", "loss_perturbation")
PRODUCTS, IMAGES = {"hutchinson_trace": 10, "top_eigenvalue": 10}, {"hutchinson_trace": 128, "top_eigenvalue": 128}
"""Products per layer at most, and images at most, where products with the Hessian are what costs."""
TRUTHS = {"post-training": "as it is", "after QAT": "after training"}
RESAMPLES = 2000


def measure_truth(graph: Graph, data: ImageData, settings: TrainSettings, images: int, path: Path) -> dict[str, Any]:
    """Mean loss of each configuration and the standard error of its difference from the one with 8 bits everywhere."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    configurations = [("", 8), *((layer, width) for width in WIDTHS for layer in graph.layers)]
    base: dict[str, torch.Tensor] = {}

    def measure(layer: str, width: int, kind: str) -> tuple[torch.Tensor, float]:
        layers = dict.fromkeys(graph.layers, BASE) | ({layer: Precision(width, 8)} if layer else {})
        epochs, free = (0, False) if kind == "post-training" else (settings.epochs, True)
        chosen = TrainSettings(**{**vars(settings), "epochs": epochs})
        model, _ = fine_tune(graph, Scheme(f"{layer}-{width}", layers), data, chosen, free_norm=free)
        return losses(model, data, images)

    with bar(f"{graph.model}: true increases of the loss") as progress:
        for done, (layer, width) in enumerate(configurations):
            for kind in TRUTHS:
                key = f"{kind}|{layer}|{width}"
                if not layer:
                    kept = path.with_suffix(f".{kind.split()[0]}.pt")
                    if not kept.exists():
                        torch.save(measure("", 8, kind)[0], kept)
                    base[kind] = torch.load(kept, weights_only=True)
                elif key not in known:
                    found, accuracy = measure(layer, width, kind)
                    moved = found - base[kind]
                    known[key] = {
                        "increase": float(moved.mean()),
                        "standard_error": float(moved.std() / math.sqrt(len(moved))),
                        "accuracy": accuracy,
                    }
                    write_json(path, known)
            progress(done + 1, len(configurations))
    return known


def measure_metrics(
    graph: Graph, data: ImageData, images: int, folder: Path
) -> dict[str, tuple[SensitivityTable, float]]:
    """Each metric's table and the seconds that it took, weights only."""
    found: dict[str, tuple[SensitivityTable, float]] = {}
    for metric in METRICS:
        batch, labels = data.calibration(min(images, IMAGES.get(metric, images)), 0)
        path, cost = folder / f"{graph.model}.{metric}.json", folder / f"{graph.model}.{metric}.seconds.json"
        if not cost.exists():
            begin = time.perf_counter()
            with bar(f"{graph.model}: {metric}") as progress:
                table = measure_sensitivity(
                    graph,
                    batch,
                    labels,
                    metric=metric,
                    activations=False,
                    bits=WIDTHS,
                    max_probes=PRODUCTS.get(metric),
                    data=data.name,
                    progress=progress,
                )
            table.save(path)
            write_json(cost, time.perf_counter() - begin)
        found[metric] = SensitivityTable.load(path), json.loads(cost.read_text())
    return found


def predictions(graph: Graph, tables: Mapping[str, tuple[SensitivityTable, float]]) -> dict[str, np.ndarray]:
    """What each metric says, float64 [layers, widths], and two that look at no loss at all."""
    reference = tables["hessian_trace"][0]
    found = {
        metric: np.array([[table.find(layer).loss_increase(Precision(width, 8)) for width in WIDTHS] for layer in graph.layers])
        for metric, (table, _) in tables.items()
    }  # fmt: skip
    moved = np.array([[reference.find(layer).perturbation[width] for width in WIDTHS] for layer in graph.layers])
    size = np.array([[reference.find(layer).parameters] * len(WIDTHS) for layer in graph.layers], dtype=float)
    return found | {"perturbation alone": moved, "relative perturbation": moved / size, "fewest weights": 1 / size}


def correlation(predicted: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Spearman's correlation over all pairs of a layer and a width, its 95 % interval, and the mean over single widths."""

    def rank(rows: np.ndarray) -> float:
        return float(spearmanr(predicted[rows].ravel(), truth[rows].ravel()).statistic)

    everything = np.arange(len(truth))
    drawn = [rank(rng.integers(0, len(truth), len(truth))) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    single = [float(spearmanr(predicted[:, i], truth[:, i]).statistic) for i in range(len(WIDTHS))]
    return {"rho": rank(everything), "low": float(low), "high": float(high)} | {
        f"rho_{width}_bits": value for width, value in zip(WIDTHS, single, strict=True)
    }


def study(
    name: str, data: ImageData, baseline: TrainSettings, quantized: TrainSettings, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Everything about one network."""
    graph = trained(name, data, baseline, arguments.folder)
    tables = measure_metrics(graph, data, arguments.metric_images, arguments.folder)
    known = measure_truth(graph, data, quantized, arguments.test_images, arguments.folder / f"{name}.truth.json")
    rng = np.random.default_rng(0)
    truths = {
        kind: np.array([[known[f"{kind}|{layer}|{width}"]["increase"] for width in WIDTHS] for layer in graph.layers])
        for kind in TRUTHS
    }
    predicted = predictions(graph, tables)
    rows = [
        {"metric": metric, "truth": kind, "seconds": tables[metric][1] if metric in tables else 0.0,
         **correlation(values, truth, rng)}
        for metric, values in predicted.items()
        for kind, truth in truths.items()
    ]  # fmt: skip
    return {
        "network": name, "layers": list(graph.layers), "rows": rows,
        "predicted": {metric: values.tolist() for metric, values in predicted.items()},
        "truth": {kind: values.tolist() for kind, values in truths.items()},
        "standard_error": {
            kind: [[known[f"{kind}|{layer}|{width}"]["standard_error"] for width in WIDTHS] for layer in graph.layers]
            for kind in TRUTHS
        },
    }  # fmt: skip


def show(found: dict[str, Any]) -> None:
    """The table of one network."""
    print(f"\n{found['network']}: {len(found['layers'])} layers at {', '.join(map(str, WIDTHS))} bits")
    print(f"{'metric':24}{'truth':16}{'rho':>6}   95 % interval   2 bits  3 bits  4 bits  seconds")
    for row in sorted(found["rows"], key=lambda row: (row["truth"], -row["rho"])):
        single = "".join(f"{row[f'rho_{width}_bits']:8.2f}" for width in WIDTHS)
        interval = f"{row['low']:5.2f} to {row['high']:5.2f}"
        print(f"{row['metric']:24}{row['truth']:16}{row['rho']:6.2f}   {interval} {single}{row['seconds']:9.1f}")


def plot(path: Path, studies: list[dict[str, Any]]) -> None:
    """A PNG: correlations with their intervals, one panel for each network and truth."""
    figure = Figure(figsize=(11, 3.4 * len(studies)), layout="constrained")
    panels = figure.subplots(len(studies), len(TRUTHS), squeeze=False, sharex=True)
    for line, found in zip(panels, studies, strict=True):
        for axes, kind in zip(line, TRUTHS, strict=True):
            rows = sorted((row for row in found["rows"] if row["truth"] == kind), key=lambda row: row["rho"])
            for place, row in enumerate(rows):
                color = "#1f6f54" if row["seconds"] else "#9a9a9a"
                axes.plot([row["low"], row["high"]], [place, place], color=color, linewidth=2)
                axes.plot(row["rho"], place, "o", color=color)
            axes.set_yticks(range(len(rows)), [row["metric"] for row in rows], fontsize=8)
            axes.axvline(0, color="#cccccc", linewidth=0.8)
            axes.set_title(f"{found['network']}, {kind}", fontsize=10)
            axes.set_xlabel("Spearman's correlation with the true increase of the loss", fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/metrics"), help="keeps every measurement")
    parser.add_argument("--float-epochs", type=int, default=2, help="of 60,000 images")
    parser.add_argument("--qat-fraction", type=float, default=0.05, help="of the training images in the epoch of QAT")
    parser.add_argument("--metric-images", type=int, default=1000, help="training images that metrics look at")
    parser.add_argument("--test-images", type=int, default=2000, help=f"a multiple of {BATCH}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    for name in arguments.networks:
        if name not in NETWORKS:
            parser.error(f"unknown network {name}: name {' or '.join(NETWORKS)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    data = fashion_mnist()
    baseline = TrainSettings(epochs=arguments.float_epochs, learning_rate=0.1, weight_decay=5e-4)
    quantized = TrainSettings(epochs=1, learning_rate=0.01, batch_size=64, data_fraction=arguments.qat_fraction)
    studies = [study(name, data, baseline, quantized, arguments) for name in arguments.networks]
    for found in studies:
        show(found)
    if arguments.json:
        write_json(
            arguments.json, {"environment": environment().to_dict(), "options": options(arguments), "studies": studies}
        )
    if arguments.plot:
        plot(arguments.plot, studies)


if __name__ == "__main__":
    main()
