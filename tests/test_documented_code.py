# SPDX-License-Identifier: MIT
"""What the documents show in Python runs, block after block of each document, on small networks and few images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import bitwright
from auto.test_quantize import batches, data, graph, network
from bitwright import Budget, Scheme, TrainSettings, capture, evaluate, lower, prepare, sensitivity
from bitwright.task import Task
from documents import DOCUMENTS, blocks
from training.segmenter import IMAGE, Segmenter, Shapes
from training.small import digits, few, small_quantized

SHORT = partial(TrainSettings, data_fraction=0.02, batch_size=50)
CODE: dict[str, list[str]] = {}
for block in (block for document in DOCUMENTS for block in blocks(document)):
    if block.language == "python" and not block.file and not block.reason:
        CODE.setdefault(block.document, []).append(block.code)
"""The blocks of each document that has some."""

Names = dict[str, Any]


MINE = """
import torch
from auto.test_quantize import batches, data
from torch.utils.data import TensorDataset
from training.small import SmallResidual as net

train_set, test_set = (
    TensorDataset(*map(torch.cat, zip(*batches(data(), split), strict=True))) for split in ("train", "test")
)
"""


def a_module_of_mine() -> Names:
    """`my.models`, and what its network has learned."""
    torch.save(network().state_dict(), "net.pth")
    Path("my").mkdir()
    Path("my", "models.py").write_text(MINE, encoding="utf-8")
    return {}


def a_search() -> Names:
    """A network and loaders, shuffled."""
    return {"module": network(), "train_loader": few(512, augment=False), "test_loader": batches(data(), "test")}


def a_finished_search() -> Names:
    """With its result, before another begins."""
    table = sensitivity.measure_sensitivity(
        graph(), *digits().calibration(16), sensitivity.SensitivitySettings(max_probes=10), data="mnist-5k"
    )
    model = lower(small_quantized("W8A8"))
    images = digits().test.read(range(8))[0]
    return {
        **a_search(),
        "graph": graph(),
        "sensitivities": table,
        "result": type("R", (), {"model": model}),
        "images": images,
    }


def a_data_set() -> Names:
    """Images and labels."""
    images, labels = digits().test.read(range(20))
    return {"images": images, "labels": labels, "others": images, "their_labels": labels}


def a_segmenter() -> Names:
    """A network that has a class for each pixel, and masks."""
    torch.manual_seed(0)
    shapes = Shapes(64, 0)
    masks = shapes.masks.masked_fill(shapes.masks == 255, 0)
    own = capture(Segmenter().eval(), IMAGE, name="segmenter")
    loader = [(shapes.images[start : start + 32], masks[start : start + 32]) for start in (0, 32)]
    scheme = Scheme.uniform(own.layers, bitwright.Precision(4, 8))
    return {"graph": own, "images": shapes.images[:8], "masks": masks[:8], "scheme": scheme, "loader": loader}


def a_training() -> Names:
    """A network, a scheme and images."""
    scheme = small_quantized("W4A4").plan.scheme
    return {"graph": graph(), "scheme": scheme, "loader": few(128), "data": digits(), "settings": SHORT(epochs=2)}


def a_loop() -> Names:
    """A trained network and loaders."""
    return {"net": network(), "train_loader": few(256), "test_loader": few(256, augment=False)}


def on_a_gpu() -> Names:
    """A model and images."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU is here")
    images = digits().test.read(range(4))[0].cuda()
    return {"bitwright": bitwright, "model": lower(small_quantized("W8A8")), "images": images}


GIVEN: dict[str, Callable[[], Names]] = {
    "README.md": a_module_of_mine, "docs/auto.md": a_finished_search, "docs/commands.md": dict, "docs/gpu.md": on_a_gpu,
    "docs/inputs.md": a_data_set, "docs/model_zoo.md": dict, "docs/sensitivity.md": dict, "docs/tasks.md": a_segmenter,
    "docs/training.md": a_training, "docs/training_guide.md": a_loop,
}  # fmt: skip
"""What each document takes as the reader's own."""

SLOW = {
    "README.md",
    "docs/auto.md",
    "docs/commands.md",
    "docs/model_zoo.md",
    "docs/sensitivity.md",
    "docs/training_guide.md",
}


def test_every_document_is_run() -> None:
    """The table has all that show Python, and no other."""
    assert CODE.keys() == GIVEN.keys()
    assert sum(map(len, CODE.values())) >= 12


@pytest.mark.parametrize(
    "document", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in GIVEN]
)
def test_blocks_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, after `from bitwright import *` and what the reader has; networks and data are small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if document in ("docs/commands.md", "docs/sensitivity.md"):
        monkeypatch.setattr(bitwright, "TrainSettings", SHORT)
    if document == "docs/commands.md":
        monkeypatch.setattr(bitwright, "load_data", lambda name: data())
        monkeypatch.setattr(bitwright, "load_model", lambda name, pretrained: network())
    names: Names = {}
    exec("from bitwright import *", names)
    names |= GIVEN[document]()
    for number, block in enumerate(CODE[document], 1):
        exec(compile(block, f"{document}, block {number}", "exec"), names)
    done = THEN.get(document)
    if done is not None:
        done(names, tmp_path)


def _searched(names: Names, folder: Path) -> None:
    assert (folder / "net.onnx").is_file()
    assert names["result"].measured.drop <= 0.01


def _written(names: Names, folder: Path) -> None:
    assert (folder / "resnet18.onnx").is_file()
    assert [use.budget for use in names["found"].uses] == [Budget.parse("size0.5")]


def _a_task(names: Names, folder: Path) -> None:
    assert isinstance(names["landmarks"](), Task)


def _a_factory(names: Names, folder: Path) -> None:
    assert names["digits"]().keys() >= {"train", "test", "mean", "std"}


def _lines(names: Names, folder: Path) -> None:
    assert len((folder / "net.metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def _proved(names: Names, folder: Path) -> None:
    assert names["average"].n_averaged == 4
    assert evaluate(prepare(names["integer"]).logits, names["test_loader"])["top1_percent"] > 50


THEN: dict[str, Callable[[Names, Path], None]] = {
    "README.md": _searched, "docs/auto.md": _searched, "docs/commands.md": _written, "docs/inputs.md": _a_factory,
    "docs/tasks.md": _a_task, "docs/training.md": _lines, "docs/training_guide.md": _proved,
}  # fmt: skip
"""What must be there afterwards."""
