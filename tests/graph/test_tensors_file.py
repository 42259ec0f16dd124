# SPDX-License-Identifier: MIT
"""Files of tensors: the same content is the same bytes, and names keep their order, in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load

from bitwright.graph.tensors_file import read_tensors, serialize

TENSORS = {
    "zeta": torch.arange(6.0).reshape(2, 3),
    "alpha": torch.arange(5, dtype=torch.int8),
    "mid": torch.full((2, 2), 7, dtype=torch.int64),
    "another alpha": torch.arange(6.0).reshape(2, 3),
    'é"': torch.zeros(0),
}
METADATA = dict.fromkeys(["structure", "momentum", "ranges", "scheme"], "é")

CODE = """
import hashlib, json, sys
from bitwright.graph.tensors_file import read_tensors, serialize
tensors, metadata = read_tensors(sys.argv[1], "bitwright.graph.9")
again = serialize(tensors, metadata.pop("format"), metadata)
print(json.dumps([list(tensors), hashlib.sha256(again).hexdigest()]))
"""


def test_order_and_bytes_are_the_same_in_every_process(tmp_path: Path) -> None:
    """What one process wrote, others read in its order, and write again byte for byte, whatever their hash seeds."""
    path = tmp_path / "tensors"
    path.write_bytes(serialize(TENSORS, "bitwright.graph.9", METADATA))
    printed = []
    for seed in range(3):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", CODE, str(path)]
        printed.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(set(printed)) == 1
    names = ", ".join(f'"{name}"' for name in ("zeta", "alpha", "mid", "another alpha", r"\u00e9\""))
    assert printed[0].strip() == f'[[{names}], "{hashlib.sha256(path.read_bytes()).hexdigest()}"]'


def test_many_saves_are_one_file() -> None:
    """In one process, too: the library gives each file another order of the metadata."""
    assert len({serialize(TENSORS, "bitwright.graph.9", METADATA) for _ in range(20)}) == 1


def test_other_readers_find_the_same_tensors(tmp_path: Path) -> None:
    """The file is one that the safetensors library reads; the order given is kept when it is another."""
    turned = dict(reversed(TENSORS.items()))
    for tensors in (TENSORS, turned):
        data = serialize(tensors, "bitwright.graph.9")
        (tmp_path / "tensors").write_bytes(data)
        ours, _ = read_tensors(tmp_path / "tensors", "bitwright.graph.9")
        theirs = load(data)
        assert list(ours) == list(tensors)
        assert theirs.keys() == tensors.keys()
        assert all(
            torch.equal(value, ours[name]) and torch.equal(value, theirs[name]) for name, value in tensors.items()
        )
