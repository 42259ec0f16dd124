# SPDX-License-Identifier: MIT
"""A float network in two files, without code: its modules of `torch.nn` and the calls between them, and its weights.

`network.json` names each module's class and arguments and, in their order, the nodes of the traced network; `network.npz` has
the parameters and statistics. The benchmark writes them and scripts of peers read them, each with its own PyTorch.
"""

from __future__ import annotations

import inspect
import json
import operator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

FUNCTIONS = {
    "add": operator.add,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "flatten": torch.flatten,
    "mul": operator.mul,
}
"""What a network may call besides modules, by the names in the file."""
METHODS = ("flatten", "mean", "size", "view")
KEPT = ("placeholder", "call_module", "call_function", "call_method", "output")


def write_network(module: nn.Module, folder: Path) -> None:
    """Write a network in evaluation, with the weights that it has.

    A module without weights that is called again is another one in the file: quantizers take a module for one operation.

    Raises:
        ValueError: If it calls what is neither a module of `torch.nn` nor one of the functions and methods above.
    """
    traced = fx.symbolic_trace(module.eval())
    names = {function: name for name, function in FUNCTIONS.items()}
    nodes, modules, taken = [], dict[str, list[Any]](), {name for name, _ in traced.named_modules()}
    for node in traced.graph.nodes:
        target = names.get(node.target) if node.op == "call_function" else node.target
        if target is None or node.op not in KEPT or (node.op == "call_method" and target not in METHODS):
            raise ValueError(f"no file of networks has '{node.op}' of {node.target}.")
        if node.op == "call_module":
            called = traced.get_submodule(target)
            if target in modules and not called.state_dict():
                target = next(name for number in count(1) if (name := f"{target}_{number}") not in taken)
                taken.add(target)
            modules[target] = described(called)
        nodes.append([node.name, node.op, target, *(fx.map_arg(part, named) for part in (node.args, node.kwargs))])
    (folder / "network.json").write_text(json.dumps({"modules": modules, "nodes": nodes}))
    np.savez(folder / "network.npz", **{name: value.numpy() for name, value in traced.state_dict().items()})


def named(node: fx.Node) -> Any:
    """What stands in the file for the result of a node."""
    return {"node": node.name}


def described(module: nn.Module) -> list[Any]:
    """The class of a module of `torch.nn`, and the arguments that make another like it."""
    kind = type(module)
    if getattr(nn, kind.__name__, None) is not kind:
        raise ValueError(f"no file of networks has a module {kind.__name__}, which is none of torch.nn.")
    found = {name: getattr(module, name) for name in inspect.signature(kind).parameters if hasattr(module, name)}
    return [kind.__name__, {name: value is not None if name == "bias" else value for name, value in found.items()}]


def read_network(folder: Path) -> fx.GraphModule:
    """The network, in evaluation."""
    kept = json.loads((folder / "network.json").read_text())
    modules = fx.GraphModule({}, fx.Graph())
    for name, description in kept["modules"].items():
        modules.add_submodule(name, made(*description))
    graph, results = fx.Graph(), {}

    def argument(value: Any) -> Any:
        if isinstance(value, dict):
            return results[value["node"]] if "node" in value else {key: argument(part) for key, part in value.items()}
        return tuple(map(argument, value)) if isinstance(value, list) else value

    for name, op, target, args, kwargs in kept["nodes"]:
        if op == "call_function":
            target = FUNCTIONS[target]
        elif op == "call_method" and target not in METHODS:
            raise ValueError(f"no network calls the method '{target}'.")
        results[name] = graph.create_node(op, target, argument(args), argument(kwargs), name)
    network = fx.GraphModule(modules, graph)
    with np.load(folder / "network.npz") as weights:
        network.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
    return network.eval()


def made(kind: str, arguments: dict[str, Any]) -> nn.Module:
    """A module of `torch.nn`."""
    found = getattr(nn, kind, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise ValueError(f"'{kind}' is no module of torch.nn.")
    return found(**{name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()})
