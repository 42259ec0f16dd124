# SPDX-License-Identifier: MIT
"""A graph as an `nn.Module`, and its tensors under the names of the model that it was captured from."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from bitwright.graph.execute import execute
from bitwright.graph.graph import Graph
from bitwright.graph.images import check_images
from bitwright.graph.nodes import BatchNorm, Conv2d, Linear
from bitwright.returned import Returned


class FloatModel(nn.Module):
    """A graph as a module: its state dict has the model's own names, so weights pass in both directions."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph  # a network may well have a module called "graph"
        statistics = statistic_names(graph)
        for name, tensor in graph.parameters.items():
            register(self, name, tensor.clone(), trainable=name not in statistics and tensor.is_floating_point())

    def forward(self, images: Tensor) -> Returned:
        """What the network returns, a tensor or several by name, for images of shape (batch, channels, height, width)."""
        check_images(images, self._graph.input_shape, self._graph.model)
        return execute(self._graph, named_tensors(self, self._graph.parameters), images)


def statistic_names(graph: Graph) -> set[str]:
    """Names of running statistics: tensors that no gradient changes and that are not counted as parameters."""
    norms = [node.norm for node in graph if isinstance(node, BatchNorm | Conv2d | Linear) and node.norm is not None]
    found = {name for norm in norms for name in (norm.mean, norm.variance)}
    return found | {name for name in graph.parameters if name.endswith("num_batches_tracked")}


def register(module: nn.Module, name: str, tensor: Tensor, *, trainable: bool) -> None:
    """Make `tensor` a parameter or buffer under a dotted name, with plain modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if trainable:
        module.register_parameter(leaf, nn.Parameter(tensor))
    else:
        module.register_buffer(leaf, tensor)


def named_tensors(module: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The parameters and buffers that `register` made, by dotted name."""
    found: dict[str, Tensor] = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        found[name] = getattr(module.get_submodule(path), leaf)
    return found
