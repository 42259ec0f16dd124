# SPDX-License-Identifier: MIT
"""How many networks go the whole way, and how well: `python benchmarks/networks.py --json FILE --docs docs/networks.md`.

Each network of `networks.yaml`, with random weights and images, at the smallest size that it takes: captured, quantized to W8A8
and W4A4, calibrated, lowered, exported to ONNX, and compared with the reference executor, integer by integer, in ONNX Runtime at
batch 1, 2 and 5. Beside it, ONNX Runtime's own static quantizer on the same images. Every network has a process and a time limit
of its own; results are kept as they come, and those that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

LIST = Path(__file__).with_suffix(".yaml")
PRECISIONS = ("W8A8", "W4A4")
BATCHES = (1, 2, 5)
SIZES = (32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 320, 384, 480, 512)
LEAST, MOST = 8, 64
"""Images of calibration: batch norm at one pixel needs many small ones, few large ones do."""

MEGABYTE = 2**20

HEAD = """\
# Networks

Written by `python benchmarks/networks.py --json benchmarks/results/networks.json --docs docs/networks.md`; the list is
`benchmarks/networks.yaml`.

**{equal} of {known} networks ({share:.1f} %) go the whole way**: captured, quantized to W8A8 and to W4A4, lowered, and equal in
ONNX Runtime, integer by integer, at batch 1, 2 and 5. Weights and images are random (normal noise; batch norm knows the images),
at the smallest square size that the network takes. SQNR is that of the logits of five images against the float network, in dB;
beside it, that of ONNX Runtime's own static quantizer (W8A8, a scale for each channel, its default calibration) on the same
images. Noise through random weights is hard on 4-bit activations: the figures compare quantizers, and say nothing of the accuracy
of a trained network. {known} of the {listed} networks of the list have been measured.

Measured on {processor}, one thread for each network, beside other work, so that seconds are no more than a guide;
the last run had {packages}.

"""

Row = dict[str, Any]


def names() -> list[str]:
    """The networks in scope, as SOURCE:NAME, in the order of the list."""
    sources = yaml.safe_load(LIST.read_text())["in_scope"]
    return [f"{source}:{name}" for source, groups in sources.items() for group in groups.values() for name in group]


def outside() -> dict[str, list[str]]:
    """The networks out of scope, by reason."""
    found: dict[str, list[str]] = {}
    for entry in yaml.safe_load(LIST.read_text())["out_of_scope"]:
        reason = entry.pop("reason")
        found[reason] = [f"{source}:{name}" for source, group in entry.items() for name in group]
    return found


def measure(name: str, peer: bool = True) -> Row:
    """One network, the whole way, and ONNX Runtime's quantizer unless left out; a failure is a row, too, with step and reason."""
    row: Row = {"network": name, "step": "make", "seconds": 0.0}
    begin = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in _steps(name, row, peer):
                row["step"] = step
        row["step"] = ""
    except Exception as error:  # whatever it is, the others go on
        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
        if os.environ.get("TRACEBACK"):
            traceback.print_exc()
    row["seconds"] = round(time.perf_counter() - begin, 1)
    return row


def _steps(name: str, row: Row, peer: bool) -> Iterator[str]:
    """All that is done with a network: each step is told before it begins, and leaves its results in the row."""
    import torch

    from bitwright.export import export_onnx
    from bitwright.graph import capture
    from bitwright.integer import lower
    from bitwright.scheme import Precision, Scheme
    from bitwright.training import calibrate, quantize

    torch.set_num_threads(1)
    model, size, channels = made(name)
    row["size"] = size
    generator = torch.Generator().manual_seed(0)
    count = max(LEAST, min(MOST, LEAST * (SIZES[-1] // size) ** 2 // 4))
    images = torch.randn(count, channels, size, size, generator=generator)
    others = torch.randn(max(BATCHES), channels, size, size, generator=generator)
    yield "settle"
    settle(model, images)
    yield "capture"
    graph = capture(model, (channels, size, size), name=name)
    row |= {"layers": len(graph.layers), "megabytes_float": _megabytes(model)}
    expected = _flat(graph_logits(graph, others))
    with tempfile.TemporaryDirectory(prefix="bitwright-networks-") as folder:
        path = Path(folder) / "network.onnx"
        for precision in PRECISIONS:
            yield f"{precision}: calibrate"
            quantized = quantize(graph, Scheme.uniform(graph.layers, Precision.parse(precision)))
            calibrate(quantized, [images])
            yield f"{precision}: lower"
            integer = lower(quantized)
            yield f"{precision}: export"
            export_onnx(integer, path)
            yield f"{precision}: run"
            wrong, logits = compared(integer, path, others)
            row[precision] = {"differing": wrong, "sqnr_db": sqnr(expected, logits)}
        if not peer:
            return
        yield "ONNX Runtime's quantizer"
        row["onnxruntime"] = onnxruntime_quantizer(graph, Path(folder), images, others, expected)


def made(name: str) -> tuple[Any, int, int]:
    """The network, the smallest size of square images that it takes, and their channels."""
    import torch

    from bitwright.graph import load_model

    failure = ""
    for size in SIZES:
        for device in ("meta", "cpu"):  # shapes alone first: no number is drawn or computed
            try:
                torch.manual_seed(0)
                with torch.device(device):
                    model = load_model(name, suggested={"in_size": size}).eval()
                first = next((item.in_channels for item in model.modules() if isinstance(item, torch.nn.Conv2d)), 3)
                channels = first if first in (1, 3) else 3  # the first layer may read a part of the image
                images = torch.zeros(2, channels, size, size, device=device)
                with torch.no_grad():
                    model(images)
                    model.train()(images)  # heads that only training has may need larger ones
            except Exception as error:  # too small, in any words
                failure = str(error)
                if device == "meta" and "meta" not in failure:
                    break
                continue
            torch.manual_seed(0)
            return load_model(name, suggested={"in_size": size}).eval(), size, channels
    raise ValueError(f"no size from {SIZES[0]} to {SIZES[-1]} is legal: {failure}")


def settle(model: Any, images: Any) -> None:
    """Let batch norm know the images; all random draws are seeded."""
    import torch

    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        model.train()(images)
    model.eval()


def graph_logits(graph: Any, images: Any) -> dict[str, Any]:
    """What the float network computes, by output."""
    import torch

    from bitwright.graph import FloatModel
    from bitwright.returned import by_name

    with torch.no_grad():
        return by_name(FloatModel(graph).eval()(images))


def compared(integer: Any, path: Path, images: Any) -> tuple[int, Any]:
    """How many integers differ in ONNX Runtime, over all batches, and the logits that the integer model stands for."""
    import numpy as np

    from bitwright.benchmark import load_engine
    from bitwright.integer import prepare
    from bitwright.returned import by_name

    reference = prepare(integer)
    expected = {key: values.numpy() for key, values in by_name(reference.run(images)).items()}
    session = load_engine("onnxruntime", path, threads=1)
    wrong = 0
    for batch in BATCHES:
        got = by_name(session(images[:batch].numpy()))
        wrong += sum(int(np.count_nonzero(got[key] != values[:batch])) for key, values in expected.items())
    return wrong, _flat(by_name(reference.logits(images)))


def onnxruntime_quantizer(graph: Any, folder: Path, images: Any, others: Any, expected: Any) -> Row:
    """ONNX Runtime's static quantizer at its defaults, W8A8 with a scale a channel, calibrated on the same images."""
    from static_quantizer import quantized_session

    from bitwright.export import export_float_onnx

    export_float_onnx(graph, folder / "float.onnx")
    session = quantized_session(folder / "float.onnx", folder / "static.onnx", images)
    got = session.run(list(graph.outputs), {"images": others.numpy()})
    return {"sqnr_db": sqnr(expected, _flat(dict(zip(graph.outputs, got, strict=True))))}


def _flat(outputs: dict[str, Any]) -> Any:
    """All values of all outputs, in float64."""
    import numpy as np

    return np.concatenate([np.asarray(values, np.float64).ravel() for values in outputs.values()])


def sqnr(expected: Any, got: Any) -> float | None:
    """Signal to quantization noise of logits, in dB; None where there is no noise, or no signal."""
    import numpy as np

    signal, noise = float((expected**2).sum()), float(((expected - got) ** 2).sum())
    return round(10 * float(np.log10(signal / noise)), 1) if signal > 0 and noise > 0 else None


def _megabytes(model: Any) -> float:
    return round(sum(tensor.numel() for tensor in model.parameters()) * 4 / MEGABYTE, 1)


def exact(row: Row) -> bool:
    """Whether a network was captured, lowered at every precision, and equal at every batch size."""
    return all(row.get(precision, {}).get("differing") == 0 for precision in PRECISIONS)


PRELOADED = ("bitwright.export", "bitwright.training", "onnxruntime.quantization", "pytorchcv.model_provider", "timm")
"""What every process would spend ten seconds on importing: one does, and the others begin as copies of it."""


def _in_process(name: str, limit: float) -> Row:
    """Measure in a process of its own, of one thread, that ends after `limit` seconds."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_row, args=(name, sender))
    begin = time.perf_counter()
    process.start()
    sender.close()
    failed: Row = {"network": name, "step": "process"}
    try:
        if not receiver.poll(limit):
            return failed | {"step": "time", "error": f"not done after {limit:.0f} s", "seconds": limit}
        found: Row = receiver.recv()
    except EOFError:
        process.join()
        error = f"ended with {process.exitcode}"
        return failed | {"error": error, "seconds": round(time.perf_counter() - begin, 1)}
    finally:
        process.kill()
        process.join()
    return found


def _send_row(name: str, sender: Connection) -> None:
    """Measure a network; what it prints goes nowhere."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        sender.send(measure(name))


def page(rows: dict[str, Row], where: Row) -> str:
    """`docs/networks.md`."""
    known = [rows[name] for name in names() if name in rows]
    equal = [row for row in known if exact(row)]
    share = 100 * len(equal) / max(len(known), 1)
    packages = ", ".join(f"{key} {value}" for key, value in where["packages"].items())
    machines = Counter(row["processor"] for row in known)
    processor = ", ".join(f"{name} ({count} networks)" for name, count in machines.items())
    counts = {"equal": len(equal), "known": len(known), "listed": len(names())}
    head = HEAD.format(**counts, share=share, processor=processor, packages=packages)
    lines = head.splitlines()
    for source in dict.fromkeys(row["network"].partition(":")[0] for row in known):
        chosen = [row for row in known if row["network"].startswith(f"{source}:")]
        lines += [
            f"## {source}: {sum(map(exact, chosen))} of {len(chosen)}",
            "",
            "| network | pixels | layers | captured | W8A8 | W4A4 | SQNR W8A8 | SQNR W4A4 | ONNX Runtime W8A8 | seconds |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *map(_table_row, chosen),
            "",
        ]
    failed = [row for row in known if not exact(row)]
    if failed:
        lines += ["## What fails, and where", ""]
        lines += [f"- `{row['network']}` ({row['step'] or 'other integers'}): {row.get('error', '')}" for row in failed]
        lines.append("")
    lines += ["## Out of scope", "", "Each is refused at capture, by name and place.", ""]
    lines += [f"- {reason}: {', '.join(f'`{name}`' for name in listed)}." for reason, listed in outside().items()]
    return "\n".join(lines) + "\n"


def _table_row(row: Row) -> str:
    def equal(precision: str) -> str:
        found = row.get(precision)
        return "" if found is None else "equal" if found["differing"] == 0 else f"{found['differing']} differ"

    def decibels(key: str) -> str:
        value = row.get(key, {}).get("sqnr_db")
        return "" if value is None else f"{value:.1f}"

    captured = "yes" if "layers" in row else "no"
    cells = [row["network"].partition(":")[2], row.get("size", ""), row.get("layers", ""), captured]
    cells += [equal("W8A8"), equal("W4A4"), decibels("W8A8"), decibels("W4A4"), decibels("onnxruntime"), row["seconds"]]
    return f"| {' | '.join(map(str, cells))} |"


def measure_all(
    chosen: Iterable[str], rows: dict[str, Row], jobs: int, limit: float, processor: str, keep: Any
) -> None:
    """Measure the networks that have no row, `jobs` at a time, and note the processor; `keep` is called after each."""
    missing = [name for name in chosen if name not in rows]
    begin, done = time.perf_counter(), 0
    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(_in_process, name, limit) for name in missing]):
            row = future.result() | {"processor": processor}
            rows[row["network"]] = row
            done += 1
            keep()
            left = (time.perf_counter() - begin) / done * (len(missing) - done)
            words = "equal" if exact(row) else f"{row['step'] or 'other integers'}: {row.get('error', '')}"
            print(
                f"{done}/{len(missing)}, about {left / 60:.0f} min left: {row['network']} {row['seconds']:.0f} s, {words}",
                flush=True,
            )


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="results, kept after each network")
    parser.add_argument("--docs", type=Path, help="the page to write")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time, each of one thread")
    parser.add_argument("--only", metavar="PATTERN", default="", help="a regular expression of SOURCE:NAME")
    parser.add_argument("--limit", type=float, default=900, help="seconds for one network")
    parser.add_argument("--again", action="store_true", help="measure those chosen again that are not equal")
    parser.add_argument("--measure", metavar="NAME", help="print the row of one network, and nothing else")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return

    from bitwright.benchmark import environment
    from bitwright.files import write_json, write_text

    kept = json.loads(given.json.read_text()) if given.json and given.json.exists() else {"networks": {}}
    rows: dict[str, Row] = kept["networks"]
    where = environment().to_dict()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    chosen = [name for name in names() if re.search(given.only, name)]
    if given.again:
        for name in chosen:
            if not exact(rows.get(name, {})):
                rows.pop(name, None)

    def keep() -> None:
        if given.json:
            write_json(
                given.json, {"environment": where, "networks": {name: rows[name] for name in names() if name in rows}}
            )

    measure_all(chosen, rows, given.jobs, given.limit, where["processor"], keep)
    keep()
    if given.docs:
        write_text(given.docs, page(rows, where))
    found = [rows[name] for name in chosen if name in rows]
    steps = Counter(row["step"] or "other integers" for row in found if not exact(row))
    print(
        f"{sum(map(exact, found))} of {len(found)} equal; {', '.join(f'{count} fail at {step}' for step, count in steps.items())}"
    )


if __name__ == "__main__":
    main()
