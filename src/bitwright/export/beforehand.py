# SPDX-License-Identifier: MIT
"""What an engine will refuse of a network, known before it is trained: every exporter is shown each operation without values.

There are no rules of engines here that an exporter could outgrow. Each operation becomes a small model of its true shapes and
formats with weights of zero (`integer.placeholder`), and the exporter itself says whether it has a form of it. What depends on
weights, as sums that could leave float32 do, is known when the model is lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bitwright.errors import ExportError, unknown_name
from bitwright.export.form import FORMS, form_of
from bitwright.export.onnx.qdq import to_tensorrt
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Dropout, Layer, Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.placeholder import placeholder
from bitwright.quantizer.plan import QuantPlan, plan
from bitwright.quantizer.refusals import Refusal, lowering_refusals, require_none
from bitwright.scheme import Scheme

DEPLOYMENTS: dict[str, Callable[[IntegerModel], Any]] = {
    **{form.engine: form_of(form.engine).build for form in FORMS},
    "tensorrt": to_tensorrt,
}
"""What makes the form of a model in memory, or raises `ExportError`, by the name of the engine."""


def refusals(graph: Graph, scheme: Scheme, deploy: Sequence[str] = ()) -> list[Refusal]:
    """The operations of a network without an exact form under a scheme, whatever the weights and scales turn out to be.

    Args:
        graph: The network.
        scheme: Precision of every layer.
        deploy: Engines that the network is to run on; their packages must be installed.

    Returns:
        What lowering refuses, then what each engine does, in the order of the operations.

    Raises:
        UnknownNameError: If there is no such engine.
        SchemeError: If the scheme does not fit the network.

    >>> import torch
    >>> from bitwright.graph import capture
    >>> from bitwright.scheme import Precision
    >>> graph = capture(torch.nn.Sequential(torch.nn.AvgPool2d(50), torch.nn.Flatten(), torch.nn.Linear(3, 2)), (3, 50, 50))
    >>> refusals(graph, Scheme.uniform(graph.layers, Precision(8, 8)), ["onnx"])
    []
    """
    planned = plan(graph, scheme)
    found = lowering_refusals(planned)
    beyond = {refusal.layer for refusal in found}
    for engine in deploy:
        if engine not in DEPLOYMENTS:
            raise unknown_name("engine", engine, DEPLOYMENTS)
        found += _refused_by(engine, [node for node in planned.graph if node.name not in beyond], planned)
    return found


def require_deployable(graph: Graph, scheme: Scheme, deploy: Sequence[str]) -> None:
    """Refuse a network before it is trained that could not be deployed afterwards.

    Raises:
        ExportError: Names every operation and its reason; see `refusals`.
    """
    require_none(refusals(graph, scheme, deploy), ExportError)


def _refused_by(engine: str, nodes: Sequence[Node], planned: QuantPlan) -> list[Refusal]:
    """What one engine refuses; operations that are alike are shown to it once."""
    show = partial(_reason, DEPLOYMENTS[engine])
    known: dict[str, tuple[str, str | None]] = {}
    found = []
    for node in nodes:
        if isinstance(node, Dropout):
            continue
        first, reason = known.setdefault(_kind(node, planned), (node.name, show(node, planned)))
        if reason is not None:
            found.append(Refusal(node.name, reason.replace(f"'{first}'", f"'{node.name}'"), engine))
    return found


def _reason(form: Callable[[IntegerModel], Any], node: Node, planned: QuantPlan) -> str | None:
    """Why there is no form of an operation, if it is the operation's own fault: what makes its inputs is looked at itself."""
    try:
        form(placeholder(node, planned))
    except ExportError as error:
        reason = str(error)
    else:
        return None
    if node.inputs:
        try:
            form(placeholder(node, planned, alone=False))
        except ExportError as error:
            return None if str(error) == reason else reason
    return reason


def _kind(node: Node, planned: QuantPlan) -> str:
    """What decides whether an operation has a form: all but its name and those of its tensors and parameters."""
    by_name: Mapping[str, Node] = {other.name: other for other in planned.graph}
    named = {"weight": "", "bias": None, "norm": None} if isinstance(node, Layer) else {}
    given: dict[str, Any] = {"name": "", "place": "", "inputs": (), **named}
    bare = replace(node, **given)
    sources = [(by_name[name].shape, type(by_name[name]).__name__, planned.format(name)) for name in node.inputs]
    own = None if node.name in planned.accumulators else planned.format(node.name)
    bits = planned.scheme.layers[node.name].weight_bits if node.name in planned.scheme.layers else None
    weights = tuple(planned.graph.parameters[node.weight].shape) if isinstance(node, Layer) else None
    return repr((bare, sources, len(set(node.inputs)), own, bits, weights))
