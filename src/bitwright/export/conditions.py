# SPDX-License-Identifier: MIT
"""What every exported file says about itself."""

from __future__ import annotations

import json

from bitwright.errors import ExportError, LoweringError
from bitwright.export.pixels import Pixels, images_in_words
from bitwright.export.seal import seal_of
from bitwright.export.target import Target
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import IntegerAvgPool2d
from bitwright.integer.proof.bounds import FLOAT32_EXACT
from bitwright.integer.proof.float32_multipliers import with_float32_multipliers
from bitwright.integer.proof.recheck import recheck
from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.sums import magnitude, window_sums


def conditions(model: IntegerModel, target: Target, pixels: Pixels | None) -> dict[str, str]:
    """Scheme, bounds, certificates and digest of a model, and the CPUs and images that its file is for; engines add their own."""
    facts = {"scheme": model.scheme.to_dict(), "layers": dict(model.facts)}
    return {"bitwright": json.dumps(facts), "target": str(target), "images": images_in_words(pixels), **seal_of(model)}


def require_proof(model: IntegerModel) -> None:
    """Refuse a model that is not proved: what an engine computes is equal to nothing then.

    Raises:
        ExportError: Names the operation.
    """
    try:
        recheck(model)
    except LoweringError as error:
        raise ExportError(f"the model is not proved: {error}") from error


def for_float32(model: IntegerModel) -> IntegerModel:
    """`model`, proved again, with float32 multipliers wherever there are such that give the same integers.

    Raises:
        ExportError: If something is not proved, or a float32 multiplier is not that gives other integers than the model says.
    """
    require_proof(model)
    try:
        return with_float32_multipliers(model)
    except LoweringError as error:
        raise ExportError(str(error)) from error


def require_float32_mean(op: IntegerAvgPool2d, params: QuantParams) -> None:
    """Refuse an average whose sums float32 does not hold: over windows of a tensor of 16 bits.

    Raises:
        ExportError: If a sum can exceed 2**24.
    """
    largest = magnitude(window_sums(op.kernel, params.ends))
    if largest > FLOAT32_EXACT:
        raise ExportError(
            f"expected sums of at most 2**24 at '{op.name}', got up to {largest} over a tensor of {params.bit_width} bits. "
            "Use residual_bits: 8."
        )
