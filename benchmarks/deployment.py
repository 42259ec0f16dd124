# SPDX-License-Identifier: MIT
"""Deployed files against float32 in ONNX Runtime: `python benchmarks/deployment.py --json benchmarks/results/deployment.json`.

For each network: the float32 file, the exact integer files of every installed engine, and the int8 files that ONNX Runtime's own
quantizer makes from the same float32 file, which are not exact. All run interleaved in one process on random images; load time
and peak memory are those of a process of their own. Weights are random, which changes no speed. Every bar that is not met is
printed with the limit: what this machine's int8 and float32 matrix products give in the same engine. For each exact file it
prints the time by operator, where the engine tells, and names what is no convolution and takes a tenth of it or more.
`--jobs N` exports so many files at a time; what is timed never runs beside another. `--add` keeps the other networks of the
JSON file, if it is of this processor. `--docs docs/engines.md` puts the table between the two markers there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from onnxruntime import quantization
from settled import settled
from static_quantizer import BYTES, OneByOne

from bitwright.benchmark import ENGINES, environment, load_engine, profile, time_interleaved
from bitwright.benchmark.profiles import described
from bitwright.benchmark.side_by_side import in_fresh_process
from bitwright.errors import ExportError
from bitwright.export import Target, export_float_onnx, exported_bytes
from bitwright.graph import capture
from bitwright.integer import IntegerModel, lower, prepare
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize

MODELS = ("pytorchcv:resnet18", "pytorchcv:resnet50", "torchvision:mobilenet_v3_large", "torchvision:efficientnet_b0")
SLOW_ENGINES = ("qonnx",)  # executors of a format's meaning, not made for speed
BATCHES = (1, 8)
FLOAT, PEER = "float32", "ORT's quantizer"
SIDE = 1024
MARKERS = ("<!-- deployment: begin -->", "<!-- deployment: end -->")


@dataclass
class File:
    """A file, how it came about, and what was measured on it."""

    name: str
    engine: str
    path: Path
    exact: bool | None = None
    refused: str | None = None
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    shares: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        size = exported_bytes(self.path) if self.refused is None else None
        entry = {"name": self.name, "engine": self.engine, "exact": self.exact, "refused": self.refused}
        entry |= {"file_bytes": size, "profile": self.shares}
        return {**entry, "batches": {str(batch): row for batch, row in self.rows.items()}}


def integer_models(name: str, size: int) -> tuple[Any, dict[str, IntegerModel], torch.Tensor]:
    """The captured graph, its integer models by name, and the images they were calibrated on."""
    network, images = settled(name, size)
    graph = capture(network, (3, size, size), name=name)
    models = {}
    for precision, residual_bits in (("W8A8", 8), ("W4A4", 8), ("W8A8", 16)):
        uniform = Scheme.uniform(graph.layers, Precision.parse(precision))
        scheme = Scheme(uniform.name, uniform.layers, residual_bits)
        model = calibrate(quantize(graph, scheme), [images])
        title = precision if residual_bits == 8 else f"{precision}, 16-bit residual"
        models[title] = lower(model)
        if precision == "W8A8" and environment().target is not Target.VNNI:
            models[f"{title}, narrowed for AVX2"] = lower(model, avoid_saturation=True)
    return graph, models, images


def _written(
    made: File, model: IntegerModel, target: Target, images: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]
) -> File:
    """The file, and whether its engine computes these logits."""
    torch.set_num_threads(1)
    try:
        ENGINES[made.engine].form.export(model, made.path, target)
        got = load_engine(made.engine, made.path)(images)
        return replace(made, exact=bool(np.array_equal(got, logits)))
    except ExportError as error:
        return replace(made, refused=str(error))


def exported(models: dict[str, IntegerModel], images: torch.Tensor, folder: Path, jobs: int) -> list[File]:
    """The exact files of all engines, each checked for equality on real output, `jobs` of them at a time."""
    expected = {title: prepare(model).run(images).numpy() for title, model in models.items()}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        files = [
            pool.submit(
                _written,
                File(title, engine, folder / f"{engine}.{index}{found.form.suffix}"),
                model,
                Target.AVX2 if "AVX2" in title else environment().target,
                images.numpy(),
                expected[title],
            )
            for engine, found in ENGINES.items()
            if found.installed and engine not in SLOW_ENGINES
            for index, (title, model) in enumerate(models.items())
        ]
        return [file.result() for file in files]


def peers(source: Path, images: np.ndarray[Any, Any], folder: Path) -> list[File]:
    """What ONNX Runtime's own quantizer makes: both formats, per channel, with and without one bit less for weights."""
    files = []
    simple = folder / "prepared.onnx"
    quantization.shape_inference.quant_pre_process(str(source), str(simple), skip_symbolic_shape=True)
    given = onnx.load(simple)
    for node in given.graph.node:
        if node.op_type == "AveragePool":  # its quantized form knows no dilations, of one neither
            kept = [attribute for attribute in node.attribute if attribute.name != "dilations"]
            del node.attribute[:]
            node.attribute.extend(kept)
    onnx.save(given, simple)
    for form in (quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator):
        for reduce_range in (False, True):
            name = f"{PEER}, {form.name}, u8s8{', 7-bit weights' if reduce_range else ''}"
            made = File(name, "onnxruntime", folder / f"peer.{form.name}.{reduce_range}.onnx", exact=False)
            quantization.quantize_static(
                str(simple), str(made.path), OneByOne(images), quant_format=form, per_channel=True,
                reduce_range=reduce_range, **BYTES,
            )  # fmt: skip
            files.append(made)
    return files


def measure(files: list[File], shape: tuple[int, ...], batch: int, rounds: int, threads: int, jobs: int) -> None:
    """Time all files at one batch size, and fill in their rows."""
    images = np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)
    running = [file for file in files if file.refused is None]
    calls = {
        f"{file.engine}: {file.name}": partial(load_engine(file.engine, file.path, threads=threads), images)
        for file in running
    }
    timings = time_interleaved(calls, rounds=rounds, warmup=1)
    with ThreadPoolExecutor(jobs) as pool:
        apart = list(pool.map(lambda file: in_fresh_process(file.engine, file.path, threads, len(images)), running))
    for file, key, (load_ms, peak) in zip(running, calls, apart, strict=True):
        file.rows[batch] = {
            "latency_ms": timings.latency(key).to_dict(),
            "speedup": timings.speedup(key, f"onnxruntime: {FLOAT}").to_dict(),
            "load_ms": load_ms,
            "peak_memory_mb": peak,
        }


def _product(folder: Path, integer: bool) -> Callable[[], object]:
    """One matrix product in ONNX Runtime."""
    kinds = (TensorProto.UINT8, TensorProto.INT32) if integer else (TensorProto.FLOAT, TensorProto.FLOAT)
    random = np.random.default_rng(0)
    weight = random.integers(-63, 64, (SIDE, SIDE)).astype(np.int8 if integer else np.float32)
    node = helper.make_node("MatMulInteger" if integer else "MatMul", ["a", "w"], ["y"])
    graph = helper.make_graph(
        [node], "product", [helper.make_tensor_value_info("a", kinds[0], [SIDE, SIDE])],
        [helper.make_tensor_value_info("y", kinds[1], [SIDE, SIDE])], [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    path = folder / f"product.{integer}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    values = random.integers(0, 256, (SIDE, SIDE)).astype(np.uint8 if integer else np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": values})


def limits(folder: Path, rounds: int) -> dict[str, float]:
    """Peak rates of matrix products on one thread, in 10**9 multiply-adds a second, and their ratio, round by round."""
    timings = time_interleaved(
        {"float32": _product(folder, False), "int8": _product(folder, True)}, rounds=rounds, least_ms=200
    )
    rate = {name: SIDE**3 / 1e6 / timings.latency(name).median for name in ("float32", "int8")}
    return {**rate, "ratio": timings.speedup("int8", "float32").median}


WITH_DOT_PRODUCTS = {
    ("resnet18", "tvm", "W8A8"): 3.6, ("resnet18", "tvm", "W4A4"): 3.6, ("resnet18", "tvm", "W8A8, 16-bit residual"): 3.3,
    ("resnet18", "openvino", "W8A8"): 3.5, ("resnet18", "openvino", "W8A8, 16-bit residual"): 3.3,
    ("resnet18", "litert", "W8A8"): 3.1, ("resnet18", "onnxruntime", "W8A8, 16-bit residual"): 2.2,
    ("resnet50", "tvm", "W8A8"): 3.4, ("resnet50", "openvino", "W8A8"): 3.2, ("resnet50", "litert", "W8A8"): 2.9,
}  # fmt: skip
"""What is asked of CPUs with 8-bit dot products, at batch 8: by network, engine and file."""


def bars(name: str, files: list[File]) -> list[dict[str, Any]]:
    """What was asked for, what was reached, and by which file."""
    network, dots = name.split(":")[-1], environment().target is Target.VNNI

    def speed(file: File, batch: int) -> float:
        return float(file.rows[batch]["speedup"]["median"]) if batch in file.rows else 0.0

    def best(batch: int, *, title: str = "", engine: str = "", exact: bool = True) -> File:
        fitting = [
            file
            for file in files
            if file.rows and file.name.startswith(title) and engine in file.engine and file.exact is exact
        ]
        return max(fitting, key=lambda file: speed(file, batch))

    def eight(file: File) -> bool:
        return "W8A8" in file.name and "16-bit" not in file.name

    def row(what: str, asked: float, got: float, file: File) -> dict[str, Any]:
        return {"bar": what, "asked": asked, "got": got, "met": got >= asked, "file": f"{file.engine}: {file.name}"}

    ours = [file for file in files if file.exact and eight(file)]
    fastest = max(ours, key=lambda file: speed(file, 8))
    if "resnet" not in network:
        asked = 1.5 if dots else 1.0
        best_at = {size: max(ours, key=partial(speed, batch=size)) for size in BATCHES}
        return [
            row(f"W8A8 in the fastest exact engine, batch {size}", asked, speed(file, size), file)
            for size, file in best_at.items()
        ]
    standard = max((file for file in ours if file.engine == "onnxruntime"), key=lambda file: speed(file, 8))
    peer, narrow = best(8, title=PEER, exact=False), best(8, title="W4A4", engine="onnxruntime")
    plain = next(file for file in files if (file.name, file.engine) == ("W8A8", "onnxruntime"))
    wide = best(8, title="W8A8, 16-bit", engine="onnxruntime")
    size = exported_bytes(narrow.path) / exported_bytes(plain.path)
    found = [
        ("W8A8 in ONNX Runtime, batch 8", 3.0, speed(standard, 8), standard),
        ("W8A8 in ONNX Runtime, batch 1", 2.7, speed(standard, 1), standard),
        ("W8A8 in the fastest exact engine, batch 8", 3.3, speed(fastest, 8), fastest),
        ("W8A8 over ORT's best inexact int8 file, batch 8", 0.95, speed(standard, 8) / speed(peer, 8), standard),
        ("W8A8, 16-bit residual, batch 8", 2.3, speed(wide, 8), wide),
    ]
    rows = [row(*each) for each in found]
    if dots:
        by_name = {(network, file.engine, file.name): file for file in files}
        rows += [
            row(f"{title} in {engine}, batch 8", asked, speed(by_name[key], 8), by_name[key])
            for key, asked in WITH_DOT_PRODUCTS.items()
            if key in by_name
            for _, engine, title in [key]
        ]
    return [
        *rows,
        {"bar": "INT4 file over int8 file", "asked": 0.53, "got": size, "met": size <= 0.53, "file": narrow.name},
    ]


def bench(name: str, size: int, rounds: int, threads: int, jobs: int) -> dict[str, Any]:
    """All files of one network."""
    print(f"{name}: made into integers", file=sys.stderr, flush=True)
    graph, models, images = integer_models(name, size)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base = File(FLOAT, "onnxruntime", folder / "float.onnx")
        export_float_onnx(graph, base.path)
        print(f"{name}: exported", file=sys.stderr, flush=True)
        files = [base, *exported(models, images, folder, jobs), *peers(base.path, images.numpy(), folder)]
        for batch in BATCHES:
            measure(files, graph.input_shape, batch, rounds, threads, jobs)
            for file in files:
                if file.refused is None:
                    speed = file.rows[batch]["speedup"]["median"]
                    words = f"{file.engine}: {file.name}: {speed:.2f}, {'exact' if file.exact else 'not exact'}"
                    print(f"{name}: batch {batch}: {words}", file=sys.stderr, flush=True)
        images_at_once = np.random.default_rng(0).standard_normal((BATCHES[-1], *graph.input_shape), dtype=np.float32)
        for file in files:
            if file.exact:
                file.shares = profile(file.engine, file.path, images_at_once, threads=threads)
        return {"model": name, "files": [file.to_dict() for file in files], "bars": bars(name, files)}


def table(found: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    where = found["environment"]
    head = (
        f"Measured on {where['processor']} ({', '.join(where['instructions'])}), {found['threads']} thread, medians of "
        f"{found['rounds']} interleaved rounds; speed-ups over float32 in ONNX Runtime."
    )
    names = [network["model"].split(":")[-1] for network in found["networks"]]
    columns = [f"{name}, {kind}" for name in names for kind in (*(f"batch {batch}" for batch in BATCHES), "MB")]
    lines = [
        head,
        "",
        f"| engine | file | {' | '.join(columns)} | logits |",
        f"|---|---|{'---:|' * len(columns)}---|",
    ]
    for same in zip(*(network["files"] for network in found["networks"]), strict=True):
        cells = []
        for file in same:
            assert (file["engine"], file["name"]) == (same[0]["engine"], same[0]["name"])
            if file["refused"]:
                cells += ["refused", *[""] * len(BATCHES)]
                continue
            cells += [f"{file['batches'][str(batch)]['speedup']['median']:.2f}" for batch in BATCHES]
            cells.append(f"{file['file_bytes'] / 2**20:.1f}")
        verdicts = dict.fromkeys(file["exact"] for file in same if not file["refused"])
        words = " / ".join({True: "equal", False: "differ", None: "float"}[verdict] for verdict in verdicts)
        lines.append(f"| {same[0]['engine']} | {same[0]['name']} | {' | '.join(cells)} | {words} |")
    limit = found["limits"]
    words = (
        f"The limit on this CPU: one thread multiplies matrices at {limit['int8']:.0f} GMAC/s in int8 and "
        f"{limit['float32']:.0f} in float32 (ONNX Runtime, {SIDE} x {SIDE}), {limit['ratio']:.2f} times as fast."
    )
    lines += ["", words]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--quick", action="store_true", help="the first network only, three rounds")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="files that are exported at a time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--add", action="store_true", help="keep the other networks of --json")
    parser.add_argument("--docs", type=Path, help="a file with the two markers between which the table belongs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds, models = (3, arguments.models[:1]) if arguments.quick else (arguments.rounds, arguments.models)
    with tempfile.TemporaryDirectory() as place:
        rates = limits(Path(place), rounds)
    networks = [bench(name, arguments.size, rounds, arguments.threads, arguments.jobs) for name in models]
    where = environment().to_dict()
    if arguments.add and arguments.json.exists():
        before = json.loads(arguments.json.read_text(encoding="utf-8"))
        if before["environment"]["processor"] != where["processor"]:
            raise SystemExit(
                f"--add: {arguments.json} is of another machine, {before['environment']['processor']}: choose another file."
            )
        networks = [network for network in before["networks"] if network["model"] not in models] + networks
    found = {
        "environment": where,
        "threads": arguments.threads,
        "rounds": rounds,
        "limits": rates,
        "networks": networks,
    }
    print(table(found))
    for network in networks:
        for row in network["bars"]:
            limit = f"the engine's matrix products: {rates['ratio']:.2f} times"
            if row["bar"].startswith("INT4"):
                limit = "first and last layers keep 8 bits, and biases and multipliers 32"
            verdict = "met" if row["met"] else f"NOT met ({limit})"
            print(
                f"{network['model']}: {row['bar']}: asked {row['asked']}, got {row['got']:.3f} ({row['file']}): {verdict}"
            )
        for file in network["files"]:
            if file["exact"]:
                words = described(file["profile"]) if file["profile"] else "the engine does not tell"
                print(f"{network['model']}, {file['engine']}: {file['name']}: time by operator: {words}")
    if arguments.json:
        arguments.json.parent.mkdir(exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if arguments.docs:
        before, rest = arguments.docs.read_text(encoding="utf-8").split(MARKERS[0])
        _, after = rest.split(MARKERS[1])
        text = f"{before}{MARKERS[0]}\n{table(found)}\n{MARKERS[1]}{after}"
        arguments.docs.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
