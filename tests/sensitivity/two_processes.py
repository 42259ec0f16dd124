# SPDX-License-Identifier: MIT
"""One of several processes that measure together: `two_processes.py RANK SIZE FOLDER`; tables go to FOLDER."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bitwright.errors import FileFormatError, TrainingError
from bitwright.sensitivity import METRICS, SensitivitySettings, measure_sensitivity
from sensitivity.problems import problem

OPTIONS: dict[str, Any] = {"relative_error": 0.2, "micro_batch": 7, "bits": [2, 4]}


class Stopped(Exception):
    """An interruption that comes to all processes at once."""


def main(rank: int, size: int, folder: Path) -> None:
    """Every metric; then one that is interrupted and goes on; then what is refused, which no process may wait for."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    graph, images, labels = problem(40)
    for metric in METRICS:
        measure_sensitivity(graph, images, labels, SensitivitySettings(metric=metric, **OPTIONS)).save(
            folder / f"{metric}.{rank}.json"
        )

    def stop(done: int, total: int, /, **figures: float) -> None:
        if done >= 25:
            raise Stopped

    settings = SensitivitySettings(metric="hutchinson_trace", **OPTIONS)
    state = folder / "state"
    try:
        measure_sensitivity(graph, images, labels, settings, checkpoint=state, progress=stop)
    except Stopped:
        measure_sensitivity(graph, images, labels, settings, checkpoint=state, resume=True).save(
            folder / f"resumed.{rank}.json"
        )
    try:
        measure_sensitivity(graph, images, labels, replace(settings, seed=1), checkpoint=state, resume=True)
    except FileFormatError as error:
        (folder / f"refused.{rank}.txt").write_text(str(error))
    # Found by the process that did the task, told by both.
    broken = {**graph.parameters, "fc.weight": graph.parameters["fc.weight"] * float("nan")}
    try:
        measure_sensitivity(
            graph.with_parameters(broken), images, labels, SensitivitySettings(metric="loss_perturbation", **OPTIONS)
        )
    except TrainingError as error:
        (folder / f"infinite.{rank}.txt").write_text(str(error))
    dist.barrier()  # the first to leave would break the other's connection
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    os._exit(0)  # gloo's threads abort the interpreter's orderly end now and then; all files are written
