# SPDX-License-Identifier: MIT
"""Segment and detect: `python benchmarks/scenes.py --json benchmarks/results/scenes.json --docs docs/scenes.md`.

A U-Net and a small detector of three scales, on scenes of several digits: trained in float, and from there, with one epoch of
quantization-aware training, at 8 and 4 bits, and at mixed widths that a search finds by sensitivities without labels. Every
figure of integers is that of the lowered model, on all held-out scenes. At W4A4 the model is written for every engine, and run
there. Each row is kept in --json when it is done; who starts again measures what is missing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scene_networks import Detector, UNet
from torch import nn

from bitwright.allocation import allocate, graph_problem
from bitwright.benchmark import ENGINES, compare, environment
from bitwright.cli.console import bar
from bitwright.data import ImageData, load_data
from bitwright.errors import BitwrightError
from bitwright.files import write_json, write_text
from bitwright.graph import FloatModel, Graph, capture, layer_costs, scheme_cost
from bitwright.integer import IntegerModel, lower, prepare
from bitwright.scheme import Budget, Precision, Scheme
from bitwright.sensitivity import SensitivitySettings, measure_sensitivity
from bitwright.task import Task, agreement, dense_classification, detection
from bitwright.training import Checkpointing, TrainSettings, evaluate, fine_tune, fit

WIDTHS = ("float", "W8A8", "W4A4", "W4A8", "search")
CHOICES = tuple(Precision(bits, 8) for bits in (2, 3, 4, 5, 6, 8))
SENSITIVITY = SensitivitySettings(relative_error=0.2, max_probes=400)
SENSITIVITY_IMAGES, ENGINE_IMAGES = 64, 2


@dataclass(frozen=True)
class Study:
    """A network on scenes.

    Attributes:
        make: The network, with random weights.
        data: Its scenes.
        size: Height and width of a scene.
        task: What it is for.
        floats: How it is trained in float.
        tuned: How it is trained from there with quantization.
    """

    make: Callable[[], nn.Module]
    data: str
    size: int
    task: Callable[[], Task]
    floats: TrainSettings
    tuned: TrainSettings

    def scenes(self) -> ImageData:
        """The data set."""
        return load_data(self.data, image_size=self.size)


STUDIES = {
    "unet": Study(
        UNet,
        "digit-scenes",
        64,
        dense_classification,
        TrainSettings(epochs=10, learning_rate=0.1, batch_size=25),
        TrainSettings(epochs=1, learning_rate=0.01, batch_size=25, data_fraction=0.5),
    ),
    "detector": Study(
        Detector,
        "digit-scenes:boxes",
        64,
        detection,
        TrainSettings(epochs=8, learning_rate=0.05, batch_size=25),
        TrainSettings(epochs=1, learning_rate=0.01, batch_size=25),
    ),
}


def trained(name: str, study: Study, folder: Path) -> Graph:
    """The captured network with float weights, trained unless `folder` holds it already."""
    path = folder / f"{name}.graph"
    if path.exists():
        return Graph.load(path)
    scenes = study.scenes()
    torch.manual_seed(study.floats.seed)
    network = study.make()
    kept = Checkpointing(folder / f"{name}.state", resume=True)
    with bar(f"training {name} in float") as progress:
        fit(network, scenes, study.floats, task=study.task(), checkpoint=kept, progress=progress)
    graph = capture(network.eval(), scenes.shape, name=name)
    graph.save(path)
    return graph


def scheme_of(
    width: str,
    graph: Graph,
    scenes: ImageData,
    images: int = SENSITIVITY_IMAGES,
    settings: SensitivitySettings = SENSITIVITY,
) -> Scheme:
    """Uniform, or found by the search: of the size of W4A8, by sensitivities that need no labels."""
    if width != "search":
        return Scheme.uniform(graph.layers, Precision.parse(width))
    shown, _ = scenes.calibration(images)
    with bar(f"sensitivities of {graph.model}") as progress:
        table = measure_sensitivity(graph, shown, settings=settings, task=agreement(), progress=progress)
    most = scheme_cost(layer_costs(graph), Scheme.uniform(graph.layers, Precision(4, 8))).size_mb
    return allocate(graph_problem(graph, table, choices=CHOICES), [Budget.parse(f"size={most}MB")], width).scheme


def measure(name: str, study: Study, width: str, folder: Path, engines: bool = True) -> dict[str, Any]:
    """A row: scores on all held-out scenes, and in which engines a W4A4 model is equal."""
    begin, graph, scenes, task = time.monotonic(), trained(name, study, folder), study.scenes(), study.task()
    row: dict[str, Any] = {}
    predict: Callable[..., Any] = FloatModel(graph).eval()
    if width != "float":
        scheme = scheme_of(width, graph, scenes)
        with bar(f"training {name}, {width}") as progress:
            model, _ = fine_tune(graph, scheme, scenes, study.tuned, task=task, progress=progress)
        integer = lower(model)
        predict = prepare(integer).logits
        row["size_mb"] = round(scheme_cost(layer_costs(graph), scheme).size_mb, 4)
        if width == "W4A4" and engines:
            row["engines"] = {engine: equal_in(engine, integer, scenes, folder) for engine in ENGINES}
    with bar(f"evaluating {name}, {width}") as progress:
        scores = evaluate(predict, scenes.batches("test", 50), task=task, progress=progress)
    return {**scores.to_dict(), **row, "seconds": round(time.monotonic() - begin)}


def equal_in(engine: str, model: IntegerModel, scenes: ImageData, folder: Path) -> str:
    """`equal`, or how many images are not, or why there is no file for an engine."""
    if not ENGINES[engine].installed:
        return "not installed"
    path = folder / f"{model.model}{ENGINES[engine].form.suffix}"
    try:
        ENGINES[engine].form.export(model, path)
        images, _ = scenes.test.read(range(ENGINE_IMAGES))
        (result,) = compare(model, {engine: path}, [images], {engine: ENGINES[engine].levels[-1:]})
    except BitwrightError as error:
        return " ".join(str(error).split())
    return "equal" if result.exact else f"{result.images - result.equal_images} of {result.images} images differ"


def page(found: Mapping[str, Any]) -> str:
    """The page of all rows."""
    rows, processor = found["rows"], found["environment"]["processor"]
    lines = [f"{PAGE.strip()}\nMeasured on {processor}.", ""]
    for name, study in STUDIES.items():
        scores = study.task().scores
        lines += [TEXTS[name].strip(), ""]
        lines.append(f"| weights and activations | {' | '.join(score.heading for score in scores)} | MB of weights |")
        lines.append("| --- |" + " --- |" * (len(scores) + 1))
        for width in WIDTHS:
            row = rows.get(f"{name}/{width}")
            if row is not None:
                figures = " | ".join(f"{row[score.key]:.1f}" for score in scores)
                lines.append(f"| {width} | {figures} | {row.get('size_mb', '')} |")
        engines = rows.get(f"{name}/W4A4", {}).get("engines", {})
        lines += ["", *(f"- W4A4 in {engine}: {found}" for engine, found in engines.items()), ""]
    return "\n".join(lines).rstrip() + "\n"


PAGE = """# Scenes: a segmenter and a detector

Written by `python benchmarks/scenes.py --json benchmarks/results/scenes.json --docs docs/scenes.md`, which also measures:
minutes of one thread in all. The scenes are those of `--data digit-scenes` ([inputs](inputs.md#images)): 2,000 to train with
and 500 of other digits to test with. Figures of integers are those of the lowered model on all 500, after one epoch of
quantization-aware training; first and last layers have 8 bits. One seed: differences of a point are chance. `search` is the
scheme of mixed weight widths, of at most the size of W4A8, which the integer program finds by sensitivities without labels.
"""
TEXTS = {
    "unet": """
## U-Net

Eleven classes, bilinear up-sampling, 64 x 64 pixels, 0.1 million weights; edges of strokes do not count. Its epoch with
quantization is of half of the scenes.
""",
    "detector": """
## Detector

Cross-stage partial blocks with SiLU and three heads, 64 x 64 pixels. The maps of the heads are integers; decoding them to boxes
is real arithmetic behind the network, the same for all rows.
""",
}


def main() -> None:
    """Measure what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="rows, those of former runs among them")
    parser.add_argument("--docs", type=Path, help="the page to write")
    parser.add_argument("--folder", type=Path, default=Path("runs/scenes"), help="float networks, unfinished trainings")
    parser.add_argument("--only", default="", help="what a row begins with: unet/W4")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    found = json.loads(arguments.json.read_text()) if arguments.json.exists() else {"rows": {}}
    for name, study in STUDIES.items():
        for width in WIDTHS:
            row = f"{name}/{width}"
            if row in found["rows"] or not row.startswith(arguments.only):
                continue
            found["rows"][row] = measure(name, study, width, arguments.folder)
            found["environment"] = environment().to_dict()
            write_json(arguments.json, found)
            print(f"{row}: {found['rows'][row]}", flush=True)
    if arguments.docs:
        write_text(arguments.docs, page(found))


if __name__ == "__main__":
    main()
