# SPDX-License-Identifier: MIT
"""Run OpenVINO files in a process of their own, at every batch size and number of threads, and print what differs.

`python openvino_run.py FOLDER THREADS...`: of each `NAME.xml` in it, with `NAME.npz` beside it (`images`, and the `expected`
integers). The instruction set is that of `ONEDNN_MAX_CPU_ISA`, which counts for a process as a whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

BATCHES, THREADS = (1, 2, 3, 17), (1, 2)


def main(folder: Path, threads: Sequence[int]) -> list[str]:
    """What differs: file, batch and threads."""
    import openvino

    wrong = []
    for path in sorted(folder.glob("*.xml")):
        given = np.load(path.with_suffix(".npz"))
        for count in threads:
            options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": count}
            compiled = openvino.Core().compile_model(str(path), "CPU", options)
            for batch in BATCHES:
                got = compiled(given["images"][:batch])["logits_int32"]
                if not np.array_equal(got, given["expected"][:batch]):
                    wrong.append(f"{path.stem}, batch {batch}, {count} threads")
    return wrong


def differing(folder: Path, instructions: str = "", threads: Sequence[int] = THREADS) -> list[str]:
    """`main` in a child, with no more than these instructions: all that the CPU has, or one of oneDNN's names."""
    limit = {"ONEDNN_MAX_CPU_ISA": instructions} if instructions else {}
    command = [sys.executable, "-W", "ignore", __file__, str(folder), *map(str, threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | limit)
    assert done.returncode == 0, done.stderr
    found: Iterable[str] = json.loads(done.stdout)
    return list(found)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), [int(count) for count in sys.argv[2:]])))
