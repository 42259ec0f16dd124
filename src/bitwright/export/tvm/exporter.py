# SPDX-License-Identifier: MIT
"""IntegerModel to TVM: the whole network compiled for a CPU, as one shared library.

Everything between the images and the logits is integer arithmetic: products summed in int32, then for each requantization a
float32 multiplication where it is proved to give the integers, and elsewhere one of 64 bits and a shift, halves to even. So both
families of multipliers are exact, also those of 31 bits, and no CPU is excluded: what the instructions of the target could not
hold is not computed with them. Where the target has 8-bit dot products,
layers use those. Elsewhere, those whose weights are proved small enough use byte products that sum in int16, the others words
that sum in int32; see `kernels`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitwright.errors import ExportError
from bitwright.export.conditions import require_proof
from bitwright.export.pixels import Pixels, images_in_words
from bitwright.export.seal import seal_of, write_sealed
from bitwright.export.target import Target
from bitwright.extras import require
from bitwright.integer.model import IntegerModel
from bitwright.progress import Progress, silent
from bitwright.returned import SINGLE

if TYPE_CHECKING:
    from tvm.target import Target as TvmTarget

    from bitwright.export.tvm.kernels.instructions import Instructions

SUFFIX = ".so"
ENTRY = "main"
METADATA = "bitwright"
"""The function that returns the conditions as JSON."""
WITHOUT = "-disable-vector-combine:bool=true"
"""LLVM's pass over short vectors breaks the code of some small layers in TVM 0.27's LLVM: it narrows loads, or moves casts, to
behind their uses ("Instruction does not dominate all uses"), and the library is not made. Kernels are written in vectors, and
are no slower without it."""


def export_tvm(
    model: IntegerModel,
    path: str | Path,
    target: Target | str = Target.ANY,
    pixels: Pixels | None = None,
    *,
    tvm_target: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compile `model` to a shared library for TVM's virtual machine, atomically.

    Its function `main` takes `images` (batch x channels x height x width) and returns the integers of the model (int32) and
    the logits (float32, the integers times the unit of each class), for each output; `bitwright` returns its conditions, as JSON.

    Args:
        model: What to export.
        path: The path of the library; its name ends in `.so`.
        target: The same for all: integers are exact on every CPU that has the instructions of `tvm_target`.
        pixels: How images were normalised in training: the library then takes uint8 pixels; without, normalised float32 images.
        tvm_target: What to compile for: an LLVM CPU name, or a TVM target as JSON; None is this machine's CPU.
        progress: Called after each operation, and after compilation.

    Returns:
        The conditions that the library holds.

    Raises:
        MissingLibraryError: If TVM is not installed.
        ExportError: If the target is unknown, a sum can leave int32, or no C compiler is there to link.
    """
    require("tvm", "TVM's format")
    Target(target)
    if Path(path).suffix != SUFFIX:
        raise ExportError(
            f"TVM loads libraries by the end of their name: expected '{SUFFIX}', got '{path}'. Rename it."
        )
    require_proof(model)
    from tvm import relax

    compiled_for = _target(tvm_target)
    steps = len(model.ops) + 2
    module, conditions = _module(model, pixels, compiled_for, lambda done: progress(done, steps))
    executable = relax.build(module, compiled_for, relax_pipeline=_passes())
    progress(steps - 1, steps)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.so"
        linker = _linker(compiled_for)
        try:
            executable.export_library(str(made), fcompile=linker)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ExportError(f"linking the library failed: {reason}") from error
        write_sealed(path, made.read_bytes())
    progress(steps, steps)
    return conditions


def to_tvm(model: IntegerModel, pixels: Pixels | None = None, *, tvm_target: str | None = None) -> Any:
    """`model` as TVM's module, before it is compiled; see `export_tvm`."""
    require("tvm", "TVM's format")
    require_proof(model)
    return _module(model, pixels, _target(tvm_target), lambda done: None)[0]


def _passes() -> Any:
    """Relax's default passes but for those that look for operators and schedules: here every call is of a finished kernel."""
    from tvm.ir.transform import Sequential
    from tvm.relax import transform

    return Sequential(
        [
            transform.ToNonDataflow(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            transform.StaticPlanBlockMemory(),
            transform.LowerAllocTensor(),
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.ComputePrimValue(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )


def _target(name: str | None) -> TvmTarget:
    """TVM's target for a CPU name, its JSON, or this machine, less the pass of LLVM in `WITHOUT`."""
    import tvm
    from tvm.target import codegen

    try:
        if name is not None and name.lstrip().startswith("{"):
            parts = json.loads(name)
            tvm.target.Target(parts)  # which says what is wrong with it, as the user wrote it
        else:
            cpu = codegen.llvm_get_system_cpu() if name is None else name
            triple = codegen.llvm_get_system_triple()
            if not codegen.llvm_is_valid_cpu(cpu, triple):
                raise ExportError(f"LLVM knows no CPU '{cpu}' of {triple}: for another one, give a target as JSON.")
            parts = {"kind": "llvm", "mtriple": triple, "mcpu": cpu}
        if parts["kind"] == "llvm":
            parts["cl-opt"] = [*parts.get("cl-opt", []), WITHOUT]
        return tvm.target.Target(parts)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"TVM does not understand the target '{name}': {reason}") from error


def _linker(target: TvmTarget) -> Any:
    """The C compiler that links for the target."""
    from tvm.support import cc
    from tvm.target import codegen

    triple = str(target.attrs.get("mtriple", ""))
    system = codegen.llvm_get_system_triple()
    compiler = None
    if not triple or triple.split("-")[0] == system.split("-")[0]:
        compiler = cc.get_cc()
    else:
        short = "-".join(part for part in triple.split("-") if part not in ("unknown", "pc"))
        compiler = shutil.which(f"{short}-gcc")
        if compiler is None:
            raise ExportError(f"linking for {triple} needs its compiler {short}-gcc, which is not installed.")
    if compiler is None:
        raise ExportError("linking the library needs a C compiler: install gcc or clang.")
    return cc.cross_compiler(compiler)


def instructions_of(target: TvmTarget) -> Instructions:
    """What the kernels use of a CPU: 512-bit dot products and choices of bytes, 256-bit integers, or what LLVM makes of them."""
    from tvm.target import codegen

    from bitwright.export.tvm.kernels.instructions import Choices, Dots, Instructions

    with target:
        x86 = "x86" in str(target.attrs.get("mtriple", ""))
        avx2, avx512, vnni, vbmi = (
            x86 and bool(codegen.llvm_cpu_has_features(feature, target))
            for feature in ("avx2", "avx512vl", "avx512vnni", "avx512vbmi")
        )
    dots = Dots.VNNI if avx2 and avx512 and vnni else Dots.NONE
    return Instructions(avx2, dots, Choices.VBMI if avx2 and avx512 and vbmi else Choices.NONE)


def _module(model: IntegerModel, pixels: Pixels | None, target: TvmTarget, report: Any) -> tuple[Any, dict[str, Any]]:
    """The Relax module, and what it says about itself."""
    from tvm import relax, tirx
    from tvm.ir import StringImm

    from bitwright.export.tvm import operations as _operations  # which enter themselves in `add_to_tvm`
    from bitwright.export.tvm.network import Network, add_to_tvm, outputs

    del _operations

    instructions = instructions_of(target)
    builder = relax.BlockBuilder()
    batch = tirx.Var("batch", "int64")
    kind = "float32" if pixels is None else "uint8"
    images = relax.Var("images", relax.TensorType((batch, *model.input_shape), kind))
    with builder.function(ENTRY, [images]):
        with builder.dataflow():
            network = Network(model, pixels, instructions, builder, images, batch)
            for done, op in enumerate(model, start=1):
                network.shapes[op.name] = op.shape
                add_to_tvm(op, network)
                report(done)
            made = builder.emit_output(relax.Tuple(outputs(network)))
        builder.emit_func_output(made)
    conditions = _conditions(model, pixels, target, instructions)
    with builder.function(METADATA, []):
        builder.emit_func_output(StringImm(json.dumps(conditions)))
    return builder.finalize(), conditions


def _conditions(
    model: IntegerModel, pixels: Pixels | None, target: TvmTarget, instructions: Instructions
) -> dict[str, Any]:
    """What the library says about itself."""
    import tvm

    images = images_in_words(pixels)
    shapes = model.output_shapes
    outputs = {
        name: {"shape": list(shapes[name]), "unit": np.asarray(output.unit).tolist()}
        for name, output in model.outputs.items()
    }
    return {
        **seal_of(model),
        "model": model.model,
        "images": images,
        "scheme": model.scheme.to_dict(),
        "layers": dict(model.facts),
        "input": {
            "shape": list(model.input_shape),
            "dtype": "float32" if pixels is None else "uint8",
            "images": images,
            "scale": model.formats[model.ops[0].name].scale,
        },
        **({"outputs": outputs} if len(outputs) > 1 else {"output": outputs[SINGLE]}),
        "exact": "on every CPU that has the target's instructions: integer arithmetic, or float32 proved equal to it",
        "instructions": instructions.described(),
        "target": str(target),
        "tvm": tvm.__version__,
    }
