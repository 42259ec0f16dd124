# SPDX-License-Identifier: MIT
"""Models by name: `pytorchcv:resnet50`, `torchvision:resnet18`, `timm:NAME`, or `package.module:factory` of the user's own."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from bitwright.errors import BitwrightWarning, FileFormatError, ModelError, UnknownNameError, unknown_name
from bitwright.extras import require
from bitwright.graph.factory import call_factory, find_factory
from bitwright.graph.head import with_weights
from bitwright.graph.pretrained import fetching, published_weights
from bitwright.graph.weights_file import FoundWeights, find_weights
from bitwright.raised import described

Source = Callable[[str, dict[str, Any], bool], nn.Module]
Make = Callable[[int | None, bool], nn.Module]


def load_model(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    ema: bool = False,
    suggested: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> nn.Module:
    """Make a model by name, in evaluation mode.

    Args:
        name: `SOURCE:MODEL`; SOURCE is pytorchcv, torchvision, timm (an extra), or a Python module whose factory MODEL is called.
        pretrained: Download the source's own weights.
        weights: A file to load them from instead: `.safetensors`, or a PyTorch file, which is read without executing code; see
            `find_weights` for what it may hold.
        ema: Take the moving average of the weights in that file.
        suggested: Passed to the factory where it is not None, and the factory has such a parameter.
        options: Passed to the factory where not None, for instance `num_classes`, `in_channels`, `in_size`. Without `num_classes`
            the model has as many classes as the weights; where it is another number, the head is new, and a `BitwrightWarning`
            says so.

    Raises:
        UnknownNameError: If source or model do not exist.
        ModelError: If the factory raises, wants other arguments, or makes no module.
        DataError: If the source's own weights cannot be downloaded; says where to place them by hand.
        FileFormatError: If the weights cannot be read or do not fit.
    """
    source, _, model = name.partition(":")
    if not model:
        raise UnknownNameError(
            f"expected a model as SOURCE:MODEL, got '{name}': for instance pytorchcv:resnet18, torchvision:resnet18, "
            "timm:resnet18, or package.module:factory."
        )
    if ema and weights is None:
        raise FileFormatError("a moving average is one of the weights in a file: name the file (weights=, --weights).")
    make = _maker(source, model, _given(suggested), _given(options))
    classes = options.get("num_classes")
    if not pretrained or source not in SOURCES:  # a factory of the user's own reports its own faults
        made = make(classes, pretrained)
    else:
        with fetching(source, model):
            made = make(None, True)
        if classes is not None:
            published = FoundWeights(made.state_dict(), f"the published weights of '{name}'", "one state dict")
            made = with_weights(make(classes, False), published, make, classes)
    if weights is not None:
        made = with_weights(made, find_weights(made, weights, ema=ema), make, classes)
    return made.eval()


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _maker(source: str, model: str, suggested: dict[str, Any], options: dict[str, Any]) -> Make:
    """What makes the model for some number of classes (None: its source's own), with its source's own weights or without."""

    def make(classes: int | None, pretrained: bool) -> nn.Module:
        own = {key: value for key, value in options.items() if key != "num_classes"} | _given({"num_classes": classes})
        if source in SOURCES:
            proposed = {key: value for key, value in suggested.items() if not (pretrained and key == "num_classes")}
            return SOURCES[source](model, proposed | own, pretrained)
        return _from_module(source, model, suggested, own | ({"pretrained": True} if pretrained else {}))

    return make


def image_size(name: str, model: nn.Module) -> int:
    """The image side a model was made for: its own `in_size`, or what timm says; else 299 for Inception and 224 for others."""
    return stated_size(model) or (299 if "inception" in name.lower() else 224)


def stated_size(model: nn.Module) -> int | None:
    """The image side that a model itself says it was made for: its `in_size`, or what timm says; None where it says nothing."""
    size = getattr(model, "in_size", None) or getattr(model, "pretrained_cfg", {}).get("input_size", ())[1:]
    return int(size[0]) if isinstance(size, tuple | list) and size else None


def _pytorchcv(model: str, options: dict[str, Any], pretrained: bool) -> nn.Module:
    require("pytorchcv", f"pytorchcv:{model}")
    from pytorchcv.model_provider import _models, get_model

    if model not in _models:
        raise unknown_name("pytorchcv model", model, _models)
    make, side = partial(get_model, model, pretrained=pretrained), options.pop("in_size", None)
    if side is None:
        return _call(f"pytorchcv:{model}", make, options, pretrained)
    try:
        return _call(f"pytorchcv:{model}", make, options | {"in_size": (side, side)}, pretrained)
    except ModelError as error:
        if "multiple values for keyword argument 'in_size'" not in str(error.__cause__):
            raise
    return _call(f"pytorchcv:{model}", make, options, pretrained)  # which states its size itself


def _torchvision(model: str, options: dict[str, Any], pretrained: bool) -> nn.Module:
    from torchvision import models

    known = [*models.list_models(module=models), *models.list_models(module=models.segmentation)]
    if model not in known:
        raise unknown_name("torchvision model", model, known)
    options.pop("in_size", None)
    parameters = inspect.signature(models.get_model_builder(model)).parameters
    if "init_weights" in parameters or model in ("googlenet", "inception_v3"):
        options.setdefault("init_weights", not pretrained)
    if "weights_backbone" in parameters:  # a segmenter's, which would be downloaded
        options.setdefault("weights_backbone", None)
    make = partial(models.get_model, model, weights="DEFAULT" if pretrained else None)
    return _call(f"torchvision:{model}", make, options, pretrained)


def _timm(model: str, options: dict[str, Any], pretrained: bool) -> nn.Module:
    require("timm", f"timm:{model}")
    import timm

    if not timm.is_model(model):
        raise unknown_name("timm model", model, timm.list_models())
    options.pop("in_size", None)  # of some families only, and those take any size without it
    if "in_channels" in options:
        options["in_chans"] = options.pop("in_channels")
    make = partial(timm.create_model, model, pretrained=pretrained)
    if pretrained and (kept := published_weights("timm", model).path).is_file():
        make = partial(make, pretrained_cfg_overlay={"file": str(kept)})
    made = _call(f"timm:{model}", make, options, pretrained)
    if pretrained:
        _say_preprocessing(model, vars(made)["pretrained_cfg"])
    return made


def _say_preprocessing(model: str, config: Mapping[str, Any]) -> None:
    """Warn where weights expect images otherwise normalised than ImageNet's mostly are."""
    from bitwright.data.decoded import MEAN, STD

    mean, std = tuple(config["mean"]), tuple(config["std"])
    if (mean, std) != (MEAN, STD):
        warnings.warn(
            f"the weights of 'timm:{model}' expect images with mean {mean} and standard deviation {std}, not ImageNet's usual "
            f"{MEAN} and {STD}: normalise yours alike.",
            BitwrightWarning,
            stacklevel=5,
        )


def _from_module(module: str, factory: str, suggested: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    return call_factory(f"'{module}:{factory}'", find_factory(module, factory, SOURCES), options, suggested)


def _call(name: str, factory: Callable[..., nn.Module], options: dict[str, Any], pretrained: bool) -> nn.Module:
    try:
        return factory(**options)
    except TypeError as error:
        raise ModelError(f"{name} does not accept {options}: {error}.") from error
    except Exception as error:
        if pretrained:  # `fetching` knows what can go wrong with published weights
            raise
        raise ModelError(f"{name} cannot be made with {options}: it raised {described(error)}.") from error


SOURCES: dict[str, Source] = {"pytorchcv": _pytorchcv, "torchvision": _torchvision, "timm": _timm}
