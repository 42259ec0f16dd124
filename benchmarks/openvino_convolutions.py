# SPDX-License-Identifier: MIT
"""Which convolutions does OpenVINO compute otherwise? `python benchmarks/openvino_convolutions.py --json FILE`.

Single convolutions of random form on small images of whole numbers, in float32 and on bytes (with a zero point and without),
as OpenVINO runs them, and in the form that exported files have: a stride of 1 across wherever the result is one pixel wide,
groups of one channel as depthwise convolutions, and float32 where it is made of padding alone, or where bytes have a zero
point and groups have channels that are no multiple of 4. Sums are compared with PyTorch's in float64, which are exact; on bytes,
biased, rescaled and rounded as files do it. All run in another process, which some of them end. Which convolutions are wrong
depends on the CPU: those known need AVX-512, or AMX.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset15 as ops
import torch
import torch.nn.functional as F

from bitwright.benchmark import environment
from bitwright.cli.console import bar
from bitwright.files import write_json

KINDS = ("float32", "bytes", "bytes with a zero point")
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
FORMS = {False: "as they are", True: "as exported"}
FENCE = 2.0**24
LEAST = -158
"""The integer that is stored as the byte 0, where there is a zero point."""


@dataclass(frozen=True)
class Geometry:
    """A convolution, its axes down and across.

    Attributes:
        channels: Of the image, and of the result.
        image: Height and width.
        kernel: Taps.
        stride: Pixels from one result to the next.
        padding: Pixels on either side.
        dilation: Pixels from one tap to the next.
        groups: Of channels.
        batch: Images.
    """

    channels: tuple[int, int]
    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    batch: int

    @property
    def by_group(self) -> int:
        """Channels of the image that a result reads."""
        return self.channels[0] // self.groups

    @property
    def reach(self) -> tuple[int, int]:
        """From the first tap to the last, that included."""
        return (self.dilation[0] * (self.kernel[0] - 1) + 1, self.dilation[1] * (self.kernel[1] - 1) + 1)

    @property
    def sort(self) -> str:
        """What is counted together."""
        if self.misses(0) or self.misses(1):
            return "of padding alone"
        if self.groups > 1 and self.by_group % 4:
            return "in groups of channels that are no multiple of 4"
        if self.result[1] > 1:
            return "wider"
        return f"one pixel wide, stride {'of 1' if self.stride[1] == 1 else 'of 2 or 3'} across"

    @property
    def result(self) -> tuple[int, ...]:
        """Height and width of the result; below 1 where the kernel is larger than the image."""
        sizes = zip(self.image, self.padding, self.reach, self.stride, strict=True)
        return tuple((size + 2 * padding - reach) // stride + 1 for size, padding, reach, stride in sizes)

    def misses(self, axis: int) -> bool:
        """Whether no tap of any result meets the image along an axis."""
        places = range(self.result[axis])
        taps = [self.dilation[axis] * tap - self.padding[axis] for tap in range(self.kernel[axis])]
        return not any(0 <= place * self.stride[axis] + tap < self.image[axis] for place in places for tap in taps)


def geometries(count: int, seed: int) -> Iterator[Geometry]:
    """As many, half of them with results that are one pixel wide."""
    draw, made, columns = random.Random(seed), 0, 0
    while made < count:
        groups = draw.choice([1, 1, 2, 3])
        kernel = draw.choice([1, 2, 3, 5]), draw.choice([1, 2, 3, 5])
        found = Geometry(
            (draw.choice([1, 3, 4, 8, 12, 33, 40]) * groups, draw.choice([4, 8, 17, 33, 40]) * groups),
            (draw.choice([1, 2, 3, 5, 7, 11]), draw.choice([1, 1, 2, 3, 5, 8])), kernel,
            (draw.choice([1, 2, 3]), draw.choice([1, 2, 3])),
            (draw.randint(0, kernel[0] - 1), draw.randint(0, kernel[1] - 1)),
            (draw.choice([1, 1, 2]), draw.choice([1, 1, 2])), groups, draw.choice([1, 2, 3]),
        )  # fmt: skip
        column = found.result[1] == 1
        if min(found.result) < 1 or (2 * columns > made) == column:
            continue
        made, columns = made + 1, columns + column
        yield found


def differs(geometry: Geometry, kind: str, *, mended: bool, seed: int) -> bool:
    """Whether OpenVINO computes another result; `mended` in the form that exported files have."""
    generator = np.random.default_rng(seed)
    (inputs, outputs), groups, low = geometry.channels, geometry.groups, LEAST if "zero point" in kind else 0
    images = generator.integers(low, low + 256, (geometry.batch, inputs, *geometry.image)).astype(np.float32)
    weight = generator.integers(-63, 64, (outputs, inputs // groups, *geometry.kernel)).astype(np.int8)
    bias = generator.integers(-3000, 3000, (1, outputs, 1, 1)).astype(np.float32)
    multiplier = (generator.integers(1, 9, (1, outputs, 1, 1)) / 2**14).astype(np.float32)
    window = [geometry.stride, geometry.padding, geometry.dilation]
    real, integers = torch.from_numpy(images).double(), torch.from_numpy(weight).double()
    sums = F.conv2d(real, integers, None, *window, groups=groups).numpy() + bias
    wanted = sums if kind == "float32" else np.clip(np.rint(sums.astype(np.float32) * multiplier), -20, 200)

    stride, behind = list(geometry.stride), list(geometry.padding)
    if mended and geometry.result[1] == 1 < stride[1]:
        gap, reach = geometry.dilation[1], geometry.reach[1] - geometry.padding[1]
        columns = max(0, -((reach - geometry.image[1]) // gap))
        weight = np.pad(weight, ((0, 0), (0, 0), (0, 0), (0, columns)))
        stride[1], behind[1] = 1, reach + gap * columns - geometry.image[1]
    given = ops.parameter([-1, inputs, *geometry.image], np.float32)
    source, factors = given, ops.convert(ops.constant(weight), np.float32)
    alone = geometry.groups > 1 and geometry.by_group == 1
    misread = geometry.sort == "of padding alone" or (low < 0 and geometry.sort.startswith("in groups") and not alone)
    if kind != "float32" and not (mended and misread):
        limits = [np.float32(limit) for limit in (low, low + 255, low, low + 255)]
        source = ops.fake_quantize(given, *limits, 256)
        factors = ops.multiply(factors, ops.constant(np.ones((outputs, 1, 1, 1), np.float32)))
    if mended and alone:
        source = ops.gather(source, ops.constant(np.repeat(np.arange(inputs), outputs // inputs)), ops.constant(1))
        groups = outputs
    if groups > 1:
        shape = np.array([groups, outputs // groups, geometry.by_group, *weight.shape[2:]])
        factors = ops.reshape(factors, shape, False)
    make = ops.convolution if groups == 1 else ops.group_convolution
    made = make(source, factors, stride, list(geometry.padding), behind, list(geometry.dilation))
    made = ops.add(made, ops.constant(bias))
    if kind != "float32":
        made = ops.clamp(made, -FENCE, FENCE)
        if (groups > 1 and geometry.by_group > 1) or geometry.result == (
            1,
            1,
        ):  # see bitwright.export.openvino.kernels.may_be_matrix_products
            made = ops.convert(ops.convert(made, np.int32), np.float32)
        made = ops.clamp(ops.round(ops.multiply(made, ops.constant(multiplier)), "half_to_even"), -20.0, 200.0)
    network = openvino.Model([ops.result(made)], [given])
    compiled = openvino.Core().compile_model(network, "CPU", SETTINGS)
    return not np.array_equal(compiled([images])[0], wanted)


def counted(kind: str, count: int, *, mended: bool) -> dict[str, dict[str, int]]:
    """How many convolutions there are of each sort, how many of them differ, and how many end the process."""
    found: dict[str, Counter[str]] = {}
    context = get_context("spawn")
    with bar(f"{kind}, {FORMS[mended]}") as progress:
        pool = ProcessPoolExecutor(1, context, initializer=torch.set_num_threads, initargs=(1,))
        for number, geometry in enumerate(geometries(count, seed=1)):
            row = found.setdefault(geometry.sort, Counter(tried=0, different=0, crashed=0))
            row["tried"] += 1
            try:
                row["different"] += pool.submit(differs, geometry, kind, mended=mended, seed=number).result()
            except BrokenProcessPool:
                row["crashed"] += 1
                pool = ProcessPoolExecutor(1, context, initializer=torch.set_num_threads, initargs=(1,))
            progress(number + 1, count)
        pool.shutdown()
    return {sort: dict(row) for sort, row in sorted(found.items())}


def main() -> None:
    """Count, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the counts")
    parser.add_argument("--count", type=int, default=2000, help="convolutions of each kind, in each form")
    chosen = parser.parse_args()
    rows: dict[str, Any] = {}
    for kind in KINDS:
        for mended in (False, True):
            name = f"{kind}, {FORMS[mended]}"
            rows[name] = counted(kind, chosen.count, mended=mended)
            for sort, row in rows[name].items():
                print(
                    f"{name}, {sort}: of {row['tried']} {row['different']} differ, {row['crashed']} crash", flush=True
                )
    write_json(chosen.json, {"environment": environment().to_dict(), "count": chosen.count, "rows": rows})


if __name__ == "__main__":
    main()
