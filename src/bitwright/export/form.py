# SPDX-License-Identifier: MIT
"""The forms of exported files, and all that is known of each: who asks for one compares no names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.errors import ExportError, unknown_name
from bitwright.export.exporter import Exporter
from bitwright.export.litert.exporter import export_litert, to_litert
from bitwright.export.onnx.exporter import export_onnx, to_onnx
from bitwright.export.onnx.qdq import export_qdq, not_for_tensorrt, to_qdq
from bitwright.export.onnx.split import split_layers
from bitwright.export.openvino.exporter import export_openvino, to_openvino
from bitwright.export.pixels import Pixels
from bitwright.export.qonnx.exporter import export_qonnx, imports_qonnx, to_qonnx
from bitwright.export.target import Target
from bitwright.export.tvm.exporter import export_tvm, to_tvm
from bitwright.integer.model import IntegerModel
from bitwright.progress import Progress, silent

Notes = Callable[[IntegerModel], Iterator[str]]


def _no_notes(model: IntegerModel) -> Iterator[str]:
    return iter(())


def _no_facts(model: IntegerModel) -> dict[str, object]:
    return {}


@dataclass(frozen=True)
class Form:
    """A form of files that one engine reads.

    Attributes:
        engine: What it is for, by the name that `bitwright export --engine` takes.
        suffix: The suffix of the files' names.
        exporter: Writes such a file.
        build: Makes the form in memory, or raises `ExportError`.
        name: Tells the forms of one engine apart; empty where it has one.
        options: What the exporter takes beyond all exporters' arguments.
        notes: What one should know of a model's file, in sentences.
        facts: The same for machines.
        is_in: Whether a file of the suffix has this form.
    """

    engine: str
    suffix: str
    exporter: Exporter
    build: Callable[[IntegerModel], Any]
    name: str = ""
    options: frozenset[str] = frozenset()
    notes: Notes = _no_notes
    facts: Callable[[IntegerModel], dict[str, object]] = _no_facts
    is_in: Callable[[Path], bool] = lambda path: True

    def export(
        self,
        model: IntegerModel,
        path: str | Path,
        target: Target | str = Target.ANY,
        pixels: Pixels | None = None,
        *,
        progress: Progress = silent,
        **options: Any,
    ) -> object:
        """Write a file; see `Exporter`.

        Args:
            model: What to export.
            path: The path of the file.
            target: The CPUs that it must be exact on.
            pixels: How images were normalised in training, for files that take uint8 pixels.
            progress: Called after each step, where the exporter takes long.
            options: Those of this form alone.

        Raises:
            ExportError: If the model is refused, or an option is none of this form's.
        """
        self.require_options(options)
        if "progress" in self.options:
            options["progress"] = progress
        return self.exporter(model, path, target, pixels, **options)

    def require_options(self, options: Iterable[str]) -> None:
        """Refuse options that are none of this form's.

        Raises:
            ExportError: Names the engines that take such an option.
        """
        for option in options:
            if option not in self.options:
                takers = ", ".join(dict.fromkeys(form.engine for form in FORMS if option in form.options))
                flag = f"--{option.replace('_', '-')}"
                raise ExportError(
                    f"{flag} is for the engine {takers}, got {self.engine}. Leave it out, or add --engine {takers}."
                )


def _digit_facts(model: IntegerModel) -> dict[str, object]:
    split = list(split_layers(model))
    return {"split_layers": split} if split else {}


def _digit_notes(model: IntegerModel) -> Iterator[str]:
    if split := list(split_layers(model)):
        count, names = f"{len(split)} of {len(model.layers())}", ", ".join(split)
        yield f"{count} layers in two parts, since their sums can exceed the 2**24 that float32 holds: {names}"


def _qdq_notes(model: IntegerModel) -> Iterator[str]:
    if unfit := not_for_tensorrt(model):
        yield (
            f"not for TensorRT: {len(unfit)} tensors need uint8, first {unfit[0]}. "
            "Train with --deploy tensorrt, which makes all of them int8"
        )
    yield from _digit_notes(model)


def _plain_onnx(path: Path) -> bool:
    return not imports_qonnx(path)


FORMS = (
    Form("litert", ".tflite", export_litert, to_litert),
    # ONNX Runtime's own quantizer gives its forms these names.
    Form("onnx", ".onnx", export_onnx, to_onnx, "qoperator", options=frozenset({"tail"}), is_in=_plain_onnx),
    Form(
        "onnx",
        ".onnx",
        export_qdq,
        to_qdq,
        "qdq",
        options=frozenset({"tail"}),
        notes=_qdq_notes,
        facts=_digit_facts,
        is_in=_plain_onnx,
    ),
    Form("openvino", ".xml", export_openvino, to_openvino),
    Form("qonnx", ".onnx", export_qonnx, to_qonnx, notes=_digit_notes, facts=_digit_facts, is_in=imports_qonnx),
    Form("tvm", ".so", export_tvm, to_tvm, options=frozenset({"progress", "tvm_target"})),
)
"""All forms; the first of an engine is its default."""


def form_of(engine: str, name: str | None = None) -> Form:
    """The form of files for an engine.

    Args:
        engine: Its name.
        name: The name of one of its forms; by default, the first.

    Raises:
        UnknownNameError: If there is no such engine or form.
        ExportError: If the form is another engine's.
    """
    own = [form for form in FORMS if form.engine == engine]
    if not own:
        raise unknown_name("engine", engine, dict.fromkeys(form.engine for form in FORMS))
    if name is None:
        return own[0]
    named = [form for form in FORMS if form.name == name]
    if not name or not named:
        raise unknown_name("form", name, [form.name for form in FORMS if form.name])
    if named[0] not in own:
        raise ExportError(f"--form {name} is for the engine {named[0].engine}, got {engine}. Leave one of them out.")
    return named[0]


def is_exported(path: str | Path) -> bool:
    """Whether the end of a file's name is that of an exported file."""
    return Path(path).suffix in {form.suffix for form in FORMS}
