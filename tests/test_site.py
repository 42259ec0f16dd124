# SPDX-License-Identifier: MIT
"""The site has all pages; `make site` builds it with warnings as errors, and executes its notebooks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("index", ["index.md", "api/index.md"])
def test_every_page_is_reached(index: str) -> None:
    """Each document stands in one table of contents; so do the notebooks, which are pages of the first."""
    folder = (DOCS / index).parent
    listed = re.findall(r"^([a-z_/]+)$", (DOCS / index).read_text(encoding="utf-8"), re.MULTILINE)
    pages = [path for path in folder.glob("*.md") if path.name != "index.md"]
    notebooks = sorted(folder.glob("notebooks/*.md"))
    further = ["api/index"] if folder == DOCS else []
    found = [path.relative_to(folder).with_suffix("").as_posix() for path in (*pages, *notebooks)]
    assert sorted(listed) == sorted([*found, *further])


@pytest.mark.slow
@pytest.mark.network
def test_links_to_other_sites_lead_somewhere(tmp_path: Path) -> None:
    """As `make links` asks their servers."""
    pytest.importorskip("myst_nb")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-b",
        "linkcheck",
        "-D",
        "nb_execution_mode=off",
        str(DOCS),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
