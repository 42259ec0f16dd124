# SPDX-License-Identifier: MIT
"""The operations of a captured network: frozen dataclasses that say what is computed, never how.

A node names its tensors; the tensors themselves are the graph's parameters. What a node means in a phase (cost, float
execution, fake quantization, lowering, …) is a `functools.singledispatch` function of that phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

Pair = tuple[int, int]


@dataclass(frozen=True)
class Bounds:
    """A fused element-wise clamp: ReLU is (0, None), ReLU6 is (0, 6), hard tanh is (-1, 1).

    Attributes:
        minimum: Lower bound, or None.
        maximum: Upper bound, or None.
    """

    minimum: float | None
    maximum: float | None = None

    def __post_init__(self) -> None:
        # An infinite bound is none; JSON could not say it.
        object.__setattr__(self, "minimum", None if self.minimum == -math.inf else self.minimum)
        object.__setattr__(self, "maximum", None if self.maximum == math.inf else self.maximum)

    @property
    def non_negative(self) -> bool:
        return self.minimum is not None and self.minimum >= 0

    def clamp(self, value: float) -> float:
        """One number, clamped."""
        value = value if self.minimum is None else max(value, self.minimum)
        return value if self.maximum is None else min(value, self.maximum)

    def then(self, other: Bounds) -> Bounds:
        """This clamp followed by `other`, which clamps what comes out of this one at its ends."""
        return Bounds(
            other.minimum if self.minimum is None else other.clamp(self.minimum),
            other.maximum if self.maximum is None else other.clamp(self.maximum),
        )


@dataclass(frozen=True)
class Norm:
    """Batch normalisation in evaluation mode, by the names of its tensors, each of shape (channels,).

    Attributes:
        mean: Running mean.
        variance: Running variance.
        weight: Gain, or None.
        bias: Offset, or None.
        eps: Added to the variance.
    """

    mean: str
    variance: str
    weight: str | None
    bias: str | None
    eps: float


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation, which makes one tensor of the same name.

    Attributes:
        name: Unique in the graph; layers bear the name of their module.
        inputs: Names of the tensors it reads, in order.
        shape: The shape of the tensor it makes, without the batch axis.
        place: The module and ATen operation it came from, for messages.
    """

    reads: ClassVar[Pair] = (1, 1)
    """How many tensors such a node reads, at least and at most."""

    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    place: str = ""

    def reading(self, *inputs: str) -> Any:
        """The same node with other inputs."""
        return replace(self, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class Input(Node):
    """The image batch."""

    reads: ClassVar[Pair] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class Conv2d(Node):
    """2-d convolution, with the batch normalisation and the clamp that passes fused into it.

    `weight` has shape (out_channels, in_channels / groups, kernel_height, kernel_width).
    """

    weight: str
    bias: str | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    norm: Norm | None = None
    bounds: Bounds | None = None


@dataclass(frozen=True, kw_only=True)
class Linear(Node):
    """Matrix product with `weight` of shape (out_features, in_features)."""

    weight: str
    bias: str | None
    norm: Norm | None = None
    bounds: Bounds | None = None


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Node):
    """Batch normalisation that no pass has fused yet."""

    norm: Norm


@dataclass(frozen=True, kw_only=True)
class Affine(Node):
    """`gain * x + offset` by constants, each of shape (channels,), as captured; passes must resolve it."""

    gain: str
    offset: str


@dataclass(frozen=True, kw_only=True)
class Clamp(Node):
    """Element-wise clamp (ReLU, ReLU6, hard tanh) that could not be fused into its producer."""

    bounds: Bounds


@dataclass(frozen=True, kw_only=True)
class Add(Node):
    """Element-wise sum of two tensors of one shape."""

    reads: ClassVar[Pair] = (2, 2)

    bounds: Bounds | None = None


@dataclass(frozen=True, kw_only=True)
class Concat(Node):
    """Concatenation along the channels."""

    reads: ClassVar[Pair] = (1, 2**31)


@dataclass(frozen=True, kw_only=True)
class Bytewise(Node):
    """What computes each element from integers of at most 8 bits, so that all cases can be gone through: products, tables."""


@dataclass(frozen=True, kw_only=True)
class Selection(Node):
    """What makes only values that it reads: the integers of its result keep the scale, format and range of its input's."""


@dataclass(frozen=True, kw_only=True)
class Move(Selection):
    """What selects or reorders values by their place alone: the same in float and in integers, on tensors of any type."""


@dataclass(frozen=True, kw_only=True)
class MaxPool2d(Selection):
    """Maximum over windows; padding never wins."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool


@dataclass(frozen=True, kw_only=True)
class AvgPool2d(Node):
    """Mean over windows of constant area: sum / (kernel_height * kernel_width), padding counted as zeros."""

    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True, kw_only=True)
class Flatten(Move):
    """All axes but the batch become one."""


@dataclass(frozen=True, kw_only=True)
class Dropout(Move):
    """Drops elements with `probability` in training; the identity otherwise."""

    probability: float


@dataclass(frozen=True, kw_only=True)
class Slice(Move):
    """Channels `start` to `stop` (exclusive)."""

    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class ChannelShuffle(Move):
    """Channels read as (groups, channels / groups) and transposed, as in ShuffleNet."""

    groups: int


@dataclass(frozen=True, kw_only=True)
class Take(Move):
    """Places along one axis, in any order and as often as they are named: a strided slice, a flip, rows that are repeated.

    Attributes:
        axis: 1 for channels or features, 2 for rows, 3 for columns.
        places: The places of the input, one for each place of the result.
    """

    axis: int
    places: tuple[int, ...]

    @property
    def slice(self) -> tuple[int, int, int] | None:
        """Start, stop (exclusive) and a positive step, if the places are a slice."""
        first, last, count = self.places[0], self.places[-1], len(self.places)
        step = (last - first) // (count - 1) if count > 1 else 1
        if step < 1 or self.places != tuple(range(first, last + 1, step)):
            return None
        return first, last + 1, step


@dataclass(frozen=True, kw_only=True)
class Pad(Move):
    """Zeros around an image.

    Attributes:
        before: Channels, rows and columns of zeros before the image.
        after: Those behind it.
    """

    before: tuple[int, int, int]
    after: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class DepthToSpace(Move):
    """`block` x `block` pixels out of every one: pixel (i, j) of them from the channels from (i * block + j) * C on."""

    block: int


@dataclass(frozen=True, kw_only=True)
class Rearrange(Move):
    """Axes that are cut into parts, which are put together in another order: any chain of views and transposes.

    The values of an image, in the order (channels, height, width), are read as an array of the sizes `parts`; its axes are put in
    `order`, and the result is read as an image of `shape`; or, where it leaves the network, as a tensor of any axes.

    Attributes:
        parts: Sizes, whose product is the number of values.
        order: The parts in the order of the result, each once.
    """

    parts: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Reshape(Node):
    """A view of another rank, as captured; passes must resolve it."""


@dataclass(frozen=True, kw_only=True)
class Permute(Node):
    """Axes in another order (counted with the batch, which stays the first), as captured; passes must resolve it."""

    axes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Probabilities(Node):
    """Softmax over the channels, or its logarithm, as captured: passes leave it out where it ends the network."""

    logarithm: bool


@dataclass(frozen=True, kw_only=True)
class Requantize(Node):
    """The same values at another scale and `bit_width`; placed by the quantization plan, the identity in float."""

    bit_width: int


Layer = Conv2d | Linear


def node_kinds(package: str = __package__) -> dict[str, type[Node]]:
    """The kinds of nodes that a package has, by name, without those that others are cases of."""
    found: dict[str, type[Node]] = {}

    def enter(kind: type[Node]) -> None:
        for case in kind.__subclasses__():
            enter(case)
        if not kind.__subclasses__() and kind.__module__.startswith(f"{package}."):
            found[kind.__name__] = kind

    enter(Node)
    return found
