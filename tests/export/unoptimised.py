# SPDX-License-Identifier: MIT
"""TVM's kernels as they are: LLVM takes most of the time of an export to optimise them, which the slow tests have it do."""

from __future__ import annotations

import json
from pathlib import Path

from bitwright.export import Pixels, Target, export_tvm
from bitwright.integer import IntegerModel


def unoptimised(
    model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
) -> object:
    """Export without optimisation."""
    from tvm.target import codegen

    cpu = {"mtriple": codegen.llvm_get_system_triple(), "mcpu": codegen.llvm_get_system_cpu()}
    return export_tvm(model, path, target, pixels, tvm_target=json.dumps({"kind": "llvm", **cpu, "opt-level": 0}))
