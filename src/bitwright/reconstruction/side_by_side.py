# SPDX-License-Identifier: MIT
"""The float network and its quantized one on the same images, layer by layer, for who changes layers on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from bitwright.graph.evaluate import Tensors, float_result
from bitwright.graph.nodes import Layer
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Quantized

BATCH = 128

Visit = Callable[[Layer, Sequence[Tensor], Iterable[Quantized]], None]
"""Told of a layer, and of what it reads in both networks, a batch each, as often as it likes."""


@torch.no_grad()
def side_by_side(model: QuantizedModel, images: Tensor, floats: Tensors, visit: Visit) -> None:
    """Run both networks, and visit each layer before it runs: what a visit changes, all later layers read.

    All images are at one layer at a time, and what no later node reads is forgotten; integers are kept in the narrowest type.

    Args:
        model: A calibrated model, in evaluation mode.
        images: float32, shape (count, channels, height, width).
        floats: Tensors of the float network by name.
        visit: May change the parameters of the layer in `model`.
    """
    graph, context = model.plan.graph, model.context()
    last_use = {name: step for step, node in enumerate(graph) for name in node.inputs}
    parts = torch.split(images, BATCH)
    real: dict[str, list[Tensor]] = {}
    made: dict[str, _Kept] = {}
    for step, node in enumerate(graph):
        if isinstance(node, Layer):
            visit(node, real[node.inputs[0]], made[node.inputs[0]])
        sources = zip(*(real[name] for name in node.inputs), strict=True) if node.inputs else ([part] for part in parts)
        real[node.name] = [float_result(node, list(source), floats) for source in sources]
        inputs = zip(*(made[name] for name in node.inputs), strict=True) if node.inputs else _unquantized(parts)
        made[node.name] = _Kept(fake_quantize(node, list(source), context) for source in inputs)
        for name in node.inputs:
            if last_use[name] == step:
                real.pop(name, None)
                made.pop(name, None)


def _unquantized(parts: Iterable[Tensor]) -> Iterator[list[Quantized]]:
    return ([Quantized(images, images.new_ones(()))] for images in parts)


class _Kept:
    """What a node makes of all images, a batch each."""

    def __init__(self, parts: Iterable[Quantized]) -> None:
        self._parts = [Quantized(_narrow(part.values), part.scale) for part in parts]

    def __iter__(self) -> Iterator[Quantized]:
        return (Quantized(part.values.to(part.scale.dtype), part.scale) for part in self._parts)


def _narrow(values: Tensor) -> Tensor:
    """The same integers in a byte or two, where they fit."""
    low, high = (float(end) for end in values.aminmax())
    for kind in (torch.uint8, torch.int8, torch.int16):
        if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max:
            return values.to(kind)
    return values
