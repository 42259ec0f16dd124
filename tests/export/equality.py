# SPDX-License-Identifier: MIT
"""The one comparison of an engine with the reference executor: every integer of every output, by `==`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from bitwright.benchmark import ENGINES, load_engine
from bitwright.export import Exporter, Target
from bitwright.integer import IntegerModel, run

Images = Tensor | npt.NDArray[np.float32]


def assert_equal(
    engine: str,
    model: IntegerModel,
    images: Images,
    path: Path | None = None,
    *,
    export: Exporter | None = None,
    levels: Sequence[str] | None = None,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (),
) -> npt.NDArray[np.int32]:
    """Export `model`, run the file, and compare all integers.

    Args:
        engine: Its name in `ENGINES`; the test is skipped where it is not installed.
        model: A model of one output.
        images: float32, as the file takes them.
        path: Where to leave the file; by default, nowhere.
        export: Writes the file; by default, the engine's own exporter.
        levels: Optimisation levels of the engine; by default, all.
        threads: Numbers of threads.
        batches: How many images at a time; by default one, all, and one again.

    Returns:
        The integers of all images.
    """
    known = ENGINES[engine]
    if not known.installed:
        pytest.skip(f"the extra '{engine}' is not installed")
    given = np.ascontiguousarray(images.numpy() if isinstance(images, Tensor) else images)
    expected = run(model, torch.from_numpy(given)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        place = path or Path(folder) / f"model{known.form.suffix}"
        (export or known.form.export)(model, place, Target.ANY)
        for level in levels or known.levels:
            for count in threads:
                run_file = load_engine(engine, place, threads=count, level=level)
                for size in batches or (1, len(given), 1):
                    got, here = run_file(given[:size]), f"level {level}, {count} threads, batch {size}"
                    assert got.dtype == np.int32, here
                    assert np.array_equal(got, expected[:size]), here
    return np.asarray(expected)
