# SPDX-License-Identifier: MIT
"""Schemes as several commands name them: a file, or a precision for all inner layers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from bitwright.errors import SchemeError
from bitwright.scheme import Precision, Scheme


def scheme_for(
    name: str,
    layers: Collection[str],
    residual_bits: int = 8,
    deploy: str | None = None,
    activations: str | None = None,
) -> Scheme:
    """The scheme of a network.

    Args:
        name: A YAML file, or a precision such as W4A4, which leaves first and last layers at 8 bits.
        layers: Names of the network's layers with weights, in order.
        residual_bits: The residual bits of the tensors that additions read and write; a file has its own.
        deploy: What the formats are to suit; by default, what a file says, or any engine.
        activations: Which integers tensors have that can be negative; a file has its own.

    Raises:
        SchemeError: If it is neither, or does not fit the network.
    """
    if Path(name).exists():
        found = Scheme.load(name)
        found.check(layers)
        return found if deploy is None else replace(found, deploy=deploy)
    try:
        precision = Precision.parse(name)
    except SchemeError as error:
        raise SchemeError(
            f"expected a scheme's file or a precision such as W4A4, got '{name}': no such file."
        ) from error
    chosen = Scheme.uniform(layers, precision)
    return replace(
        chosen,
        residual_bits=residual_bits,
        deploy=deploy or chosen.deploy,
        activations=activations or chosen.activations,
    )
