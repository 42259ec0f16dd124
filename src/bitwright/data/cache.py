# SPDX-License-Identifier: MIT
"""The folder that downloads are kept in."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$BITWRIGHT_CACHE`, else `$XDG_CACHE_HOME/bitwright`, else `~/.cache/bitwright`; it need not exist yet."""
    own = os.environ.get("BITWRIGHT_CACHE")
    if own:
        return Path(own)
    standard = os.environ.get("XDG_CACHE_HOME")
    return (Path(standard) if standard else Path.home() / ".cache") / "bitwright"
