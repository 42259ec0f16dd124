# SPDX-License-Identifier: MIT
"""What each process of test_ranks.py runs under torchrun: `ranks.py FOLDER STEP`, where process 1 kills itself at a step.

It does so in its first life only; torchrun then starts all processes anew, which go on from the last state.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from bitwright.files import write_bytes
from bitwright.graph.tensors_file import serialize
from bitwright.scheme import Precision, Scheme
from bitwright.training import Checkpointing, TrainSettings, fine_tune, fit
from training.small import SmallResidual, digits, small_graph

KINDS = (("learned", True), ("ema", True), ("ema", False))
SETTINGS = TrainSettings(epochs=2, learning_rate=0.02, data_fraction=0.1, batch_size=40)


def main(folder: Path, step: int) -> None:
    """Train in float and with quantization, in every way in which ranges and batch norm follow the data."""
    rank, first_life = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    seen = 0

    def progress(done: int, total: int, /, **figures: float) -> None:
        nonlocal seen
        seen += 1
        if seen == step and rank == "1" and first_life:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.manual_seed(0)
    model = SmallResidual()

    def kept(name: str) -> Checkpointing:
        return Checkpointing(folder / f"{name}.state", steps=2, resume=True)

    fit(model, digits(), SETTINGS, checkpoint=kept("float"), progress=progress)
    write_bytes(folder / f"float.{rank}", serialize(model.state_dict(), "float"))
    graph = small_graph()
    scheme = Scheme.uniform(graph.layers, Precision(4, 4))
    for ranges, free_norm in KINDS:
        name = f"{ranges}.{free_norm}"
        chosen = {"ranges": ranges, "free_norm": free_norm}
        tuned, _ = fine_tune(graph, scheme, digits(), SETTINGS, checkpoint=kept(name), progress=progress, **chosen)
        write_bytes(folder / f"{name}.{rank}", serialize(tuned.state_dict(), "quantized"))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # gloo's threads abort the interpreter's orderly end now and then; all files are written
