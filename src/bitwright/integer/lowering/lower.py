# SPDX-License-Identifier: MIT
"""From a QuantizedModel to an IntegerModel, with a proof for each channel.

Every ratio between an accumulator's unit and its output's scale becomes a multiplier `b / 2**c` with a certificate that float32
engines compute the same integers. A QuantizedModel that is given the proved constants (`certify`) computes in its forward pass
exactly the integers of the IntegerModel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.autocast import full_precision
from bitwright.graph.evaluate import Tensors
from bitwright.graph.nodes import Node
from bitwright.integer.lowering.layer_weights import tensor_params
from bitwright.integer.lowering.readiness import check_ready
from bitwright.integer.lowering.saturation_choice import SaturationChoices, against_saturation
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import Rescale
from bitwright.integer.outputs import Output
from bitwright.integer.proof.certificate import Certified, certify_requantize
from bitwright.integer.quant_params import QuantParams
from bitwright.progress import Progress, silent
from bitwright.quantizer.formats import clamp_limits
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Certificate


@dataclass
class Lowering:
    """What the functions that lower nodes share."""

    source: QuantizedModel
    parameters: Tensors
    against_saturation: SaturationChoices | None = None
    formats: dict[str, QuantParams] = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    units: dict[str, Tensor] = field(default_factory=dict)

    def inputs(self, node: Node) -> tuple[str, ...]:
        return tuple(self.renamed.get(name, name) for name in node.inputs)

    def params(self, node: Node) -> QuantParams:
        """Format of the tensor that `node` makes."""
        narrower = {} if self.against_saturation is None else self.against_saturation.formats
        return narrower.get(self.source.plan.quantizer_of[node.name]) or tensor_params(self.source, node.name)

    def limits(self, node: Node) -> tuple[int, int]:
        params = self.params(node)
        return clamp_limits(getattr(node, "bounds", None), params.format, params.scale)

    def output(self, name: str) -> Output:
        """The tensor `name` of the graph, as it leaves the network."""
        tensor = self.renamed.get(name, name)
        if tensor in self.formats:
            return Output(tensor, np.array([self.formats[tensor].scale]))
        return Output(tensor, self.units[tensor].double().cpu().numpy())

    def record(self, node: Node, certified: Certified, **more: Any) -> None:
        """Keep the facts of a certificate for the file and the report."""
        self.facts[node.name] = {
            "channels": len(certified.theorem),
            "theorem_a": certified.theorem.count("A"),
            "theorem_b": certified.theorem.count("B"),
            "exhaustive": certified.theorem.count("exhaustive"),
            "every_int32": int(certified.every_int32.sum()),
            "most_candidates": int(certified.candidates.max(initial=0)),
            "largest_relative_change": float(np.abs(certified.relative_change).max(initial=0.0)),
            **more,
        }


@dataclass(frozen=True)
class Lowered:
    """What lowering made.

    Attributes:
        model: The integer model.
        certificates: The constants that were proved, by node: with them (`QuantizedModel.certify`), the quantized model's forward
            pass gives the integers of `model`.
    """

    model: IntegerModel
    certificates: Mapping[str, Certificate]


def lower(
    model: QuantizedModel,
    *,
    avoid_saturation: bool = False,
    images: Tensor | None = None,
    progress: Progress = silent,
) -> IntegerModel:
    """Make the integer model of `model`, and prove it. `model` stays as it is, in training as well.

    Args:
        model: A calibrated or trained model.
        avoid_saturation: Whether to reduce the range of weights or activations where engines on CPUs without 8-bit dot products
            could saturate; what changed is among the facts of each layer, and in the scheme.
        images: float32 [count, channels, height, width], normalised as in training, on which that choice is made: some dozens do.
            Without, weights are narrowed.
        progress: Told about each step.

    Raises:
        LoweringError: If the model is not calibrated or not finite, an accumulator can leave int32, or no multiplier near the
            wanted one can be proved.
        DataError: If the images do not fit the model.
    """
    return lowered(model, avoid_saturation=avoid_saturation, images=images, progress=progress).model


def lowered(
    model: QuantizedModel,
    *,
    avoid_saturation: bool = False,
    images: Tensor | None = None,
    progress: Progress = silent,
) -> Lowered:
    """As `lower`, with the proved constants beside the integer model."""
    check_ready(model)
    with model.uncertified():
        return _lowered(model, avoid_saturation, images, progress)


@torch.no_grad()
@full_precision()
def _lowered(model: QuantizedModel, avoid_saturation: bool, images: Tensor | None, progress: Progress) -> Lowered:
    plan = model.plan
    before, total = 0, len(plan.graph.nodes)

    def choosing(done: int, steps: int, /, **figures: float) -> None:
        nonlocal before
        before = steps
        progress(done, steps + total, **figures)

    lowering = Lowering(model, model.parameters_by_name())
    if avoid_saturation:
        lowering.against_saturation = against_saturation(model, images, progress=choosing)
    ops = []
    for done, node in enumerate(plan.graph, 1):
        op = lower_node(node, lowering)
        if op is not None:
            ops.append(op)
        progress(before + done, before + total)
    certificates, scheme = lowering.certificates, plan.scheme
    if lowering.against_saturation is not None:
        certificates = lowering.against_saturation.certified(model, certificates)
        scheme = lowering.against_saturation.scheme(plan)
    outputs = {name: lowering.output(tensor) for name, tensor in plan.graph.outputs.items()}
    known = plan.source.preprocessing
    integer = IntegerModel(plan.graph.model, scheme, tuple(ops), lowering.formats, outputs, lowering.facts, known)
    return Lowered(integer, certificates)


@singledispatch
def lower_node(node: Node, lowering: Lowering) -> Node | None:
    """The integer operation of a node, or None where it vanishes."""
    raise NotImplementedError(f"no integer form of {type(node).__name__}")


def certified_rescale(node: Node, lowering: Lowering, unit: float, domain: tuple[int, int]) -> Rescale:
    """One multiplier for a whole tensor, proved over all values that it can have."""
    output = lowering.params(node)
    low, high = lowering.limits(node)
    try:
        certified = certify_requantize(unit / output.scale, *domain, low, high)
    except LoweringError as error:
        raise LoweringError(f"'{node.name}': {error}") from error
    lowering.formats[node.name] = output
    lowering.record(node, certified)
    device = lowering.source.activation_quantizer(node.name).scale.device
    lowering.certificates[node.name] = Certificate(torch.from_numpy(certified.multipliers.as_float32()).to(device))
    return Rescale(certified.multipliers, low, high)
