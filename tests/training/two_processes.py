# SPDX-License-Identifier: MIT
"""What each process of test_loop.test_two_processes_train_one_model runs."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parent.parent))

from bitwright.training import Checkpointing, TrainSettings, train
from training.small import few, small_quantized

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    left: list[float] = []
    model = small_quantized(ranges="ema")
    result = train(
        model,
        few(),
        TrainSettings(epochs=2, learning_rate=0.05),
        checkpoint=Checkpointing(folder / "state.safetensors"),
        accelerator=accelerator,
        progress=lambda done, total, **figures: left.append(1 - done / total),
    )
    torch.save(
        {"losses": result.losses, "steps": result.steps, "state": model.state_dict(), "left": left},
        folder / f"{accelerator.process_index}.pt",
    )
