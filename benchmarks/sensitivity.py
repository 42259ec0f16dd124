# SPDX-License-Identifier: MIT
"""Time to 5 % standard error on the Hessian trace of every layer's weights: `python benchmarks/sensitivity.py [NETWORK ...]`.

Networks: `resnet20` (pytorchcv resnet20_cifar10, 32 x 32, batch 128) and `resnet18` (pytorchcv resnet18, 224 x 224, batch 16),
both trained a little on Fashion-MNIST, resized; and `resnet18-random`, with its 1,000 classes and random weights, batch norm
settled on the images: no curvature is spread more evenly, so none is easier for probes. All methods see the same loss, weights
and images. Timed in full, or extrapolated:

- `gauss_newton_trace` runs to the end, by its own stopping rule, with another seed in each round, since how many pairs it takes
  depends on the draw; it finds the traces of what layers read besides.
- The others are extrapolated: each layer's number of products, var / (5 % of trace)^2, times the measured time of one. The
  variance of v^T H v for random signs v follows from the gradients g of pairs of an image and a class, as H = sum w g g^T: for
  probes of one layer it is 2 (|H_ii|^2 - |diag H_ii|^2); probes of all layers add |H_ij|^2 for each other layer j. With
  10 classes the pairs that carry 99.9 % of the weight are taken, and the variances are checked against those of ten products of
  every layer; with 1,000 forty pairs are drawn.
- `loop`: v^T H v by the layer, on a gradient graph that is built once. `hutchinson_trace` is the same with at least ten
  products of each layer. `loop_xtrace`: XTrace or Hutch++ in that loop, where they need fewer products (no peer does it).
- `pyhessian`: one probe of all layers at once, its product on a kept graph, v_i (H v)_i by layer, until the worst layer is done
  (Yao et al. 2020, arXiv:1912.07145; github.com/amirgholami/PyHessian).
- `curvlinops`: a HessianLinearOperator for each layer, and the best, layer by layer, of hutchinson_trace, hutchpp_trace and
  xtrace. The products that the latter two need are simulated by these very functions on the layer's spectrum, with normal probes
  (not with 1,000 classes: spectra are too long). Timed on some layers of resnet18, and scaled from those by the loop's times.

Memory is the peak of a process of its own, less what it held before the work began, against one training step at that batch.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.benchmark import environment
from bitwright.cli.console import bar
from bitwright.data import load_data
from bitwright.graph import FloatModel, Graph, capture, load_model
from bitwright.graph.tensors_file import read_tensors, serialize
from bitwright.sensitivity import GraphLoss, SamplingLimits, gauss_newton_trace, hutchinson_trace
from bitwright.sensitivity.hutchinson import random_signs
from bitwright.sensitivity.pairs import Pairs
from bitwright.sensitivity.products import Products
from bitwright.training import TrainSettings, fit

warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
TARGET = 0.05
BATCH = {"resnet20": 128, "resnet18": 16, "resnet18-random": 16}
METHODS = ("gauss_newton_trace", "hutchinson_trace", "loop_xtrace", "loop", "pyhessian", "curvlinops")
PEERS = METHODS[3:]


def prepare(name: str, quick: bool, folder: Path) -> tuple[Graph, Tensor, Tensor]:
    """The network, trained here or before, and a batch."""
    torch.manual_seed(0)
    side, channels = (32, 1) if name == "resnet20" else (224, 3)
    data = load_data("fashion-mnist", image_size=side, channels=channels)
    images, labels = data.calibration(BATCH[name])
    path = folder / f"{name}{'-quick' if quick else ''}.graph"
    if path.exists():
        return Graph.load(path), images, labels
    if name == "resnet20":
        network = load_model("pytorchcv:resnet20_cifar10", in_channels=1)
        settings = TrainSettings(epochs=1, learning_rate=0.1, data_fraction=0.02 if quick else 0.2)
    elif name == "resnet18":
        network = load_model("pytorchcv:resnet18", num_classes=10)
        fraction = 0.005 if quick else 0.05
        settings = TrainSettings(epochs=1, learning_rate=0.02, batch_size=16, data_fraction=fraction, augment=False)
    else:
        network, settings = load_model("pytorchcv:resnet18"), None
    if settings is None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            network.train()(data.calibration(32, seed=1)[0])
    else:
        with bar(f"training {name}") as progress:
            fit(network, data, settings, progress=progress)
    graph = capture(network.eval(), data.shape, name=name)
    folder.mkdir(parents=True, exist_ok=True)
    graph.save(path)
    return graph, images, labels


def grams(loss: GraphLoss, exact: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """Inner products of the gradients g of pairs and of g^2, by layer; weights of pairs, and of pairs of pairs."""
    with torch.no_grad():
        pairs = Pairs.of_model(loss.outputs(loss.weights, loss.images))
    flat = pairs.weights.flatten() / len(loss.images)
    if exact:
        order = flat.argsort(descending=True)
        count = int((flat[order].cumsum(0) < 0.999 * flat.sum()).sum()) + 1
        chosen = order[:count]
        weights = flat[chosen]
        both = weights[:, None] * weights[None, :]
    else:
        count = 40
        chosen = torch.multinomial(flat, count, replacement=True, generator=torch.Generator().manual_seed(0))
        weights = torch.full((count,), float(flat.sum()) / count, dtype=torch.float64)
        both = torch.full((count, count), float(flat.sum()) ** 2 / (count * (count - 1)), dtype=torch.float64)
        both.fill_diagonal_(0)  # a pair tells nothing of another one's overlap with it
    rows: dict[str, list[Tensor]] = {layer: [] for layer in loss.weights}
    for index, direction in zip(chosen, pairs.directions(chosen), strict=True):
        image = loss.images[index // pairs.weights.shape[1]][None]
        value = (loss.outputs(loss.weights, image)[0] * direction).sum()
        for layer, gradient in zip(rows, torch.autograd.grad(value, list(loss.weights.values())), strict=True):
            rows[layer].append(gradient.flatten())
    inner, squares = {}, {}
    for layer in rows:
        matrix = torch.stack(rows[layer])
        rows[layer] = []
        inner[layer] = (matrix @ matrix.T).double()
        squares[layer] = ((matrix**2) @ (matrix**2).T).double()
    return inner, squares, weights, both


def needed(loss: GraphLoss, exact: bool) -> dict[str, dict[str, float]]:
    """Products that each layer needs, by kind of probe."""
    inner, squares, weights, both = grams(loss, exact)
    whole = sum(inner.values())
    found: dict[str, dict[str, float]] = {}
    for layer, gram in inner.items():
        trace = float((weights * gram.diagonal()).sum())
        own = 2 * float((both * (gram**2 - squares[layer])).sum())
        others = float((both * gram * (whole - gram)).sum())
        goal = (TARGET * trace) ** 2
        found[layer] = {"trace": trace, "variance": own, "own": max(2.0, own / goal), "shared": (own + others) / goal}
        if exact:
            root = weights.sqrt()
            spectrum = torch.linalg.eigvalsh(root[:, None] * gram * root[None, :]).clamp_min(0)
            found[layer] |= simulated(spectrum)
    return found


def simulated(spectrum: Tensor) -> dict[str, float]:
    """Least products for which the rms error of 16 runs of curvlinops' estimators is the target; infinite beyond 192."""
    from curvlinops import hutchpp_trace, xtrace

    matrix, trace = torch.diag(spectrum), float(spectrum.sum())
    found = {"xtrace": math.inf, "hutchpp": math.inf}
    for name, estimator in (("xtrace", xtrace), ("hutchpp", hutchpp_trace)):
        for count in (6, 12, 18, 24, 30, 36, 48, 60, 72, 96, 120, 144, 192):
            if count < len(spectrum):
                torch.manual_seed(count)
                errors = [float(estimator(matrix, count, "normal")) / trace - 1 for _ in range(16)]
                if statistics.fmean(error**2 for error in errors) <= TARGET**2:
                    found[name] = count
                    break
    return found


class Logits(nn.Module):
    """The loss's logits as a module whose only parameter is one layer's weight, as curvlinops wants it."""

    def __init__(self, loss: GraphLoss, layer: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(loss.weights[layer].detach().clone())
        self.loss, self.layer = loss, layer
        self.others = {name: tensor.detach() for name, tensor in loss.weights.items()}

    def forward(self, images: Tensor) -> Tensor:
        return self.loss.outputs({**self.others, self.layer: self.weight}, images)


def curvlinops_product(loss: GraphLoss, layer: str) -> Callable[[], object]:
    """One product of a layer's block."""
    from curvlinops import HessianLinearOperator

    module = Logits(loss, layer)
    data = [(loss.images, loss.targets)]
    operator = HessianLinearOperator(
        module, nn.CrossEntropyLoss(), [module.weight], data, check_deterministic=False, num_data=len(loss.images)
    )
    vector = random_signs(module.weight.detach().flatten(), 0)
    return lambda: operator @ vector


def at_once(loss: GraphLoss, layers: list[str], count: int = 8) -> dict[str, float]:
    """Seconds of several products of a layer one by one, over those of all in one batched (vmap) backward pass."""
    gradients = torch.autograd.grad(loss(), [loss.weights[layer] for layer in layers], create_graph=True)
    found = []
    for layer, gradient in zip(layers, gradients, strict=True):
        weight = loss.weights[layer]
        vectors = torch.stack([random_signs(weight, number) for number in range(count)])

        def one_by_one(gradient: Tensor = gradient, weight: Tensor = weight, vectors: Tensor = vectors) -> None:
            for vector in vectors:
                torch.autograd.grad(gradient, weight, vector, retain_graph=True)

        def together(gradient: Tensor = gradient, weight: Tensor = weight, vectors: Tensor = vectors) -> None:
            torch.autograd.grad(gradient, weight, vectors, retain_graph=True, is_grads_batched=True)

        found.append(seconds(one_by_one) / seconds(together))
    return spread(found)


def pyhessian_product(loss: GraphLoss) -> Callable[[], object]:
    """One product of all layers at once, on a gradient graph that is kept: PyHessian's hv_product and trace."""
    weights = list(loss.weights.values())
    gradients = torch.autograd.grad(loss(), weights, create_graph=True)

    def product() -> list[float]:
        signs = [torch.randint_like(weight, high=2) * 2 - 1 for weight in weights]
        products = torch.autograd.grad(gradients, weights, grad_outputs=signs, only_inputs=True, retain_graph=True)
        return [float((one * sign).sum()) for one, sign in zip(products, signs, strict=True)]

    return product


def ours(loss: GraphLoss, seed: int) -> dict[str, Any]:
    """The Hessian trace at the target."""
    limits = SamplingLimits(TARGET, max_probes=10_000)
    return gauss_newton_trace(loss, limits=limits, micro_batch=len(loss.images), seed=seed)


def seconds(function: Callable[[], object]) -> float:
    """Of one call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def measure(name: str, graph: Graph, images: Tensor, labels: Tensor, rounds: int, some: int) -> dict[str, Any]:
    """Times and their ratios, for one network."""
    loss = GraphLoss(graph, images, labels)
    layers = list(loss.weights)
    counts = needed(loss, exact=name != "resnet18-random")
    products = Products(loss, loss.weights)
    shared = pyhessian_product(loss)
    timed = layers if name == "resnet20" else layers[:: max(1, len(layers) // some)]
    curvlinops = {layer: curvlinops_product(loss, layer) for layer in timed}
    signs = {layer: random_signs(loss.weights[layer], 0) for layer in layers}
    weights = list(loss.weights.values())
    exact = gauss_newton_trace(loss, limits=SamplingLimits(0.02), micro_batch=len(loss.images))  # warms up, too
    products.of(0, layers[0], signs[layers[0]])
    shared()
    curvlinops[timed[-1]]()
    own = {layer: counts[layer]["own"] for layer in layers}
    best = {layer: min(counts[layer].get(kind, math.inf) for kind in ("own", "xtrace", "hutchpp")) for layer in layers}
    table: dict[str, list[float]] = {method: [] for method in METHODS}
    gradient, product, kept = [], [], []
    pairs, worst = [], []
    for number in range(rounds):
        gradient.append(seconds(lambda: torch.autograd.grad(loss(), weights)))
        begin = time.perf_counter()
        found = ours(loss, number)
        table["gauss_newton_trace"].append(time.perf_counter() - begin)
        pairs.append(next(iter(found.values())).weights.samples)
        worst.append(max(curvature.weights.relative_error for curvature in found.values()))
        one = {layer: seconds(lambda layer=layer: products.of(0, layer, signs[layer])) for layer in layers}
        kept.append(sum(one.values()))
        table["loop"].append(sum(own[layer] * one[layer] for layer in layers))
        table["loop_xtrace"].append(sum(best[layer] * one[layer] for layer in layers))
        table["hutchinson_trace"].append(sum(max(10.0, own[layer]) * one[layer] for layer in layers))
        product.append(seconds(shared))
        table["pyhessian"].append(max(entry["shared"] for entry in counts.values()) * product[-1])
        theirs = {layer: seconds(curvlinops[layer]) for layer in timed}
        scale = sum(theirs.values()) / sum(one[layer] for layer in timed)
        table["curvlinops"].append(sum(best[layer] * theirs.get(layer, scale * one[layer]) for layer in layers))
        print(
            f"  round {number + 1}: " + ", ".join(f"{key} {values[-1]:.1f} s" for key, values in table.items()),
            flush=True,
        )
    peers = [min(table[peer][turn] for peer in PEERS) for turn in range(rounds)]
    ratios = [counts[layer]["trace"] / exact[layer].weights.value for layer in layers]
    result: dict[str, Any] = {
        "traces_by_pairs_over_gauss_newton_trace": spread(ratios),
        "gradient_s": spread(gradient),
        "product_of_all_layers_s": spread(product),
        "one_product_of_each_layer_s": spread(kept),
        "pairs": pairs,
        "worst_relative_error": worst,
        "products": {
            "own_median": statistics.median(own.values()),
            "own_most": max(own.values()),
            "shared_median": statistics.median(entry["shared"] for entry in counts.values()),
            "shared_most": max(entry["shared"] for entry in counts.values()),
            "curvlinops_median": statistics.median(best.values()),
        },
        "seconds": {
            method: {**spread(values), "extrapolated": method != "gauss_newton_trace"}
            for method, values in table.items()
        },
        "best_peer_over_gauss_newton_trace": spread(
            [a / b for a, b in zip(peers, table["gauss_newton_trace"], strict=True)]
        ),
        "gauss_newton_trace_in_gradients": spread(
            [a / b for a, b in zip(table["gauss_newton_trace"], gradient, strict=True)]
        ),
    }
    if name != "resnet18-random":
        limits = SamplingLimits(0, 10, 10)
        probed = hutchinson_trace(loss, loss.weights, limits=limits)
        result["eight_products_singly_over_at_once"] = at_once(loss, layers[:: max(1, len(layers) // 5)])
        result["measured_over_computed_variance"] = statistics.fmean(
            10 * probed[layer].standard_error ** 2 / counts[layer]["variance"] for layer in layers
        )
    return result


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def memory(folder: Path) -> dict[str, float]:
    """Peak megabytes (2**20 bytes) of each kind of work, each in a process of its own."""
    found = {}
    for kind in ("training_step", "gauss_newton_trace", "hutchinson_trace", "pyhessian", "curvlinops"):
        command = [sys.executable, __file__, "--memory-of", kind, "--batch-in", str(folder)]
        found[kind] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        print(f"  {kind}: {found[kind]:.0f} MB, {found[kind] / found['training_step']:.2f} training steps", flush=True)
    return found


def memory_of(kind: str, folder: Path) -> float:
    """Peak of this process while it does one kind of work, less what it held before."""
    graph = Graph.load(folder / "graph")
    tensors, _ = read_tensors(folder / "batch", "batch")
    images, labels = tensors["images"], tensors["labels"]
    status = Path("/proc/self/status")

    def held(field: str) -> float:
        return int(re.search(rf"{field}:\s+(\d+)", status.read_text())[1]) / 1024  # type: ignore[index]

    model = FloatModel(graph)
    loss = GraphLoss(graph, images, labels)
    first = next(iter(loss.weights))
    works: dict[str, Callable[[], object]] = {
        "gauss_newton_trace": lambda: gauss_newton_trace(
            loss, limits=SamplingLimits(TARGET, max_probes=2 * len(images)), micro_batch=len(images)
        ),
        # A product of the first layer goes through the whole graph; those of later layers need less. In micro-batches of 64,
        # as by default, which is what bounds the memory.
        "hutchinson_trace": lambda: Products(loss.terms(64), loss.weights).of(
            0, first, random_signs(loss.weights[first], 0)
        ),
        "pyhessian": lambda: pyhessian_product(loss)(),
        "curvlinops": lambda: curvlinops_product(loss, first)(),
    }

    def step() -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    # Libraries that are loaded by the first call are no memory of the work.
    small = GraphLoss(graph, images[:1], labels[:1])
    torch.autograd.grad(small(), list(small.weights.values()))
    if kind == "curvlinops":
        curvlinops_product(small, first)()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    before = held("VmRSS")
    works.get(kind, step)()
    return held("VmHWM") - before


def main() -> None:
    """Measure, print, and write JSON; networks that are not named keep what the file has of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(BATCH), metavar="NETWORK", help=", ".join(BATCH))
    parser.add_argument("--rounds", type=int, help="5 by default")
    parser.add_argument("--quick", action="store_true", help="one round, little training, nothing about memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=Path("runs/sensitivity"), help="keeps trained networks")
    parser.add_argument("--batch-in", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        print(memory_of(arguments.memory_of, arguments.batch_in))
        return
    unknown = [name for name in arguments.networks if name not in BATCH]
    if unknown:
        parser.error(f"unknown network {unknown[0]}: name {', '.join(BATCH)}")
    where = environment().to_dict()
    print(where)
    results: dict[str, Any] = {}
    if arguments.json and arguments.json.exists():
        results = json.loads(arguments.json.read_text())
    for name in arguments.networks:
        print(f"{name}, batch {BATCH[name]}", flush=True)
        graph, images, labels = prepare(name, arguments.quick, arguments.folder)
        rounds = arguments.rounds or (1 if arguments.quick else 5)
        result = measure(name, graph, images, labels, rounds, 3 if arguments.quick else 5)
        if not arguments.quick:
            with tempfile.TemporaryDirectory() as folder:
                graph.save(Path(folder) / "graph")
                batch = serialize({"images": images, "labels": labels}, "batch")
                (Path(folder) / "batch").write_bytes(batch)
                result["peak_mb"] = memory(Path(folder))
        results[name] = {"environment": where, "batch": BATCH[name], "rounds": rounds, **result}
        print(json.dumps(result, indent=2))
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
