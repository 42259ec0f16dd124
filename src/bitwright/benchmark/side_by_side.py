# SPDX-License-Identifier: MIT
"""Exported files side by side: latency at several batch sizes, speed-up over the first, time to load, memory, size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.benchmark import runtimes
from bitwright.benchmark.engine_process import how_it_ended
from bitwright.benchmark.engines import engine_of, known_engine
from bitwright.benchmark.runtimes import load_engine, require_installed
from bitwright.benchmark.timing import Spread, time_interleaved
from bitwright.errors import EngineError, ExportError
from bitwright.export.seal import exported_bytes, look_for_changes
from bitwright.progress import Progress, silent

_ONCE = """
import json, os, resource, runpy, sys, time
import numpy as np
module, engine, package, path, threads, batch = json.loads(sys.argv[1])
load_engine = runpy.run_path(module)["load_engine"]  # by itself: its package would import PyTorch
__import__(package)
try:
    start = time.perf_counter()
    predict = load_engine(engine, path, threads=threads)
    loaded = time.perf_counter() - start
    predict(np.zeros((batch, *predict.shape), dtype=predict.kind))
except Exception as error:  # whatever an engine raises is an answer
    sys.exit(" ".join(str(error).split()) or type(error).__name__)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if os.path.exists("/proc/self/status"):  # on Linux the above includes the parent, as it was before it became this process
    (peak,) = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps([1000 * loaded, peak / 1024]))
"""


@dataclass(frozen=True)
class Measured:
    """One file at one batch size.

    Attributes:
        name: The name of the file.
        engine: That ran it.
        batch: Images at a time.
        latency_ms: For the whole batch.
        speedup: Over the first file, round by round.
        load_ms: From the file to a session, once, in a fresh process with the engine imported.
        peak_memory_mb: Most resident memory of that process after one batch, in units of 2**20 bytes, Python included.
        file_bytes: Length of the file, with the weights that OpenVINO keeps beside it.
    """

    name: str
    engine: str
    batch: int
    latency_ms: Spread
    speedup: Spread
    load_ms: float
    peak_memory_mb: float
    file_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def side_by_side(
    files: Mapping[str, str | Path],
    *,
    engine: str | None = None,
    batches: Sequence[int] = (1, 8),
    threads: int = 1,
    rounds: int = 15,
    progress: Progress = silent,
) -> list[Measured]:
    """Time files against each other on random images.

    Args:
        files: By name; speed-ups are over the first.
        engine: That runs them all; by default, each is run by the one that the end of its name tells.
        batches: Numbers of images at a time.
        threads: How many the engine may use.
        rounds: Counted rounds, each of which runs all files; see `time_interleaved`.
        progress: Called after each measurement.

    Returns:
        One entry for each batch size and file, in this order.

    Raises:
        MissingLibraryError: If an engine is not installed.
        ExportError: If there is no file.
        EngineError: If an engine cannot load one, fails at it, or ends.
    """
    if not files:
        raise ExportError("expected at least one file to time, got none.")
    baseline = next(iter(files))
    chosen = {name: engine or engine_of(path) for name, path in files.items()}
    for path in files.values():
        look_for_changes(path)
    # First of all in processes of their own, where an engine that crashes at a damaged file ends no more than that.
    fresh = {
        (name, batch): in_fresh_process(chosen[name], Path(path), threads, batch)
        for name, path in files.items()
        for batch in batches
    }
    predicts = {name: load_engine(chosen[name], path, threads=threads) for name, path in files.items()}
    inputs = {name: (session.shape, session.kind) for name, session in predicts.items()}
    generator = np.random.default_rng(0)
    found = []
    for index, batch in enumerate(batches):
        images = {name: _images(generator, (batch, *shape), kind) for name, (shape, kind) in inputs.items()}
        calls = {name: partial(predicts[name], images[name]) for name in files}
        timings = time_interleaved(calls, rounds=rounds, progress=_part_of(progress, index, len(batches)))
        for name, path in files.items():
            load_ms, peak = fresh[name, batch]
            latency, speedup = timings.latency(name), timings.speedup(name, baseline)
            size = exported_bytes(path)
            found.append(Measured(name, chosen[name], batch, latency, speedup, load_ms, peak, size))
    return found


def _part_of(progress: Progress, index: int, parts: int) -> Progress:
    """Progress of one of several equal parts."""

    def part(done: int, total: int, /, **figures: float) -> None:
        progress(index * total + done, parts * total, **figures)

    return part


def _images(generator: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray[Any, Any]:
    if kind == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.standard_normal(shape, dtype=np.float32)


def in_fresh_process(engine: str, path: Path, threads: int, batch: int) -> tuple[float, float]:
    """Milliseconds to load a file, and megabytes after one batch, in a process of its own.

    Raises:
        MissingLibraryError: If the engine is not installed.
        ExportError: If there is no such file.
        EngineError: If it cannot load the file, fails at it, or ends.
    """
    found = known_engine(engine)
    require_installed(found)
    if not path.is_file():
        raise ExportError(f"expected a file for {engine}, found none at '{path}'. Export the model first.")
    given = json.dumps([runtimes.__file__, engine, found.package, str(path), threads, batch])
    done = subprocess.run([sys.executable, "-c", _ONCE, given], capture_output=True, text=True, check=False)
    if done.returncode == 1:  # it says why
        raise EngineError(f"{engine} cannot run '{path}': {done.stderr.strip().splitlines()[-1]}")
    if done.returncode:
        raise EngineError(f"{engine} {how_it_ended(done.returncode, done.stderr)} (at '{path}')")
    load_ms, peak = json.loads(done.stdout)
    return float(load_ms), float(peak)
