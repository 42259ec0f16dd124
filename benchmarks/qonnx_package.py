# SPDX-License-Identifier: MIT
"""What the qonnx package takes for one image at full resolution: `python benchmarks/qonnx_package.py --json FILE`.

Each network of random weights, calibrated on random images, is exported in a process of its own, which then runs the integer
model and the package on one image and compares their logits. Told are the layers that the file holds in two parts, the
processor's seconds in the package, the peak memory of the process, and the size of the file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from settled import settled

from bitwright.benchmark import environment, load_engine
from bitwright.cli.console import bar
from bitwright.export import export_qonnx, exported_bytes, split_layers
from bitwright.files import write_json
from bitwright.graph import capture
from bitwright.integer import lower, prepare
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize

MODELS = ("pytorchcv:resnet18", "pytorchcv:resnet50", "pytorchcv:inceptionv3", "pytorchcv:mobilenetv2_w1")
PRECISIONS = ("W8A8", "W4A4")


def measure(name: str, precision: str) -> dict[str, Any]:
    """One row, in this process."""
    network, images = settled(name)
    graph = capture(network, tuple(images.shape[1:]), name=name)
    scheme = Scheme.uniform(graph.layers, Precision.parse(precision))
    model = lower(calibrate(quantize(graph, scheme), [images]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_qonnx(model, path)
        predict = load_engine("qonnx", path)
        begin = time.process_time()
        got = predict(images[:1].numpy())
        spent = time.process_time() - begin
        expected = prepare(model).run(images[:1]).numpy()
        return {
            "model": name, "precision": precision, "layers": len(model.layers()),
            "split_layers": len(split_layers(model)), "logits": expected.size,
            "equal": int((got == expected).sum()) if np.shape(got) == expected.shape else 0, "package_s": spent,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "file_mb": exported_bytes(path) / 2**20,
        }  # fmt: skip


def main() -> None:
    """Measure, print, and write JSON if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments.models[0], arguments.row)))
        return
    rows = []
    cases = [(name, precision) for name in arguments.models for precision in PRECISIONS]
    with bar("running in the qonnx package") as progress:
        for done, (name, precision) in enumerate(cases, 1):
            command = [sys.executable, __file__, name, "--row", precision]
            made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(made.stdout.splitlines()[-1]))
            progress(done, len(cases))
    print("| | layers in two parts | equal logits | processor time in the package, s | peak memory, GiB | file, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        title = f"{row['model'].split(':')[-1]} {row['precision']}"
        counts = f"{row['split_layers']} of {row['layers']} | {row['equal']} of {row['logits']}"
        print(f"| {title} | {counts} | {row['package_s']:.1f} | {row['peak_gib']:.2f} | {row['file_mb']:.0f} |")
    if arguments.json:
        write_json(arguments.json, {"environment": environment().to_dict(), "rows": rows})


if __name__ == "__main__":
    main()
