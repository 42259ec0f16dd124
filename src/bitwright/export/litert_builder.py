# SPDX-License-Identifier: MIT
"""A .tflite file while it grows: tensors, operators, and how a clamp of integers hides in a zero point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError, LoweringError
from bitwright.export.pixels import Pixels
from bitwright.graph.nodes import Node, Pair
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import Rescale
from bitwright.integer.ranges import Range, tensor_ranges
from bitwright.scheme import MAX_BITS

INT8_MAX, INT8_MIN = 127, -128


class Stored(NamedTuple):
    """How a tensor of integers q is stored as int8: `q + zero_point`, with `scale * q` its real value.

    Attributes:
        tensor: Its place in the file.
        scale: A power of two.
        zero_point: Such that the largest integer is stored as 127, where int8 itself ends.
        low: The smallest integer.
    """

    tensor: int
    scale: float
    zero_point: int
    low: int


@dataclass
class LitertBuilder:
    """The file so far.

    Attributes:
        model: What is exported.
        pixels: How images were normalised, if the file takes pixels.
        stored: The tensors of integers, in the layout batch x height x width x channels.
        numbers: Tensors of more than 8 bits, and the accumulators that leave the network, as int32 tensors by name.
    """

    model: IntegerModel
    pixels: Pixels | None
    stored: dict[str, Stored] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    _tensors: list[Any] = field(default_factory=list)
    _buffers: list[Any] = field(default_factory=list)
    _operators: list[Any] = field(default_factory=list)
    _codes: dict[tuple[str, int], int] = field(default_factory=dict)

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """How far the integers of every tensor can reach."""
        return tensor_ranges(self.model)

    @cached_property
    def schema(self) -> Any:
        """The format, as the package describes it."""
        if find_spec("ai_edge_litert") is None:
            raise ExportError("ai-edge-litert is not installed: pip install 'bitwright[litert]'.")
        return import_module("ai_edge_litert.schema_py_generated")

    def tensor(
        self,
        shape: Sequence[int],
        kind: str,
        name: str = "",
        *,
        scale: npt.ArrayLike | None = None,
        zero_point: int = 0,
        axis: int = 0,
    ) -> int:
        """A tensor of a run; -1 in its shape is the batch. `scale` is one number, or one for each place along `axis`."""
        made = self.schema.TensorT()
        made.name = name or f"tensor.{len(self._tensors)}"
        made.type = getattr(self.schema.TensorType, kind)
        made.shape = [abs(size) for size in shape]
        if -1 in shape:
            made.shapeSignature = list(shape)
        if scale is not None:
            made.quantization = self.schema.QuantizationParametersT()
            made.quantization.scale = np.atleast_1d(np.asarray(scale, dtype=np.float32))
            made.quantization.zeroPoint = np.full(made.quantization.scale.shape, zero_point, dtype=np.int64)
            made.quantization.quantizedDimension = axis
        self._tensors.append(made)
        return len(self._tensors) - 1

    def constant(
        self, values: npt.NDArray[Any], *, scale: npt.ArrayLike | None = None, zero_point: int = 0, axis: int = 0
    ) -> int:
        """A tensor of the file."""
        index = self.tensor(values.shape, values.dtype.name.upper(), scale=scale, zero_point=zero_point, axis=axis)
        self._tensors[index].buffer = self._buffer(np.ascontiguousarray(values).tobytes())
        return index

    def floats(self, values: npt.ArrayLike) -> int:
        """A float32 constant."""
        return self.constant(np.asarray(values, dtype=np.float32))

    def integers(self, *values: int) -> int:
        """An int32 vector."""
        return self.constant(np.array(values, dtype=np.int32))

    def _buffer(self, data: bytes) -> int:
        made = self.schema.BufferT()
        made.data = np.frombuffer(data, dtype=np.uint8)
        self._buffers.append(made)
        return len(self._buffers)  # the first of the file is empty

    def node(
        self, operator: str, inputs: Sequence[int], output: int, options: str = "", version: int = 1, **values: Any
    ) -> int:
        """Add an operator with one output, and the options of its kind."""
        made = self.schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault((operator, version), len(self._codes))
        made.inputs, made.outputs = list(inputs), [output]
        if options:
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self.schema, f"{options}T")()
            for key, value in values.items():
                setattr(made.builtinOptions, key, value)
        self._operators.append(made)
        return output

    def store(self, name: str, shape: Sequence[int], low: int, high: int) -> tuple[Stored, int]:
        """A tensor for integers in [low, high], and the fused activation that keeps its writer there.

        The largest integer is stored as 127, where int8 saturates. The smallest is -128, or zero, which a fused ReLU does not go
        below, or `-2**n`, at a scale at which that is -1: another fused activation clamps to [-1, 1].
        """
        kinds = self.schema.ActivationFunctionType
        zero_point, scale, activation = INT8_MAX - high, 1.0, kinds.NONE
        if low + zero_point != INT8_MIN:
            if low == 0:
                activation = kinds.RELU
            elif low + high == -1 and -low & (-low - 1) == 0:
                scale, activation = -1.0 / low, kinds.RELU_N1_TO_1
            else:
                raise ExportError(f"LiteRT has no clamp to [{low}, {high}] for '{name}'. Use another engine.")
        index = self.tensor(self.nhwc(shape), "INT8", name, scale=scale, zero_point=zero_point)
        self.stored[name] = Stored(index, scale, zero_point, low)
        return self.stored[name], activation

    def kept(self, name: str, shape: Sequence[int], source: Stored) -> int:
        """A tensor for integers of `source` that are only moved."""
        index = self.tensor(self.nhwc(shape), "INT8", name, scale=source.scale, zero_point=source.zero_point)
        self.stored[name] = source._replace(tensor=index)
        return index

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor of the model, without the batch."""
        return next(op.shape for op in self.model if op.name == name)

    def reshape(self, source: int, output: int, shape: list[int]) -> int:
        """The same values in the same order."""
        return self.node("RESHAPE", [source, self.integers(*shape)], output, "ReshapeOptions", newShape=shape)

    @staticmethod
    def nhwc(shape: Sequence[int]) -> list[int]:
        """(channels, height, width) with the batch, channels last; other shapes with the batch."""
        return [-1, *shape[1:], shape[0]]

    def narrow(self, name: str) -> Stored:
        """A tensor that an operation reads, which must have at most 8 bits."""
        if name in self.numbers:
            raise ExportError(f"LiteRT has no form of what reads the int32 numbers of '{name}'. Use another engine.")
        params = self.model.formats[name]
        if params.bit_width > MAX_BITS:
            raise ExportError(
                f"LiteRT's exact kernels have at most 8 bits, but '{name}' has {params.bit_width}. Use residual_bits: 8."
            )
        return self.stored[name]

    def multiplier(self, op: Node, rescale: Rescale, channels: int) -> npt.NDArray[np.float32]:
        """The proved ratios of a layer, one a channel; what XNNPACK's kernels do not take is refused."""
        try:
            found = rescale.multipliers.as_float32()
        except LoweringError as error:
            raise ExportError(f"LiteRT computes '{op.name}' in float32: {error}") from error
        if found.min() < 2.0**-32 or found.max() >= 256:
            raise ExportError(
                f"XNNPACK takes ratios from 2**-32 to 256, got {found.min()} to {found.max()} at '{op.name}'."
            )
        return np.broadcast_to(found, channels).copy()

    def padded(self, source: Stored, shape: Sequence[int], before: Pair, after: Pair, value: int | None = None) -> int:
        """Rows and columns around an image: of zeros, or of a stored `value`."""
        if not any((*before, *after)):
            return source.tensor
        channels, height, width = shape
        sizes = [-1, height + before[0] + after[0], width + before[1] + after[1], channels]
        output = self.tensor(sizes, "INT8", scale=source.scale, zero_point=source.zero_point)
        around = self.constant(np.array([[0, 0], [before[0], after[0]], [before[1], after[1]], [0, 0]], dtype=np.int32))
        if value is None:
            return self.node("PAD", [source.tensor, around], output, "PadOptions", 2)
        fill = self.constant(np.array([value], dtype=np.int8), scale=source.scale, zero_point=source.zero_point)
        return self.node("PADV2", [source.tensor, around, fill], output, "PadV2Options", 2)

    def finish(self, inputs: Sequence[int], outputs: Sequence[int], facts: Mapping[str, str]) -> bytes:
        """The file."""
        schema = self.schema
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.operators, graph.name = self._tensors, self._operators, "main"
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model.version, model.subgraphs, model.operatorCodes, model.metadata = 3, [graph], [], []
        for operator, version in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, operator)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
            model.operatorCodes.append(code)
        for key, text in facts.items():
            entry = schema.MetadataT()
            entry.name, entry.buffer = f"bitwright.{key}", self._buffer(text.encode())
            model.metadata.append(entry)
        model.buffers = [schema.BufferT(), *self._buffers]
        writer = import_module("flatbuffers").Builder(2**16)
        writer.Finish(model.Pack(writer), file_identifier=b"TFL3")
        return bytes(writer.Output())
