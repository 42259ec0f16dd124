# SPDX-License-Identifier: MIT
"""From a trained network and images to integers of the accuracy that was asked for, in a file that was run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.allocation import Allocation, LatencyTable, ParetoFrontier, allocate, graph_problem, pareto_frontier
from bitwright.allocation.problem import Problem
from bitwright.auto.images import BATCH, AutoImages
from bitwright.auto.latency import asks_for_latency, judge_latency, layer_latencies, require_latencies
from bitwright.auto.measured import Measured, compared, right_guesses
from bitwright.auto.result import BY_BLOCKS, CALIBRATED, RECONSTRUCTED, TRAINED, AutoResult
from bitwright.auto.search import cheapest_way
from bitwright.auto.settings import DEFAULT, AutoSettings
from bitwright.benchmark import checked_export, compare, load_engine, time_interleaved
from bitwright.benchmark.engines import engine_of
from bitwright.cost import BYTES_PER_MB
from bitwright.data import ImageData
from bitwright.data.given import each_labelled
from bitwright.errors import BudgetError, DataError, ExportError, TaskError
from bitwright.export import export_float_onnx, exported_bytes, form_of, require_deployable
from bitwright.export.form import FORMS, Form
from bitwright.files import write_json
from bitwright.graph import FloatModel, Graph, capture, float_cost, layer_costs, scheme_cost
from bitwright.graph.digest import network_digest
from bitwright.graph.state_file import StateFile
from bitwright.integer import IntegerModel, lower, prepare
from bitwright.progress import Progress, silent
from bitwright.reconstruction import ReconstructionSettings, reconstruct
from bitwright.scheme import MAX_BITS, Precision, Scheme
from bitwright.sensitivity import SensitivitySettings, SensitivityTable, measure_sensitivity
from bitwright.training import Distillation, TrainSettings, fine_tune

Stage = Callable[[str], AbstractContextManager[Progress]]
FORMAT = "bitwright.auto.1"
SECONDS = 0.0  # each entry of the state took seconds to measure, and is small
TIMED = 1  # images at a time
CALIBRATING = TrainSettings(epochs=0)


def _unseen(task: str) -> AbstractContextManager[Progress]:
    return nullcontext(silent)


def auto_quantize(
    model: nn.Module | Graph,
    data: ImageData | tuple[Iterable[Any], Iterable[Any]],
    path: str | Path,
    settings: AutoSettings = DEFAULT,
    *,
    training: TrainSettings | None = None,
    engine: str | None = None,
    name: str = "model",
    resume: bool = False,
    stage: Stage = _unseen,
) -> AutoResult:
    """Find the cheapest scheme whose integers are accurate enough, and write them for an engine.

    The frontier of expected loss over cost is traced exactly from measured sensitivities; then schemes on it are calibrated,
    lowered and evaluated, on integers, until one is within the drop whose next cheaper one was measured and is not. Where not
    even the dearest scheme is, and there is a way to train, schemes are fine-tuned likewise. Under budgets without a drop, it is
    the one scheme of least expected loss within them.

    Beside `path`, files of the same name are written: the scheme (.yaml), the sensitivities (.sensitivities.json), the integer
    model (.integer) and what was measured (.json).

    Args:
        model: A trained network, a classifier, or its graph.
        data: A data set; or a pair of iterables of batches: some to observe, and some held out. Where these have no labels, the
            float network's own guesses take their place: the drop is then the share of images at which the integers disagree.
        path: The path of the engine's file.
        settings: What to look for.
        training: How to fine-tune; None where nothing is to be trained. It needs a data set.
        engine: That the file is for; by default, the one whose files end like `path`.
        name: The name of the model.
        resume: Whether to go on with what was measured before an interruption, kept in `state_files(path)`.
        stage: Called with the name of each step; gives its progress.

    Raises:
        BudgetError: If no scheme is within the budgets, or none accurate enough: the message says how near the best comes.
        CaptureError, ExportError, LoweringError: If the network has no exact form, or the engine none of it.
        TaskError: If the network is no classifier.
        DataError: If images or labels do not fit the network.
        FileFormatError: If there is a state of another search, or one that is not to be resumed.
    """
    form = _form(Path(path), engine)
    require_latencies(settings, form)
    images = AutoImages.of(data, max(settings.calibration_images, settings.sensitivity_images), settings.seed)
    graph = model if isinstance(model, Graph) else capture(model, images.input_shape, name=name)
    _require_classifier(graph)
    if isinstance(data, ImageData):
        graph = graph.reading(data.preprocessing, data.name)
    # What an engine has no form of by shape alone, it has none of at any width: better told before hours than after.
    require_deployable(graph, Scheme.uniform(graph.layers, Precision(MAX_BITS, MAX_BITS)), [form.engine])
    job = _Search(graph, images.judged_by(graph), Path(path), settings, training, stage, resume)
    try:
        result = job.written(job.best(), form)
    except BudgetError:
        job.forget()
        raise
    job.forget()
    return result


def state_files(path: Path) -> tuple[Path, Path]:
    """What an interrupted search is kept in: what was measured of schemes, and of sensitivities."""
    return path.with_name(f"{path.stem}.state"), path.with_name(f"{path.stem}.sensitivities.state")


@dataclass(frozen=True)
class _Found:
    scheme: Scheme
    way: str
    model: IntegerModel
    measured: Measured
    cheaper: Measured | None


class _Search:
    """What is measured, each thing once, kept until the search is done."""

    def __init__(
        self,
        graph: Graph,
        images: AutoImages,
        path: Path,
        settings: AutoSettings,
        training: TrainSettings | None,
        stage: Stage,
        resume: bool,
    ) -> None:
        self.graph, self.images, self.path = graph, images, path
        self.settings, self.training, self.stage = settings, training, stage
        self._resume = resume
        self._taught = Distillation(FloatModel(graph).eval().requires_grad_(False))
        self._rebuilt = ReconstructionSettings(seed=settings.seed)
        with stage("reading the images"):
            asked = {
                "network": network_digest(graph), "images": images.digest(), **_plain(settings),
                "training": None if training is None else asdict(training),
                "distillation": None if training is None else self._taught.settings(),
                "reconstruction": asdict(self._rebuilt) if settings.reconstruct else None,
            }  # fmt: skip
        self._state = StateFile(state_files(path)[0], FORMAT, work="search", settings=asked, seconds=SECONDS)
        kept = self._state.begin(resume)
        self._counts: dict[str, Any] = {} if kept is None else kept[1]
        self._made: dict[str, IntegerModel] = {}
        with stage("evaluating the float network") as progress:
            self._labels, self._float = right_guesses(FloatModel(graph).eval(), images.held_out, progress)
        self.tried: list[tuple[str, str, Measured]] = []
        self.frontier: ParetoFrontier | None = None

    def beside(self, suffix: str) -> Path:
        """A file next to the result."""
        return self.path.with_name(self.path.stem + suffix)

    def sensitivities(self) -> SensitivityTable:
        """Measured, or read from the state where that was interrupted, and written beside the result."""
        _, state = state_files(self.path)
        images, labels = self.images.observed(self.settings.sensitivity_images, self.settings.seed)
        with self.stage("measuring sensitivities") as progress:
            if labels is None:
                # Classes are drawn from the network's own probabilities: no true label is needed.
                labels = _guesses(self.graph, images)
            table = measure_sensitivity(
                self.graph,
                images,
                labels,
                SensitivitySettings(seed=self.settings.seed),
                data=self.images.name,
                checkpoint=state,
                resume=self._resume,
                progress=progress,
            )
        table.save(self.beside(".sensitivities.json"))
        return table

    def latencies(self) -> LatencyTable | None:
        """Of the layers, where a budget is about them."""
        if not asks_for_latency(self.settings):
            return None
        with self.stage("timing the layers") as progress:
            path = self.beside(".latency.json")
            return layer_latencies(self.graph, self.settings.choices, path, resume=self._resume, progress=progress)

    def best(self) -> _Found:
        """The scheme that was asked for.

        Raises:
            BudgetError: If there is none.
        """
        table = self.sensitivities()
        problem = graph_problem(self.graph, table, choices=self.settings.choices, latency=self.latencies())
        ways = [[BY_BLOCKS, RECONSTRUCTED] if self.settings.reconstruct else [CALIBRATED]]
        if self.training is not None and self.images.training is not None:
            ways.append([TRAINED])
        if self.settings.max_drop is None:
            return self._within(problem, ways[-1][-1])
        return self._accurate(problem, ways, self.settings.max_drop)

    def _within(self, problem: Problem, way: str) -> _Found:
        """The scheme of least expected loss under the budgets."""
        chosen: Allocation = allocate(problem, self.settings.budgets)
        return self._found(chosen.scheme, way, None)

    def _accurate(self, problem: Problem, ways: list[list[str]], max_drop: float) -> _Found:
        """The cheapest one on the frontier whose integers are accurate enough."""
        settings = self.settings
        with self.stage(f"tracing the frontier over {settings.cost}") as progress:
            frontier = pareto_frontier(
                problem, settings.cost, settings.points, budgets=settings.budgets, progress=progress
            )
        self.frontier = frontier
        schemes = [point.scheme for point in frontier.points]
        found = cheapest_way(len(schemes), ways, lambda way, place: self.measure(schemes[place], way).drop <= max_drop)
        if found is not None:
            place, way = found
            longest = next(group[-1] for group in ways if way in group)
            return self._found(schemes[place], way, self.measure(schemes[place - 1], longest) if place else None)
        way, _, nearest = min(self.tried, key=lambda entry: entry[2].drop)
        raise BudgetError(
            f"expected a scheme that loses at most {100 * max_drop:.2f} points, got {100 * nearest.drop:.2f} ± "
            f"{100 * nearest.drop_error:.2f} from the best of {len(self.tried)} that were measured ({way}). Allow a larger drop, "
            "a wider budget or wider choices, learn the rounding (reconstruct), or give a data set to fine-tune on."
        )

    def _found(self, scheme: Scheme, way: str, cheaper: Measured | None) -> _Found:
        measured = self.measure(scheme, way)
        return _Found(scheme, way, self.integers(scheme, way), measured, cheaper)

    def measure(self, scheme: Scheme, way: str) -> Measured:
        """A scheme's integers on the held-out images; each is measured once."""
        key = _key(scheme, way)
        if key not in self._counts:
            model = self.integers(scheme, way)
            with self.stage(f"evaluating {scheme.name}, {way}") as progress:
                labels, right = right_guesses(prepare(model).logits, self.images.held_out, progress)
            if not torch.equal(labels, self._labels):
                raise DataError(
                    "expected the held-out images in the same order in every pass, got another: give a loader with shuffle=False."
                )
            self._counts[key] = asdict(compared(right, self._float))
            self._state.write({}, self._counts)
        measured = Measured(**self._counts[key])
        if (entry := (way, scheme.name, measured)) not in self.tried:
            self.tried.append(entry)
        return measured

    def integers(self, scheme: Scheme, way: str) -> IntegerModel:
        """The network under a scheme; made once in this process, and the same in every process."""
        key = _key(scheme, way)
        if key not in self._made:
            self._made[key] = self._integers(scheme, way)
        return self._made[key]

    def _integers(self, scheme: Scheme, way: str) -> IntegerModel:
        images, settings = self.images, self.settings
        training, taught = CALIBRATING, None
        if way == TRAINED and self.training is not None:
            training, taught = self.training, self._taught
        given = images.some(settings.calibration_images, settings.seed)
        data = images.training or [given]
        with self.stage(f"making integers under {scheme.name}, {way}") as progress:
            made, _ = fine_tune(
                self.graph, scheme, data, replace(training, seed=settings.seed), calibration_images=settings.calibration_images,
                distillation=taught, progress=progress,
            )  # fmt: skip
            if way in (BY_BLOCKS, RECONSTRUCTED):
                # On what it was calibrated on.
                given = images.spread(settings.calibration_images, settings.seed)
                rebuilt = replace(self._rebuilt, network_steps=0) if way == BY_BLOCKS else self._rebuilt
                made = reconstruct(made, given, rebuilt, progress=progress)
            return lower(made, progress=progress)

    def written(self, found: _Found, form: Form) -> AutoResult:
        """The files of what was found, compared and timed."""
        files = {kind: self.beside(suffix) for kind, suffix in _FILES.items()} | {"file": self.path}
        found.scheme.save(files["scheme"])
        found.model.save(files["integers"])
        with self.stage(f"exporting for {form.engine}") as progress:
            first = self.images.given[:3]
            checked = checked_export(
                lambda part, place: form.export(part, place, progress=progress), found.model, self.path, form, images=first
            )  # fmt: skip
        runs_in = engine_of(self.path)
        with self.stage(f"comparing all logits in {runs_in}") as progress:
            held_out = self.images.held_out
            batches = (images for images, _ in each_labelled(held_out))
            total = len(held_out) if isinstance(held_out, Sized) else None
            equal = compare(found.model, {runs_in: self.path}, batches, total=total, progress=progress)
        with self.stage("timing") as progress:
            milliseconds = self._timed(runs_in, progress)
        judge_latency(self.settings, milliseconds["integers"])
        whole = compared(self._float, self._float)
        result = AutoResult(
            scheme=found.scheme,
            way=found.way,
            model=found.model,
            engine=form.engine,
            labelled=self.images.labelled,
            float_measured=whole,
            measured=found.measured,
            cheaper=found.cheaper,
            cost=scheme_cost(layer_costs(self.graph), found.scheme),
            float_cost=float_cost(self.graph),
            milliseconds=milliseconds,
            equal=(min(entry.equal_images for entry in equal), equal[0].images),
            checked=checked,
            files=files,
            tried=tuple(self.tried),
            frontier=self.frontier,
        )
        facts = {
            "file_mb": exported_bytes(self.path) / BYTES_PER_MB,
            "settings": _plain(self.settings),
            "data": self.images.name,
        }
        write_json(files["report"], result.to_dict() | facts)
        return result

    def forget(self) -> None:
        """Remove what an interrupted search would go on with: this one is done."""
        for state in state_files(self.path):
            state.unlink(missing_ok=True)

    def _timed(self, engine: str, progress: Progress) -> dict[str, float]:
        """Medians of interleaved rounds, one image at a time with one thread: the file, and the float network in ONNX Runtime."""
        pixels = np.ascontiguousarray(self.images.given[:TIMED].numpy())
        whole = self.beside(".float.onnx")
        try:
            export_float_onnx(self.graph, whole)
            predicts = {"integers": load_engine(engine, self.path), "float": load_engine("onnxruntime", whole)}
            timings = time_interleaved(
                {name: (lambda predict=predict: predict(pixels)) for name, predict in predicts.items()},  # type: ignore[misc]
                progress=progress,
            )
        finally:
            whole.unlink(missing_ok=True)
        return {name: timings.latency(name).median for name in predicts}


_FILES = {
    "scheme": ".yaml", "integers": ".integer", "report": ".json", "sensitivities": ".sensitivities.json",
}  # fmt: skip


def _key(scheme: Scheme, way: str) -> str:
    """What is measured, in a state file."""
    return f"{way}: {' '.join(f'{layer}={precision}' for layer, precision in scheme.layers.items())}"


def _guesses(graph: Graph, images: Tensor) -> Tensor:
    """The float network's own classes: int64 [images]."""
    model = FloatModel(graph).eval()
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in torch.split(images, BATCH)])


def _require_classifier(graph: Graph) -> None:
    """Refuse what has no right guesses to count.

    Raises:
        TaskError: Names what the network returns.
    """
    shapes = graph.output_shapes
    if len(shapes) > 1 or len(graph.output_shape) != 1:
        returned = ", ".join(f"{name} of {' x '.join(map(str, shape))}" for name, shape in shapes.items())
        raise TaskError(
            f"expected a classifier, one row of logits for each image, got {graph.model}, which returns {returned}: take the "
            "steps by hand, `bitwright train --task` and `bitwright evaluate --task`."
        )


def _form(path: Path, engine: str | None) -> Form:
    """The form of a file, by the engine's name or the end of the file's."""
    forms = FORMS if engine is None else [form_of(engine)]
    for form in forms:
        if form.suffix == path.suffix:
            return form
    suffixes = ", ".join(dict.fromkeys(form.suffix for form in forms))
    raise ExportError(f"expected a file whose name ends in one of {suffixes}, got '{path}'.")


def _plain(settings: AutoSettings) -> dict[str, Any]:
    """Settings as JSON values."""
    fields = asdict(settings)
    return fields | {
        "budgets": [str(budget) for budget in settings.budgets],
        "choices": [str(choice) for choice in settings.choices],
    }
