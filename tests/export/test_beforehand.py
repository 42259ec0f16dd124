# SPDX-License-Identifier: MIT
"""What cannot be deployed is refused before training: by the very exporters, at shapes and formats alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bitwright.benchmark import ENGINES
from bitwright.errors import ExportError, LoweringError, UnknownNameError
from bitwright.export import FORMS, refusals, require_deployable
from bitwright.export.beforehand import DEPLOYMENTS
from bitwright.graph import Graph, capture
from bitwright.graph.nodes import AvgPool2d, Conv2d, Dropout
from bitwright.integer import lower
from bitwright.integer.placeholder import placeholder
from bitwright.integer.proof.recheck import recheck
from bitwright.quantizer import plan
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from graph.networks import Called, Then, randomized

INSTALLED = [engine.form.engine for engine in ENGINES.values() if engine.installed]


def averaged(area: int) -> Graph:
    """A residual that an addition and a pooling read, averaged over rows of so many values."""

    def forward(self: nn.Module, images: Tensor) -> Tensor:
        residual = self.first(images) + self.second(images)
        total = residual + self.third(residual)
        both = torch.cat([nn.functional.avg_pool2d(x, (1, area)) for x in (residual, total)], 1)
        return self.last(both.flatten(1))  # type: ignore[no-any-return]

    layers = {name: nn.Conv2d(1, 1, 1) for name in ("first", "second", "third")}
    network = Called(forward, **layers, last=nn.Linear(2, 2))
    return capture(randomized(network), (1, 1, area))


def scheme(graph: Graph, residual_bits: int = 8, precision: str = "W8A8") -> Scheme:
    """All layers at one precision."""
    layers = Scheme.uniform(graph.layers, Precision.parse(precision)).layers
    return Scheme("test", layers, residual_bits)


def test_every_exporter_is_asked() -> None:
    """By the same names; TensorRT is asked by the rules of its files."""
    assert set(DEPLOYMENTS) == {*(form.engine for form in FORMS), "tensorrt"}
    graph = averaged(4)
    with pytest.raises(UnknownNameError, match="unknown engine 'onx': did you mean 'onnx'"):
        refusals(graph, scheme(graph), ["onx"])


def test_tensorrt_has_formats_of_its_own() -> None:
    """Unsigned bytes are refused by name; with `deploy: tensorrt` in the scheme there are none."""
    graph = capture(randomized(Then(lambda x: x.relu().flatten(1))), (3, 8, 8))
    for bits in (8, 16):
        usual = scheme(graph, bits, "W8A8")
        found = refusals(graph, usual, ["tensorrt"])
        assert found
        assert all(
            "TensorRT reads int8 with zero point 0 only, got integers from 0 to 255" in str(each) for each in found
        )
        assert refusals(graph, replace(usual, deploy="tensorrt"), ["tensorrt"]) == []


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "everything": lambda x: torch.cat([x.relu(), nn.functional.max_pool2d(x, 3, 1, 1)], 1).flatten(1),
    "clamped": lambda x: nn.functional.hardtanh(x + x.relu(), -1.0, 2.0),
    "averages": lambda x: nn.functional.adaptive_avg_pool2d(x.chunk(2, 1)[1], 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("precision", "residual_bits"), [("W4A4", 8), ("W8A8", 16)])
def test_placeholders_are_models(name: str, precision: str, residual_bits: int) -> None:
    """Each operation becomes a model that proves, whatever it reads: images, streams, vectors, one tensor twice."""
    graph = capture(randomized(Then(FUNCTIONS[name])), (3, 8, 8))
    planned = plan(graph, scheme(graph, residual_bits, precision))
    for node in planned.graph:
        if not isinstance(node, Dropout):
            recheck(placeholder(node, planned))
            recheck(placeholder(node, planned, alone=False))


def test_sums_beyond_int32_are_refused_when_quantized() -> None:
    """On both sides of the limit of an average over a tensor of 16 bits; no weight matters."""
    limit = (2**31 - 1) // 2**15
    for area, refused in ((limit, False), (limit + 1, True)):
        graph = averaged(area)
        assert bool(refusals(graph, scheme(graph, 16))) == refused
        assert not refusals(graph, scheme(graph, 8))
        if refused:
            pool = next(node for node in graph if isinstance(node, AvgPool2d))
            with pytest.raises(
                LoweringError, match=f"'{pool.name}': expected sums within int32, got up to 2147483648 .*bits: 8.$"
            ):
                quantize(graph, scheme(graph, 16))
            with pytest.raises(ExportError, match=f"'{pool.name}': expected sums within int32"):
                require_deployable(graph, scheme(graph, 16), [])
        else:
            quantize(graph, scheme(graph, 16))


@pytest.mark.skipif("onnx" not in INSTALLED, reason="needs onnx")
def test_averages_beyond_float32_are_refused_beforehand() -> None:
    """On both sides of an exporter's own limit: refused before training, with its words, if and only if at export."""
    for area, refused in ((2**24 // 2**15, False), (2**24 // 2**15 + 1, True)):
        graph = averaged(area)
        found = refusals(graph, scheme(graph, 16), ["onnx"])
        pool = next(node for node in graph if isinstance(node, AvgPool2d))
        assert [(refusal.engine, refusal.layer) for refusal in found] == ([("onnx", pool.name)] if refused else [])
        model = lower(calibrate(quantize(graph, scheme(graph, 16)), [torch.randn(4, 1, 1, area)], "minmax"))
        if refused:
            with pytest.raises(ExportError) as raised:
                DEPLOYMENTS["onnx"](model)
            assert str(found[0]) == f"onnx: {raised.value}"
        else:
            DEPLOYMENTS["onnx"](model)


@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=[pytest.mark.slow] * (name == "tvm")) for name in INSTALLED]
)
def test_each_layer_is_named(engine: str) -> None:
    """All refusals of an engine, each by its own layer, and none that is only what another layer made."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 1, dilation=2), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
        nn.MaxPool2d(3, 1, dilation=2), nn.Conv2d(8, 8, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    graph = capture(randomized(network), (3, 20, 20))
    found = refusals(graph, scheme(graph), [engine])
    for refusal in found:
        assert refusal.engine == engine
        assert f"'{refusal.layer}'" in refusal.reason
    names = [refusal.layer for refusal in found]
    assert len(names) == len(set(names))
    grouped = [node.name for node in graph if isinstance(node, Conv2d) and node.groups == 2]
    assert set(grouped) & set(names) in (set(), set(grouped))  # alike, so refused alike
    model = lower(calibrate(quantize(graph, scheme(graph)), [torch.randn(4, 3, 20, 20)], "minmax"))
    if names:
        with pytest.raises(ExportError) as raised:
            DEPLOYMENTS[engine](model)
        assert str(raised.value) in {refusal.reason for refusal in found}
    else:
        DEPLOYMENTS[engine](model)
