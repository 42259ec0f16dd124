# SPDX-License-Identifier: MIT
"""How accurate are integers? `python benchmarks/accuracy.py --json FILE [--rows PATTERN]`.

ResNet20 and a small MobileNetV2 on Fashion-MNIST: the top-1 accuracy of the lowered integers on all 10,000 test images, from the
same float weights, for every width, every way to make them, and every seed, which decides on calibration images and their order.
Float weights are those in `weights/` here, or of `--weights NETWORK=FILE`; a network that has none is trained first. The ways:

    calibrated      ranges and batch norm from 1,024 training images without labels
    reconstructed   and then the rounding, block by block, on the same images
    data-free       calibrated on 128 images that are made from the float network's batch norm, without any data
    data-free-reconstructed
    qat2, qat10     calibrated, and then 2 or 10 epochs of training
    float           the float network
    peer-...        another quantizer, on the same images, by its own engine; what it cannot do is a row that says so. Its
                    environment is made in the folder by pip, unless it is there; `peer-brevitas:qat2` is the training of
                    qat2 by its quantizers

A way can have settings of its own, `reconstructed:steps=300:drop=0` or `qat2:learning_rate=0.02`, where --way names it; a
training also what `accuracy_training.Besides` has: the part of the teacher, which is the float network, a start from the
reconstructed network, averaged weights. A row is `network/width/way/seed`; `--rows` chooses among them by shell patterns,
`resnet20/W2A2/*`, say. Every row is written to --json when it is done; who starts again measures what is missing. Rows that
failed say why, and are tried again. `--docs FILE` writes a page of all rows, and beside it a page of all trials
(`accuracy_trials.md`) and a picture.

Settings are chosen by `--trials`, which measures rows on 4,000 training images that no calibration chose, never on the test set:
top-1, how often the integers agree with the float network, and their divergence from it, which tells settings apart that a few
thousand labels do not. `--both` measures the row and the trial of one and the same network, where there are neither; trained
networks are kept in the folder, lowered, so that theirs always are.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accuracy_glance import drawn
from accuracy_page import grouped, page
from accuracy_peers import PEERS, Answer, Question, Training
from accuracy_training import EPOCHS, QAT, as_json, of_training, reconstruction_as_json, train, with_changes
from accuracy_trials import trials_page
from fashion import NETWORKS, float_network
from torch import Tensor

from bitwright.allocation import allocate, graph_problem
from bitwright.benchmark import environment
from bitwright.cli.console import bar
from bitwright.data import ImageData, load_data
from bitwright.errors import BitwrightError
from bitwright.files import write_bytes, write_json, write_text
from bitwright.graph import FloatModel, Graph, layer_costs, scheme_cost
from bitwright.graph.digest import network_digest
from bitwright.graph.tensors_file import read_tensors, serialize
from bitwright.integer import IntegerModel, load_integer, lower, prepare
from bitwright.reconstruction import ReconstructionSettings, reconstruct, synthesised
from bitwright.scheme import Budget, Precision, Scheme
from bitwright.sensitivity import SensitivityTable, measure_sensitivity
from bitwright.training import Checkpointing, QuantizedModel, TrainSettings, calibrated

WIDTHS = ("W8A8", "W4A4", "W3A3", "W2A2", "W4A8", "W2A8", "W8A4", "W8A3")
RANDOM = 20
MIXED = ("search3", "W3A8", *(f"random3-{number}" for number in range(1, RANDOM + 1)))
"""Schemes of the size of 3 bits, activations of 8: the one that the search finds, the uniform one, and random ones."""

WAYS = (
    "calibrated",
    "reconstructed",
    "data-free",
    "data-free-reconstructed",
    *EPOCHS,
    *(f"peer-{name}" for name in PEERS),
)
IMAGES = 1024
MADE_IMAGES = 128
SENSITIVITY_IMAGES = 1000
BATCH = 250
HELD_OUT, HELD_OUT_SEED = 4000, 777
FLOAT = TrainSettings(epochs=12, learning_rate=0.1, weight_decay=5e-4)


@dataclass(frozen=True)
class Row:
    """What is measured once."""

    network: str
    width: str
    way: str
    seed: int

    def __str__(self) -> str:
        return f"{self.network}/{self.width}/{self.way}/{self.seed}"

    @property
    def file(self) -> str:
        """The name of its files, without an ending."""
        return str(self).replace("/", ".")


@dataclass(frozen=True)
class Place:
    """Where a process finds all that a row needs.

    Attributes:
        folder: Of float networks, sensitivities and unfinished trainings.
        data: Folder of Fashion-MNIST, or None.
        device: That trains, reconstructs and evaluates.
    """

    folder: Path
    data: str | None
    device: str

    def images(self) -> ImageData:
        """Fashion-MNIST, with borders up to 32 x 32."""
        return load_data("fashion-mnist" if self.data is None else f"fashion-mnist:{self.data}", image_size=32)

    def graph(self, network: str) -> Graph:
        """A network with its float weights."""
        return Graph.load(self.folder / f"{network}.graph")


def rows(seeds: int, ways: Sequence[str] = ()) -> Iterator[Row]:
    """All of them, those of few minutes first; and those of `ways` with settings of their own."""
    for network in NETWORKS:
        yield Row(network, "float", "float", 0)
    for way in (*WAYS, *ways):
        for seed in range(seeds):
            for network in NETWORKS:
                for width in WIDTHS:
                    yield Row(network, width, way, seed)
    for width in MIXED:
        for way in ("calibrated", "reconstructed", "qat2"):
            for seed in range(1 if width.startswith("random") else seeds):
                for network in NETWORKS:
                    yield Row(network, width, way, seed)


def scheme_of(width: str, graph: Graph, folder: Path, network: str) -> Scheme:
    """The bits of every layer."""
    if width not in ("search3", *MIXED[2:]):
        return Scheme.uniform(graph.layers, Precision.parse(width))
    from schemes import CHOICES, random_schemes  # and plots, which other rows do without

    uniform = Scheme.uniform(graph.layers, Precision(3, 8))
    if width == "search3":
        table = SensitivityTable.load(folder / f"{network}.sensitivities.json")
        most = scheme_cost(layer_costs(graph), uniform).size_mb
        return allocate(graph_problem(graph, table, choices=CHOICES), [Budget.parse(f"size={most}MB")], width).scheme
    return random_schemes(graph, uniform, RANDOM, seed=0)[int(width.removeprefix("random3-")) - 1]


def made(row: Row, place: Place, data: ImageData) -> tuple[QuantizedModel, dict[str, Any]]:
    """The network of a row, ready to be lowered; and its settings, as JSON values."""
    graph = place.graph(row.network)
    way, *changed = row.way.split(":")
    images = made_images(row, place, graph) if way.startswith("data-free") else data.calibration(IMAGES, row.seed)[0]
    model, _ = calibrated(graph, scheme_of(row.width, graph, place.folder, row.network), images)
    kept: dict[str, Any] = {}
    if way in ("reconstructed", "data-free-reconstructed"):
        kept = rebuilt(model, graph, images, with_changes(ReconstructionSettings(seed=row.seed), changed), place)
    elif way in EPOCHS:
        settings, besides = of_training(row.way, row.seed)
        start = {}
        if besides.reconstruct:
            start = {"start": rebuilt(model, graph, images, ReconstructionSettings(seed=row.seed), place)}
        state = Checkpointing(place.folder / f"{row.file}.state", resume=True)
        train(model, graph, data, images, settings, besides, state)
        kept = as_json(settings, besides) | start
    return model.cpu().eval(), kept


def made_images(row: Row, place: Place, graph: Graph) -> Tensor:
    """Images made from the batch norm of the float network, once for each seed."""
    path = place.folder / f"{row.network}.images.{row.seed}"
    if not path.exists():
        write_bytes(path, serialize({"images": synthesised(graph, MADE_IMAGES, seed=row.seed)}, "images", {}))
    return read_tensors(path, "images")[0]["images"]


def integers(row: Row, place: Place, data: ImageData) -> tuple[IntegerModel, dict[str, Any]]:
    """The integers of a row and its settings; those of a training from the folder, where it has been trained before."""
    if row.way.partition(":")[0] not in EPOCHS:
        model, settings = made(row, place, data)
        return lower(model), settings
    settings, besides = of_training(row.way, row.seed)
    kept = as_json(settings, besides)
    path = place.folder / f"{row.file}.{sha256(json.dumps(kept).encode()).hexdigest()[:8]}.integer"
    if path.exists():
        return load_integer(path), kept
    model, kept = made(row, place, data)
    lowered = lower(model)
    lowered.save(path)
    return lowered, kept


def rebuilt(
    model: QuantizedModel, graph: Graph, images: Tensor, settings: ReconstructionSettings, place: Place
) -> dict[str, Any]:
    """Reconstruct in place, on the row's device; returns the settings as JSON values."""
    reference = graph.with_parameters({name: t.to(place.device) for name, t in graph.parameters.items()})
    reconstruct(model.to(place.device), images.to(place.device), settings, reference=reference)
    return reconstruction_as_json(settings)


def measured(row: Row, kinds: Sequence[str], place: Place) -> dict[str, dict[str, Any]]:
    """By kind: the accuracy of the row's integers on the test set (`rows`), and what a trial says of them (`trials`)."""
    begin, data, settings = time.monotonic(), place.images(), {}
    graph, judges = place.graph(row.network), [judged(kind, data) for kind in kinds]
    images = torch.cat([images for images, _ in judges])
    floats = FloatModel(graph).eval().to(place.device)
    if row.way.startswith("peer-"):
        logits, settings = peer_answer(row, place, data, graph, images)
        seconds = time.monotonic() - begin
    else:
        predict: Callable[[Tensor], Tensor] = floats
        if row.way != "float":
            lowered, settings = integers(row, place, data)
            predict = prepare(lowered, place.device).logits
        seconds = time.monotonic() - begin
        logits = predicted(predict, images, place.device)
    made = {"seconds": round(seconds, 1)} | ({"settings": settings} if settings else {})
    found = {}
    for kind, (seen, labels), answers in zip(
        kinds, judges, logits.split([len(seen) for seen, _ in judges]), strict=True
    ):
        right: dict[str, Any] = {"top1_percent": percent(answers.argmax(1) == labels), "images": len(seen)}
        if kind == "trials":
            right |= likeness(answers, predicted(floats, seen, place.device))
        found[kind] = right | made
    return found


def peer_answer(row: Row, place: Place, data: ImageData, graph: Graph, images: Tensor) -> Answer:
    """A peer's logits of the images, and its settings; one that trains is asked for the training of the way of that name."""
    name, training = row.way.removeprefix("peer-"), None
    peer, _, recipe = name.partition(":")
    if (way := recipe.partition(":")[0]) in EPOCHS:
        training = Training(data, *of_training(recipe, row.seed))
        name = f"{peer}:{way}"
    calibration, _ = data.calibration(IMAGES, row.seed)
    module = NETWORKS[row.network](data)
    return PEERS[name](Question(graph, module, calibration, images, row.width, row.seed, place.folder, training))


def judged(kind: str, data: ImageData) -> tuple[Tensor, Tensor]:
    """The images that rows or trials are judged on, and their labels."""
    if kind == "trials":
        return data.calibration(HELD_OUT, HELD_OUT_SEED)
    images, labels = zip(*data.batches("test", BATCH), strict=True)
    return torch.cat(images), torch.cat(labels)


@torch.no_grad()
def predicted(predict: Callable[[Tensor], Tensor], images: Tensor, device: str) -> Tensor:
    """Logits of images, float32 on the processor, a batch at a time."""
    return torch.cat([predict(part.to(device)).float().cpu() for part in torch.split(images, BATCH)])


def likeness(made: Tensor, real: Tensor) -> dict[str, float]:
    """How often logits agree with those of the float network, and KL(float || integers) in nats an image."""
    divergence = F.kl_div(made.log_softmax(1), real.log_softmax(1), log_target=True, reduction="batchmean")
    return {
        "agreement_percent": percent(made.argmax(1) == real.argmax(1)),
        "divergence": round(float(divergence), 5),
    }


def percent(right: Tensor) -> float:
    """The share of a truth, in percent."""
    return round(100 * float(right.double().mean()), 2)


def measure(task: tuple[Row, Sequence[str], Place]) -> tuple[Row, dict[str, dict[str, Any]]]:
    """A row by kind, or why there is none; in a process of its own."""
    row, kinds, place = task
    try:
        on = torch.cuda.get_device_name() if place.device == "cuda" else environment().processor
        return row, {kind: {**found, "device": on} for kind, found in measured(row, kinds, place).items()}
    except (BitwrightError, RuntimeError, ValueError) as error:
        failed = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        return row, dict.fromkeys(kinds, failed)


def begin(device: str) -> None:
    """One thread, and no GPU unless it was asked for."""
    torch.set_num_threads(1)
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def ready(network: str, place: Place, weights: Path | None, epochs: int, mixed: bool) -> Graph:
    """The float network, in the folder from now on; and its sensitivities, where a search needs them."""
    data = place.images()
    graph = float_network(network, data, replace(FLOAT, epochs=epochs), place.folder, weights)
    table = place.folder / f"{network}.sensitivities.json"
    if mixed and not table.exists():
        with bar(f"sensitivities of {network}") as progress:
            measure_sensitivity(
                graph, *data.calibration(SENSITIVITY_IMAGES, 0), data=data.name, progress=progress
            ).save(table)
    return graph


def main() -> None:
    """Measure what is asked for and missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="rows, those of former runs among them")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/accuracy"), help="float networks, unfinished trainings"
    )
    parser.add_argument(
        "--weights", action="append", default=[], metavar="NETWORK=FILE", help="a state dict; repeatable"
    )
    parser.add_argument("--float-epochs", type=int, default=FLOAT.epochs, help="of networks that have no weights yet")
    parser.add_argument("--rows", action="append", metavar="PATTERN", help="of network/width/way/seed; repeatable")
    parser.add_argument(
        "--way", action="append", default=[], metavar="WAY:NAME=NUMBER", help="a way besides; repeatable"
    )
    judges = parser.add_mutually_exclusive_group()
    judges.add_argument(
        "--trials", action="store_true", help="judge on held-out training images, to choose settings by"
    )
    judges.add_argument("--both", action="store_true", help="judge on the test images and on those")
    parser.add_argument("--docs", type=Path, help="the page to write, another of trials and a picture beside it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="rows side by side, each on one thread")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--data", help="folder of Fashion-MNIST")
    parser.add_argument("--list", action="store_true", help="print the rows that would be measured")
    arguments = parser.parse_args()
    asked = [
        row
        for row in rows(arguments.seeds, arguments.way)
        if any(fnmatch.fnmatch(str(row), p) for p in arguments.rows or ["*"])
    ]
    before = json.loads(arguments.json.read_text()) if arguments.json.exists() else {"networks": {}}
    kinds = ("rows", "trials") if arguments.both else ("trials",) if arguments.trials else ("rows",)
    known = [before.setdefault(kind, {}) for kind in kinds]
    without = {
        row: tuple(
            kind for kind, each in zip(kinds, known, strict=True) if "top1_percent" not in each.get(str(row), {})
        )
        for row in asked
    }
    missing = {row: lacking for row, lacking in without.items() if lacking}
    if arguments.list:
        print("\n".join(map(str, missing)))
        return
    weights = {name: Path(path) for name, _, path in (given.partition("=") for given in arguments.weights)}
    if unknown := [name for name in weights if name not in NETWORKS]:
        parser.error(f"--weights: expected NETWORK=FILE of {', '.join(NETWORKS)}, got '{unknown[0]}'.")
    if missing:
        try:
            measure_all(arguments, parser, missing, weights, before)
        except BitwrightError as error:
            parser.error(str(error))
    if arguments.docs:
        write_text(arguments.docs, page(before, asdict(QAT)))
        reconstruction = reconstruction_as_json(ReconstructionSettings())
        write_text(arguments.docs.parent / "accuracy_trials.md", trials_page(before, reconstruction))
        picture = arguments.docs.parent / "figures" / "accuracy.png"
        picture.parent.mkdir(exist_ok=True)
        write_bytes(picture, drawn(grouped(before.get("rows", {})), "resnet20"))
    for name, row in before[kinds[0]].items():
        print(f"{name}: {row.get('top1_percent', row.get('failed'))}")


def measure_all(
    arguments: argparse.Namespace,
    parser: argparse.ArgumentParser,
    missing: Mapping[Row, tuple[str, ...]],
    weights: Mapping[str, Path],
    before: dict[str, Any],
) -> None:
    """Measure rows, of each the kinds that it lacks, and write each to the file when it is done."""
    begin(arguments.device)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    place = Place(arguments.folder, arguments.data, arguments.device)
    for network in dict.fromkeys(row.network for row in missing):
        mixed = any(row.network == network and row.width == "search3" for row in missing)
        digest = network_digest(ready(network, place, weights.get(network), arguments.float_epochs, mixed))
        before.setdefault("float_epochs", {}).setdefault(network, arguments.float_epochs)
        if before["networks"].setdefault(network, digest) != digest:
            parser.error(f"{arguments.json} has rows of other float weights of {network}: name another file.")
    before["images"] = IMAGES
    before.setdefault("environments", {})[arguments.device] = environment().to_dict()
    order = {str(row): place for place, row in enumerate(rows(max(arguments.seeds, 10), arguments.way))}
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(arguments.jobs, begin, (arguments.device,)) as pool,
        bar("rows of accuracies") as progress,
    ):
        found = pool.imap_unordered(measure, [(row, kinds, place) for row, kinds in missing.items()])
        for done, (row, results) in enumerate(found, 1):
            for kind, result in results.items():
                entries = {**before[kind], str(row): result}
                before[kind] = dict(sorted(entries.items(), key=lambda entry: order.get(entry[0], len(order))))
            write_json(arguments.json, before)
            said = [f"{result.get('top1_percent', result.get('failed'))}" for result in results.values()]
            print(f"{row}: {', '.join(said)}", flush=True)
            progress(done, len(missing))


if __name__ == "__main__":
    main()
