# SPDX-License-Identifier: MIT
"""Random networks of every operation that capture knows, and the one way to compare an engine with the reference on them.

A seed decides all: the network, its weights, its scheme, its images, and whether its files take pixels. The networks are made of
nodes, as capture would have left them: to trace a module takes longer than all the rest. A new operation is one more function in
`GROWTHS`; a test counts the kinds of nodes that occur.

    python tests/random_networks.py --engine openvino --networks 60

prints the networks that an engine computes otherwise, or not at all, and counts those that it is refused, by reason; without
`--engine`, for all engines.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from math import prod
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.benchmark import ENGINES, EngineProcess, Setting, environment, load_engine
from bitwright.errors import BitwrightError, ExportError
from bitwright.export import Exporter, Pixels, Target
from bitwright.graph import Graph, Product, Table
from bitwright.graph.aten.resizing import _interpolation
from bitwright.graph.evaluate import convolve, float_result
from bitwright.graph.execute import execute
from bitwright.graph.functions import Program
from bitwright.graph.nodes import (
    Add,
    AvgPool2d,
    BatchNorm,
    Bounds,
    ChannelShuffle,
    Clamp,
    Concat,
    Conv2d,
    DepthToSpace,
    Dropout,
    Flatten,
    Input,
    Layer,
    Linear,
    MaxPool2d,
    Node,
    Norm,
    Pad,
    Rearrange,
    Slice,
    Take,
)
from bitwright.graph.passes import simplify
from bitwright.integer import IntegerModel, lower, run
from bitwright.quantizer import TensorFormat
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize

LARGEST_BATCH = 3
DISTINCT_LOGITS = 20
_ATTEMPTS = 100
_MOST_CHANNELS = 48
_WIDER = 7
_MOST_PLACES = 64


@dataclass(frozen=True)
class RandomModel:
    """An integer model of a random network, and what its files are given.

    Attributes:
        seed: What it was made from.
        graph: The float network.
        model: Its integers, whose logits on `images` have more than 20 distinct values.
        images: [3, channels, height, width], as the files take them: float32, or uint8 with `pixels`.
        pixels: How the pixels are normalised, if the files take pixels.
        target: The CPUs that the files are for.
        logits: What the reference executor computes: int32.
    """

    seed: int
    graph: Graph
    model: IntegerModel
    images: npt.NDArray[Any]
    pixels: Pixels | None
    target: Target
    logits: npt.NDArray[np.int32]


UNMADE = "no model"
Run = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
Make = Callable[[int], RandomModel]


def random_model(seed: int, wide: bool = False) -> RandomModel:
    """The integer model of a seed.

    Args:
        seed: What decides all but the widths.
        wide: Whether layers have several times as many channels.

    Raises:
        BitwrightError: If the network is refused before there is a file: when it is quantized or lowered.
    """
    for attempt in range(_ATTEMPTS):
        draw = random.Random(f"{seed}.{attempt}")
        torch.manual_seed(draw.getrandbits(32))
        graph = random_graph(draw, f"random network {seed}", wide)
        floats = execute(graph, graph.parameters, torch.randn(LARGEST_BATCH, *graph.input_shape))
        if len(floats.unique()) > DISTINCT_LOGITS:
            state = draw.getstate()
            for moved in (True, False):  # windows anywhere can clip nearly all that there is
                draw.setstate(state)
                found = _in_integers(seed, draw, graph, moved)
                if len(np.unique(found.logits)) > DISTINCT_LOGITS:
                    return found
    raise AssertionError(f"no network of seed {seed} has more than {DISTINCT_LOGITS} distinct logits")


def differences(
    given: RandomModel,
    engine: str,
    batches: Iterable[int] = (1, 2, 3),
    threads: Iterable[int] = (1, 2),
    *,
    export: Exporter | None = None,
    process: EngineProcess | None = None,
) -> dict[str, int]:
    """Export for one engine, run the file, and count the logits that differ from the reference executor's.

    Args:
        given: The model and its images.
        engine: Its name in `ENGINES`.
        batches: How many images to run at a time.
        threads: How many the engine may use, at its default level; the others, and engines without that setting, are run with
            the first.
        export: What writes its file; by default, the engine's own exporter.
        process: Where the engine runs; by default, in this process, which it may end.

    Returns:
        How many logits differ, by level, number of threads and batch; nothing for those where all are equal.

    Raises:
        ExportError: If the engine is refused the model.
        EngineError: If the engine fails, or ends its process.
    """
    known, sizes = ENGINES[engine], tuple(batches)
    counts = tuple(threads) if known.threaded else (1,)
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{known.form.suffix}"
        (export or known.form.export)(given.model, path, given.target, given.pixels)
        for level in known.levels:
            for count in counts if level == known.levels[-1] else counts[:1]:
                if process is None:
                    run_file: Run = load_engine(engine, path, threads=count, level=level)
                else:
                    run_file = partial(_run_apart, process, path, Setting(engine, level, count, LARGEST_BATCH))
                for size in sizes:
                    wrong = _differing(run_file(given.images[:size]), given.logits[:size])
                    if wrong:
                        found[f"level {level}, {count} threads, batch {size}"] = wrong
    return found


def _run_apart(process: EngineProcess, path: Path, setting: Setting, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """All images in one batch."""
    return process.logits(path, images, setting)


@dataclass
class Survey:
    """What an engine did with many networks.

    Attributes:
        equal: How many networks it computed exactly.
        wrong: What differed or failed, by seed.
        refused: How many were refused, by reason; those that no engine gets begin with "no model".
    """

    equal: int = 0
    wrong: dict[int, object] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Survey) -> Survey:
        return Survey(self.equal + other.equal, self.wrong | other.wrong, self.refused + other.refused)

    @property
    def of_exporter(self) -> int:
        """How many were refused by the exporter."""
        return sum(count for words, count in self.refused.items() if not words.startswith(UNMADE))


def survey(
    engine: str,
    seeds: Iterable[int],
    variables: Mapping[str, str] | None = None,
    make: Make = random_model,
    export: Exporter | None = None,
) -> Survey:
    """Run networks in an engine, in a process of its own.

    Args:
        engine: Its name.
        seeds: Of the networks.
        variables: Of the environment of its process.
        make: What makes a network of a seed.
        export: What writes its files; by default, the engine's own exporter.
    """
    found = Survey()
    with EngineProcess(engine, variables) as process:
        for seed in seeds:
            try:
                given = make(seed)
            except BitwrightError as error:
                found.refused[f"{UNMADE}: {reason(error)}"] += 1
                continue
            try:
                if wrong := differences(given, engine, export=export, process=process):
                    found.wrong[seed] = wrong
                else:
                    found.equal += 1
            except ExportError as error:
                found.refused[reason(error)] += 1
            except Exception as error:  # whatever an exporter or an engine raises, a crash among them
                found.wrong[seed] = f"{type(error).__name__}: {error}"
    return found


def _differing(got: npt.NDArray[Any], expected: npt.NDArray[np.int32]) -> int:
    """How many logits differ: all, if they are no integers or too few."""
    same_kind = got.shape == expected.shape and np.issubdtype(got.dtype, np.integer)
    return int((got != expected).sum()) if same_kind else expected.size


def _in_integers(seed: int, draw: random.Random, graph: Graph, moved: bool) -> RandomModel:
    """Quantize, calibrate and lower with random settings."""
    shape = graph.input_shape
    widths = range(2, 5) if draw.random() < 0.25 else range(2, 9)
    layers = {layer: Precision(draw.choice(widths), draw.choice(widths)) for layer in graph.layers}
    quantized = quantize(graph, Scheme(f"random {seed}", layers, draw.choice([8, 8, 16])))
    target = draw.choice([Target.ANY, Target.ANY, Target.ANY, Target.AVX2])
    pixels = None
    if draw.random() < 0.4:
        limits = (0.3, 0.6), (0.15, 0.4)
        pixels = Pixels(*([draw.uniform(low, high) for _ in range(shape[0])] for low, high in limits))
    calibrate(quantized, [_images(8, shape, pixels)[1]], draw.choice(["minmax", "minmax", "percentile", "mse"]))
    if moved:
        _move_windows(draw, quantized)
    model = lower(quantized, avoid_saturation=target is Target.AVX2)
    given, normalised = _images(LARGEST_BATCH, shape, pixels)
    return RandomModel(seed, graph, model, given.numpy(), pixels, target, run(model, normalised).numpy())


def _move_windows(draw: random.Random, quantized: QuantizedModel) -> None:
    """Some windows anywhere: around the calibrated range, or with one end of it, or none, inside."""
    plan = quantized.plan
    clamped = {plan.quantizer_of[node.name] for node in plan.graph if getattr(node, "bounds", None) is not None}
    for name in sorted(plan.asymmetric - plan.accumulators):
        quantizer = quantized.activation_quantizer(name)
        if draw.random() < 0.4:
            codes = 1 << quantizer.format.bit_width
            # A clamp may leave but one value of a window that ends at zero.
            ends = [] if name in clamped else [0, 1 - codes]
            least = draw.choice([*ends, draw.randint(2 - codes, -1), draw.randint(2 - codes, -1)])
            quantizer.place(TensorFormat.starting(quantizer.format.bit_width, least), float(quantizer.scale.detach()))


def _images(count: int, shape: tuple[int, ...], pixels: Pixels | None) -> tuple[Tensor, Tensor]:
    """Images as a file takes them, and the same normalised; the last one leaves the range of the others."""
    if pixels is None:
        images = torch.randn(count, *shape)
        images[-1] *= 3
        return images, images
    given = torch.randint(256, (count, *shape), dtype=torch.uint8)
    given[-1][given[-1] < 128] = 0
    return given, pixels.normalise(given)


@dataclass
class Growing:
    """A network that grows.

    Attributes:
        draw: What decides.
        nodes: So far, by name.
        wide: Whether its layers have several times as many channels.
        parameters: Of these, by name.
    """

    draw: random.Random
    nodes: dict[str, Node]
    wide: bool = False
    parameters: dict[str, Tensor] = field(default_factory=dict)

    @property
    def most_channels(self) -> int:
        """That a tensor may have."""
        return _MOST_CHANNELS * (_WIDER if self.wide else 1)

    def outputs(self, *counts: int) -> int:
        """One of these counts of channels, or several times as many."""
        return self.draw.choice(counts) * (_WIDER if self.wide else 1)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """(channels, height, width), or (features,)."""
        return self.nodes[tensor].shape

    def add(self, kind: type[Node], *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append a node whose shape is that of what it makes, and return its name."""
        own = {"name": name or f"{kind.__name__.lower()}{len(self.nodes)}", "inputs": inputs, "shape": ()}
        node = kind(**own | attributes)
        values = [torch.zeros(1, *self.shape(source)) for source in inputs]
        if isinstance(node, Layer):
            made = convolve(node, values[0], self.parameters[node.weight], None)
        else:
            made = float_result(node, values, self.parameters)
        self.nodes[node.name] = replace(node, shape=tuple(made.shape[1:]))
        return node.name

    def alike(self, tensor: str, axes: slice) -> list[str]:
        """The tensors whose shape is that of `tensor` in these axes."""
        shape = self.shape(tensor)
        return [
            name
            for name, node in self.nodes.items()
            if (len(node.shape), node.shape[axes]) == (len(shape), shape[axes])
        ]

    def divisor(self, *numbers: int) -> int:
        """A random common divisor."""
        return self.draw.choice([part for part in range(1, min(numbers) + 1) if not any(n % part for n in numbers)])


def random_graph(draw: random.Random, name: str, wide: bool = False) -> Graph:
    """A network of up to nine layers or blocks, simplified as capture does; a node that nothing reads is left out."""
    height, width = (draw.choice([1, 4, 5, 7, 8, 9, 11, 13]) for _ in range(2))
    shape = (draw.choice([1, 2, 3, 3, 4, 8]), height, width if draw.random() < 0.5 else height)
    growing = Growing(draw, {"input": Input(name="input", inputs=(), shape=shape)}, wide)
    last = "input" if draw.random() < 0.15 else _convolution(growing, "input")
    for _ in range(draw.randint(1, 7)):
        last = draw.choice(GROWTHS)(growing, last)
    last = draw.choice(HEADS)(growing, last)
    needed = {last, "input"}
    for node in reversed(growing.nodes.values()):
        if node.name in needed:
            needed.update(node.inputs)
    nodes = tuple(node for node in growing.nodes.values() if node.name in needed)
    return simplify(Graph(name, nodes, {"logits": last}, growing.parameters))


def _layer(growing: Growing, source: str, kind: type[Node], shape: tuple[int, ...], bias: bool, **form: Any) -> str:
    """A layer with random weights; now and then, one channel is dead, which is its bias alone, or huge."""
    draw, name = growing.draw, f"layer{len(growing.nodes)}"
    weight = torch.randn(shape) / prod(shape[1:]) ** 0.5
    if draw.random() < 0.3:
        weight[draw.randrange(len(weight))] *= draw.choice([0, 0, 30, 1000])
    growing.parameters[f"{name}.weight"] = weight
    if bias:
        growing.parameters[f"{name}.bias"] = torch.randn(shape[0]) / 2
    return growing.add(
        kind, source, name=name, weight=f"{name}.weight", bias=f"{name}.bias" if bias else None, **form
    )  # fmt: skip


def _conv(growing: Growing, source: str, outputs: int, kernel: tuple[int, int], **form: Any) -> str:
    """A convolution, plain but for what `form` says."""
    given = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "bias": True, **form}
    shape = (outputs, growing.shape(source)[0] // given["groups"], *kernel)
    return _layer(growing, source, Conv2d, shape, **given)


def _linear(growing: Growing, source: str, outputs: int) -> str:
    """A matrix product."""
    return _layer(growing, source, Linear, (outputs, growing.shape(source)[0]), growing.draw.random() < 0.8)


def _norm(growing: Growing, source: str) -> str:
    """Batch norm with random statistics, gains of either sign, and offsets."""
    name, channels = f"norm{len(growing.nodes)}", growing.shape(source)[0]
    tensors = {
        "mean": torch.randn(channels) / 2,
        "variance": torch.rand(channels) * 2 + 0.2,
        "weight": (torch.rand(channels) + 0.5) * growing.draw.choice([1, 1, -1]),
        "bias": torch.randn(channels) / 2,
    }
    growing.parameters |= {f"{name}.{key}": value for key, value in tensors.items()}
    return growing.add(BatchNorm, source, name=name, norm=Norm(**{key: f"{name}.{key}" for key in tensors}, eps=1e-5))


def _activation(growing: Growing, source: str) -> str:
    """A clamp of any kind, or none."""
    relu, other = (
        Bounds(0.0),
        [(0.0, 6.0), (-1.0, 1.0), (-1.5, 2.0), (0.25, 3.0), (-0.5, None), (None, 1.0), (0.0, 0.7)],
    )
    chosen = growing.draw.choice([None, relu, relu, Bounds(*growing.draw.choice(other))])
    return source if chosen is None else growing.add(Clamp, source, bounds=chosen)


def _normed(growing: Growing, source: str) -> str:
    """With batch norm or without, then an activation."""
    return _activation(growing, _norm(growing, source) if growing.draw.random() < 0.5 else source)


def _convolution(growing: Growing, last: str, outputs: int | None = None, groups: int | None = None) -> str:
    """A convolution of any form."""
    draw, (channels, *size) = growing.draw, growing.shape(last)
    kernel = tuple(draw.choice([1, 2, 3, 3, 5]) for _ in size)
    kernel = kernel if draw.random() < 0.3 else kernel[:1] * 2
    dilation = draw.choice([1, 1, 1, 2])
    missing = [(dilation * (taps - 1) + 2 - have) // 2 for taps, have in zip(kernel, size, strict=True)]
    outputs = outputs or growing.outputs(2, 3, 4, 6, 8, 8, 12, 16, 33)
    form = {
        "stride": draw.choice([(1, 1), (1, 1), (2, 2), (1, 2)]),
        "padding": tuple(max(draw.randint(0, taps // 2), least) for taps, least in zip(kernel, missing, strict=True)),
        "dilation": (dilation, dilation),
        "groups": groups or draw.choice([1, 1, growing.divisor(channels, outputs)]),
        "bias": draw.random() < 0.7,
    }
    return _normed(growing, _conv(growing, last, outputs, kernel, **form))


def _depthwise(growing: Growing, last: str) -> str:
    """A convolution of each channel by itself, to one channel or several."""
    channels = growing.shape(last)[0]
    times = growing.draw.choice([1, 1, 2, 3]) if channels <= growing.most_channels // 3 else 1
    return _convolution(growing, last, channels * times, channels)


def _grouped(growing: Growing, last: str) -> str:
    """A convolution in groups, of more results than a vector register holds now and then."""
    groups = growing.divisor(growing.shape(last)[0])
    results = [count for count in (1, 3, 8, 17, 20, 24) if count * groups <= growing.most_channels] or [1]
    return _convolution(growing, last, growing.draw.choice(results) * groups, groups)


def _kept(growing: Growing, last: str) -> str:
    """A convolution that keeps the shape."""
    draw, channels = growing.draw, growing.shape(last)[0]
    kernel = draw.choice([(1, 1), (3, 3), (3, 3), (1, 3), (3, 1)])
    groups = draw.choice([1, 1, growing.divisor(channels)])
    padding = (kernel[0] // 2, kernel[1] // 2)
    return _normed(growing, _conv(growing, last, channels, kernel, padding=padding, groups=groups))


def _residual(growing: Growing, last: str) -> str:
    """One or two convolutions, added to what they read, which may be the image."""
    branch = _kept(growing, last)
    if growing.draw.random() < 0.3:
        branch = _kept(growing, branch)
    return _activation(growing, growing.add(Add, last, branch))


def _sum(growing: Growing, last: str) -> str:
    """Added to any tensor of the same shape, itself included."""
    return _activation(growing, growing.add(Add, last, growing.draw.choice(growing.alike(last, slice(None)))))


def _concatenation(growing: Growing, last: str) -> str:
    """Beside a branch of its own, or one or two tensors with images of the same size."""
    others = growing.draw.choices(growing.alike(last, slice(1, None)), k=growing.draw.randint(1, 2))
    if growing.draw.random() < 0.5:
        others = [_kept(growing, last)]
    if sum(growing.shape(name)[0] for name in (last, *others)) > growing.most_channels:
        return last
    return growing.add(Concat, last, *others)


def _split(growing: Growing, last: str) -> str:
    """Some of the channels, which half the time meet the others again."""
    channels = growing.shape(last)[0]
    cut = growing.draw.randint(0, channels - 1)
    right = growing.add(Slice, last, start=cut, stop=channels)
    if cut == 0 or growing.draw.random() < 0.4:
        return right
    left = growing.add(Slice, last, start=0, stop=cut)
    return growing.add(Concat, _kept(growing, right), left)


def _product(growing: Growing, last: str) -> str:
    """Times a gate for each channel, a map for each pixel, or a tensor of the same shape, which may be itself."""
    draw, (channels, *size) = growing.draw, growing.shape(last)
    kind = draw.choice(["gate", "map", "alike"])
    if kind == "gate":
        other = _table(growing, _conv(growing, _mean(growing, last), channels, (1, 1)))
    elif kind == "map":
        kernel = (3, 3) if min(size) > 1 else (1, 1)
        other = _table(growing, _conv(growing, last, 1, kernel, padding=(kernel[0] // 2, kernel[1] // 2)))
    else:
        other = draw.choice(growing.alike(last, slice(None)))
    pair = [last, other] if draw.random() < 0.7 else [other, last]
    return _activation(growing, growing.add(Product, *pair))


def _table(growing: Growing, last: str) -> str:
    """An element-wise function that is defined everywhere."""
    names = [
        "abs",
        "gelu",
        "gelu_tanh",
        "hardsigmoid",
        "hardswish",
        "mish",
        "sigmoid",
        "silu",
        "softplus",
        "square",
        "tanh",
    ]
    programs: list[Program] = [
        *((("x", name)) for name in names),
        ("x", 0.1, "leaky_relu"),
        ("x", 1.0, "elu"),
        ("x", "x", "tanh", "add", 0.5, "mul"),
        ("x", "neg", "exp", 1.0, "add", "log"),
        ("x", "abs", 0.3, "add", "sqrt", 2.0, "x", "abs", "add", "div"),
    ]
    return growing.add(Table, last, program=growing.draw.choice(programs))


def _shuffle(growing: Growing, last: str) -> str:
    """Channels shuffled."""
    return growing.add(ChannelShuffle, last, groups=growing.divisor(growing.shape(last)[0]))


def _take(growing: Growing, last: str) -> str:
    """A slice, a flip, or places at random, along any axis."""
    axis = growing.draw.choice([1, 2, 3])
    size, draw = growing.shape(last)[axis - 1], growing.draw
    count = draw.randint(1, min(size, growing.most_channels // 2) if axis == 1 else size + 2)
    first, step = draw.randint(0, size - 1), draw.choice([1, 2, 3])
    places = draw.choice(
        [
            tuple(range(first, size, step)),
            tuple(reversed(range(size))),
            tuple(sorted(draw.choices(range(size), k=count))),
            tuple(draw.choices(range(size), k=count)),
        ]
    )
    return growing.add(Take, last, axis=axis, places=places)


def _pad(growing: Growing, last: str) -> str:
    """Zeros around an image, now and then around the channels as well."""
    draw = growing.draw
    sizes = [tuple(draw.randint(0, 2) for _ in range(3)) for _ in range(2)]
    before, after = [(channels * (draw.random() < 0.4), *pixels) for channels, *pixels in sizes]
    return growing.add(Pad, last, before=before, after=after)


def _depth_to_space(growing: Growing, last: str) -> str:
    """Channels that become pixels, and mostly a pool behind."""
    channels, height, width = growing.shape(last)
    blocks = [block for block in (1, 2, 3) if channels % block**2 == 0 and max(height, width) * block <= 24]
    return growing.add(DepthToSpace, last, block=growing.draw.choice(blocks[-2:])) if blocks else last


def _rearrange(growing: Growing, last: str) -> str:
    """Axes cut in two where they can be, in another order, and put together to an image again."""
    draw, shape = growing.draw, growing.shape(last)
    cuts = [draw.choice([part for part in range(1, size + 1) if size % part == 0]) for size in shape]
    parts = [part for size, cut in zip(shape, cuts, strict=True) for part in (cut, size // cut) if part > 1]
    order = draw.sample(range(len(parts)), len(parts))
    sizes = [parts[place] for place in order]
    ends = sorted(draw.randint(0, len(sizes)) for _ in range(2))
    made = tuple(math.prod(sizes[slice(*limits)]) for limits in ((0, ends[0]), ends, (ends[1], len(sizes))))
    if made[0] > growing.most_channels or max(made[1:]) > 24 or not parts:
        return last
    return growing.add(Rearrange, last, shape=made, parts=tuple(parts), order=tuple(order))


def _window(growing: Growing, last: str) -> dict[str, Any]:
    """Kernel, stride and padding of a pool that fits."""
    draw, kernel = growing.draw, tuple(min(growing.draw.choice([2, 3]), have) for have in growing.shape(last)[1:])
    padding = tuple(draw.randint(0, taps // 2) for taps in kernel)
    return {"kernel": kernel, "stride": draw.choice([kernel, (1, 1), (2, 2)]), "padding": padding}


def _maximum(growing: Growing, last: str) -> str:
    """A max pool of any form."""
    window = _window(growing, last)
    wide = all(have >= 2 * taps for have, taps in zip(growing.shape(last)[1:], window["kernel"], strict=True))
    dilation = (2, 2) if wide and growing.draw.random() < 0.2 else (1, 1)
    return growing.add(MaxPool2d, last, **window, dilation=dilation, ceil_mode=growing.draw.random() < 0.3)


def _average(growing: Growing, last: str) -> str:
    """An average pool of any form: overlapping or padded windows, or parts of the image."""
    if growing.draw.random() < 0.6:
        return growing.add(AvgPool2d, last, **_window(growing, last))
    kernel = tuple(growing.divisor(have) for have in growing.shape(last)[1:])
    return growing.add(AvgPool2d, last, kernel=kernel, stride=kernel, padding=(0, 0))


def _interpolated(growing: Growing, last: str) -> str:
    """Both axes interpolated linearly, from end to end or with half a pixel at each: repeated places, and a mean over them."""
    draw, axes = growing.draw, []
    for size in growing.shape(last)[1:]:
        out = draw.choice([2 * size, 2 * size, 3 * size, size + 1])
        corners = draw.random() < 0.5
        step = Fraction(size - 1, out - 1) if corners and size > 1 else Fraction(size, out)
        axes.append(_interpolation(size, out, Fraction(0) if corners else (step - 1) / 2, step))
    if max(len(along.places) for along in axes) > _MOST_PLACES:
        return last
    for axis, along in enumerate(axes, 2):
        last = growing.add(Take, last, axis=axis, places=along.places)
    kernel, stride = (tuple(getattr(along, name) for along in axes) for name in ("taps", "step"))
    return growing.add(AvgPool2d, last, kernel=kernel, stride=stride, padding=(0, 0))


def _mean(growing: Growing, last: str) -> str:
    """The mean of each channel, as an image of one pixel."""
    size = growing.shape(last)[1:]
    return growing.add(AvgPool2d, last, kernel=size, stride=size, padding=(0, 0))


def _pixel(growing: Growing, last: str) -> str:
    """One pixel, by a mean or a convolution of the whole image, and a convolution of that pixel."""
    draw = growing.draw
    if draw.random() < 0.5:
        last = _mean(growing, last)
    else:
        last = _normed(growing, _conv(growing, last, growing.outputs(4, 8, 33), growing.shape(last)[1:]))
    side = draw.choice([0, 1])
    kernel, padding = (2 * side + 1, 2 * side + 1), (side, side)
    return _normed(growing, _conv(growing, last, growing.outputs(8, 17, 40), kernel, padding=padding))


def _alone(growing: Growing, last: str) -> str:
    """What mostly is not alone: dropout, batch norm, a clamp."""
    kind = growing.draw.choice([_norm, _activation, lambda *given: growing.add(Dropout, last, probability=0.5)])
    return kind(growing, last)


GROWTHS: Sequence[Callable[[Growing, str], str]] = (
    _convolution,
    _convolution,
    _depthwise,
    _grouped,
    _residual,
    _residual,
    _sum,
    _concatenation,
    _split,
    _product,
    _table,
    _shuffle,
    _take,
    _pad,
    _depth_to_space,
    _rearrange,
    _maximum,
    _average,
    _interpolated,
    _pixel,
    _alone,
)
"""How a network goes on: from the network so far and its last tensor to its next last tensor."""


def _classifier(growing: Growing, last: str) -> str:
    """A matrix product, after another now and then."""
    draw = growing.draw
    last = growing.add(Flatten, last)
    if draw.random() < 0.3:
        last = _normed(growing, _linear(growing, last, growing.outputs(8, 33)))
    return _linear(growing, last, draw.choice([7, 10, 21]))


def _pooled_classifier(growing: Growing, last: str) -> str:
    """A matrix product of means."""
    return _classifier(growing, _mean(growing, last))


def _convolved(growing: Growing, last: str) -> str:
    """A convolution of the whole image."""
    return growing.add(Flatten, _conv(growing, last, growing.draw.choice([7, 10, 21]), growing.shape(last)[1:]))


def _pooled(growing: Growing, last: str) -> str:
    """Means of a convolution, or of whatever is there."""
    if growing.shape(last)[0] < DISTINCT_LOGITS // 2 or growing.draw.random() < 0.5:
        last = _conv(growing, last, growing.draw.choice([10, 21]), (1, 1))
    return growing.add(Flatten, _mean(growing, last))


def _clamped(growing: Growing, last: str) -> str:
    """Logits behind a clamp, which are no sums but values of 8 bits."""
    return _activation(growing, _classifier(growing, last))


HEADS: Sequence[Callable[[Growing, str], str]] = (
    _classifier,
    _classifier,
    _pooled_classifier,
    _pooled_classifier,
    _convolved,
    _pooled,
    _clamped,
)
"""How a network ends: from the network so far and its last tensor to its logits."""


def reason(error: BitwrightError) -> str:
    """The kind of a refusal: its message without names and figures."""
    return re.sub(r"\[[^]]*\]", "[...]", re.sub(r"'[^']*'", "'...'", re.sub(r"-?\d[\d.]*(e[-+]\d+)?", "n", str(error))))


@dataclass(frozen=True)
class Part:
    """Some networks in one engine: what one process does at a time.

    Attributes:
        engine: Its name.
        onednn: `ONEDNN_MAX_CPU_ISA` of its process, if it is set.
        target: The CPUs that all files are for; by default, those that each network draws.
        first: The first seed.
        count: How many seeds.
        wide: Whether their layers have several times as many channels.
    """

    engine: str
    onednn: str | None
    target: str | None
    first: int
    count: int
    wide: bool = False

    def survey(self) -> Survey:
        """Make the networks and run them."""
        torch.set_num_threads(1)
        variables = {} if self.onednn is None else {"ONEDNN_MAX_CPU_ISA": self.onednn}
        return survey(self.engine, range(self.first, self.first + self.count), variables, self._make)

    def _make(self, seed: int) -> RandomModel:
        made = random_model(seed, self.wide)
        return made if self.target is None else replace(made, target=Target(self.target))


def logged(part: Part, found: Survey) -> str:
    """A part and what was found as one line of JSON."""
    entry = {"equal": found.equal, "wrong": found.wrong, "refused": dict(found.refused)}
    return json.dumps({"part": asdict(part), **entry}) + "\n"


def from_log(text: str) -> dict[Part, Survey]:
    """The parts of some such lines."""
    entries = map(json.loads, text.splitlines())
    return {
        Part(**entry["part"]): Survey(
            entry["equal"], {int(seed): what for seed, what in entry["wrong"].items()}, Counter(entry["refused"])
        )
        for entry in entries
    }


def surveyed(parts: Sequence[Part], jobs: int, log: Path | None, seconds: float) -> Iterator[tuple[Part, Survey]]:
    """The parts and what was found, in the order in which they end: those of the log first, which are not run again.

    Args:
        parts: What to run.
        jobs: How many processes at a time.
        log: A file of one JSON object a line, to which each part is added once it has ended.
        seconds: No part begins later than that.
    """
    done = from_log(log.read_text()) if log is not None and log.exists() else {}
    yield from ((part, done[part]) for part in parts if part in done)
    end, left = time.monotonic() + seconds, iter([part for part in parts if part not in done])
    # A process a part: what an engine leaves behind ends with it.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(part.survey): part for part in islice(left, jobs)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                part, found = running.pop(future), future.result()
                if log is not None:
                    with log.open("a") as file:
                        file.write(logged(part, found))
                yield part, found
                if time.monotonic() < end and (following := next(left, None)) is not None:
                    running[pool.submit(following.survey)] = following


def main() -> None:
    """What engines do with networks, and the reasons of those that they are refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="by default, all; repeatable")
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--onednn", metavar="ISA", help="ONEDNN_MAX_CPU_ISA of the engines: AVX2, AVX512_CORE, ...")
    parser.add_argument(
        "--target", choices=[target.value for target in Target], help="by default, each network draws one"
    )
    parser.add_argument("--wide", action="store_true", help="layers of several times as many channels")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--part", type=int, default=20, help="networks of one process")
    parser.add_argument("--log", type=Path, help="a file to go on from: what it has is not run again")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing later than that")
    chosen = parser.parse_args()
    here = environment()
    print(f"{here.processor}, {', '.join(here.instructions)}; oneDNN: {chosen.onednn or 'all of them'}", flush=True)
    starts = range(chosen.first, chosen.first + chosen.networks, chosen.part)
    parts = [
        Part(engine, chosen.onednn, chosen.target, start, min(chosen.part, starts.stop - start), chosen.wide)
        for engine in chosen.engine or ENGINES
        for start in starts
    ]
    total: dict[str, Survey] = {part.engine: Survey() for part in parts}
    began = time.monotonic()
    for count, (part, found) in enumerate(surveyed(parts, chosen.jobs, chosen.log, chosen.seconds), start=1):
        total[part.engine] += found
        left = (time.monotonic() - began) / count * (len(parts) - count)
        print(f"{count} of {len(parts)} parts, {left:.0f} s left", file=sys.stderr, flush=True)
    for engine, found in total.items():
        unmade = found.refused.total() - found.of_exporter
        print(
            f"{engine}: {found.equal} equal, {len(found.wrong)} not, {found.of_exporter} refused by the exporter, "
            f"{unmade} before"
        )
        for words, count in found.refused.most_common():
            print(f"  {count} x {words}")
        for seed, wrong in found.wrong.items():
            print(f"  seed {seed}: {wrong}")
    raise SystemExit(any(found.wrong for found in total.values()))


if __name__ == "__main__":
    main()
