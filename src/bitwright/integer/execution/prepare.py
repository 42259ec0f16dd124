# SPDX-License-Identifier: MIT
"""The choice of kernels for the fast executor."""

from __future__ import annotations

import torch

from bitwright.errors import unknown_name
from bitwright.integer.execution.prepared import PreparedModel, StepOf, prepare_op
from bitwright.integer.execution.triton_steps import PRODUCTS, check_triton, triton_op
from bitwright.integer.model import IntegerModel


def prepare(model: IntegerModel, device: torch.device | str = "cpu", kernels: str = "torch") -> PreparedModel:
    """`model`, ready to run fast on `device`.

    Args:
        model: The integer model.
        device: Where to run, for instance `cpu` or `cuda`.
        kernels: `torch`, or on a CUDA device `triton` for int8 tensor cores; `triton-bf16` and `triton-fp16` multiply the same
            integers in these types where their sums stay exact, for comparison.

    Raises:
        UnknownNameError: If there are no such kernels.
        LoweringError: If the model is not proved; or the kernels are Triton's, and the device is no CUDA device or Triton is
            missing.
    """
    place = torch.device(device)
    return PreparedModel(model, place, kernels, _step_of(place, kernels))


def _step_of(device: torch.device, kernels: str) -> StepOf:
    if kernels == "torch":
        return prepare_op
    if kernels not in PRODUCTS:
        raise unknown_name("choice of kernels", kernels, ("torch", *PRODUCTS))
    check_triton(device, kernels)
    return triton_op
