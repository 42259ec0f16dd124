# SPDX-License-Identifier: MIT
"""A few words for writing TIR by hand: vectors, loops over overlapping blocks, and functions over a batch of any size.

Tensors are two-dimensional, (batch, elements): images lie in memory as (height, width, channels), channels innermost, so that
kernels read and write whole vectors of channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

__all__ = [
    "Buffer", "Expr", "Kernel", "T", "blocks", "cast", "clamp", "constant", "kernel", "let", "load", "number", "ramp", "small",
    "split", "stack", "store", "tasks", "tirx", "vector", "workspace",
]  # fmt: skip

Expr = Any
Buffer = Any


@dataclass
class Kernel:
    """A TIR function while it is written; `finished` when the `with` block of `kernel` ends.

    Attributes:
        batch: The symbolic number of images.
        finished: The function.
    """

    batch: Expr
    finished: Any = field(default=None)

    def tensor(self, name: str, elements: int, dtype: str) -> Buffer:
        """A parameter of shape (batch, elements)."""
        return T.arg(name, T.buffer((self.batch, elements), dtype, layout=None))


@contextmanager
def kernel(name: str) -> Iterator[Kernel]:
    """Write a function: its parameters first, then its body."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True})
            made = Kernel(T.int64())
            yield made
        made.finished = builder.get()


def constant(name: str, shape: Sequence[int], dtype: str) -> Buffer:
    """A parameter of fixed shape."""
    return T.arg(name, T.buffer(tuple(shape), dtype, layout=None))


def number(value: int, dtype: str = "int32", lanes: int = 1) -> Expr:
    """A constant, in every lane."""
    scalar = tirx.const(value, dtype)
    return scalar if lanes == 1 else T.broadcast(scalar, lanes)


def vector(dtype: str, lanes: int) -> str:
    """The name of a vector type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def ramp(start: Expr, lanes: int, stride: int = 1) -> Expr:
    """Index of `lanes` elements from `start`."""
    return start if lanes == 1 else T.ramp(start, stride, lanes)


def load(buffer: Buffer, *index: Expr, lanes: int = 1, stride: int = 1) -> Expr:
    """`lanes` elements along the last axis."""
    return buffer[(*index[:-1], ramp(index[-1], lanes, stride))]


def store(buffer: Buffer, value: Expr, *index: Expr, lanes: int = 1, stride: int = 1) -> None:
    """Write `lanes` elements along the last axis."""
    T.buffer_store(buffer, value, [*index[:-1], ramp(index[-1], lanes, stride)])


def let(value: Expr) -> Expr:
    """Compute once, use often."""
    return T.Bind(value)


def cast(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """Convert every lane."""
    return T.cast(value, vector(dtype, lanes))


def clamp(value: Expr, low: int, high: int, dtype: str = "int32", lanes: int = 1) -> Expr:
    """Between two constants, in every lane."""
    return T.min(T.max(value, number(low, dtype, lanes)), number(high, dtype, lanes))


def small(value: Expr) -> Expr:
    """A task's number in 32 bits."""
    return let(T.cast(value, "int32"))


def stack(elements: int, dtype: str) -> Buffer:
    """A few vectors that the compiler keeps in registers: below 1024 bytes, global scope means the stack."""
    return T.alloc_buffer((elements,), dtype)


def workspace(elements: int, dtype: str) -> Buffer:
    """Memory of a task, from the thread's pool."""
    return T.alloc_buffer((elements,), dtype)


@contextmanager
def tasks(made: Kernel, count: int) -> Iterator[tuple[Expr, Expr]]:
    """Run `count` tasks for every image on all threads: yields the image and the task's number."""
    with T.parallel(made.batch * count) as task:
        image = let(T.floordiv(task, number(count, "int64")))
        yield image, small(T.floormod(task, number(count, "int64")))


def blocks(length: int, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """Call `body` with the start and the lanes of blocks that cover `length`; the last one overlaps its neighbour.

    What blocks compute must depend on their place alone, so that doing a part twice changes nothing.
    """
    lanes = min(lanes, length)
    if length == lanes:
        body(number(0), lanes)
        return
    with T.serial((length + lanes - 1) // lanes) as index:
        body(let(T.min(index * lanes, length - lanes)), lanes)


def split(length: int, at_least: int) -> tuple[int, int]:
    """A number of tasks and the length of each, for `length` elements of cheap work."""
    count = max(1, min(8, length // at_least))
    return count, (length + count - 1) // count
