# SPDX-License-Identifier: MIT
"""One operation of a network that is still to be trained, as an integer model of its own: true shapes and formats, no values.

Weights are zeros and every ratio is one, so that nothing depends on what training will find: whoever refuses such a model refuses
the operation itself, by its shapes and formats.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from bitwright.graph.nodes import Flatten, Input, Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import Multipliers
from bitwright.integer.ops import IntegerConv2d, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.plan import QuantPlan

_IMAGES, _BEFORE = "placeholder.images", ".image"
_BYTE = QuantParams.symmetric(8, 1.0)
_ONE = Multipliers(np.ones(1, np.int64), np.zeros(1, np.int32))


def params_of(tensor: str, plan: QuantPlan) -> QuantParams:
    """The format of a tensor, at scale 1."""
    return QuantParams(plan.format(tensor), 1.0)


def placeholder(node: Node, plan: QuantPlan, *, alone: bool = True) -> IntegerModel:
    """A model of `node` alone, whose inputs 1 x 1 convolutions make of an image; with `alone` false, of these alone.

    Args:
        node: The node of `plan.graph`, with integers of its own: no `Dropout`.
        plan: Formats of its tensors.
        alone: Whether the operation itself is in it.
    """
    if isinstance(node, Input):
        return _model([_quantize(node, params_of(node.name, plan))], plan)
    by_name = {other.name: other for other in plan.graph}
    sources = [by_name[name] for name in dict.fromkeys(node.inputs)]
    images = next((source for source in sources if isinstance(source, Input)), None)
    if images is None:
        first = _quantize(Node(name=_IMAGES, inputs=(), shape=(1, *_image_shape(sources[0])[1:])), _BYTE)
    else:
        first = _quantize(images, params_of(images.name, plan))
    ops: list[Node] = [first]
    for source in sources:
        if source is not images:
            ops += _made(source, first, params_of(source.name, plan))
    return _model([*ops, placeholder_op(node, plan)] if alone else ops, plan)


def _quantize(node: Node, params: QuantParams) -> Quantize:
    low, high = params.quant_min, params.quant_max
    return Quantize(name=node.name, inputs=(), shape=node.shape, place=node.place, scale=1.0, low=low, high=high)


def _image_shape(source: Node) -> tuple[int, ...]:
    """Of a tensor, or of the image that becomes it when it is flattened."""
    return source.shape if len(source.shape) == 3 else (source.shape[0], 1, 1)


def _made(source: Node, images: Quantize, params: QuantParams) -> list[Node]:
    """A tensor of a shape and format: a convolution of the images with weights of zero."""
    shape = _image_shape(source)
    flat = shape != source.shape
    conv = IntegerConv2d(
        name=f"{source.name}{_BEFORE}" if flat else source.name, inputs=(images.name,), shape=shape,
        rescale=Rescale(_ONE, params.quant_min, params.quant_max), weight=np.zeros((shape[0], images.shape[0], 1, 1), np.int8),
        weight_bits=8, bias=np.zeros(shape[0], np.int32), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1,
    )  # fmt: skip
    return [conv, Flatten(name=source.name, inputs=(conv.name,), shape=source.shape)] if flat else [conv]


def _model(ops: list[Node], plan: QuantPlan) -> IntegerModel:
    """The model of some operations, each in its format."""
    formats = {}
    for op in ops:
        name = op.name.removesuffix(_BEFORE)
        if name == _IMAGES:
            formats[name] = _BYTE
        elif getattr(op, "rescale", _ONE) is not None:
            formats[op.name] = params_of(name, plan)
    return IntegerModel(plan.graph.model, plan.scheme, tuple(ops), formats, single_output(ops[-1].name))


@singledispatch
def placeholder_op(node: Node, plan: QuantPlan) -> Node:
    """The operation of a node without its values."""
    raise NotImplementedError(f"no integer form of {type(node).__name__}")


def placeholder_rescale(node: Node, plan: QuantPlan) -> Rescale | None:
    """A ratio of one, to the format of the tensor that a node makes; None for accumulators that leave the network."""
    if node.name in plan.accumulators:
        return None
    params = params_of(node.name, plan)
    return Rescale(_ONE, params.quant_min, params.quant_max)
