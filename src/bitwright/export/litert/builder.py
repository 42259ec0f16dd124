# SPDX-License-Identifier: MIT
"""A .tflite file while it grows: tensors, operators, and how a clamp of integers hides in a zero point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitwright.export.pixels import Pixels
from bitwright.extras import require
from bitwright.graph.nodes import Pair
from bitwright.integer.model import IntegerModel
from bitwright.integer.proof.ranges import Range, tensor_ranges
from bitwright.scheme import MAX_BITS

INT8_MAX, INT8_MIN = 127, -128


class Held(NamedTuple):
    """How a file holds the integers q of a tensor, channels last.

    Attributes:
        tensor: Its place in the file.
        kind: INT8 where it has at most 8 bits: `q + zero_point`, at scale 1. Else FLOAT32, while all are at most 2**24, or INT32.
        zero_point: The zero point of INT8; zero elsewhere.
    """

    tensor: int
    kind: str
    zero_point: int = 0


@dataclass
class LitertBuilder:
    """The file so far.

    Attributes:
        model: What is exported.
        pixels: How images were normalised, if the file takes pixels.
        held: The tensors of the model so far.
        reals: Tensors of the file that were read as float32 numbers, and these.
    """

    model: IntegerModel
    pixels: Pixels | None
    held: dict[str, Held] = field(default_factory=dict)
    reals: dict[int, int] = field(default_factory=dict)
    _tensors: list[Any] = field(default_factory=list)
    _buffers: list[Any] = field(default_factory=list)
    _operators: list[Any] = field(default_factory=list)
    _codes: dict[tuple[str, int], int] = field(default_factory=dict)

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """How far the integers of every tensor can reach."""
        return tensor_ranges(self.model)

    def reach(self, name: str) -> int:
        """The largest magnitude of the integers of a tensor."""
        low, high = self.ranges[name]
        return max(-low, high)

    def exceeds_byte(self, name: str) -> bool:
        """Whether a tensor has more than 8 bits."""
        return self.model.formats[name].bit_width > MAX_BITS

    @cached_property
    def schema(self) -> Any:
        """The format, as the package describes it."""
        require("ai_edge_litert", "LiteRT's format")
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

    def hold(self, name: str, shape: Sequence[int], kind: str, zero_point: int = 0) -> int:
        """A new tensor for the integers of the model's tensor `name`."""
        scale = 1.0 if kind == "INT8" else None
        index = self.tensor(self.nhwc(shape), kind, name, scale=scale, zero_point=zero_point)
        self.held[name] = Held(index, kind, zero_point)
        return index

    def saturated(
        self, name: str, shape: Sequence[int], low: int, high: int, write: Callable[[int, int], object]
    ) -> None:
        """The integers in [low, high] that an 8-bit operator makes, which clamps where int8 ends, or at zero by a fused ReLU.

        The largest integer is stored as 127. Where -128 or a ReLU is not the smallest, a second tensor has it as -128: moving the
        zero point adds a constant, and saturates.

        Args:
            name: The name of the tensor.
            shape: The shape of it, without the batch.
            low: The smallest integer.
            high: The largest, at most 255 more.
            write: Adds the operator; called with its output and the activation that is fused into it.
        """
        kinds = self.schema.ActivationFunctionType
        zero_point = INT8_MAX - max(high, 0)
        relu = low == 0 and low + zero_point != INT8_MIN
        index = self.hold(name, shape, "INT8", zero_point)
        write(index, kinds.RELU if relu else kinds.NONE)
        if low <= 0 <= high and not relu and low + zero_point != INT8_MIN:
            self.held[name] = self.moved(self.held[name], shape, INT8_MIN - low)
        elif not low <= 0 <= high:  # zero is no int8 number beside the other end
            for operator, limit in (("MINIMUM", high), ("MAXIMUM", low)):
                operands = [self.held[name].tensor, self.constant_of(self.held[name], np.array([limit]))]
                output = self.hold(name, shape, "INT8", zero_point)
                self.node(operator, operands, output, "MaximumMinimumOptions", 2)

    def moved(self, source: Held, shape: Sequence[int], zero_point: int) -> Held:
        """The same integers at another zero point, where int8 saturates."""
        if source.zero_point == zero_point:
            return source
        output = self.tensor(self.nhwc(shape), "INT8", scale=1.0, zero_point=zero_point)
        return Held(self.node("QUANTIZE", [source.tensor], output, "QuantizeOptions", 2), "INT8", zero_point)

    def constant_of(self, source: Held, values: npt.NDArray[np.integer[Any]]) -> int:
        """Integers, held as those of `source` are."""
        stored = (values + source.zero_point).astype(source.kind.lower())
        scale = 1.0 if source.kind == "INT8" else None
        return self.constant(stored, scale=scale, zero_point=source.zero_point)

    def like(self, source: Held, sizes: Sequence[int], scale: float = 1.0) -> int:
        """A tensor of the kind and zero point of `source`, of any sizes."""
        quantized = source.kind == "INT8"
        return self.tensor(sizes, source.kind, scale=scale if quantized else None, zero_point=source.zero_point)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor of the model, without the batch."""
        return self.model.shape(name)

    def reshape(self, source: int, output: int, shape: list[int]) -> int:
        """The same values in the same order."""
        return self.node("RESHAPE", [source, self.integers(*shape)], output, "ReshapeOptions", newShape=shape)

    @staticmethod
    def nhwc(shape: Sequence[int]) -> list[int]:
        """(channels, height, width) with the batch, channels last; other shapes with the batch, as they are."""
        return [-1, *shape[1:], shape[0]] if len(shape) == 3 else [-1, *shape]

    def padded(self, source: Held, shape: Sequence[int], before: Pair, after: Pair, value: int | None = None) -> Held:
        """Rows and columns around an image: of zeros, or of another integer."""
        if not any((*before, *after)):
            return source
        channels, height, width = shape
        output = self.like(source, [-1, height + before[0] + after[0], width + before[1] + after[1], channels])
        around = self.constant(np.array([[0, 0], [before[0], after[0]], [before[1], after[1]], [0, 0]], dtype=np.int32))
        if value is None:
            self.node("PAD", [source.tensor, around], output, "PadOptions", 2)
        else:
            self.node(
                "PADV2", [source.tensor, around, self.constant_of(source, np.array([value]))], output, "PadV2Options", 2
            )
        return source._replace(tensor=output)

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
