# SPDX-License-Identifier: MIT
"""Reading the published checkpoints: tensors by published module name, without executing code from the file.

`checkpoint.pth.tar` holds the training state: float weights, batch norm, ranges, scales and integers.
`quantized_checkpoint.pth.tar` holds five dictionaries of scales and integers only. In both, keys may carry DataParallel's prefix
`module.`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bitwright.errors import BitwrightWarning, FileFormatError
from bitwright.graph.graph import Graph
from bitwright.graph.head import differing_heads, new_head_of
from bitwright.graph.nodes import Conv2d, Linear
from bitwright.graph.pickled import read_pickled
from bitwright.zoo.archive import opened_checkpoint
from bitwright.zoo.names import layer_name
from bitwright.zoo.registry import published_modules

FULL, QUANTIZED = "checkpoint.pth.tar", "quantized_checkpoint.pth.tar"
_PARTS = ("convbn_scaling_factor", "fc_scaling_factor", "weight_integer", "bias_integer", "act_scaling_factor")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a published checkpoint.

    Attributes:
        path: Where it was read from.
        tensors: By published name, without `module.`.
        has_floats: Whether it has float weights besides integers.
        kept: What the training kept beside them: its epoch, best accuracy and optimizer.
    """

    path: Path
    tensors: Mapping[str, Tensor] = field(repr=False)
    has_floats: bool
    kept: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """One tensor; shape () stands for one number, in any number of axes.

        Raises:
            FileFormatError: If it is missing or shaped otherwise.
        """
        if name not in self.tensors:
            raise FileFormatError(f"'{self.path}' lacks '{name}': it is no complete checkpoint of this network.")
        found = self.tensors[name]
        if shape == () and found.numel() == 1:
            return found.reshape(())
        if shape is not None and tuple(found.shape) != shape:
            raise FileFormatError(
                f"'{name}' has shape {tuple(found.shape)} in '{self.path}', but this network needs {shape}."
            )
        return found

    def classes(self, model: nn.Module) -> int | None:
        """How many classes it tells apart, if these are others than the model's."""
        for head in ("quant_output.weight", "quant_output.weight_integer"):
            if head in self.tensors:
                return len(self.tensors[head]) if self.tensors[head].dim() else None
        heads = differing_heads(self.tensors, model)
        return None if heads is None else heads.weights


def load_checkpoint(path: str | Path, *, floats: bool = False) -> Checkpoint:
    """Read a published checkpoint of either format, or the archive that holds it.

    Args:
        path: `checkpoint.pth.tar`, `quantized_checkpoint.pth.tar`, or a tar.gz with one of them inside.
        floats: Prefer, in an archive that holds both, the one with float weights.

    Raises:
        FileFormatError: If the file is missing, damaged, hostile, or no such checkpoint.
    """
    preferred = (FULL, QUANTIZED) if floats else (QUANTIZED, FULL)
    with opened_checkpoint(path, preferred) as opened:
        content = read_pickled(opened, path)
    tensors = _flatten(content)
    if not tensors:
        raise FileFormatError(
            f"expected a checkpoint with 'state_dict', or with {', '.join(_PARTS)}, in '{path}', got {_outline(content)}."
        )
    named = {name.removeprefix("module."): value for name, value in tensors.items()}
    kept = {str(key): value for key, value in content.items() if key != "state_dict"} if "state_dict" in content else {}
    return Checkpoint(Path(path), named, any(name.endswith((".conv.weight", "output.weight")) for name in named), kept)


def _flatten(content: Any) -> dict[str, Tensor]:
    """All tensors of a checkpoint by their full key."""
    if not isinstance(content, Mapping):
        return {}
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    elif all(isinstance(content.get(part), Mapping) for part in _PARTS):
        content = {key: value for part in _PARTS for key, value in content[part].items()}
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return tensors if len(tensors) == len(content) else {}


def _outline(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary with {', '.join(map(repr, list(content)[:5])) or 'nothing'}"
    return f"an object of type {type(content).__name__}"


def float_parameters(checkpoint: Checkpoint, graph: Graph, model: str, *, new_head: bool = False) -> dict[str, Tensor]:
    """The float weights and batch norm of a checkpoint, by the captured model's parameter names, for `graph.with_parameters`.

    A file that is a plain state dict of the model itself, as a baseline's may be, gives its tensors as they are.

    Args:
        checkpoint: As read with `floats=True`.
        graph: The captured network.
        model: Its name in the zoo.
        new_head: Whether tensors of a head for other classes are left as they are in `graph`; a `BitwrightWarning` names them.

    Raises:
        FileFormatError: If a tensor is missing or shaped otherwise.
    """
    if not checkpoint.has_floats:
        raise FileFormatError(
            f"'{checkpoint.path}' holds integers only: fine-tuning needs the float weights of a {FULL}."
        )
    names = float_names(checkpoint, graph, model)
    found: dict[str, Tensor] = {}
    kept = []
    for parameter, name in names.items():
        own = graph.parameters[parameter]
        if new_head and own.shape[:1] == graph.output_shape[:1] != checkpoint.tensor(name).shape[:1]:
            found[parameter] = own
            kept.append(parameter)
        else:
            found[parameter] = checkpoint.tensor(name, tuple(own.shape)).detach().clone()
    if kept:
        warnings.warn(new_head_of(f"the weights in '{checkpoint.path}'", kept), BitwrightWarning, stacklevel=3)
    return found


def float_names(checkpoint: Checkpoint, graph: Graph, model: str) -> dict[str, str]:
    """The checkpoint's name of each parameter of the graph: its own in a plain state dict."""
    if all(name in checkpoint.tensors for name in graph.parameters):
        return {name: name for name in graph.parameters}
    module_of = {layer_name(module): module for module in published_modules(model)}
    names: dict[str, str] = {}
    for layer, node in graph.layers.items():
        module = module_of[layer]
        if isinstance(node, Linear):
            names[node.weight] = f"{module}.weight"
            if node.bias is not None:
                names[node.bias] = f"{module}.bias"
        elif isinstance(node, Conv2d):
            names[node.weight] = f"{module}.conv.weight"
            norm = node.norm
            if norm is not None:
                pairs = ((norm.weight, "weight"), (norm.bias, "bias"))
                names |= {own: f"{module}.bn.{leaf}" for own, leaf in pairs if own is not None}
                names |= {norm.mean: f"{module}.bn.running_mean", norm.variance: f"{module}.bn.running_var"}
                counter = norm.mean.replace("running_mean", "num_batches_tracked")
                if counter in graph.parameters:
                    names[counter] = f"{module}.bn.num_batches_tracked"
    return names
