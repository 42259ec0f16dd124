# SPDX-License-Identifier: MIT
"""Models by name: `pytorchcv:resnet50`, `torchvision:resnet18`, or `package.module:factory` of the user's own."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitwright.errors import FileFormatError, UnknownNameError, unknown_name
from bitwright.graph.pretrained import fetching

Source = Callable[[str, dict[str, Any], bool], nn.Module]


def load_model(name: str, *, pretrained: bool = False, weights: str | Path | None = None, **options: Any) -> nn.Module:
    """Make a model by name, in evaluation mode.

    Args:
        name: `SOURCE:MODEL`; SOURCE is pytorchcv, torchvision, or a Python module whose factory MODEL is called.
        pretrained: Download the source's own weights.
        weights: A state dict to load instead: `.safetensors`, or a PyTorch file, which is read without executing code.
        options: Passed to the factory where not None, for instance `num_classes`, `in_channels`, `in_size`.

    Raises:
        UnknownNameError: If source or model do not exist.
        DataError: If the source's own weights cannot be downloaded; says where to place them by hand.
        FileFormatError: If the weights cannot be read or do not fit.
    """
    source, _, model = name.partition(":")
    if not model:
        raise UnknownNameError(
            f"expected a model as SOURCE:MODEL, got '{name}': for instance pytorchcv:resnet18, torchvision:resnet18, "
            "or package.module:factory."
        )
    given = {key: value for key, value in options.items() if value is not None}
    # Only the built-in sources' weights lie at known places; a factory of the user's own reports its own faults.
    with fetching(source, model) if pretrained and source in SOURCES else nullcontext():
        made = SOURCES.get(source, _from_module(source))(model, given, pretrained)
    if weights is not None:
        load_weights(made, weights)
    return made.eval()


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into `model`; a `module.` prefix (DataParallel) and a `state_dict` key are looked through.

    Raises:
        FileFormatError: If the file cannot be read, or its names or shapes do not fit.
    """
    state = read_state_dict(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        faults = [line.strip() for line in str(error).splitlines()[1:]]
        raise FileFormatError(f"the weights in '{path}' do not fit the model: {' '.join(faults)[:400]}") from error


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors or PyTorch file, without executing any code in it."""
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many unrelated types for damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "weights_only" in reason:  # PyTorch would advise to load it with code execution
            reason = "it is no file of plain tensors."
        raise FileFormatError(f"cannot read weights from '{path}': {reason}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise FileFormatError(f"expected a state dict (names to tensors) in '{path}', got {type(state).__name__}.")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def image_size(name: str, model: nn.Module) -> int:
    """The image side a model was made for: its own `in_size`, else 299 for Inception and 224 for the others."""
    size = getattr(model, "in_size", None)
    if isinstance(size, tuple | list) and size:
        return int(size[0])
    return 299 if "inception" in name.lower() else 224


def _pytorchcv(model: str, options: dict[str, Any], pretrained: bool) -> nn.Module:
    from pytorchcv.model_provider import _models, get_model

    if model not in _models:
        raise unknown_name("pytorchcv model", model, _models)
    side = options.pop("in_size", None)
    if side is not None:
        options["in_size"] = (side, side)
    return _call(f"pytorchcv:{model}", partial(get_model, model, pretrained=pretrained), options)


def _torchvision(model: str, options: dict[str, Any], pretrained: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if model not in known:
        raise unknown_name("torchvision model", model, known)
    options.pop("in_size", None)
    builder = models.get_model_builder(model)
    if "init_weights" in inspect.signature(builder).parameters or model in ("googlenet", "inception_v3"):
        options.setdefault("init_weights", not pretrained)
    make = partial(models.get_model, model, weights="DEFAULT" if pretrained else None)
    return _call(f"torchvision:{model}", make, options)


def _from_module(module: str) -> Source:
    def make(factory: str, options: dict[str, Any], pretrained: bool) -> nn.Module:
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            found = getattr(importlib.import_module(module), factory)
        except ImportError as error:
            known = ", ".join([*SOURCES, "package.module"])
            raise UnknownNameError(f"unknown model source '{module}' ({error}). Known: {known}.") from error
        except AttributeError as error:
            raise UnknownNameError(f"module '{module}' has no factory '{factory}'.") from error
        accepted = inspect.signature(found).parameters
        if pretrained:
            options = {**options, "pretrained": True}
        given = {key: value for key, value in options.items() if key in accepted}
        made: object = _call(f"{module}:{factory}", found, given)
        if not isinstance(made, nn.Module):
            raise UnknownNameError(f"'{module}:{factory}' returned {type(made).__name__}, expected a torch.nn.Module.")
        return made

    return make


def _call(name: str, factory: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    try:
        return factory(**options)
    except TypeError as error:
        raise UnknownNameError(f"{name} does not accept {options}: {error}.") from error


SOURCES: dict[str, Source] = {"pytorchcv": _pytorchcv, "torchvision": _torchvision}
