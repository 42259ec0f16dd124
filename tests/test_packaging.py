# SPDX-License-Identifier: MIT
"""What is installed is whole: the wheel carries every module and every data file of the package."""

from __future__ import annotations

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
