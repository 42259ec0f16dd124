# SPDX-License-Identifier: MIT
"""Why a model cannot be captured, told by the model's own error where it has one, and with advice that fits the cause."""

from __future__ import annotations

import re

from torch import fx, nn

from bitwright.errors import CaptureError
from bitwright.raised import described, place

_OF_SHAPE = re.compile(r"shape|size|channel|dimension|spatial|multiplied|too small|kernel", re.IGNORECASE)
_OF_VALUES = re.compile(r"data-dependent|unbacked|Eq\(u\d", re.IGNORECASE)
_OF_BATCH = re.compile(r"Constraints violated|specializ|Guard failed|marked .* as dynamic", re.IGNORECASE)


def explain_run(error: Exception, model: nn.Module, shape: tuple[int, ...], name: str) -> CaptureError:
    """The model itself fails on a batch of two images."""
    if _is_exported(model):
        return _exported(shape, name)
    hint = " Check the image size, and the channels." if _OF_SHAPE.search(str(error)) else ""
    return CaptureError(
        f"cannot capture {name} on images of shape {shape}: in evaluation mode it raises {described(error)}.{hint}"
    )


def explain_export(error: Exception, model: nn.Module, shape: tuple[int, ...], name: str) -> CaptureError:
    """The model runs, but `torch.export` cannot follow it."""
    if _is_exported(model):
        return _exported(shape, name)
    text = f"{type(error).__name__} {error}"
    start = f"torch.export cannot capture {name} on images of shape {shape} with any batch size:"
    if _OF_VALUES.search(text):
        return CaptureError(
            f"{start} its forward() has data-dependent control flow ({place(error)}). A graph has one way for all images: "
            "take the decision out of the model, or write it as a clamp, a maximum or a product."
        )
    if _OF_BATCH.search(text):
        return CaptureError(
            f"{start} its forward() holds for one batch size only, as a number in view() or a loop over the images makes it "
            f"({place(error)}). Write x.shape[0] or -1 for the batch."
        )
    return CaptureError(f"{start} {described(error)}. Rewrite that part of forward() in operations on whole tensors.")


def _is_exported(model: nn.Module) -> bool:
    return isinstance(model, fx.GraphModule) and type(model).__mro__[1].__module__.startswith("torch.export")


def _exported(shape: tuple[int, ...], name: str) -> CaptureError:
    images = ", ".join(map(str, (2, *shape)))
    return CaptureError(
        f"{name} was exported for other images, or for one batch size: export it again with torch.export.export(model, "
        f"(torch.randn({images}),), dynamic_shapes=({{0: torch.export.Dim.DYNAMIC}},)), or give the module itself."
    )
