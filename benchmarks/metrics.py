# SPDX-License-Identifier: MIT
"""Which sensitivity predicts best what quantizing a layer costs: `python benchmarks/metrics.py --json FILE --plot FILE`.

Truth, on Fashion-MNIST's held-out images: all layers at 8 bits but one, whose weights get 2, 3 or 4; the increase of the loss
over that with 8 bits everywhere, as it is (post-training) and after quantization-aware training of both, with the same seed.
For activations: the increase of the float network's loss when what one layer reads gets 2, 3 or 4 bits.
Each metric ranks all pairs of a layer and a width; Spearman's correlation with the truth says how well, with an interval from
drawing layers anew. Every measurement is kept in --folder at once: an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
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
from bitwright.sensitivity import (
    GraphLoss,
    LayerSensitivity,
    SensitivitySettings,
    SensitivityTable,
    activation_loss_perturbation,
    measure_sensitivity,
)
from bitwright.training import TrainSettings, fine_tune

WIDTHS = (2, 3, 4)
BASE = Precision(8, 8)
METRICS = ("gauss_newton_trace", "hutchinson_trace", "top_eigenvalue", "empirical_fisher", "loss_perturbation")
PRODUCTS, IMAGES = {"hutchinson_trace": 10, "top_eigenvalue": 10}, {"hutchinson_trace": 128, "top_eigenvalue": 128}
"""Products per layer at most, and images at most, where products with the Hessian are what costs."""
TRUTHS = ("post-training", "after QAT")
ACTIVATIONS = "activations"
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


def measure_activations(graph: Graph, data: ImageData, images: int, path: Path) -> dict[str, dict[str, list[float]]]:
    """By layer and width: increase of the held-out loss, and its standard error, with what the layer reads quantized."""
    if not path.exists():
        parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        for part in data.batches("test", BATCH):
            parts.append(part)
            if BATCH * len(parts) >= images:
                break
        loss = GraphLoss(graph, *map(torch.cat, zip(*parts, strict=True)))
        with bar(f"{graph.model}: true increases from activations") as progress:
            found = activation_loss_perturbation(loss, WIDTHS, progress=progress)
        pairs = {
            layer: {str(width): [one.value, one.standard_error] for width, one in increases.items()}
            for layer, increases in found.items()
        }
        write_json(path, pairs)
    known: dict[str, dict[str, list[float]]] = json.loads(path.read_text())
    return known


def measure_metrics(
    graph: Graph, data: ImageData, images: int, folder: Path
) -> dict[str, tuple[SensitivityTable, float]]:
    """Each metric's table and the processor's seconds that it took, for weights and activations."""
    found: dict[str, tuple[SensitivityTable, float]] = {}
    for metric in METRICS:
        batch, labels = data.calibration(min(images, IMAGES.get(metric, images)), 0)
        path, cost = folder / f"{graph.model}.{metric}.json", folder / f"{graph.model}.{metric}.seconds.json"
        if not cost.exists():
            begin = time.process_time()
            with bar(f"{graph.model}: {metric}") as progress:
                table = measure_sensitivity(
                    graph,
                    batch,
                    labels,
                    SensitivitySettings(metric=metric, bits=WIDTHS, max_probes=PRODUCTS.get(metric)),
                    data=data.name,
                    progress=progress,
                )
            table.save(path)
            write_json(cost, time.process_time() - begin)
        found[metric] = SensitivityTable.load(path), json.loads(cost.read_text())
    return found


def predictions(
    graph: Graph, tables: Mapping[str, tuple[SensitivityTable, float]], activations: bool
) -> dict[str, np.ndarray]:
    """What each metric says of weights, or activations, float64 [layers, widths], and three that look at no loss at all."""

    def entries(table: SensitivityTable) -> list[LayerSensitivity]:
        found = [table.find(layer) for layer in graph.layers]
        return [entry.activations for entry in found if entry.activations] if activations else found

    def weights_alone(entry: LayerSensitivity) -> LayerSensitivity:
        return replace(entry, activations=None)

    found = {
        metric: np.array(
            [[weights_alone(entry).loss_increase(Precision(width, 8)) for width in WIDTHS] for entry in entries(table)]
        )
        for metric, (table, _) in tables.items()
    }
    reference = entries(tables["gauss_newton_trace"][0])
    moved = np.array([[entry.perturbation[width] for width in WIDTHS] for entry in reference])
    size = np.array([[entry.parameters] * len(WIDTHS) for entry in reference], dtype=float)
    return found | {"perturbation alone": moved, "relative perturbation": moved / size, "fewest elements": 1 / size}


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
    read = measure_activations(graph, data, arguments.test_images, arguments.folder / f"{name}.activations.json")
    rng = np.random.default_rng(0)
    pairs = {
        kind: [
            [(one["increase"], one["standard_error"]) for one in (known[f"{kind}|{layer}|{width}"] for width in WIDTHS)]
            for layer in graph.layers
        ]
        for kind in TRUTHS
    }
    pairs[ACTIVATIONS] = [[(*read[layer][str(width)],) for width in WIDTHS] for layer in graph.layers]
    truths = {kind: np.array(rows) for kind, rows in pairs.items()}
    of_weights, of_activations = (predictions(graph, tables, activations) for activations in (False, True))
    rows = [
        {"metric": metric, "truth": kind, "seconds": tables[metric][1] if metric in tables else 0.0,
         **correlation(values, truth[..., 0], rng)}
        for kind, truth in truths.items()
        for metric, values in (of_activations if kind == ACTIVATIONS else of_weights).items()
    ]  # fmt: skip
    return {
        "network": name, "layers": list(graph.layers), "rows": rows,
        "predicted": {metric: values.tolist() for metric, values in of_weights.items()},
        "predicted_of_activations": {metric: values.tolist() for metric, values in of_activations.items()},
        "truth": {kind: truth[..., 0].tolist() for kind, truth in truths.items()},
        "standard_error": {kind: truth[..., 1].tolist() for kind, truth in truths.items()},
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
    figure = Figure(figsize=(15, 3.4 * len(studies)), layout="constrained")
    kinds = (*TRUTHS, ACTIVATIONS)
    panels = figure.subplots(len(studies), len(kinds), squeeze=False, sharex=True)
    for line, found in zip(panels, studies, strict=True):
        for axes, kind in zip(line, kinds, strict=True):
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
