# SPDX-License-Identifier: MIT
"""Training steps, lowering and the fast executor of two checkouts, side by side: seconds and peak memory as ratios.

`python benchmarks/house.py --before PATH [MODEL ...] --json FILE`

Every measurement is a process of its own, which imports one of the checkouts. The two take turns, round by round, so that what
else the machine does meets both; a ratio is that of one round. What is timed is what both must have: `model(images)` with its
gradients and a step of SGD, `lower`, `prepare`, and `run` of what it prepared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORKS = ("training", "lowering", "prepare", "run")
PRECISION, BATCH = "W4A8", 16


def measure(work: str, name: str, repeats: int) -> dict[str, Any]:
    """In a child: seconds of each repeat behind one that is not counted, and the peak of the process's memory."""
    import torch
    from settled import settled

    from bitwright.graph import capture
    from bitwright.integer import lower, prepare
    from bitwright.scheme import Precision, Scheme
    from bitwright.training import calibrate, quantize

    torch.set_num_threads(1)
    network, images = settled(name)
    graph = capture(network, tuple(images.shape[1:]), name=name)
    scheme = Scheme.uniform(graph.layers, Precision.parse(PRECISION))
    # Said here: the default is another one in older checkouts.
    model = calibrate(quantize(graph, scheme, free_norm=True), [images])
    batch = images.repeat(-(-BATCH // len(images)), 1, 1, 1)[:BATCH]
    begin_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def step() -> object:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch), labels).backward()
        return optimizer.step()

    call: Callable[[], object]
    if work == "training":
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        labels = torch.zeros(BATCH, dtype=torch.int64)
        model.train()
        call = step
    elif work == "lowering":
        call = lambda: lower(model)  # noqa: E731
    else:
        integer = lower(model)
        prepared = prepare(integer)
        call = (lambda: prepare(integer)) if work == "prepare" else (lambda: prepared.run(batch))
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds[1:], "peak_mib": peak, "set_up_mib": begin_mib}


def in_checkout(checkout: Path, work: str, name: str, repeats: int) -> dict[str, float]:
    """One measurement: the median of its seconds, and its peak."""
    command = [sys.executable, "-W", "ignore", __file__, name, "--work", work, "--repeats", str(repeats)]
    paths = os.pathsep.join((str(checkout / "src"), str(HERE)))
    variables = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{checkout}, {work} of {name}: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": statistics.median(found["seconds"]), "peak_mib": found["peak_mib"]}


def compare(before: Path, after: Path, work: str, name: str, rounds: int, repeats: int) -> dict[str, Any]:
    """One row: medians of both checkouts, and the median, the least and the largest ratio of a round, after over before."""
    runs = [
        {key: in_checkout(path, work, name, repeats) for key, path in (("before", before), ("after", after))}
        for _ in range(rounds)
    ]
    row: dict[str, Any] = {"model": name, "work": work, "rounds": rounds}
    for figure in ("seconds", "peak_mib"):
        ratios = [run["after"][figure] / run["before"][figure] for run in runs]
        row[figure] = {
            **{key: statistics.median(run[key][figure] for run in runs) for key in ("before", "after")},
            "ratio": statistics.median(ratios), "least_ratio": min(ratios), "largest_ratio": max(ratios),
        }  # fmt: skip
    return row


def commit_of(checkout: Path) -> str:
    """The commit of a checkout, or its path where it is none."""
    found = subprocess.run(["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 and (checkout / ".git").exists() else checkout.name


def main() -> None:
    """Measure, print, and write JSON if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["pytorchcv:resnet20_cifar10"])
    parser.add_argument("--before", type=Path, help="the other checkout: a folder with src/bitwright in it")
    parser.add_argument("--after", type=Path, default=HERE.parent, help="by default, the one of this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5, help="of the work, in each process")
    parser.add_argument("--work", choices=WORKS, nargs="+", default=list(WORKS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.before is None:  # a child
        print(json.dumps(measure(arguments.work[0], arguments.models[0], arguments.repeats)))
        return
    from bitwright.benchmark import environment

    where = environment().to_dict()
    commits = {key: commit_of(path) for key, path in (("before", arguments.before), ("after", arguments.after))}
    print(where, commits)
    rows = []
    for name in arguments.models:
        for work in arguments.work:
            row = compare(arguments.before, arguments.after, work, name, arguments.rounds, arguments.repeats)
            rows.append(row)
            figures = ", ".join(
                f"{figure} {row[figure]['before']:.4g} to {row[figure]['after']:.4g}: x {row[figure]['ratio']:.3f} "
                f"({row[figure]['least_ratio']:.3f} to {row[figure]['largest_ratio']:.3f})"
                for figure in ("seconds", "peak_mib")
            )
            print(f"{name} {work}: {figures}", flush=True)
    if arguments.json:
        found = {"environment": where, "commits": commits, "precision": PRECISION, "batch": BATCH, "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
