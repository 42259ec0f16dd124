# SPDX-License-Identifier: MIT
"""Both networks layer by layer: what a visit sees is what the networks make, and what it changes is seen behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
import torch
from torch import Tensor

from bitwright.graph.nodes import Layer
from bitwright.reconstruction import side_by_side as module
from bitwright.reconstruction.side_by_side import side_by_side
from bitwright.training.quantized import Quantized
from training.small import digits, small_quantized


@pytest.mark.parametrize("residual_bits", [8, 16])
def test_visits_see_what_both_networks_make(residual_bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The integers of all batches, as often as they look, also behind weights that a visit has changed."""
    monkeypatch.setattr(module, "BATCH", 20)
    model = small_quantized("W3A8", residual_bits=residual_bits)
    graph, images = model.plan.graph, digits().calibration(50)[0]
    parameters = model.parameters_by_name()
    seen: dict[str, list[Tensor]] = {}

    def visit(node: Layer, real: Sequence[Tensor], made: Iterable[Quantized]) -> None:
        seen[node.name] = [torch.cat([part.values for part in made]) for _ in range(2)]
        assert [len(part) for part in real] == [20, 20, 10]
        with torch.no_grad():
            parameters[node.weight].mul_(-1)

    side_by_side(model.eval(), images, graph.parameters, visit)
    wanted: dict[str, Tensor] = {}
    with torch.no_grad():
        model.integers(images, lambda name, found: wanted.update({name: found.values.clone()}))
    assert list(seen) == list(graph.layers)
    for name, node in graph.layers.items():
        assert all(torch.equal(found, wanted[node.inputs[0]]) for found in seen[name])


def test_integers_are_kept_as_narrow_as_they_are() -> None:
    """A byte, with a sign or without, two of them, or floats: the same integers, and as floats when they are read."""
    for low, high, kind in (
        (0, 255, torch.uint8), (-128, 127, torch.int8), (-1, 128, torch.int16), (-32768, 5, torch.int16),
        (0, 32768, torch.float32),
    ):  # fmt: skip
        values = torch.linspace(low, high, 9).round()
        kept = module._Kept([Quantized(values, torch.ones(()))])
        assert kept._parts[0].values.dtype == kind
        (read,) = kept
        assert read.values.dtype == torch.float32
        assert torch.equal(read.values, values)
