# SPDX-License-Identifier: MIT
"""Where a published ResNet's quantizers stand in the captured graph, by their published names.

Each unit has `quant_act` before its first convolution (and before the one on its shortcut), `quant_act1` and `quant_act2` before
the following ones, and `quant_act_int32` for the sum. `quant_input` comes first, `quant_act_int32` after the stem, and
`quant_act_output` before the classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.errors import FileFormatError, SchemeError
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Add, Conv2d, Linear, MaxPool2d
from bitwright.scheme import Scheme
from bitwright.zoo.names import layer_name, model_name
from bitwright.zoo.registry import published_modules

_BEFORE = {
    "quant_convbn1": "quant_act",
    "quant_identity_convbn": "quant_act",
    "quant_convbn2": "quant_act1",
    "quant_convbn3": "quant_act2",
}
_STEMS = ("quant_init_block_convbn", "quant_init_convbn")


@dataclass(frozen=True)
class Layout:
    """A captured ResNet in the published words.

    Attributes:
        module_of: The published module of each layer.
        stem: The first layer.
        terms: Layers whose results are summed.
        residuals: Tensors that keep the bits of residuals: the stem's maximum, and the sums.
        reader_of: A layer that reads each activation quantizer, by published name.
        successor_of: The quantizer that each layer's result passes.
    """

    module_of: Mapping[str, str]
    stem: str
    terms: frozenset[str]
    residuals: frozenset[str]
    reader_of: Mapping[str, str]
    successor_of: Mapping[str, str]

    def activation_bits(self, activation: str, scheme: Scheme, stream_bits: int) -> int:
        """The bit width of an activation quantizer under a scheme."""
        reader = self.reader_of.get(activation)
        return stream_bits if reader is None else scheme.layers[reader].act_bits


def layout(model: str, graph: Graph) -> Layout:
    """The layout of a captured ResNet of the zoo.

    Raises:
        FileFormatError: If the layout of the network's published checkpoints is unknown.
        SchemeError: If the graph is that of another network.
    """
    name = model_name(model)
    if not name.startswith("resnet"):
        raise FileFormatError(
            f"quantized checkpoints were published for ResNets only, so the layout of {name}'s is unknown. "
            "Import resnet18, resnet50, resnet50b or resnet101; of any other network, float weights can be imported (--float), "
            "trained and lowered."
        )
    module_of = {layer_name(module): module for module in published_modules(name)}
    if set(module_of) != set(graph.layers):
        raise SchemeError(f"the captured {graph.model} has other layers than the published {name}.")
    sums = [node for node in graph if isinstance(node, Add)]
    by_name = {node.name: node for node in graph}
    terms = frozenset(source for node in sums for source in node.inputs if isinstance(by_name[source], Conv2d))
    pools = [node.name for node in graph if isinstance(node, MaxPool2d)]
    stem = next(layer for layer, module in module_of.items() if module in _STEMS)
    successor_of: dict[str, str] = {}
    for node in graph.layers.values():
        if node.name in terms:
            successor_of[node.name] = f"{unit_of(module_of[node.name])}.quant_act_int32"
        elif node.name == stem:
            successor_of[node.name] = "quant_act_int32"
    for node in graph.layers.values():
        if node.inputs[0] in graph.layers and isinstance(node, Conv2d | Linear):
            successor_of[node.inputs[0]] = input_activation(module_of[node.name])
    return Layout(
        module_of,
        stem,
        terms,
        frozenset([*pools, *(node.name for node in sums)]),
        {input_activation(module): layer for layer, module in module_of.items()},
        successor_of,
    )


def unit_of(module: str) -> str:
    """`stage1.unit2` for `stage1.unit2.quant_convbn1`."""
    return module.rpartition(".")[0]


def input_activation(module: str) -> str:
    """The published name of the quantizer before a layer.

    >>> [input_activation(module) for module in ("quant_init_convbn", "stage1.unit2.quant_convbn2", "quant_output")]
    ['quant_input', 'stage1.unit2.quant_act1', 'quant_act_output']
    """
    if module in _STEMS:
        return "quant_input"
    if module == "quant_output":
        return "quant_act_output"
    unit, _, leaf = module.rpartition(".")
    return f"{unit}.{_BEFORE[leaf]}"
