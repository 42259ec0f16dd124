# SPDX-License-Identifier: MIT
"""A published checkpoint as an IntegerModel, with the arithmetic that `arithmetic` writes down."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bitwright.errors import FileFormatError, LoweringError
from bitwright.graph.capture import capture
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Add, AvgPool2d, Bounds, Conv2d, Flatten, Input, Linear, MaxPool2d, Node
from bitwright.graph.sources import image_size, load_model
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerConv2d,
    IntegerFloorAvgPool2d,
    IntegerLinear,
    IntegerRequantize,
    ReciprocalQuantize,
    Rescale,
)
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.bounds import FLOAT32_EXACT, largest_sum
from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.formats import UNCLAMPED_BITS
from bitwright.returned import SINGLE
from bitwright.scheme import Scheme
from bitwright.zoo.arithmetic import (
    MAX_EXACT_MEAN,
    MAX_POOL_AREA,
    REFERENCE_EXACT,
    FloatArray,
    published_ratio,
    scale_of_range,
    within_int32,
)
from bitwright.zoo.checkpoint import Checkpoint, float_parameters, load_checkpoint
from bitwright.zoo.layout import Layout, input_activation, layout, unit_of
from bitwright.zoo.names import model_name
from bitwright.zoo.registry import published_scheme

STREAM_BITS = 16


def import_checkpoint(path: str | Path, model: str, scheme: str, *, graph: Graph | None = None) -> IntegerModel:
    """Read a published checkpoint into an IntegerModel.

    Args:
        path: Either format, or the archive that holds it.
        model: The network, for instance `resnet18`.
        scheme: The published scheme that it was trained with, in any spelling: the file itself does not say.
        graph: The captured network, if at hand; None captures pytorchcv's, for as many classes as the file has.

    Returns:
        The model; its `facts` hold the bounds, and `import_notes` reads them.

    Raises:
        FileFormatError: If the file is damaged, hostile, of another network, or of another scheme.
        UnknownNameError: If the network or scheme was not published.
        LoweringError: If an accumulator can leave int32.
    """
    name, checkpoint = model_name(model), load_checkpoint(path)
    if graph is None:
        graph = captured_for(checkpoint, name)
    bits = published_scheme(name, scheme, layers=graph.layers, residual_bits=STREAM_BITS)
    return to_integer_model(checkpoint, graph, layout(name, graph), bits)


def import_floats(path: str | Path, model: str, *, graph: Graph | None = None, classes: int | None = None) -> Graph:
    """Read the float weights of a published checkpoint into the network's graph, for fine-tuning.

    Args:
        path: A `checkpoint.pth.tar`, a plain state dict of the network, or an archive of one of them.
        model: The network, for instance `resnet18`.
        graph: The captured network, if at hand; None captures pytorchcv's, for as many classes as the file has.
        classes: How many the network shall tell apart, where they are others than the file's: its head is new then, drawn from a
            fixed seed, and a `BitwrightWarning` says so.

    Raises:
        FileFormatError: If the file is damaged, hostile, of another network, or holds integers only.
    """
    name, checkpoint = model_name(model), load_checkpoint(path, floats=True)
    if graph is None:
        graph = captured_for(checkpoint, name, classes)
    return graph.with_parameters(float_parameters(checkpoint, graph, name, new_head=classes is not None))


def captured_for(checkpoint: Checkpoint, model: str, classes: int | None = None) -> Graph:
    """The network of pytorchcv at the size it was made for, with random weights, for `classes` or as many as a checkpoint has."""
    source = f"pytorchcv:{model}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = load_model(source)
        wanted = classes or checkpoint.classes(made)
        if wanted is not None:
            made = load_model(source, num_classes=wanted)
    side = image_size(source, made)
    return capture(made, (3, side, side), name=source)


def to_integer_model(checkpoint: Checkpoint, graph: Graph, names: Layout, scheme: Scheme) -> IntegerModel:
    """The integer model of a checkpoint that was read already."""
    importing = _Importing(checkpoint, graph, names, scheme)
    for node in graph:
        importing.renamed[node.name] = import_node(node, importing)
    return IntegerModel(
        graph.model,
        scheme,
        tuple(importing.ops),
        importing.formats,
        single_output(importing.renamed[graph.outputs[SINGLE]], importing.output_unit),
        importing.facts,
    )


@dataclass
class _Importing:
    """What the functions that import nodes share."""

    checkpoint: Checkpoint
    graph: Graph
    names: Layout
    scheme: Scheme
    ops: list[Node] = field(default_factory=list)
    formats: dict[str, QuantParams] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    output_unit: npt.NDArray[np.float64] = field(default_factory=lambda: np.ones(1))

    def add(self, op: Node, params: QuantParams | None) -> str:
        self.ops.append(op)
        if params is not None:
            self.formats[op.name] = params
        return op.name

    def scale(self, activation: str) -> np.float32:
        """The scale of an activation quantizer, by its published name."""
        value = np.float32(self.checkpoint.tensor(f"{activation}.act_scaling_factor", ()).item())
        if not (np.isfinite(value) and value > 0):
            raise FileFormatError(f"'{activation}' has the scale {value} in '{self.checkpoint.path}': never trained?")
        self._compare_range(activation, value)
        return value

    def _compare_range(self, activation: str, scale: np.float32) -> None:
        """Refuse a scale that belongs to another bit width: then the checkpoint has another scheme."""
        if f"{activation}.x_min" not in self.checkpoint.tensors:
            return
        low, high = (np.float32(self.checkpoint.tensor(f"{activation}.{end}", ()).item()) for end in ("x_min", "x_max"))
        expected = {bits: scale_of_range(low, high, bits) for bits in (4, 8, STREAM_BITS)}
        bits = self.names.activation_bits(activation, self.scheme, STREAM_BITS)
        if expected[bits] == scale:
            return
        others = [other for other, value in expected.items() if value == scale]
        if others:
            raise FileFormatError(
                f"'{activation}' was quantized to {others[0]} bits in '{self.checkpoint.path}', but scheme "
                f"'{self.scheme.name}' gives it {bits}: name the scheme that the file was trained with."
            )
        self.facts.setdefault("scales", {"unlike_ranges": []})["unlike_ranges"].append(activation)

    def quantized(self, activation: str, *, signed: bool) -> tuple[QuantParams, int, int]:
        """Format and clamp of an activation: 4 bits unsigned, 8 bits symmetric, and of 7 where nothing is negative."""
        scale = float(self.scale(activation))
        if self.names.activation_bits(activation, self.scheme, STREAM_BITS) == 4:
            return QuantParams.unsigned(4, scale), 0, 15
        return (QuantParams.symmetric(8, scale), -128, 127) if signed else (QuantParams.unsigned(7, scale), 0, 127)

    def requantized(self, source: str, activation: str, shape: tuple[int, ...]) -> str:
        """A residual, read by layers through their own quantizer."""
        name = f"{source}@{activation.rpartition('.')[2]}"
        if name not in self.formats:
            params, low, high = self.quantized(activation, signed=False)
            rescale = Rescale(
                published_ratio(self.formats[source].scale, np.ones(1, np.float32), params.scale), low, high
            )
            op = IntegerRequantize(name=name, inputs=(source,), shape=shape, place=activation, rescale=rescale)
            self.add(op, params)
        return name

    def integers(self, layer: str, shape: tuple[int, ...]) -> tuple[FloatArray, npt.NDArray[np.int8], npt.NDArray[Any]]:
        """Scales [channels], weights, and biases [channels] as int64, of a layer."""
        module = self.names.module_of[layer]
        kind = "fc" if module == "quant_output" else "convbn"
        scale = self.checkpoint.tensor(f"{module}.{kind}_scaling_factor", shape[:1]).float().numpy()
        weight = self.checkpoint.tensor(f"{module}.weight_integer", shape).double().numpy()
        bias = self.checkpoint.tensor(f"{module}.bias_integer", shape[:1]).double().numpy()
        where = f"of '{module}' in '{self.checkpoint.path}'"
        for what, values in (("weights", weight), ("biases", bias)):
            if not np.array_equal(values, np.rint(values)) or np.abs(values).max(initial=0) > 2**31:
                raise FileFormatError(f"the {what} {where} are no 32-bit integers: was the model ever quantized?")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise FileFormatError(f"the scales {where} are not all positive: was the model ever quantized?")
        bits, largest = self.scheme.layers[layer].weight_bits, int(np.abs(weight).max(initial=0))
        half = 1 << (bits - 1)
        if largest > half or weight.max(initial=0) >= half or 0 < largest < half // 16:
            raise FileFormatError(
                f"the weights {where} reach {largest}, but scheme '{self.scheme.name}' gives them {bits} bits: name the "
                "scheme that the file was trained with."
            )
        return scale, weight.astype(np.int8), bias.astype(np.int64)


@singledispatch
def import_node(node: Node, importing: _Importing) -> str:
    """Append the operations of a node, and return the name of its integers."""
    raise FileFormatError(f"the published arithmetic of {type(node).__name__} ('{node.name}') is unknown.")


@import_node.register
def _(node: Input, importing: _Importing) -> str:
    params, low, high = importing.quantized("quant_input", signed=True)
    op = ReciprocalQuantize(
        name=node.name, inputs=(), shape=node.shape, place=node.place, scale=params.scale, low=low, high=high
    )
    return importing.add(op, params)


@import_node.register(Conv2d)
@import_node.register(Linear)
def _(node: Conv2d | Linear, importing: _Importing) -> str:
    module = importing.names.module_of[node.name]
    source = importing.renamed[node.inputs[0]]
    if source in importing.names.residuals:
        shape = next(op.shape for op in importing.ops if op.name == source)
        source = importing.requantized(source, input_activation(module), shape)
    params = importing.formats[source]
    scale, weight, bias = importing.integers(node.name, tuple(importing.graph.parameters[node.weight].shape))
    returned, rescale, output = node.name in importing.graph.returned, None, None
    if returned:
        product = (np.float32(params.scale) * scale).astype(np.float32)
        importing.output_unit = product.astype(np.float64)
    else:
        output, low, high = _output_format(node, importing)
        rescale = Rescale(published_ratio(params.scale, scale, output.scale), low, high)
    weight, bias, rescale, constant = within_int32(node.name, weight, bias, params, rescale)
    bound = largest_sum(weight, bias, params)
    importing.facts[node.name] = {
        "channels": len(bias),
        "largest_accumulator": bound,
        "float32_exact": bound <= FLOAT32_EXACT,
        "reference_exact": bound < REFERENCE_EXACT,
        "constant_channels": constant,
    }
    if rescale is not None:
        importing.largest[node.name] = _rescaled(bound, rescale)
    common: dict[str, Any] = {
        "name": node.name, "inputs": (source,), "shape": node.shape, "place": node.place, "rescale": rescale,
        "weight": weight, "weight_bits": importing.scheme.layers[node.name].weight_bits, "bias": bias.astype(np.int32),
    }  # fmt: skip
    if isinstance(node, Linear):
        return importing.add(IntegerLinear(**common), output)
    window: dict[str, Any] = {
        "stride": node.stride,
        "padding": node.padding,
        "dilation": node.dilation,
        "groups": node.groups,
    }
    return importing.add(IntegerConv2d(**common, **window), output)


def _output_format(node: Conv2d | Linear, importing: _Importing) -> tuple[QuantParams, int, int]:
    """Format and clamp of what a layer makes: a quantized activation, the stem's residual, or a term of an addition."""
    activation = importing.names.successor_of[node.name]
    if node.name in importing.names.terms:
        params = QuantParams.symmetric(UNCLAMPED_BITS, float(importing.scale(activation)))
        return params, INT32_MIN, INT32_MAX
    if node.name == importing.names.stem:
        return QuantParams.unsigned(STREAM_BITS - 1, float(importing.scale(activation))), 0, 2 ** (STREAM_BITS - 1) - 1
    return importing.quantized(activation, signed=False)


@import_node.register
def _(node: MaxPool2d, importing: _Importing) -> str:
    source = importing.renamed[node.inputs[0]]
    importing.largest[node.name] = importing.largest[source]
    return importing.add(node.reading(source), importing.formats[source])


@import_node.register
def _(node: Flatten, importing: _Importing) -> str:
    source = importing.renamed[node.inputs[0]]
    return importing.add(node.reading(source), importing.formats[source])


@import_node.register
def _(node: Add, importing: _Importing) -> str:
    if node.bounds != Bounds(0.0):
        raise FileFormatError(f"the published sums end in a ReLU, but '{node.name}' does not.")
    (unit,) = {unit_of(importing.names.module_of[source]) for source in node.inputs if source in importing.names.terms}
    params = QuantParams.symmetric(UNCLAMPED_BITS, float(importing.scale(f"{unit}.quant_act_int32")))
    inputs = []
    for source in node.inputs:
        name = importing.renamed[source]
        if source not in importing.names.terms:
            ratio = published_ratio(importing.formats[name].scale, np.ones(1, np.float32), params.scale)
            rescale = Rescale(ratio, INT32_MIN, INT32_MAX)
            op = IntegerRequantize(
                name=f"{node.name}.shortcut", inputs=(name,), shape=node.shape, place=node.place, rescale=rescale
            )
            importing.largest[op.name] = _rescaled(importing.largest[name], rescale)
            name = importing.add(op, params)
        inputs.append(name)
    largest = sum(importing.largest[name] for name in inputs)
    if largest > INT32_MAX:
        raise LoweringError(f"the sum '{node.name}' can reach {largest}, beyond int32.")
    importing.largest[node.name] = largest
    total = IntegerAdd(
        name=node.name, inputs=tuple(inputs), shape=node.shape, place=node.place,
        multipliers=(1, 1), shift=0, low=0, high=INT32_MAX,
    )  # fmt: skip
    return importing.add(total, params)


@import_node.register
def _(node: AvgPool2d, importing: _Importing) -> str:
    source = importing.renamed[node.inputs[0]]
    area, largest = node.kernel[0] * node.kernel[1], importing.largest[source]
    if area > MAX_POOL_AREA:
        raise LoweringError(
            f"'{node.name}': the published mean of {area} values is a floor only up to {MAX_POOL_AREA} of them."
        )
    importing.facts[node.name] = {"largest_mean": largest, "reference_exact": largest < MAX_EXACT_MEAN}
    op = IntegerFloorAvgPool2d(
        name=node.name, inputs=(source,), shape=node.shape, place=node.place,
        kernel=node.kernel, stride=node.stride, padding=node.padding,
    )  # fmt: skip
    importing.add(op, importing.formats[source])
    return importing.requantized(node.name, "quant_act_output", node.shape)


def _rescaled(largest: int, rescale: Rescale) -> int:
    """The largest magnitude after a rescaling."""
    scaled = math.ceil(largest * float(rescale.multipliers.real().max())) + 1
    return min(scaled, max(rescale.high, -rescale.low))
