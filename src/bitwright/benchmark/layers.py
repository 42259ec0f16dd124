# SPDX-License-Identifier: MIT
"""How long each layer of a network takes on this machine, at each precision: the latency table that the search reads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper
from onnx.utils import Extractor

from bitwright.allocation import LatencyTable, LayerShape, layer_shapes
from bitwright.allocation.shapes import layers_digest
from bitwright.benchmark.engines import ENGINES, known_engine
from bitwright.benchmark.environment import environment
from bitwright.benchmark.runtimes import Predict, load_engine
from bitwright.benchmark.timing import Spread, time_interleaved
from bitwright.errors import ExportError
from bitwright.export import form_of, to_onnx
from bitwright.graph import Graph
from bitwright.integer import IntegerModel, lower
from bitwright.progress import Progress, silent
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize

EMPTY = "empty"
WHOLE = "whole"
LEAST_SHARE, MOST_SHARE, MOST_SPREAD = 0.8, 1.2, 0.25
"""What is doubted: layers whose sum is another part of the whole's time, and a whole that varies more between rounds."""
Call = tuple[str, Precision]


@dataclass(frozen=True)
class LayerLatencies:
    """What `measure_layers` found.

    Attributes:
        table: Milliseconds by shape and precision, for a batch.
        counts: How many layers of the network have each shape.
        whole_ms: The whole network at each precision.
        call_ms: An empty model, which is what a call costs; it has been taken off every layer.
    """

    table: LatencyTable
    counts: Mapping[LayerShape, int]
    whole_ms: Mapping[Precision, Spread]
    call_ms: float

    def sum_ms(self, precision: Precision) -> float:
        """All layers of the network at one precision."""
        return sum(count * self.table.by_shape[shape][precision] for shape, count in self.counts.items())

    def explained(self, precision: Precision) -> float:
        """Sum over the layers as a part of the whole network's time: the rest goes to additions, pools and quantizers."""
        return self.sum_ms(precision) / self.whole_ms[precision].median

    def scaled(self) -> LatencyTable:
        """The table with each precision scaled so that the layers of a network of it sum up to the whole that was timed."""
        scale = {
            precision: 1 / self.explained(precision) if self.sum_ms(precision) else 1.0 for precision in self.whole_ms
        }
        by_shape = {
            shape: {precision: ms * scale[precision] for precision, ms in latencies.items()}
            for shape, latencies in self.table.by_shape.items()
        }
        return replace(self.table, by_shape=by_shape, note=f"{self.table.note}; scaled to the whole network's time")

    def doubts(self) -> Iterator[str]:
        """What speaks against taking the sum of layers for the time of a network, each in a sentence."""
        shares = {precision: self.explained(precision) for precision in self.whole_ms}
        odd = {precision: share for precision, share in shares.items() if not LEAST_SHARE <= share <= MOST_SHARE}
        if odd:
            worst = max(odd, key=lambda precision: abs(odd[precision] - 1))
            cause = (
                "alone, a layer pays for what the network pays once"
                if odd[worst] > 1
                else "additions, pools and quantizers take the rest"
            )
            yield (
                f"the layers take {100 * odd[worst]:.0f} % of the whole network's time at {worst} ({cause}), and are scaled "
                "to it: latencies of single layers are rough."
            )
        loaded = {precision: (whole.upper - whole.lower) / whole.median for precision, whole in self.whole_ms.items()}
        worst = max(loaded, key=loaded.__getitem__)
        if loaded[worst] > MOST_SPREAD:
            yield (
                f"the network's time at {worst} varies by {100 * loaded[worst]:.0f} % between rounds: other work "
                "runs on this machine. Measure again when it is idle."
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: the table, and its sums beside the measured whole."""
        sums = {
            str(precision): {
                "layers_ms": self.sum_ms(precision),
                "whole_ms": whole.to_dict(),
                "explained": self.explained(precision),
            }
            for precision, whole in self.whole_ms.items()
        }
        return {"table": self.table.to_dict(), "sums": sums, "call_ms": self.call_ms}


def measure_layers(
    graph: Graph,
    precisions: Iterable[Precision],
    *,
    engine: str = "onnxruntime",
    batch: int = 1,
    threads: int = 1,
    rounds: int = 15,
    progress: Progress = silent,
) -> LayerLatencies:
    """Time every distinct layer shape of a network at every precision, interleaved.

    The network is lowered and exported at each precision, and the nodes between a layer's input and its output are cut out of
    that file: exactly what the engine runs for the layer there. Whole networks run in the same rounds, and so does an empty
    model, whose time, that of a call, is taken off every layer.

    Args:
        graph: The network; its weights may be random, since time does not depend on them.
        precisions: What layers may have; every layer is measured at each.
        engine: One that reads ONNX files.
        batch: Images at a time.
        threads: How many the engine may use.
        rounds: Counted rounds.
        progress: Called after every model of every round.

    Raises:
        MissingLibraryError: If the engine is not installed.
        ExportError: If the engine reads no ONNX files, or no precision was given.
    """
    wanted = list(dict.fromkeys(precisions))
    if not wanted:
        raise ExportError("expected at least one precision to measure, for instance W8A8, got none.")
    if known_engine(engine).form is not form_of("onnx"):
        cut = ", ".join(name for name, known in ENGINES.items() if known.form is form_of("onnx"))
        raise ExportError(f"layers are cut out of ONNX files, which {engine} does not read; choose one of: {cut}.")
    first: dict[LayerShape, str] = {}
    for layer, shape in layer_shapes(graph).items():
        first.setdefault(shape, layer)
    with tempfile.TemporaryDirectory() as folder:
        calls = {(EMPTY, wanted[0]): _call(engine, _empty(Path(folder)), threads, np.zeros((1, 1), np.float32))}
        for number, precision in enumerate(wanted):
            place = Path(folder) / str(number)
            place.mkdir()
            found = _cut(_lowered(graph, precision), first.values(), place, batch)
            calls |= {(name, precision): _call(engine, path, threads, given) for name, (path, given) in found.items()}
        keys: dict[str, Call] = {f"{name} {precision}": (name, precision) for name, precision in calls}
        timings = time_interleaved(
            {key: calls[call] for key, call in keys.items()}, rounds=rounds, least_ms=2.0, progress=progress
        )
    spreads = {call: timings.latency(key) for key, call in keys.items()}
    empty = spreads[EMPTY, wanted[0]].median
    by_shape = {
        shape: {precision: max(spreads[layer, precision].median - empty, 0.0) for precision in wanted}
        for shape, layer in first.items()
    }
    shapes = list(layer_shapes(graph).values())
    where = environment()
    note = (
        f"medians of {rounds} interleaved rounds, {threads} threads; the {1000 * empty:.0f} us of an empty call are taken off; "
        f"layers as in {graph.model}"
    )
    table = LatencyTable(
        where.processor, f"{engine} {version(engine)}", batch, by_shape, note=note, network=layers_digest(graph)
    )
    whole = {precision: spreads[WHOLE, precision] for precision in wanted}
    return LayerLatencies(table, {shape: shapes.count(shape) for shape in first}, whole, empty)


def _lowered(graph: Graph, precision: Precision) -> IntegerModel:
    """The network with every layer at one precision; ranges come from noise, since time does not depend on them."""
    scheme = Scheme(str(precision), dict.fromkeys(graph.layers, precision))
    images = torch.randn(2, *graph.input_shape, generator=torch.Generator().manual_seed(0))
    return lower(calibrate(quantize(graph, scheme), [images]))


def _cut(
    model: IntegerModel, layers: Iterable[str], folder: Path, batch: int
) -> dict[str, tuple[Path, npt.NDArray[Any]]]:
    """A file for each of the layers and one for the whole network, with something for each to read."""
    generator = np.random.default_rng(0)
    whole = onnx.shape_inference.infer_shapes(to_onnx(model, environment().target))
    extractor, ops = Extractor(whole), {op.name: op for op in model}
    images = generator.standard_normal((batch, *model.input_shape), dtype=np.float32)
    found: dict[str, tuple[Path, npt.NDArray[Any]]] = {WHOLE: (folder / "whole.onnx", images)}
    onnx.save(whole, found[WHOLE][0])
    for number, layer in enumerate(layers):
        source = ops[layer].inputs[0]
        path = folder / f"{number}.onnx"
        onnx.save(extractor.extract_model([source], [layer]), path)
        # Zero points are half of the range where values are signed: every byte below 2**bits occurs.
        levels = 2 ** model.formats[source].bit_width
        found[layer] = path, generator.integers(0, levels, (batch, *ops[source].shape), dtype=np.uint8)
    return found


def _empty(folder: Path) -> Path:
    """A model that returns its one number."""
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("given", "made"))
    graph = helper.make_graph([helper.make_node("Neg", ["given"], ["made"])], "empty", [given], [made])
    path = folder / "empty.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def _call(engine: str, path: Path, threads: int, images: npt.NDArray[Any]) -> partial[Any]:
    predict: Predict = load_engine(engine, path, threads=threads)
    return partial(predict, images)
