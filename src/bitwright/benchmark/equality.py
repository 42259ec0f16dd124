# SPDX-License-Identifier: MIT
"""Whether engines compute the integers of the reference executor: counted, never approximated."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bitwright.benchmark.engine_process import EngineProcess, Setting
from bitwright.benchmark.engines import ENGINES, known_engine
from bitwright.benchmark.environment import environment
from bitwright.benchmark.runtimes import require_installed
from bitwright.errors import DataError, EngineError, ExportError
from bitwright.export import Target
from bitwright.export.pixels import Pixels
from bitwright.integer.execution.prepare import prepare
from bitwright.integer.model import IntegerModel
from bitwright.progress import Progress, silent
from bitwright.returned import SINGLE, by_name


class Counts(NamedTuple):
    """What `count` counts, in its order."""

    images: int
    equal_images: int
    logits: int
    differing_logits: int
    largest_difference: int


Array = npt.NDArray[Any]

Stage = Callable[[str], object]
"""Told in words what begins."""


@dataclass(frozen=True)
class Equality:
    """One engine, as it was asked to run, against the reference executor.

    Attributes:
        engine: Its name.
        level: Its optimisation level.
        threads: How many it might use.
        batch: How many images it was given at a time.
        images: How many were compared.
        equal_images: How many of those have all logits equal.
        logits: How many were compared.
        differing_logits: The differing logits of those, how many differ.
        largest_difference: The largest distance of a logit from its reference, in its own units.
        differing_outputs: The names of the outputs that differ anywhere.
        failure: How it failed or ended, in words; empty if it did not. All logits that it owes count as differing.
    """

    engine: str
    level: str
    threads: int
    batch: int
    images: int
    equal_images: int
    logits: int
    differing_logits: int
    largest_difference: int
    differing_outputs: tuple[str, ...] = ()
    failure: str = ""

    @property
    def exact(self) -> bool:
        """Whether every logit of at least one image is equal."""
        return self.images > 0 and self.differing_logits == 0 and not self.failure

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "exact": self.exact}

    def __str__(self) -> str:
        how = f"{self.engine} ({self.level}, batch {self.batch}, threads {self.threads})"
        where = f" (differing: {', '.join(self.differing_outputs)})" if set(self.differing_outputs) - {SINGLE} else ""
        return f"{how}: {self.failure or f'{self.equal_images:,} of {self.images:,} images equal{where}'}"


def compare(
    model: IntegerModel,
    files: Mapping[str, str | Path],
    batches: Iterable[Tensor],
    levels: Mapping[str, Iterable[str]] | None = None,
    *,
    pixels: Pixels | None = None,
    threads: int | Iterable[int] = 1,
    smaller: Iterable[int] = (),
    variables: Mapping[str, str] | None = None,
    total: int | None = None,
    progress: Progress = silent,
    stage: Stage | None = None,
) -> list[Equality]:
    """Run exported files over images and count equal logits, of all outputs; each engine runs in a process of its own.

    Args:
        model: What the files were made from.
        files: What was exported for each engine, by its name.
        batches: Images, each [batch, channels, height, width]: float32, normalised as in training, or uint8 with `pixels`.
        levels: Optimisation levels by engine; by default, every level that the engine has.
        pixels: What the files were exported with, if they take pixels.
        threads: How many each engine may use; or several such numbers, of which an engine without that setting is run at the
            first.
        smaller: Further numbers of images at a time, at which the images of the first batch are run.
        variables: The variables of the engines' environment beside those of this process.
        total: Number of batches, for `progress`.
        progress: Called after each batch.
        stage: Called, in words, before batches are compared.

    Returns:
        One result for each engine, level, number of threads and batch size, in order.

    Raises:
        DataError: If there is no image.
    """
    chosen = levels or {}
    numbers = [threads] if isinstance(threads, int) else list(threads)
    reference = prepare(model)
    counts: dict[Setting, Array] = {}
    differing: dict[Setting, list[str]] = {}
    failures: dict[Setting, str] = {}
    settings: list[Setting] = []
    done = 0
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bitwright-"))
        processes = {name: stack.enter_context(EngineProcess(name, variables)) for name in files}
        (stage or _say_nothing)(f"comparing {', '.join(files)}")
        for done, images in enumerate(batches, start=1):
            computed = by_name(reference.run(images if pixels is None else pixels.normalise(images)))
            expected = {name: values.numpy() for name, values in computed.items()}
            given = Path(folder) / "images.npy"
            np.save(given, images.cpu().numpy())
            if done == 1:
                sizes = [*sorted({size for size in smaller if size < len(images)}), len(images)]
                settings = [
                    Setting(name, level, number, size)
                    for name in files
                    for level in chosen.get(name, known_engine(name).levels)
                    for number in (numbers if known_engine(name).threaded else numbers[:1])
                    for size in sizes
                ]
                largest = sizes[-1]
                differing = {setting: [] for setting in settings}
                counts = {setting: np.zeros(len(Counts._fields), dtype=np.int64) for setting in settings}
            for setting in settings:
                if done == 1 or setting.batch == largest:
                    try:
                        got = by_name(processes[setting.engine].logits_of(files[setting.engine], given, setting))
                    except EngineError as error:
                        failures.setdefault(setting, str(error))
                        got = {}
                    differing[setting] += count(got, expected, counts[setting])
            progress(done, total or done)
    if not done:
        raise DataError("comparing engines needs at least one batch of images, got none.")
    return [
        Equality(
            **setting._asdict(),
            **Counts(*map(int, found))._asdict(),
            differing_outputs=tuple(dict.fromkeys(differing[setting])),
            failure=failures.get(setting, ""),
        )
        for setting, found in counts.items()
    ]


def verify(
    model: IntegerModel,
    batches: Iterable[Tensor],
    engines: Sequence[str] | None = None,
    *,
    target: Target = Target.ANY,
    pixels: Pixels | None = None,
    threads: int | Iterable[int] = 1,
    smaller: Iterable[int] = (),
    total: int | None = None,
    progress: Progress = silent,
    stage: Stage | None = None,
    refused: Callable[[str, ExportError], object] | None = None,
) -> list[Equality]:
    """Export `model` for engines and compare each, at all its levels, as `compare` does.

    Args:
        model: The integer model.
        batches: float32 images, each [batch, channels, height, width], normalised as in training.
        engines: By name; by default, every installed one that is not refused the model.
        target: The CPUs that the files are made for.
        pixels: How images were normalised, for files that take uint8 pixels, which `batches` are then.
        threads: How many each engine may use; or several such numbers.
        smaller: Further numbers of images at a time.
        total: Number of batches, for `progress`.
        progress: Called after each batch; with `stage`, also after each step of a stage that counts its steps.
        stage: Called, in words, before each stage: the export for each engine, some of which compile for many seconds.
        refused: Where no engine is named, called with each that is refused the model, and the reason.

    Raises:
        MissingLibraryError: If a named engine is not installed.
        ExportError: If a named engine, or every one, is refused the model, or this CPU is none of the target's.
    """
    if target is Target.VNNI and environment().target is not Target.VNNI:
        raise ExportError(
            "this CPU has no 8-bit dot products, which files for the target 'vnni' need. Use the target 'any'."
        )
    for name in engines or ():
        require_installed(known_engine(name))
    chosen = engines or [name for name, found in ENGINES.items() if found.installed]
    refusals: list[ExportError] = []
    begin = stage or _say_nothing
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name in chosen:
            engine = known_engine(name)
            path = Path(folder) / f"{name}{engine.form.suffix}"
            begin(f"exporting for {name}")
            try:
                engine.form.export(model, path, target, pixels, progress=silent if stage is None else progress)
            except ExportError as error:
                refusals.append(error)
                if engines or len(refusals) == len(chosen):
                    raise
                if refused is not None:
                    refused(name, error)
                continue
            files[name] = path
        return compare(
            model, files, batches, pixels=pixels, threads=threads, smaller=smaller, total=total, progress=progress,
            stage=stage,
        )  # fmt: skip


def _say_nothing(words: str) -> None:
    """The stage of those who do not ask."""


def count(got: Mapping[str, Array], expected: Mapping[str, Array], counts: Array) -> list[str]:
    """Add a batch to [images, equal images, logits, differing logits, largest difference]; other shapes differ throughout.

    Args:
        got: Arrays of shape [images, ...] by output.
        expected: Likewise.
        counts: Five numbers.

    Returns:
        The names of the outputs that differ.
    """
    differing = []
    equal = np.ones(len(next(iter(expected.values()))), dtype=np.bool_)
    counts[0] += len(equal)
    for name, wanted in expected.items():
        counts[2] += wanted.size
        found = got.get(name)
        if found is None or found.shape != wanted.shape or not np.issubdtype(found.dtype, np.integer):
            counts[3] += wanted.size
            counts[4] = np.iinfo(np.int32).max
            equal[:] = False
            differing.append(name)
            continue
        wrong = found != wanted
        equal &= ~wrong.reshape(len(wanted), -1).any(axis=1)
        counts[3] += int(wrong.sum())
        distance = np.abs(found.astype(np.int64) - wanted.astype(np.int64))
        counts[4] = max(int(counts[4]), int(distance.max(initial=0)))
        if wrong.any():
            differing.append(name)
    counts[1] += int(equal.sum())
    return differing
