# SPDX-License-Identifier: MIT
"""Images to integers: the first operation of every integer model."""

from __future__ import annotations

from math import isfinite

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.nodes import Input, Node
from bitwright.integer.execution.prepared import PreparedModel, Step, as_reference, prepare_op
from bitwright.integer.execution.reference import execute_op
from bitwright.integer.execution.triton_steps import as_prepared, triton_op
from bitwright.integer.lowering.lower import Lowering, lower_node
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import Quantize, ReciprocalQuantize
from bitwright.integer.proof.ranges import Range, result_range
from bitwright.integer.proof.recheck import check_op
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import shape_of


@lower_node.register
def _(node: Input, lowering: Lowering) -> Node:
    params = lowering.params(node)
    lowering.formats[node.name] = params
    return Quantize(
        name=node.name, inputs=(), shape=node.shape, place=node.place,
        scale=params.scale, low=params.quant_min, high=params.quant_max,
    )  # fmt: skip


@shape_of.register
def _(op: Quantize | ReciprocalQuantize, inputs: list[Tensor]) -> Tensor:
    if len(op.shape) != 3 or min(op.shape) < 1 or inputs:
        raise ValueError("images have channels, height and width")
    return torch.empty((1, *op.shape), device="meta")


@result_range.register
def _(op: Quantize | ReciprocalQuantize, sources: list[Range], model: IntegerModel) -> Range:
    return op.low, op.high


@check_op.register
def _(op: Quantize | ReciprocalQuantize, sources: list[Range], model: IntegerModel) -> None:
    scale = float(np.float32(op.scale)) if abs(op.scale) < float(np.finfo(np.float32).max) else 0.0
    if not (isfinite(scale) and scale >= float(np.finfo(np.float32).tiny)):
        raise LoweringError(f"'{op.name}': expected a positive scale within float32, got {op.scale}.")
    if op.name not in model.formats or model.formats[op.name].scale != op.scale:
        raise LoweringError(f"'{op.name}': expected a format of the scale {op.scale} that images are divided by.")


@execute_op.register
def _(op: Quantize, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    scale = torch.tensor(op.scale, dtype=torch.float32, device=inputs[0].device)
    return (inputs[0] / scale).round().clamp(op.low, op.high).to(torch.int32)


@execute_op.register
def _(op: ReciprocalQuantize, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    reciprocal = 1.0 / torch.tensor(op.scale, dtype=torch.float32, device=inputs[0].device)
    return (inputs[0].float() * reciprocal).round().clamp(op.low, op.high).to(torch.int32)


@prepare_op.register
def _(op: Quantize, model: PreparedModel) -> Step:
    scale = torch.tensor(op.scale, dtype=torch.float32, device=model.device)
    return lambda inputs: (
        inputs[0].contiguous(memory_format=torch.channels_last).div(scale).round_().clamp_(op.low, op.high)
    )


prepare_op.register(ReciprocalQuantize, as_reference)
triton_op.register(Quantize, as_prepared)
triton_op.register(ReciprocalQuantize, as_prepared)
