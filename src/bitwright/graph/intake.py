# SPDX-License-Identifier: MIT
"""What capture takes: a module, whatever it is wrapped in, as float32 and in evaluation mode; what else, it refuses by kind."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from bitwright.errors import BitwrightWarning, CaptureError
from bitwright.returned import named_tensors

_WRAPPED = {"DataParallel": "module", "DistributedDataParallel": "module", "AveragedModel": "module"}
_WRAPPED["OptimizedModule"] = "_orig_mod"  # of torch.compile


def network_of(model: object, name: str) -> nn.Module:
    """The module within `model`, which may be compiled, parallel or exported.

    Raises:
        CaptureError: If there is none that takes one batch of images, or its weights are not there yet, or not numbers.
    """
    if isinstance(model, ExportedProgram):
        model = model.module()
    while type(model).__name__ in _WRAPPED and isinstance(model, nn.Module):
        model = getattr(model, _WRAPPED[type(model).__name__])
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise CaptureError(
            f"{name} is a TorchScript program, which torch.export does not read: give the Python module that it was made from."
        )
    if not isinstance(model, nn.Module):
        raise CaptureError(f"{name} is {_kind(model)}, expected a torch.nn.Module that takes a batch of images.")
    if hasattr(model, "_original_forward"):
        raise CaptureError(
            f"{name} is prepared by Accelerate for mixed precision: give accelerator.unwrap_model(model, "
            "keep_fp32_wrapper=False)."
        )
    _check_inputs(model, name)
    _check_tensors(model, name)
    return model


def _kind(model: object) -> str:
    if isinstance(model, type):
        return f"the class {model.__name__}: make one of it"
    if callable(model):
        return f"a function of type {type(model).__name__}: call it in the forward() of a module"
    return f"an object of type {type(model).__name__}"


def _check_inputs(model: nn.Module, name: str) -> None:
    """One argument, besides those with defaults."""
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = inspect.Parameter
    places = [item for item in parameters if item.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    needed = [item.name for item in parameters if item.default is kinds.empty and item.kind not in (
        kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]  # fmt: skip
    if len(needed) > 1:
        raise CaptureError(
            f"{name} takes {len(needed)} inputs ({', '.join(needed)}), but only one batch of images is known here: wrap it in a "
            "module whose forward() takes the images and makes the others."
        )
    if not places and not any(item.kind is kinds.VAR_POSITIONAL for item in parameters):
        raise CaptureError(f"the forward() of {name} takes no images: expected one argument.")


def _check_tensors(model: nn.Module, name: str) -> None:
    """Initialised, on one device, and finite."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    lazy = [key for key, tensor in tensors.items() if is_lazy(tensor)]
    if lazy:
        raise CaptureError(
            f"'{lazy[0]}' of {name} is lazy and has no shape yet: run the model once on a batch of images."
        )
    devices = sorted({str(tensor.device) for tensor in tensors.values()})
    if "meta" in devices:
        raise CaptureError(f"{name} has no weights (its device is meta): load them first.")
    if len(devices) > 1:
        raise CaptureError(f"{name} lies on several devices ({', '.join(devices)}): move it to one with .to(device).")
    for key, tensor in tensors.items():
        bad = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise CaptureError(
                f"'{key}' of {name} has {bad} of {tensor.numel()} values that are NaN or infinite: its training diverged, or "
                "its file is damaged."
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode; afterwards every module is as it was."""
    was_training = {module: module.training for module in model.modules()}
    with suppress(NotImplementedError):  # exported modules are what they were exported as
        model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


@contextmanager
def naming_outputs(model: nn.Module, name: str) -> Iterator[None]:
    """With a forward() that returns its tensors by name, whatever holds them; afterwards with its own.

    `torch.export` follows what makes such a dict, but knows few of the types that a model may return.
    """
    own, original = "forward" in vars(model), model.forward

    @wraps(original)
    def forward(*given: Any, **options: Any) -> dict[str, Tensor]:
        return named_tensors(original(*given, **options), name)

    model.forward = forward
    try:
        yield
    finally:
        if own:
            model.forward = original
        else:
            del model.forward


@contextmanager
def as_type(model: nn.Module, kind: torch.dtype) -> Iterator[None]:
    """With all floating-point tensors of one type; afterwards they are the very ones from before."""
    parameters = {id(parameter): (parameter, parameter.data) for parameter in model.parameters()}
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        for parameter, data in parameters.values():
            parameter.data = _cast(data, kind)
        for module, name, buffer in buffers:
            module._buffers[name] = _cast(buffer, kind)
        yield
    finally:
        for parameter, data in parameters.values():
            parameter.data = data
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


def _cast(tensor: Tensor, kind: torch.dtype) -> Tensor:
    return tensor.to(kind) if tensor.is_floating_point() else tensor


def warn_of_cast(model: nn.Module, name: str) -> None:
    """Say it where weights are not float32."""
    tensors = [*model.parameters(), *model.buffers()]
    kinds = sorted({str(tensor.dtype) for tensor in tensors if tensor.is_floating_point()} - {"torch.float32"})
    if kinds:
        text = f"{name} has weights of {', '.join(kinds)}: they are captured as torch.float32."
        warnings.warn(text, BitwrightWarning, stacklevel=4)
