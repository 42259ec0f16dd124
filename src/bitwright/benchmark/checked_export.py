# SPDX-License-Identifier: MIT
"""Export that runs what it wrote: a file that its engine does not load, or computes otherwise, is not left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitwright.benchmark.checked_tails import differing_tail
from bitwright.benchmark.engines import ENGINES, Engine
from bitwright.benchmark.environment import environment
from bitwright.benchmark.equality import Equality, compare
from bitwright.benchmark.table_probe import table_probe
from bitwright.errors import ExportError
from bitwright.export.form import Form
from bitwright.export.onnx.tail import Tail, tails_of
from bitwright.export.pixels import Pixels
from bitwright.export.seal import companions, state_checked
from bitwright.export.target import Target
from bitwright.integer.model import IntegerModel
from bitwright.integer.outputs import single_output

LARGEST_BATCH = 3
SMALLER_BATCHES = (1, 2)

Write = Callable[[IntegerModel, Path], object]
"""Exports a model to a path."""


def checked_export(
    write: Write,
    model: IntegerModel,
    path: str | Path,
    form: Form,
    *,
    target: Target | str = Target.ANY,
    pixels: Pixels | None = None,
    images: Tensor | None = None,
    tail: Tail = None,
    write_part: Write | None = None,
) -> str:
    """Write a file and run it where its engine is installed, in a process of its own.

    Batches of 1, 2 and 3 images, with one thread and with all, at the engine's default level: the logits are compared with the
    reference executor's. Functions that the engine computes in floating point are run on all their inputs. Tails are run at
    last, in this process, behind integers that are equal. The file then states as `checked` what was run; until then it states
    that it was not.

    Args:
        write: How to export.
        model: What to export.
        path: The path of the file.
        form: The form of the file.
        target: The CPUs that the file is for.
        pixels: How images were normalised in training, for files that take uint8 pixels.
        images: Three images, as the file takes them; by default, noise.
        tail: What the file computes behind its outputs, in float, where it does: that is compared within float rounding.
        write_part: How to export the first part of the model, whose output is another, to find where a difference begins: without
            tails. By default as `write` does.

    Returns:
        What the file states: what was run, or that nothing was, and why.

    Raises:
        ExportError: If the model is refused, or the engine does not load the file, fails, or computes other logits. The file is
            then removed.
    """
    place = Path(path)
    write(model, place)
    engine = _engine_of(form)
    if not engine.installed:
        return f"not checked on this machine: {engine.name} is not installed"
    if Target(target) is Target.VNNI and environment().target is not Target.VNNI:
        return "not checked on this machine, which has no 8-bit dot products"
    given = _noise(model, pixels) if images is None else images[:LARGEST_BATCH]
    threads = sorted({1, environment().cores}) if engine.threaded else [1]
    try:
        wrong = _first_difference(model, place, engine, given, pixels, threads)
        if wrong is not None:
            where = _first_operation(write_part or write, model, place, engine, given, pixels, threads)
            raise ExportError(
                f"expected the integers of {model.model} from '{place}', got: {wrong}; {where}. The file is removed: use another "
                "engine, or keep it with --no-check to look into it."
            )
        if (wrong := _differing_tables(model, place, form, engine, Target(target))) is not None:
            raise ExportError(
                f"expected the entries of all tables of {model.model} from {engine.name}, on every integer that they can read, "
                f"got: {wrong}. '{place}' is removed: use another engine, or keep it with --no-check to look into it."
            )
        if (named := differing_tail(place, tails_of(model, tail), given)) is not None:
            raise ExportError(
                f"'{named}' of '{place}' is not what its name says, in {engine.name}. The file is removed."
            )
    except BaseException:
        for written in (place, *companions(place)):
            written.unlink(missing_ok=True)
        raise
    here = environment()
    version = next((found for name, found in here.packages.items() if name.endswith(engine.name)), "")
    counts = " and ".join(map(str, threads))
    words = f"equal at batch 1, 2 and {len(given)} with {counts} threads in {engine.name} {version} on {here.processor}"
    state_checked(place, words)
    return words


def _engine_of(form: Form) -> Engine:
    """The engine that runs files of a form."""
    return next(engine for engine in ENGINES.values() if engine.form.engine == form.engine)


def _noise(model: IntegerModel, pixels: Pixels | None) -> Tensor:
    """Three images all over the range of the model's input."""
    shape = (LARGEST_BATCH, *model.input_shape)
    generator = np.random.default_rng(0)
    if pixels is not None:
        return torch.from_numpy(generator.integers(0, 256, shape, dtype=np.uint8))
    params = model.formats[model.ops[0].name]
    low, high = params.quant_min - 1, params.quant_max + 1
    return torch.from_numpy((generator.uniform(low, high, shape) * params.scale).astype(np.float32))


def _first_difference(
    model: IntegerModel, path: Path, engine: Engine, images: Tensor, pixels: Pixels | None, threads: list[int]
) -> Equality | None:
    """The first result of a file that is not exact."""
    results = compare(
        model,
        {engine.name: path},
        [images],
        {engine.name: engine.levels[-1:]},
        pixels=pixels,
        threads=threads,
        smaller=SMALLER_BATCHES,
    )
    return next((result for result in results if not result.exact), None)


def _differing_tables(model: IntegerModel, path: Path, form: Form, engine: Engine, target: Target) -> Equality | None:
    """What an engine makes of all inputs of the model's tables, in a file of their own, if that is not exact."""
    probe = table_probe(model)
    if probe is None:
        return None
    with tempfile.TemporaryDirectory(prefix="bitwright-") as folder:
        part = Path(folder) / f"tables{path.suffix}"
        form.export(probe[0], part, target)
        return _first_difference(probe[0], part, engine, probe[1], None, [1])


def _first_operation(
    write: Write,
    model: IntegerModel,
    path: Path,
    engine: Engine,
    images: Tensor,
    pixels: Pixels | None,
    threads: list[int],
) -> str:
    """Where the difference begins, in words: by bisection over the first operations of the model, each exported for itself."""
    right, wrong = 0, len(model.ops)  # how many operations are equal, and how many are not
    with tempfile.TemporaryDirectory(prefix="bitwright-") as folder:
        part = Path(folder) / f"part{path.suffix}"
        while wrong - right > 1:
            middle = (right + wrong) // 2
            last = model.ops[middle - 1]
            params = model.formats.get(last.name)  # accumulators have none, and are compared whatever they are worth
            outputs = single_output(last.name) if params is None else single_output(last.name, [params.scale])
            first = replace(model, ops=model.ops[:middle], outputs=outputs, facts={})
            try:
                write(first, part)
            except ExportError as error:
                return f"where it begins is not found, since the first {middle} operations are refused: {error}"
            if _first_difference(first, part, engine, images, pixels, threads) is None:
                right = middle
            else:
                wrong = middle
    return f"the difference begins at '{model.ops[wrong - 1].name}'"
