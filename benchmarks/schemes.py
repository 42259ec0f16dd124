# SPDX-License-Identifier: MIT
"""Does the search pay? `python benchmarks/schemes.py --json FILE --plot FILE`.

A small MobileNetV2 (or ResNet20) on Fashion-MNIST, weights of 2 to 8 bits, activations of 8: the scheme that the search finds
within the size of the uniform one, the uniform one, and random ones of the same size, all after the same quantization-aware
training, lowered to integers and evaluated on all held-out images. A random scheme is drawn uniformly from all those whose size
is within 1 % of the budget. Every measurement is kept in --folder at once: an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fashion import NETWORKS, fashion_mnist, losses, options, trained
from matplotlib.figure import Figure
from scipy.optimize import brentq

from bitwright.allocation import allocate, graph_problem
from bitwright.benchmark import environment
from bitwright.cli.console import bar
from bitwright.data import ImageData
from bitwright.files import write_json
from bitwright.graph import FloatModel, Graph, float_cost, layer_costs, scheme_cost
from bitwright.integer import lowered
from bitwright.scheme import Budget, Precision, Scheme
from bitwright.sensitivity import measure_sensitivity
from bitwright.training import TrainSettings, fine_tune

CHOICES = [Precision(bits, 8) for bits in range(2, 9)]
NEAR = 0.01
"""Random schemes use at most the budget, and at least this much less."""


def random_schemes(graph: Graph, uniform: Scheme, count: int, seed: int) -> list[Scheme]:
    """Schemes drawn uniformly from those of nearly the size of `uniform`, with its first and last layers.

    Each layer is drawn with p(bits) proportional to exp(-t * weights * bits), t such that the expected size is the budget's:
    all schemes of one size are then equally likely, and many have the right one. What is outside is drawn again.
    """
    costs, rng = layer_costs(graph), np.random.default_rng(seed)
    inner = list(graph.layers)[1:-1]
    weights = np.array([costs[layer].weights for layer in inner], dtype=float)
    widths = np.array([precision.weight_bits for precision in CHOICES], dtype=float)
    budget = sum(costs[layer].weights * uniform.layers[layer].weight_bits for layer in inner)

    def chances(slope: float) -> np.ndarray:
        energy = -slope * weights[:, None] / weights.mean() * widths
        odds = np.exp(energy - energy.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    target = (1 - NEAR / 2) * budget
    slope = brentq(lambda slope: float(weights @ (chances(slope) @ widths)) - target, -50, 50)
    table = chances(slope).cumsum(1)
    found: list[Scheme] = []
    while len(found) < count:
        drawn = (rng.random((len(inner), 1)) > table).sum(1).clip(0, len(CHOICES) - 1)
        if (1 - NEAR) * budget <= weights @ widths[drawn] <= budget:
            chosen = {layer: CHOICES[choice] for layer, choice in zip(inner, drawn, strict=True)}
            layers = {layer: chosen.get(layer, uniform.layers[layer]) for layer in graph.layers}
            found.append(Scheme(f"random {len(found) + 1}", layers))
    return found


def measure(graph: Graph, scheme: Scheme, data: ImageData, settings: TrainSettings) -> dict[str, float]:
    """Loss and accuracy of the integers, after training."""
    model, _ = fine_tune(graph, scheme, data, settings)
    model.certify(lowered(model).certificates)
    found, accuracy = losses(model, data, len(data.test))
    return {"loss": float(found.mean()), "top1_percent": 100 * accuracy}


def show(rows: list[dict[str, Any]]) -> None:
    """All schemes, the best first."""
    print(f"\n{'scheme':14}{'size MB':>9}{'top-1 %':>9}{'loss':>9}   bits of the weights")
    for row in sorted(rows, key=lambda row: row["loss"]):
        bits = "".join(map(str, row["weight_bits"]))
        print(f"{row['scheme']:14}{row['size_mb']:9.4f}{row['top1_percent']:9.2f}{row['loss']:9.4f}   {bits}")


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How the searched scheme does against the others."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_kind.setdefault(row["scheme"].split()[0], []).append(row)
    loss = {kind: [row["loss"] for row in found] for kind, found in by_kind.items()}
    top1 = {kind: [row["top1_percent"] for row in found] for kind, found in by_kind.items()}
    searched = statistics.mean(loss["search"]), statistics.mean(top1["search"])
    found: dict[str, Any] = {
        "search_loss": searched[0], "uniform_loss": statistics.mean(loss["uniform"]), "float_loss": loss["float"][0],
        "search_top1": searched[1], "uniform_top1": statistics.mean(top1["uniform"]), "float_top1": top1["float"][0],
        "random_schemes": len(loss.get("random", [])),
    }  # fmt: skip
    if "random" in loss:
        found |= {
            "random_loss_median": statistics.median(loss["random"]), "random_loss_best": min(loss["random"]),
            "random_top1_median": statistics.median(top1["random"]), "random_top1_best": max(top1["random"]),
            "random_beaten_by_loss": sum(value > searched[0] for value in loss["random"]),
            "random_beaten_by_top1": sum(value < searched[1] for value in top1["random"]),
        }  # fmt: skip
    return found


def plot(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """A PNG: loss and accuracy of every scheme."""
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    axes = figure.subplots()
    colors = {"random": "#9a9a9a", "uniform": "#c0392b", "search": "#1f6f54"}
    for kind, color in colors.items():
        found = [row for row in rows if row["scheme"].startswith(kind)]
        axes.scatter(
            [row["loss"] for row in found], [row["top1_percent"] for row in found], color=color, label=kind, s=28
        )
    axes.set_xlabel("loss of the integers on 10,000 held-out images")
    axes.set_ylabel("top-1 %")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="mobilenetv2-small")
    parser.add_argument("--folder", type=Path, default=Path("runs/schemes"), help="keeps every measurement")
    parser.add_argument("--float-epochs", type=int, default=2, help="of 60,000 images")
    parser.add_argument("--qat-fraction", type=float, default=0.1, help="of the training images in the epoch of QAT")
    parser.add_argument(
        "--metric-images", type=int, default=1000, help="training images that the Hessian is measured on"
    )
    parser.add_argument("--bits", type=int, default=3, help="of the uniform scheme, whose size is the budget")
    parser.add_argument("--random", type=int, default=20, help="how many random schemes")
    parser.add_argument(
        "--repeats", type=int, default=2, help="trainings of the searched and the uniform scheme, by seed"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    data = fashion_mnist()
    baseline = TrainSettings(epochs=arguments.float_epochs, learning_rate=0.1, weight_decay=5e-4)
    quantized = TrainSettings(epochs=1, learning_rate=0.01, data_fraction=arguments.qat_fraction)
    graph = trained(arguments.network, data, baseline, arguments.folder)
    costs = layer_costs(graph)
    uniform = Scheme.uniform(graph.layers, Precision(arguments.bits, 8))
    with bar("measuring the Hessian") as progress:
        table = measure_sensitivity(
            graph, *data.calibration(arguments.metric_images, 0), data=data.name, progress=progress
        )
    problem = graph_problem(graph, table, choices=CHOICES)
    most = scheme_cost(costs, uniform).size_mb
    searched = allocate(problem, [Budget.parse(f"size={most}MB")], "search").scheme
    repeatedly = {"search": searched, "uniform": uniform}
    repeated = [
        (replace(scheme, name=f"{kind} seed {seed}"), seed)
        for seed in range(arguments.repeats)
        for kind, scheme in repeatedly.items()
    ]
    drawn = [(scheme, 0) for scheme in random_schemes(graph, uniform, arguments.random, seed=0)]
    path = arguments.folder / f"{arguments.network}.W{arguments.bits}.schemes.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    rows = []
    with bar("training under every scheme") as progress:
        for done, (scheme, seed) in enumerate([*repeated, *drawn]):
            if scheme.name not in known:
                known[scheme.name] = measure(graph, scheme, data, replace(quantized, seed=seed))
                write_json(path, known)
            bits = [precision.weight_bits for precision in scheme.layers.values()]
            size = scheme_cost(costs, scheme).size_mb
            rows.append({"scheme": scheme.name, "size_mb": size, "weight_bits": bits, **known[scheme.name]})
            progress(done + 1, len(repeated) + len(drawn))
    if "float" not in known:
        found_losses, accuracy = losses(FloatModel(graph).eval(), data, len(data.test))
        known["float"] = {"loss": float(found_losses.mean()), "top1_percent": 100 * accuracy}
        write_json(path, known)
    rows.append({"scheme": "float", "size_mb": float_cost(graph).size_mb, "weight_bits": [], **known["float"]})
    show(rows)
    found = verdict(rows)
    print(json.dumps(found, indent=2))
    if arguments.json:
        result = {"environment": environment().to_dict(), "options": options(arguments), "verdict": found, "rows": rows}
        write_json(arguments.json, result)
    if arguments.plot:
        plot(arguments.plot, rows, f"{arguments.network}, all of {most:.3f} MB, after equal training")


if __name__ == "__main__":
    main()
