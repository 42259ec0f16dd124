# SPDX-License-Identifier: MIT
"""Where a network can be cut into blocks that are reconstructed one after another: at tensors through which everything flows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bitwright.graph.evaluate import Tensors, clamp, convolve, float_result, folded_weight
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Layer, Node
from bitwright.training.context import ForwardContext
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.quantized import Quantized


@dataclass(frozen=True)
class Block:
    """Consecutive nodes that read one tensor made before them, and make one that is read after them.

    Attributes:
        nodes: In execution order, at least one layer among them.
        source: The tensor that the first of them reads.
        results: The tensors that leave the block: outputs of the network, and last the one that is read after it.
    """

    nodes: tuple[Node, ...]
    source: str
    results: tuple[str, ...]

    @property
    def result(self) -> str:
        """The tensor that is read after the block."""
        return self.nodes[-1].name

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The nodes with weights."""
        return tuple(node for node in self.nodes if isinstance(node, Layer))


def blocks(graph: Graph) -> tuple[Block, ...]:
    """The finest cuts of a network, but for those that would leave a block without layers: a residual block stays whole.

    The image's own quantization belongs to no block.

    Source:
        Li et al. 2021, BRECQ, arXiv:2102.05426, section 3.3 (blocks as the units of reconstruction).
    """
    last_use = {name: step for step, node in enumerate(graph) for name in node.inputs}
    parts: list[tuple[tuple[Node, ...], str]] = []
    alive: set[str] = set()
    begun, source = 1, graph.nodes[0].name
    for step, node in enumerate(graph):
        alive = {name for name in (*alive, node.name) if last_use.get(name, -1) > step}
        if step == 0 or alive != {node.name}:
            continue
        nodes = graph.nodes[begun : step + 1]
        if any(isinstance(part, Layer) for part in nodes):
            parts.append((nodes, source))
            begun, source = step + 1, node.name
    rest = graph.nodes[begun:]
    if any(isinstance(part, Layer) for part in rest):
        parts.append((rest, source))
    elif rest:  # what follows the last layer, such as a pooling or a clamp
        parts[-1] = (parts[-1][0] + rest, parts[-1][1])
    return tuple(Block(nodes, source, _results(nodes, graph)) for nodes, source in parts)


def _results(nodes: tuple[Node, ...], graph: Graph) -> tuple[str, ...]:
    return (*(node.name for node in nodes[:-1] if node.name in graph.returned), nodes[-1].name)


def run_float(block: Block, values: Tensor, parameters: Tensors) -> dict[str, Tensor]:
    """The results of the block in float.

    Args:
        block: The nodes.
        values: Real values of its source.
        parameters: Tensors of the float network by name.
    """
    made = {block.source: values}
    for node in block.nodes:
        inputs = [made[name] for name in node.inputs]
        if isinstance(node, Layer):
            weight, bias = folded_weight(node, parameters)
            made[node.name] = clamp(convolve(node, inputs[0], weight, bias), node.bounds)
        else:
            made[node.name] = float_result(node, inputs, parameters)
    return {name: made[name] for name in block.results}


def run_quantized(block: Block, values: Quantized, context: ForwardContext) -> dict[str, Quantized]:
    """The results of the block in integers.

    Args:
        block: The nodes.
        values: Integers of its source.
        context: The context of the quantized network.
    """
    made = {block.source: values}
    for node in block.nodes:
        made[node.name] = fake_quantize(node, [made[name] for name in node.inputs], context)
    return {name: made[name] for name in block.results}
