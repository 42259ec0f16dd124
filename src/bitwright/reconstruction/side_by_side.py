# SPDX-License-Identifier: MIT
"""The float network and its quantized one on the same images, layer by layer, for who changes layers on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bitwright.graph.evaluate import Tensors, float_result
from bitwright.graph.nodes import Layer
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Quantized

BATCH = 128

Visit = Callable[[Layer, Sequence[Tensor], Sequence[Quantized]], None]
"""Told of a layer, and of what it reads in both networks, a batch each."""


@torch.no_grad()
def side_by_side(model: QuantizedModel, images: Tensor, floats: Tensors, visit: Visit) -> None:
    """Run both networks, and visit each layer before it runs: what a visit changes, all later layers read.

    All images are at one layer at a time, and what no later node reads is forgotten.

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
    made: dict[str, list[Quantized]] = {}
    for step, node in enumerate(graph):
        sources = [[real[name][part] for name in node.inputs] or [images] for part, images in enumerate(parts)]
        inputs = [
            [made[name][part] for name in node.inputs] or [Quantized(images, images.new_ones(()))]
            for part, images in enumerate(parts)
        ]
        if isinstance(node, Layer):
            visit(node, [source[0] for source in sources], [source[0] for source in inputs])
        real[node.name] = [float_result(node, source, floats) for source in sources]
        made[node.name] = [fake_quantize(node, source, context) for source in inputs]
        for name in node.inputs:
            if last_use[name] == step:
                real.pop(name, None)
                made.pop(name, None)
