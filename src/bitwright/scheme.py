# SPDX-License-Identifier: MIT
"""The words every package shares: the precision of one layer, the scheme of a model, the limits of a search."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from bitwright.errors import BudgetError, FileFormatError, SchemeError, shown, unknown_name
from bitwright.files import write_text
from bitwright.kinds import SCHEME, is_another, wrong_kind
from bitwright.overview import Overview, Overviewed, counted
from bitwright.reading import parse_yaml, read_text

MIN_BITS, MAX_BITS = 2, 8
RESIDUAL_BITS = (8, 16)
DEPLOYMENTS = ("any", "tensorrt")
ACTIVATIONS = ("asymmetric", "symmetric")
BUDGET_UNITS = {"size": "MB", "bops": "G", "latency": "ms", "activation": "MB"}


@dataclass(frozen=True, order=True)
class Precision:
    """Bits of one layer's weights and of the activations it reads, each from 2 to 8.

    >>> Precision.parse("W4A8")
    Precision(weight_bits=4, act_bits=8)
    >>> str(Precision(8, 8))
    'W8A8'
    """

    weight_bits: int
    act_bits: int

    def __post_init__(self) -> None:
        for name, bits in (("weight", self.weight_bits), ("activation", self.act_bits)):
            if not MIN_BITS <= bits <= MAX_BITS:
                raise SchemeError(f"{name} bits must be {MIN_BITS} to {MAX_BITS}, got {bits}.")

    def __hash__(self) -> int:  # searches look precisions up half a million times a second
        return self.weight_bits << 4 | self.act_bits

    def __str__(self) -> str:
        return f"W{self.weight_bits}A{self.act_bits}"

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Read `W4A8` (any case), or one number for both.

        Raises:
            SchemeError: If the text is neither, or a width is out of range.
        """
        match = re.fullmatch(r"[wW]([0-9]{1,3})[aA]([0-9]{1,3})|([0-9]{1,3})", str(text).strip())
        if match:
            return cls(int(match[1] or match[3]), int(match[2] or match[3]))
        raise SchemeError(f"expected a precision such as W4A8, got {shown(text)}.")


@dataclass(frozen=True, repr=False)
class Scheme(Overviewed):
    """The precision of every layer of a model.

    Attributes:
        name: What tables call it, for instance `bops0.5`.
        layers: Precision by layer name, in the order of execution.
        residual_bits: Width of the tensors that element-wise additions read and write: 8 or 16.
        deploy: Whose formats the tensors have: those of `any` engine on a CPU, or TensorRT's, which knows no unsigned bytes.
        activations: Which integers tensors have that can be negative: `asymmetric` lets calibration place their windows,
            `symmetric` gives all the same.
    """

    name: str
    layers: Mapping[str, Precision] = field(default_factory=dict)
    residual_bits: int = 8
    deploy: str = "any"
    activations: str = "asymmetric"

    def __post_init__(self) -> None:
        if self.activations not in ACTIVATIONS:
            raise unknown_name(f"form of activations of scheme '{self.name}'", self.activations, ACTIVATIONS)
        if self.deploy not in DEPLOYMENTS:
            raise unknown_name(f"deployment of scheme '{self.name}'", self.deploy, DEPLOYMENTS)
        if self.residual_bits not in RESIDUAL_BITS:
            raise SchemeError(f"residual_bits must be 8 or 16, got {self.residual_bits}, in scheme '{self.name}'.")

    def overview(self) -> Overview:
        """Its layers, with their bits."""
        facts = [counted(len(self.layers), "layer")]
        if self.layers:
            facts.append(f"{min(self.layers.values())} to {max(self.layers.values())}")
        rows = [(layer, str(precision)) for layer, precision in self.layers.items()]
        return Overview(self.name, facts, ("layer", "bits"), rows)

    @classmethod
    def uniform(
        cls,
        layers: Iterable[str],
        precision: Precision,
        name: str | None = None,
        first_and_last: Precision | None = None,
    ) -> Scheme:
        """One precision for all layers; the first and the last keep `first_and_last` (default 8 bits).

        >>> scheme = Scheme.uniform(["stem", "body", "fc"], Precision(4, 4))
        >>> [str(precision) for precision in scheme.layers.values()]
        ['W8A8', 'W4A4', 'W8A8']
        """
        names = list(layers)
        ends = first_and_last or Precision(8, 8)
        chosen = {layer: ends if layer in (names[0], names[-1]) else precision for layer in names}
        return cls(name or str(precision), chosen)

    def check(self, layers: Iterable[str]) -> None:
        """Raise SchemeError unless the scheme names exactly these layers; all faults are collected."""
        expected = list(layers)
        missing = [layer for layer in expected if layer not in self.layers]
        extra = [layer for layer in self.layers if layer not in set(expected)]
        if not missing and not extra:
            return
        faults = []
        if extra:
            faults.append(str(unknown_name("layer", extra[0], expected)).removesuffix("."))
        if missing:
            faults.append(f"no precision for {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}")
        raise SchemeError(
            f"scheme '{self.name}' does not fit the model ({len(extra)} unknown, {len(missing)} missing layers): "
            + "; ".join(faults)
        )

    def to_dict(self) -> dict[str, Any]:
        layers = {layer: str(precision) for layer, precision in self.layers.items()}
        rare = {} if self.deploy == "any" else {"deploy": self.deploy}
        if self.activations != "asymmetric":
            rare["activations"] = self.activations
        return {"name": self.name, "residual_bits": self.residual_bits, **rare, "layers": layers}

    @classmethod
    def from_dict(cls, fields: Any, where: str = "scheme") -> Scheme:
        """The inverse of `to_dict`; `residual_bits`, `deploy` and `activations` may be left out.

        Raises:
            FileFormatError: If keys are missing or unknown, or a value is no precision; all faults together.
        """
        if not isinstance(fields, Mapping):
            raise FileFormatError(f"{where}: expected a mapping with 'name' and 'layers', got {shown(fields)}")
        known = {"name", "residual_bits", "deploy", "activations", "layers"}
        faults = [str(unknown_name("key", str(key), known)).removesuffix(".") for key in fields if key not in known]
        faults += [f"missing key '{key}'" for key in ("name", "layers") if key not in fields]
        name, entries = fields.get("name", ""), fields.get("layers", {})
        if not isinstance(name, str | int | float):
            faults.append(f"'name' must be a text, got {shown(name)}")
        if not isinstance(entries, Mapping):
            faults.append(f"'layers' must map layer names to precisions, got {shown(entries)}")
            entries = {}
        layers: dict[str, Precision] = {}
        for layer, precision in entries.items():
            try:
                if isinstance(precision, bool) or not isinstance(precision, str | int):
                    raise SchemeError(f"expected a precision such as W4A8, got {shown(precision)}")
                layers[str(layer)] = Precision.parse(str(precision))
            except SchemeError as error:
                faults.append(f"layer '{layer}': {str(error).removesuffix('.')}")
        residual_bits = fields.get("residual_bits", 8)
        if type(residual_bits) is not int or residual_bits not in RESIDUAL_BITS:
            faults.append(f"residual_bits must be 8 or 16, got {shown(residual_bits)}")
        deploy = fields.get("deploy", "any")
        if deploy not in DEPLOYMENTS:
            faults.append(f"deploy must be {' or '.join(DEPLOYMENTS)}, got {shown(deploy)}")
        activations = fields.get("activations", "asymmetric")
        if activations not in ACTIVATIONS:
            faults.append(f"activations must be {' or '.join(ACTIVATIONS)}, got {shown(activations)}")
        if faults:
            raise FileFormatError(f"{where}: " + "; ".join(faults))
        return cls(str(name), layers, residual_bits, deploy, activations)

    def save(self, path: str | Path) -> None:
        """Write YAML, atomically."""
        write_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False))

    @classmethod
    def load(cls, path: str | Path) -> Scheme:
        """Read YAML.

        Raises:
            FileFormatError: If the file is missing, is no YAML mapping, or is no scheme; all faults together.
        """
        try:
            return cls.from_dict(parse_yaml(read_text(path, "a scheme"), f"a scheme from '{path}'"), where=str(path))
        except FileFormatError:
            if is_another(path, SCHEME):
                raise wrong_kind(path, SCHEME) from None
            raise


@dataclass(frozen=True)
class Budget:
    """One limit of a search.

    Attributes:
        kind: `size` (of the weights, MB of 2**20 bytes), `bops` (G of 10**9), `latency` (ms), or `activation` (peak memory
            of the activations, MB of 2**20 bytes).
        limit: In that unit; or, if relative, a part of the way from the smallest reachable value (0) to the largest (1).
        relative: Whether `limit` is such a part.

    >>> Budget.parse("size0.5")
    Budget(kind='size', limit=0.5, relative=True)
    >>> str(Budget("bops", 72))
    'bops=72G'
    """

    kind: str
    limit: float
    relative: bool = False

    def __post_init__(self) -> None:
        if self.kind not in BUDGET_UNITS:
            raise unknown_name("budget", self.kind, BUDGET_UNITS)
        if not math.isfinite(self.limit) or self.limit < 0:
            raise BudgetError(f"a budget of {self.kind} must be a number of at least 0, got {self.limit}.")
        if self.relative and self.limit > 1:
            raise BudgetError(
                f"a relative budget lies between 0 (smallest reachable) and 1 (largest), got {self.kind}{self.limit:g}; "
                f"write {self.kind}={self.limit:g}{self.unit} for an absolute one."
            )

    def __str__(self) -> str:
        limit = _decimal(self.limit)
        return f"{self.kind}{limit}" if self.relative else f"{self.kind}={limit}{self.unit}"

    @property
    def unit(self) -> str:
        return BUDGET_UNITS[self.kind]

    def exact_limit(self) -> Fraction:
        """The limit as it is written in decimal: 0.1 is 1/10, not the nearest binary number.

        >>> Budget("size", 0.1).exact_limit()
        Fraction(1, 10)
        """
        return Fraction(repr(self.limit))

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `size0.5` (relative, as the model zoo names its schemes) or `size=7.9MB` (absolute; the unit may be left out).

        Raises:
            BudgetError: If the text is neither, or an accuracy, which no sensitivity can promise.
            UnknownNameError: If there is no such kind.
        """
        asked = re.fullmatch(r"accuracy_?=?(.*)", str(text).strip(), re.ASCII)
        if asked:
            raise BudgetError(
                "accuracy is measured, not computed from sensitivities: no budget of this search keeps it. Run `bitwright auto "
                f"GRAPH --data DATA --max-drop {asked[1] or '1%'} -o FILE`, which measures schemes until one does."
            )
        number = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
        match = re.fullmatch(rf"([a-z]+)_?{number}|([a-z]+)={number}(MB|G|ms)?", str(text).strip(), re.ASCII)
        if not match:
            raise BudgetError(f"expected a budget such as size0.5 or bops=72G, got {shown(text)}.")
        kind = match[1] or match[3]
        kind = "size" if kind == "modelsize" else kind
        if match[5] and kind in BUDGET_UNITS and match[5] != BUDGET_UNITS[kind]:
            raise BudgetError(f"a budget of {kind} is in {BUDGET_UNITS[kind]}, got '{text}'.")
        return cls(kind, float(match[2] or match[4]), relative=match[1] is not None)


def _decimal(value: float) -> str:
    """All digits that tell a number from its neighbours, without an exponent.

    >>> _decimal(72.0), _decimal(0.001953125), _decimal(1e-7)
    ('72', '0.001953125', '0.0000001')
    """
    text = f"{Decimal(repr(value)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
