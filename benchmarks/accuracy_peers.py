# SPDX-License-Identifier: MIT
"""Other quantizers for `benchmarks/accuracy.py`: the same float weights and calibration images, evaluated by their engine.

ONNX Runtime's runs here. The others want a PyTorch of their own: each has an environment that is made when it is first asked,
with the versions that stand below, and a script in `peers/` which runs there. They exchange files: the float network, made of
modules of `torch.nn` (`peers/network_file.py`), and images; logits (`peers/exchange.py`).
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_training import Besides, as_json
from peers.network_file import write_network
from torch import Tensor, nn

from bitwright.data import ImageData, batches, subset
from bitwright.errors import BitwrightError
from bitwright.export import export_float_onnx
from bitwright.graph import Graph
from bitwright.scheme import Precision
from bitwright.training import TrainSettings

SCRIPTS = Path(__file__).parent / "peers"
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Training:
    """The training that a row asks of a peer which has quantizers to train.

    Attributes:
        data: Whose training images.
        settings: Of its steps and its batches.
        besides: The part of the teacher; a peer has no other start, and no average.
    """

    data: ImageData
    settings: TrainSettings
    besides: Besides

    def write(self, folder: Path) -> dict[str, Any]:
        """Leave the batches of all steps, those of `bitwright.training.fit`, in two files; returns the settings as JSON values.

        `training.npy` is float32 [steps, batch, channels, height, width], `labels.npy` int64 [steps, batch].
        """
        settings = self.settings
        if self.besides.reconstruct or self.besides.average or not settings.drop_last:
            raise BitwrightError(
                "A peer's training starts from its calibration, averages nothing, and has whole batches."
            )
        part = settings.data_fraction
        images = self.data.train if part == 1 else subset(self.data.train, part, settings.seed)
        augment, seed = settings.augment, settings.seed
        loader = batches(images, settings.batch_size, shuffle=True, augment=augment, seed=seed, drop_last=True)
        shape = (settings.epochs * len(loader), settings.batch_size, *self.data.shape)
        kept = np.lib.format.open_memmap(folder / "training.npy", "w+", np.float32, shape)
        labels = np.zeros(shape[:2], np.int64)
        for step, batch in enumerate(chain.from_iterable(repeat(loader, settings.epochs))):
            kept[step], labels[step] = (half.numpy() for half in batch)
        kept.flush()
        np.save(folder / "labels.npy", labels)
        return as_json(settings, self.besides)


@dataclass(frozen=True)
class Question:
    """What a row asks of a peer.

    Attributes:
        graph: The float network.
        module: The same network before it was captured, of whatever weights.
        calibration: Images to calibrate on, float32 [images, channels, height, width].
        judged: Images to judge on, likewise.
        width: Of all layers but the first and the last, `W4A8`, say.
        seed: For all that the peer draws.
        folder: Of the environments.
        training: That the row asks for, or None.
    """

    graph: Graph
    module: nn.Module
    calibration: Tensor
    judged: Tensor
    width: str
    seed: int
    folder: Path
    training: Training | None = None


Answer = tuple[Tensor, dict[str, Any]]
"""Logits of the judged images, float32 [images, classes]; and settings, versions among them, as JSON values."""

Peer = Callable[[Question], Answer]


def onnxruntime(asked: Question) -> Answer:
    """ONNX Runtime's static quantizer, QDQ, at its defaults but for a scale a channel."""
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from static_quantizer import quantized_session

    if asked.width != "W8A8":
        raise BitwrightError("ONNX Runtime's static quantizer has no activations below 8 bits, and no schemes.")

    with tempfile.TemporaryDirectory() as folder:
        exported, ready, static = (Path(folder) / name for name in ("float.onnx", "ready.onnx", "static.onnx"))
        export_float_onnx(asked.graph, exported)
        with redirect_stdout(sys.stderr):
            quant_pre_process(str(exported), str(ready), skip_symbolic_shape=True)
        session = quantized_session(ready, static, asked.calibration)
    logits = [session.run(None, {"images": part.numpy()})[0] for part in torch.split(asked.judged, 250)]
    settings = {"onnxruntime": version("onnxruntime"), "ranges": "MinMax", "per_channel": True}
    return torch.from_numpy(np.concatenate(logits)), settings


@dataclass(frozen=True)
class Elsewhere:
    """A peer in an environment of its own.

    Attributes:
        script: In `peers/`, without its ending; the environment has the same name.
        requirements: Of its environment, as pip reads them.
        recipe: Which of the script's recipes.
        refusals: Why it has no integers of a width, by width.
    """

    script: str
    requirements: tuple[str, ...]
    recipe: str = ""
    refusals: Mapping[str, str] | None = None

    def __call__(self, asked: Question) -> Answer:
        """The script's answer; or, as an error, the last line that it printed."""
        if reason := (self.refusals or {}).get(asked.width):
            raise BitwrightError(reason)
        python = environment_of(asked.folder / "environments" / self.script, self.requirements)
        return answered(python, SCRIPTS / f"{self.script}.py", self.recipe, asked)


def environment_of(folder: Path, requirements: tuple[str, ...]) -> Path:
    """The interpreter of an environment with these requirements, which is made unless the folder holds it already.

    Raises:
        BitwrightError: If something cannot be installed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, done = folder.absolute() / "bin" / "python", folder / "requirements.txt"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # rows side by side need the same one
        if not done.exists() or done.read_text().splitlines() != list(requirements):
            run([sys.executable, "-m", "venv", "--clear", str(folder)])
            run([str(python), "-m", "pip", "install", "--quiet", *requirements])
            done.write_text("".join(f"{line}\n" for line in requirements))
    return python


def answered(python: Path, script: Path, recipe: str, asked: Question) -> Answer:
    """Run a script on a question, in a folder that is gone afterwards."""
    precision = Precision.parse(asked.width)
    asked.module.load_state_dict(asked.graph.parameters)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_network(asked.module, folder)
        np.savez(folder / "images.npz", calibration=asked.calibration.numpy(), judged=asked.judged.numpy())
        bits = {"weight_bits": precision.weight_bits, "act_bits": precision.act_bits}
        training = asked.training and asked.training.write(folder)
        drawn = {"recipe": recipe, "seed": asked.seed, "training": training}
        (folder / "question.json").write_text(json.dumps(bits | drawn))
        run([str(python), str(script), str(folder)])
        with np.load(folder / "answer.npz") as found:
            return torch.from_numpy(found["logits"]), json.loads((folder / "settings.json").read_text())


def run(command: list[str]) -> None:
    """Run a command that knows nothing of this process's Python.

    Raises:
        BitwrightError: If it fails: the last line that it printed.
    """
    clean = {key: text for key, text in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean)
    if done.returncode < 0:
        raise BitwrightError(
            f"{Path(command[1]).stem} was killed (signal {-done.returncode}), for want of memory perhaps."
        )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        raise BitwrightError(lines[-1] if lines else f"{command[0]} ended with {done.returncode} and said nothing.")


TORCH_OF_PYPI = "torch===2.13.0"
"""Of no local version: PyPI's torchvision runs beside PyPI's PyTorch only, whatever else pip is offered."""

AIMET = ("aimet-torch==2.42.0", TORCH_OF_PYPI, "torchvision==0.28.0")
BREVITAS = ("brevitas==0.13.4", TORCH, "numpy", "onnx", "onnxscript", "tqdm")
MCT = ("model-compression-toolkit==2.6.1", TORCH_OF_PYPI, "torchvision==0.28.0", "setuptools<81")
NNCF = ("nncf==3.4.0", TORCH)
TORCHAO = ("torchao==0.18.0", TORCH, "numpy")
NARROW = ("W4A4", "W3A3", "W2A2", "W4A8", "W2A8", "W8A4", "W8A3", "W6A6")

PEERS: dict[str, Peer] = {
    "onnxruntime": onnxruntime,
    "brevitas": Elsewhere("brevitas_ptq", BREVITAS),
    "brevitas:gptq": Elsewhere("brevitas_ptq", BREVITAS, "gptq"),
    "brevitas:qat2": Elsewhere("brevitas_ptq", BREVITAS, "qat2"),
    "brevitas:example": Elsewhere("brevitas_ptq", BREVITAS, "example"),
    "brevitas:example-gptq": Elsewhere("brevitas_ptq", BREVITAS, "example-gptq"),
    "aimet": Elsewhere("aimet_ptq", AIMET),
    "aimet:seqmse": Elsewhere("aimet_ptq", AIMET, "seqmse"),
    "aimet:folded": Elsewhere("aimet_ptq", AIMET, "folded"),
    "aimet:folded-seqmse": Elsewhere("aimet_ptq", AIMET, "folded-seqmse"),
    "mct": Elsewhere("mct_gptq", MCT),
    "mct:ptq": Elsewhere("mct_gptq", MCT, "ptq"),
    "nncf": Elsewhere(
        "nncf_ptq",
        NNCF,
        refusals=dict.fromkeys(
            NARROW, "NNCF's usual width is 8 bits; another is that of all layers, first and last too."
        ),
    ),
    "torchao": Elsewhere(
        "torchao_pt2e",
        TORCHAO,
        refusals=dict.fromkeys(NARROW, "torchao's own configuration of PT2E for x86 has 8 bits and no others."),
    ),
}
"""By the name in their rows' way, `peer-NAME`."""
