# SPDX-License-Identifier: MIT
"""Programs of element-wise functions: made of what PyTorch computes, and as negative as their values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.errors import CaptureError
from bitwright.graph.functions import (
    FUNCTIONS,
    Program,
    apply_program,
    can_be_negative,
    check_program,
    compute,
    inserted,
)

ARGUMENTS = {"slope": 0.1, "alpha": 1.3}
VALUES = torch.linspace(-30.0, 30.0, 2001, dtype=torch.float64)
MADE = [name for name, function in FUNCTIONS.items() if function.program is not None]


def _program(name: str) -> Program:
    """A function of `x`, and of numbers where it has further arguments."""
    return ("x", *(ARGUMENTS.get(argument, 0.7) for argument in FUNCTIONS[name].arguments[1:]), name)


@pytest.mark.parametrize("name", MADE)
def test_what_a_function_is_made_of_is_the_function(name: str) -> None:
    """By primitive functions alone, to 1e-12 of PyTorch's in float64."""

    def primitive(step: str, given: list[Tensor | float]) -> Tensor | float | None:
        return None if FUNCTIONS[step].program is not None else FUNCTIONS[step].torch(*given)

    got = apply_program(_program(name), VALUES, primitive)  # type: ignore[arg-type]
    expected = compute(_program(name), VALUES)
    assert isinstance(got, Tensor)
    assert got.shape == VALUES.shape
    # F.softplus is linear from 20 on, which is 2e-9 off.
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("negative", [True, False])
def test_signs_are_those_of_the_values(name: str, negative: bool) -> None:
    """What is said never to be negative is not, on a grid of what the input can be."""
    values = VALUES if negative else VALUES.abs()
    found = compute(_program(name), values)
    if not can_be_negative(_program(name), negative):
        assert float(found[found.isfinite()].min()) >= 0


@pytest.mark.parametrize("name", ["sigmoid", "hardsigmoid", "softplus", "exp", "square", "abs", "sqrt"])
def test_what_is_never_negative_is_known_to_be(name: str) -> None:
    """These need no bit for a sign, whatever they are of."""
    assert not can_be_negative(("x", name), True)


@pytest.mark.parametrize("name", ["silu", "hardswish", "mish", "gelu", "gelu_tanh", "leaky_relu", "elu", "tanh"])
def test_what_keeps_its_sign_is_known_to(name: str) -> None:
    """These are negative for some negative values, and for no others."""
    assert can_be_negative(_program(name), True)
    assert not can_be_negative(_program(name), False)


def test_programs_in_programs() -> None:
    """The outer program reads the inner one's result wherever it reads x."""
    program = inserted(("x", "x", "sigmoid", "mul"), ("x", 2.0, "mul"))
    assert program == ("x", 2.0, "mul", "x", 2.0, "mul", "sigmoid", "mul")
    torch.testing.assert_close(compute(program, VALUES), torch.nn.functional.silu(2 * VALUES))


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (("x", "sigmod"), "did you mean 'sigmoid'"),
        (("x", "add"), "expected 2 values for 'add'"),
        (("x", "x"), "one result"),
        ((1.0, "exp"), "a program of 'x'"),
        ((), "one result"),
    ],
)
def test_what_is_no_program_is_refused(program: Program, why: str) -> None:
    """By the step where it goes wrong."""
    with pytest.raises(CaptureError, match=why):
        check_program(program)
