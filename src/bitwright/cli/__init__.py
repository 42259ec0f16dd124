# SPDX-License-Identifier: MIT
"""The command line: every arrow of the way from a model to an engine, and the whole way as `demo`.

Commands parse, call the library and print; the libraries are imported inside them, so that `--help` is instant.
"""

# The commands enter themselves in the application when their modules are imported, in the order that --help shows.
# isort: off
from bitwright.cli import auto as _auto
from bitwright.cli import capture as _capture
from bitwright.cli import sensitivity as _sensitivity
from bitwright.cli import allocate as _allocate
from bitwright.cli import train as _train
from bitwright.cli import reconstruct as _reconstruct
from bitwright.cli import evaluate as _evaluate
from bitwright.cli import lower as _lower
from bitwright.cli import compare_layers as _compare_layers
from bitwright.cli import explain as _explain
from bitwright.cli import export as _export
from bitwright.cli import verify as _verify
from bitwright.cli import bench as _bench
from bitwright.cli import demo as _demo
from bitwright.cli import zoo as _zoo

# isort: on
from bitwright.cli.app import app, main

del (
    _allocate,
    _auto,
    _bench,
    _capture,
    _compare_layers,
    _demo,
    _evaluate,
    _explain,
    _export,
    _lower,
    _reconstruct,
    _sensitivity,
    _train,
    _verify,
    _zoo,
)

__all__ = ["app", "main"]
