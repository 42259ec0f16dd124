# SPDX-License-Identifier: MIT
"""Element-wise functions of one tensor, as short programs of named functions: what a `Table` computes in float.

A program is a tuple of steps for a stack: `x` pushes the tensor, a number pushes itself, and a name takes as many values as its
function has arguments and pushes the result. So `("x", "x", "sigmoid", "mul")` is `x * sigmoid(x)`. Programs are plain values:
they stand in files, are put into one another, and are run on whatever an engine calls a tensor.

A function is either *primitive*, which every engine must know, or made of others; engines may have a form of their own for one
of these. A new function is one entry here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.errors import CaptureError, unknown_name

Program = tuple[str | float, ...]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Function:
    """One named function.

    Attributes:
        arguments: Their names in the program; the first may be a tensor where others are numbers.
        program: What it is made of, or None for a primitive one.
        torch: Computes it in PyTorch, whatever it is made of.
        negative: Whether its values can be negative, of whether each argument can; None says what its program says.
    """

    arguments: tuple[str, ...]
    program: Program | None
    torch: Callable[..., Tensor]
    negative: Callable[..., bool] | None = None


def _real(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of tensors that takes numbers as well, one of them a tensor."""

    def of_any(*values: Tensor | float) -> Tensor:
        like = next(value for value in values if isinstance(value, Tensor))
        return function(*(value if isinstance(value, Tensor) else like.new_tensor(value) for value in values))

    return of_any


def _never(*arguments: bool) -> bool:
    return False


def _always(*arguments: bool) -> bool:
    return True


def _any(*arguments: bool) -> bool:
    return any(arguments)


def _all(*arguments: bool) -> bool:
    return all(arguments)


X, TWO = ("x",), ("x", "y")
FUNCTIONS: Mapping[str, Function] = {
    "add": Function(TWO, None, _real(torch.add), _any),
    "sub": Function(TWO, None, _real(torch.sub), _always),
    "mul": Function(TWO, None, _real(torch.mul), _any),
    "div": Function(TWO, None, _real(torch.div), _any),
    "minimum": Function(TWO, None, _real(torch.minimum), _any),
    "maximum": Function(TWO, None, _real(torch.maximum), _all),
    "neg": Function(X, None, torch.neg, _always),
    "abs": Function(X, None, torch.abs, _never),
    "exp": Function(X, None, torch.exp, _never),
    "log": Function(X, None, torch.log, _always),
    "sqrt": Function(X, None, torch.sqrt, _never),
    "sigmoid": Function(X, None, torch.sigmoid, _never),
    "tanh": Function(X, None, torch.tanh, _any),
    "erf": Function(X, None, torch.erf, _any),
    "square": Function(X, ("x", "x", "mul"), torch.square, _never),
    "reciprocal": Function(X, (1.0, "x", "div"), torch.reciprocal),
    "rsqrt": Function(X, (1.0, "x", "sqrt", "div"), torch.rsqrt),
    "silu": Function(X, ("x", "x", "sigmoid", "mul"), F.silu),
    "hardsigmoid": Function(X, ("x", 3.0, "add", 0.0, "maximum", 6.0, "minimum", 1 / 6, "mul"), F.hardsigmoid, _never),
    "hardswish": Function(X, ("x", "x", "hardsigmoid", "mul"), F.hardswish),
    "leaky_relu": Function(
        ("x", "slope"), ("x", 0.0, "maximum", "x", 0.0, "minimum", "slope", "mul", "add"), F.leaky_relu
    ),
    "elu": Function(
        ("x", "alpha"),
        ("x", 0.0, "maximum", "x", 0.0, "minimum", "exp", 1.0, "sub", "alpha", "mul", "add"),
        F.elu,
        lambda x, alpha: x,
    ),
    # log(1 + exp(x)), which does not overflow.
    "softplus": Function(
        X, ("x", 0.0, "maximum", "x", "abs", "neg", "exp", 1.0, "add", "log", "add"), F.softplus, _never
    ),
    "mish": Function(X, ("x", "x", "softplus", "tanh", "mul"), F.mish),
    "gelu": Function(X, ("x", 0.5, "mul", "x", math.sqrt(0.5), "mul", "erf", 1.0, "add", "mul"), F.gelu),
    "gelu_tanh": Function(
        X,
        (
            *("x", 0.5, "mul"),
            *("x", "square", 0.044715, "mul", 1.0, "add", "x", "mul", math.sqrt(2 / math.pi), "mul", "tanh"),
            *(1.0, "add", "mul"),
        ),
        partial(F.gelu, approximate="tanh"),
    ),
}
"""By name."""


def apply_program(
    program: Program, x: Value, primitive: Callable[[str, Sequence[Value | float]], Value | float | None]
) -> Value | float:
    """Run a program.

    Args:
        program: A checked one.
        x: What `x` stands for.
        primitive: Computes one function of tensors and numbers. Of a function that is made of others it may return None: then
            these are run.
    """
    return _run(program, {"x": x}, primitive)


def _run(
    program: Program,
    names: Mapping[str, Value | float],
    primitive: Callable[[str, Sequence[Value | float]], Value | float | None],
) -> Value | float:
    stack: list[Value | float] = []
    for step in program:
        if not isinstance(step, str):
            stack.append(step)
        elif step in names:
            stack.append(names[step])
        else:
            function = FUNCTIONS[step]
            count = len(function.arguments)
            given = stack[-count:]
            del stack[-count:]
            found = primitive(step, given)
            if found is None:
                assert function.program is not None, f"no form of {step}"
                found = _run(function.program, dict(zip(function.arguments, given, strict=True)), primitive)
            stack.append(found)
    (result,) = stack
    return result


def compute(program: Program, x: Tensor) -> Tensor:
    """The values of a program in the type of `x`, element by element; differentiable.

    >>> compute(("x", "x", "sigmoid", "mul"), torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7311])
    """
    result = apply_program(program, x, lambda name, given: FUNCTIONS[name].torch(*given))
    assert isinstance(result, Tensor)
    return result


def can_be_negative(program: Program, x: bool) -> bool:
    """Whether values of a program can be negative, where `x` can or cannot.

    >>> can_be_negative(("x", "sigmoid"), True), can_be_negative(("x", "silu"), True), can_be_negative(("x", "silu"), False)
    (False, True, False)
    """

    def sign(name: str, given: Sequence[bool | float]) -> bool | float | None:
        rule = FUNCTIONS[name].negative
        if rule is None:
            return None
        return rule(*(value if isinstance(value, bool) else value < 0 for value in given))

    found: bool | float = apply_program(program, x, sign)
    return bool(found)


def inserted(outer: Program, inner: Program) -> Program:
    """The program of `outer` after `inner`.

    >>> inserted(("x", 6.0, "div"), ("x", 3.0, "add"))
    ('x', 3.0, 'add', 6.0, 'div')
    """
    return tuple(part for step in outer for part in (inner if step == "x" else (step,)))


def check_program(program: Program) -> None:
    """Refuse what is no program of one result that depends on `x`.

    Raises:
        CaptureError: Names the step.
    """
    depth = 0
    for step in program:
        taken = 0
        if isinstance(step, str) and step != "x":
            if step not in FUNCTIONS:
                raise CaptureError(str(unknown_name("function", step, FUNCTIONS)))
            taken = len(FUNCTIONS[step].arguments)
        if depth < taken:
            raise CaptureError(f"expected {taken} values for '{step}' in the program {list(program)}, got {depth}.")
        depth += 1 - taken
    if depth != 1 or "x" not in program:
        raise CaptureError(f"expected a program of 'x' with one result, got {list(program)}.")
