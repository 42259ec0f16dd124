# SPDX-License-Identifier: MIT
"""What a peer's script is asked, and how it answers: files of one folder, so that its environment needs PyTorch and NumPy only.

`accuracy_peers.py` writes the question, and runs `NAME.py FOLDER` with the interpreter of the peer's environment. The script
quantizes the network and leaves the logits of all images to judge; or fails, and the last line that it prints says why.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network_file import read_network
from torch import Tensor, fx

BATCH = 64
"""Images at a time: of 224 pixels, 250 take more than 20 GB in some peers."""


@dataclass(frozen=True)
class Question:
    """One row.

    Attributes:
        folder: Where the answer belongs.
        network: In float, of modules of `torch.nn`, in evaluation.
        calibration: Images, float32 [images, channels, height, width].
        judged: Images, likewise, whose logits are the answer.
        weight_bits: Of all layers but the first and the last, which have 8.
        act_bits: Of the input of those layers.
        recipe: One of the script's own names; empty for the usual one.
        seed: For all that is drawn.
        training: Settings of a training (see `training_loop.py`), or None.
    """

    folder: Path
    network: fx.GraphModule
    calibration: Tensor
    judged: Tensor
    weight_bits: int
    act_bits: int
    recipe: str
    seed: int
    training: dict[str, Any] | None

    def batches(self, size: int = BATCH) -> list[tuple[Tensor, Tensor]]:
        """The calibration images in their order, each batch with labels that nobody knows, as loaders have them."""
        return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in torch.split(self.calibration, size)]


def question() -> Question:
    """What the folder on the command line asks."""
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "question.json").read_text())
    torch.set_num_threads(1)
    torch.manual_seed(asked["seed"])
    with np.load(folder / "images.npz") as images:
        return Question(
            folder,
            read_network(folder),
            torch.from_numpy(images["calibration"]),
            torch.from_numpy(images["judged"]),
            **asked,
        )


@torch.no_grad()
def answer(asked: Question, predict: Callable[[Tensor], Any], packages: list[str], settings: dict[str, Any]) -> None:
    """Leave the logits of the judged images, the versions of `packages`, and the recipe's settings."""
    logits = torch.cat([torch.as_tensor(predict(part)).detach() for part in torch.split(asked.judged, BATCH)])
    np.savez(asked.folder / "answer.npz", logits=logits.float().numpy())
    versions = {name: version(name) for name in packages}
    (asked.folder / "settings.json").write_text(json.dumps(versions | settings))
