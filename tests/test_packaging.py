# SPDX-License-Identifier: MIT
"""What is installed is whole: the wheel carries every module and every data file of the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.network
def test_the_wheel_is_whole(tmp_path: Path) -> None:
    """All files of src/bitwright are in it, with their content; pip fetches the build backend for that."""
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--wheel-dir", str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("bitwright-*.whl")
    sources = [path for path in (ROOT / "src" / "bitwright").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    assert len([name for name in packed if name.startswith("bitwright/zoo/data/recipes/")]) == 27
    for path in sources:
        assert packed[path.relative_to(ROOT / "src").as_posix()] == path.read_bytes()
    assert any(
        name.endswith("entry_points.txt") and b"bitwright.cli:main" in content for name, content in packed.items()
    )


OWN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )


def data():
    labels = torch.arange(400) % 10
    images = torch.randn(400, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + labels[:, None, None, None] / 5
    train, test = TensorDataset(images[:300], labels[:300]), TensorDataset(images[300:], labels[300:])
    return DataLoader(train, batch_size=50), DataLoader(test, batch_size=50)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.save(net().state_dict(), "net.pth")
"""
TEN_LINES = """
import torch
from bitwright import AutoSettings, auto_quantize
from my import data, net

model = net().eval()
model.load_state_dict(torch.load("net.pth", weights_only=True))
train, test = data()
result = auto_quantize(model, (train, test), "ten.onnx", AutoSettings(max_drop=0.05))
print(result.equal, result.checked)
"""


@pytest.mark.slow
def test_from_the_wheel_to_a_proved_file(tmp_path: Path) -> None:
    """One's own module, its state dict and an own DataLoader: in one command, and in ten lines, with the wheel's files alone."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    site, work = tmp_path / "site", tmp_path / "work"
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
    ]
    subprocess.run(build, capture_output=True, check=True, timeout=120)
    (wheel,) = tmp_path.glob("bitwright-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    work.mkdir()
    (work / "my.py").write_text(OWN)

    def run(*words: str) -> str:
        ended = subprocess.run(
            [sys.executable, *words],
            cwd=work,
            env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert run("-c", "import bitwright; print(bitwright.__file__)").startswith(str(site))
    run("my.py")
    command = "-m bitwright auto my:net --weights net.pth --data my:data --max-drop 5% -o net.onnx --json"
    found = json.loads(run(*command.split()))
    assert found["equal_images"] == found["compared_images"] == 100
    assert found["checked"].startswith("equal at batch 1, 2 and 3")
    assert run("-c", TEN_LINES).startswith("(100, 100) equal at batch 1, 2 and 3")
    assert len(TEN_LINES.strip().splitlines()) <= 10
