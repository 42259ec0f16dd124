# SPDX-License-Identifier: MIT
"""What a measurement was taken on: processor, instruction sets, versions. A figure without it means nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bitwright.export.target import Target

PACKAGES = (
    "bitwright", "torch", "torchvision", "numpy", "scipy", "onnx", "onnxruntime", "openvino", "qonnx", "ai-edge-litert",
    "apache-tvm",
)  # fmt: skip

INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip
"""Those that decide how fast, and how exactly, engines multiply 8-bit integers."""

DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Environment:
    """A machine and the software on it.

    Attributes:
        processor: Its model.
        architecture: For instance x86_64.
        cores: How many this process may use.
        instructions: Those of `INSTRUCTIONS` that it has; empty where the system does not tell.
        system: Operating system and its version.
        python: Version.
        packages: Versions of the installed ones among `PACKAGES`.
        omp_threads: The environment's OMP_NUM_THREADS, or None.
    """

    processor: str
    architecture: str
    cores: int
    instructions: tuple[str, ...]
    system: str
    python: str
    packages: dict[str, str]
    omp_threads: str | None

    @property
    def target(self) -> Target:
        """The fastest kind of file that is exact here: unless 8-bit dot products are known to be there, that for any CPU."""
        return Target.VNNI if DOT_PRODUCTS & set(self.instructions) else Target.ANY

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Some lines for a log."""
        packages = ", ".join(f"{name} {found}" for name, found in self.packages.items())
        return (
            f"processor: {self.processor} ({self.architecture}), {self.cores} cores\n"
            f"instruction sets: {', '.join(self.instructions) or 'unknown'}; 8-bit dot products: "
            f"{'yes' if self.target is Target.VNNI else 'none known'}\n"
            f"system: {self.system}, Python {self.python}\n"
            f"packages: {packages}"
        )


def environment() -> Environment:
    """This machine, now."""
    fields = _cpuinfo()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return Environment(
        processor=fields.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        instructions=tuple(name for name in INSTRUCTIONS if name in flags),
        system=platform.platform(),
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name)) is not None},
        omp_threads=os.environ.get("OMP_NUM_THREADS"),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries in Linux's /proc/cpuinfo; empty elsewhere."""
    if not _CPUINFO.is_file():
        return {}
    fields: dict[str, str] = {}
    for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    return fields
