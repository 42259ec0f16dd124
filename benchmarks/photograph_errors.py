# SPDX-License-Identifier: MIT
"""Where a quantized network loses its answers: `python benchmarks/photograph_errors.py --json FILE --photographs DIR`.

The float network, with the rounding of one kind of tensor at a time, of weights or of activations: the signal-to-noise ratio of
its logits on crops of photographs, and how often it names the class that it named before. Layers with rounded weights have their
means corrected, as by `correct_norm`. Beside them the same network in float16 and bfloat16. `photographs.py` writes the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from photographs import CALIBRATION, CROPS, SHARE, SIZES, compared, crops, network, photographs
from photographs_page import cell
from torch import Tensor

from bitwright.cli.console import bar
from bitwright.files import write_json
from bitwright.graph import capture
from bitwright.graph.evaluate import clamp, convolve, float_result, folded_weight
from bitwright.graph.nodes import Add, Concat, Conv2d, Input, Layer, Node, Selection
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize
from bitwright.training.folding import sign_folded_weight

COUNT, BATCH = 200, 25

KINDS: dict[str, Callable[[Node], bool]] = {
    "depthwise": lambda node: isinstance(node, Conv2d) and node.groups > 1,
    "other layers'": lambda node: isinstance(node, Layer) and not (isinstance(node, Conv2d) and node.groups > 1),
}
"""Whose weights."""
ACTIVATIONS: dict[str, Callable[[Node], bool]] = {
    "images": lambda node: isinstance(node, Input),
    "additions": lambda node: isinstance(node, Add),
    "layers without a clamp": lambda node: isinstance(node, Layer) and node.bounds is None,
    "layers with a clamp": lambda node: isinstance(node, Layer) and node.bounds is not None,
}
"""Whose results."""


class Rounded:
    """The float network of a calibrated model, in which some tensors are rounded.

    Args:
        model: The calibrated model.
        images: Images by which the means of layers with rounded weights are corrected.
    """

    def __init__(self, model: QuantizedModel, images: Tensor) -> None:
        self.model = model
        self.images = images
        self.graph = model.plan.graph
        self.floats = model.parameters_by_name()

    @torch.inference_mode()
    def logits(self, images: Tensor, weights: Collection[str], activations: Collection[str]) -> Tensor:
        """Of all images, with the weights and the results of these nodes rounded."""
        offsets: dict[str, Tensor] = {}
        if weights:
            self._run(self.images, weights, (), offsets, finds=True)
        return torch.cat([self._run(part, weights, activations, offsets) for part in torch.split(images, BATCH)])

    def _run(
        self,
        images: Tensor,
        weights: Collection[str],
        activations: Collection[str],
        offsets: dict[str, Tensor],
        *,
        finds: bool = False,
    ) -> Tensor:
        made: dict[str, Tensor] = {}
        real: dict[str, Tensor] = {}
        last_use = {name: step for step, node in enumerate(self.graph) for name in node.inputs}
        for step, node in enumerate(self.graph):
            inputs = [made[name] for name in node.inputs] or [images]
            if finds:  # beside it the float network, whose means are wanted
                real[node.name] = float_result(node, [real[name] for name in node.inputs] or [images], self.floats)
            if isinstance(node, Layer) and node.name in weights:
                sums = convolve(node, inputs[0], *folded_weight(node, {**self.floats, node.weight: self._weight(node)}))
                axes = [axis for axis in range(sums.dim()) if axis != 1]
                if finds:
                    wanted = convolve(node, real[node.inputs[0]], *folded_weight(node, self.floats))
                    offsets[node.name] = (wanted - sums).mean(axes, keepdim=True)[:1]
                values = clamp(sums + offsets[node.name], node.bounds)
            else:
                values = float_result(node, inputs, self.floats)
            made[node.name] = self._round(node.name, values) if node.name in activations else values
            for name in node.inputs:
                if last_use[name] == step:
                    made.pop(name, None)
                    real.pop(name, None)
        (output,) = self.graph.outputs.values()
        return made[output]

    @torch.inference_mode()
    def logits_in(self, kind: torch.dtype, images: Tensor) -> Tensor:
        """Of all images, with every weight and every result in another type of numbers."""
        floats = {name: tensor.to(kind).float() for name, tensor in self.floats.items()}
        made: list[Tensor] = []
        for part in torch.split(images, BATCH):
            values: dict[str, Tensor] = {}
            for node in self.graph:
                inputs = [values[name] for name in node.inputs] or [part]
                values[node.name] = float_result(node, inputs, floats).to(kind).float()
            made.append(values[next(iter(self.graph.outputs.values()))])
        return torch.cat(made)

    def _weight(self, node: Layer) -> Tensor:
        """What the integers of a layer's weights are worth."""
        ones = torch.ones_like(self.floats[node.weight])
        integers, scale = self.model.weight_quantizer(node.name)(sign_folded_weight(node, self.floats))
        signs = sign_folded_weight(node, {**self.floats, node.weight: ones})
        return integers * scale.reshape(-1, *[1] * (integers.dim() - 1)) * signs

    def _round(self, name: str, values: Tensor) -> Tensor:
        if self.model.plan.quantizer_of[name] in self.model.plan.accumulators:
            return values
        quantizer = self.model.activation_quantizer(name)
        window, scale = quantizer.format, quantizer.step()
        return (values / scale).round().clamp(window.quant_min, window.quant_max) * scale


def sources(model: QuantizedModel) -> Mapping[str, tuple[list[str], list[str]]]:
    """What is rounded, by words: the nodes whose weights, and those whose results; kinds that the network lacks are left out."""
    nodes = [node for node in model.plan.graph if not isinstance(node, Selection | Concat)]
    layers = [node.name for node in nodes if isinstance(node, Layer)]
    found: dict[str, tuple[list[str], list[str]]] = {"all weights": (layers, [])}
    for words, chosen in KINDS.items():
        found[f"{words} weights"] = ([node.name for node in nodes if chosen(node)], [])
    found["all activations"] = ([], [node.name for node in nodes])
    for words, chosen in ACTIVATIONS.items():
        found[f"results of {words}" if words != "images" else words] = ([], [n.name for n in nodes if chosen(n)])
    found["both"] = (layers, [node.name for node in nodes])
    return {words: chosen for words, chosen in found.items() if any(chosen)}


def main() -> None:
    """Measure, and write the figures beside the rows of `photographs.py`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="of photographs.py")
    parser.add_argument("--photographs", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--network", default="efficientnet-lite0")
    parser.add_argument("--width", action="append", help="W8A8, say; repeatable")
    chosen = parser.parse_args()
    found: dict[str, Any] = json.loads(chosen.json.read_text()) if chosen.json.exists() else {"rows": {}}
    size, paths = SIZES[chosen.network], photographs(chosen.photographs)
    others = round(SHARE * len(paths))
    graph = capture(network(chosen.network), (3, size, size), name=chosen.network)
    calibration = crops(paths[:others], CALIBRATION, size)
    judged = crops(paths[others:], CROPS, size)[:: CROPS // COUNT]
    kinds = {str(kind).removeprefix("torch."): kind for kind in (torch.float16, torch.bfloat16)}
    for width in chosen.width or ["W8A8"]:
        model = quantize(graph, Scheme.uniform(graph.layers, Precision.parse(width)))
        rounded = Rounded(calibrate(model, torch.split(calibration, BATCH)), calibration[:: CALIBRATION // BATCH])
        real = rounded.logits(judged, (), ())
        for words, (weights, activations) in [*sources(model).items(), *((kind, ((), ())) for kind in kinds)]:
            with bar(f"{width}, {words}"):
                made = (
                    rounded.logits(judged, weights, activations)
                    if words not in kinds
                    else rounded.logits_in(kinds[words], judged)
                )
                result = compared(real, made)
            found.setdefault("sources", {})[f"{chosen.network}/{width}/{words}"] = result | {"crops": len(judged)}
            write_json(chosen.json, found)
            print(f"{width}, {words}: {cell(result)}", flush=True)


if __name__ == "__main__":
    main()
