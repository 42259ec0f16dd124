# SPDX-License-Identifier: MIT
"""How many processors this process may use: a container or `taskset` often leaves fewer than the machine has."""

from __future__ import annotations

import os


def processors() -> int:
    """Processors that this process may run on, at least one."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
