# SPDX-License-Identifier: MIT
"""The table of sensitivities: what quantizing each layer is expected to cost, with error bars, as JSON."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bitwright.data.preprocessing import Preprocessing
from bitwright.decode import decode
from bitwright.errors import FileFormatError, UnknownNameError, shown, unknown_name
from bitwright.files import write_json
from bitwright.kinds import SENSITIVITIES, read_own_json
from bitwright.overview import Overview, Overviewed, counted
from bitwright.scheme import Precision

FORMAT = "bitwright.sensitivities.2"
"""Of the files: since the second, the metrics are named for what they compute."""


@dataclass(frozen=True)
class LayerSensitivity:
    """How curved the loss is in one layer's weights, and how far quantization moves them.

    Attributes:
        layer: Its name.
        parameters: Number of weights, n.
        trace: Estimate of the trace of the loss's Gauss-Newton matrix, or of its Hessian, over these weights, tr(H), or n
            times what stands for the mean eigenvalue in the table's metric.
        trace_standard_error: Standard error of `trace` from sampling: more probes make it smaller.
        probes: Number of samples behind the estimate: Hessian-vector products, or pairs of an image and a class.
        converged: Whether the standard error reached the target that was asked for.
        perturbation: ||Q(W) - W||_2^2 by weight bits.
        data_standard_error: Standard error of `trace` from the choice of images, where it is known: only more images make
            it smaller.
        increase: Measured increase of the loss by weight bits, with its standard error. Where there is one, it is the
            layer's term.
        activations: The same about the tensor that the layer reads, where it was measured: `parameters` are its elements for
            one image, the trace and the perturbation (by activation bits) are those of one image, mean over images.
    """

    layer: str
    parameters: int
    trace: float
    trace_standard_error: float
    probes: int
    converged: bool
    perturbation: Mapping[int, float]
    data_standard_error: float | None = None
    increase: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    activations: LayerSensitivity | None = None

    def mean_trace(self) -> float:
        """tr(H) / n, the mean eigenvalue.

        >>> LayerSensitivity("stem", 4, 6.0, 0.5, 100, True, {4: 0.2}).mean_trace()
        1.5
        """
        return self.trace / self.parameters

    def mean_trace_standard_error(self) -> float:
        """Of sampling and of the choice of images together.

        >>> LayerSensitivity("stem", 4, 6.0, 0.3, 100, True, {4: 0.2}, 0.4).mean_trace_standard_error()
        0.125
        """
        return math.hypot(self.trace_standard_error, self.data_standard_error or 0.0) / self.parameters

    def loss_increase(self, precision: Precision) -> float:
        """The layer's term of the objective: |tr(H)| / n * ||Q(W) - W||_2^2, and the same of what it reads.

        It ranks layers and bit widths. Twice the expected increase of the loss, since the papers leave out the 1/2 of the
        Taylor expansion: E[d^T H d] = tr(H) / n * ||d||^2 for a perturbation d of random direction, and the gradient is
        near zero in a trained network. A negative trace says that the network is not at a minimum along this layer; its
        magnitude is taken, lest the search be paid for perturbing the layer. A measured increase counts as it is, but for
        one below zero, which is noise: it counts as zero.

        Args:
            precision: Its weight bits must be among those measured, and its activation bits, where activations were.

        Returns:
            A number in units of the loss.

        Raises:
            UnknownNameError: If nothing was measured at this width.

        Source:
            Dong et al. 2019, HAWQ-V2, arXiv:1911.03852, section 3; Yao et al. 2020, HAWQ-V3, arXiv:2011.10680, section 3.4.

        >>> LayerSensitivity("stem", 4, 6.0, 0.5, 100, True, {4: 0.2}).loss_increase(Precision(4, 8))
        0.30000000000000004
        """
        term = self._term(precision.weight_bits, "weight")[0]
        return term if self.activations is None else term + self.activations._term(precision.act_bits, "activation")[0]

    def loss_increase_standard_error(self, precision: Precision) -> float:
        """Standard error of `loss_increase`: the sum of both terms', since they come from the same images."""
        error = self._term(precision.weight_bits, "weight")[1]
        return (
            error if self.activations is None else error + self.activations._term(precision.act_bits, "activation")[1]
        )

    def _term(self, bits: int, kind: str) -> tuple[float, float]:
        """A term of the objective and its standard error."""
        if bits in self.increase:
            value, error = self.increase[bits]
            return max(value, 0.0), error
        if bits not in self.perturbation:
            known = ", ".join(str(width) for width in sorted({*self.perturbation, *self.increase}))
            raise UnknownNameError(f"layer '{self.layer}' was not measured at {bits} {kind} bits, only at {known}.")
        moved = self.perturbation[bits]
        return abs(self.mean_trace()) * moved, self.mean_trace_standard_error() * moved

    def to_dict(self) -> dict[str, Any]:
        entry = {item.name: getattr(self, item.name) for item in fields(self)}
        entry["perturbation"] = {str(bits): value for bits, value in sorted(self.perturbation.items())}
        entry["increase"] = {str(bits): list(value) for bits, value in sorted(self.increase.items())}
        entry["activations"] = None if self.activations is None else self.activations.to_dict()
        return entry

    @classmethod
    def from_dict(cls, entry: Any, where: str = "sensitivity") -> LayerSensitivity:
        """The inverse of `to_dict`, with bit widths as numbers or text.

        Raises:
            FileFormatError: All faults together.
        """
        faults = _key_faults(entry, {item.name for item in fields(cls)})
        if faults:
            raise FileFormatError(f"{where}: " + "; ".join(faults))
        faults = [
            f"'{name}' must be a finite number, got {shown(entry[name])}"
            for name in ("trace", "trace_standard_error")
            if not _is_finite(entry[name])
        ]
        spread = entry["data_standard_error"]
        if spread is not None and not _is_finite(spread):
            faults.append(f"'data_standard_error' must be a finite number or null, got {shown(spread)}")
        faults += [
            f"'{name}' must be a whole number, at least {least}, got {shown(entry[name])}"
            for name, least in (("parameters", 1), ("probes", 0))
            if type(entry[name]) is not int or entry[name] < least
        ]
        if not isinstance(entry["converged"], bool):
            faults.append(f"'converged' must be true or false, got {shown(entry['converged'])}")
        perturbation: dict[int, float] = {}
        increase: dict[int, tuple[float, float]] = {}
        activations: LayerSensitivity | None = None
        try:
            perturbation = {int(bits): _finite(value) for bits, value in entry["perturbation"].items()}
        except (AttributeError, TypeError, ValueError):
            faults.append(f"'perturbation' must map bit widths to finite numbers, got {shown(entry['perturbation'])}")
        try:
            increase = {int(bits): (_finite(mean), _finite(se)) for bits, (mean, se) in entry["increase"].items()}
        except (AttributeError, TypeError, ValueError):
            faults.append(f"'increase' must map bit widths to pairs of finite numbers, got {shown(entry['increase'])}")
        if entry["activations"] is not None:
            try:
                activations = cls.from_dict(entry["activations"], "activations")
            except FileFormatError as error:
                faults.append(str(error))
        if faults:
            raise FileFormatError(f"{where}: " + "; ".join(faults))
        return cls(
            layer=str(entry["layer"]),
            parameters=entry["parameters"],
            trace=float(entry["trace"]),
            trace_standard_error=float(entry["trace_standard_error"]),
            probes=entry["probes"],
            converged=entry["converged"],
            perturbation=perturbation,
            data_standard_error=None if spread is None else float(spread),
            increase=increase,
            activations=activations,
        )


@dataclass(frozen=True, repr=False)
class SensitivityTable(Overviewed):
    """The sensitivities of a model's layers, and how they were measured.

    Attributes:
        layers: One entry per layer, in execution order.
        metric: What was measured, for instance `gauss_newton_trace`.
        model: The model's name.
        data: The data's name.
        batch: Number of images in the loss.
        seed: The seed of the probes.
        task: What the network is for, by name: its loss is what suffers.
        network: SHA-256 of the network, its weights and its input size; None for figures from elsewhere.
        images: SHA-256 of the images and labels; None for figures from elsewhere.
        preprocessing: Of these images, as far as the network knows.
        output: Of a network with several outputs, the one whose loss suffers; None for that of all.
    """

    layers: tuple[LayerSensitivity, ...]
    metric: str
    model: str
    data: str
    batch: int
    seed: int
    task: str = "classification"
    network: str | None = None
    images: str | None = None
    preprocessing: Preprocessing | None = None
    output: str | None = None

    def overview(self) -> Overview:
        """Its layers, with their curvature and what some bits are expected to cost."""
        facts = [
            f"{self.metric} of {counted(len(self.layers), 'layer')}",
            f"{counted(self.batch, 'image')} of {self.data}",
        ]
        if self.output is not None:
            facts.append(f"output {self.output}")
        if self.unconverged():
            facts.append(f"{len(self.unconverged())} not converged")
        bits = sorted({bits for entry in self.layers for bits in entry.perturbation}, reverse=True)
        rows = [
            (
                entry.layer,
                f"{entry.parameters:,}",
                f"{entry.mean_trace():.3g} ± {entry.mean_trace_standard_error():.2g}",
                *(f"{entry._term(width, 'weight')[0]:.3g}" if width in entry.perturbation else "" for width in bits),
            )
            for entry in self.layers
        ]
        head = ("layer", "weights", "mean trace", *(f"loss at {width} bits" for width in bits))
        return Overview(self.model, facts, head, rows)

    def find(self, layer: str) -> LayerSensitivity:
        """The entry of one layer.

        Raises:
            UnknownNameError: If there is none; it names the closest.
        """
        for entry in self.layers:
            if entry.layer == layer:
                return entry
        raise unknown_name("layer", layer, [entry.layer for entry in self.layers])

    def unconverged(self) -> tuple[str, ...]:
        """Layers whose standard error missed its target, in their weights or in what they read."""
        return tuple(
            entry.layer
            for entry in self.layers
            if not (entry.converged and (entry.activations is None or entry.activations.converged))
        )

    def to_dict(self) -> dict[str, Any]:
        head = {
            name: getattr(self, name)
            for name in ("model", "data", "metric", "task", "batch", "seed", "network", "images")
        }
        if self.preprocessing is not None:
            head["preprocessing"] = self.preprocessing.to_dict()
        if self.output is not None:
            head["output"] = self.output
        return {"format": FORMAT, **head, "layers": [layer.to_dict() for layer in self.layers]}

    @classmethod
    def from_dict(cls, entry: Any, where: str = "sensitivities") -> SensitivityTable:
        """The inverse of `to_dict`.

        Raises:
            FileFormatError: If keys are unknown or missing, or a layer is malformed or appears twice.
        """
        if isinstance(entry, Mapping) and "layers" in entry and entry.get("format") != FORMAT:
            raise FileFormatError(
                f"{where}: another version of Bitwright wrote these sensitivities: measure again with `bitwright sensitivity`."
            )
        faults = _key_faults(entry, {"format", *(item.name for item in fields(cls))}, {"preprocessing", "output"})
        if not faults and not isinstance(entry["layers"], list):
            faults.append(f"'layers' must be a list, got {type(entry['layers']).__name__}")
        if faults:
            raise FileFormatError(f"{where}: " + "; ".join(faults))
        layers: list[LayerSensitivity] = []
        for number, layer in enumerate(entry["layers"]):
            try:
                layers.append(LayerSensitivity.from_dict(layer, where=f"layer {number}"))
            except FileFormatError as error:
                faults.append(str(error))
        names = [layer.layer for layer in layers]
        faults += [
            f"layer '{name}' appears twice" for name in sorted({name for name in names if names.count(name) > 1})
        ]
        batch, seed = entry["batch"], entry["seed"]
        if type(batch) is not int or type(seed) is not int:
            faults.append(f"'batch' and 'seed' must be whole numbers, got {shown(batch)} and {shown(seed)}")
        faults += [
            f"'{name}' must be a text{end}, got {shown(entry[name])}"
            for name, kinds, end in (
                *((name, str, "") for name in ("metric", "model", "data", "task")),
                *((name, str | None, " or null") for name in ("network", "images", "output")),
            )
            if not isinstance(entry.get(name), kinds)
        ]
        if faults:
            raise FileFormatError(f"{where}: " + "; ".join(faults))
        return cls(
            tuple(layers),
            entry["metric"],
            entry["model"],
            entry["data"],
            batch,
            seed,
            entry["task"],
            entry["network"],
            entry["images"],
            decode(Preprocessing, entry["preprocessing"], where) if "preprocessing" in entry else None,
            entry.get("output"),
        )

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> SensitivityTable:
        """Read JSON.

        Raises:
            FileFormatError: If the file is missing, is no JSON, or is no table of sensitivities.
        """
        return cls.from_dict(read_own_json(path, SENSITIVITIES), where=str(path))


def _is_finite(value: Any) -> bool:
    """Whether `value` is a number, as JSON has them, and neither infinite nor NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _finite(value: Any) -> float:
    """`value` as a float, or a ValueError."""
    if not _is_finite(value):
        raise ValueError(f"{shown(value)} is no finite number")
    return float(value)


def _key_faults(entry: Any, known: set[str], optional: Collection[str] = ()) -> list[str]:
    """One line for every unknown or missing key."""
    if not isinstance(entry, Mapping):
        return [f"expected a mapping with {', '.join(sorted(known.difference(optional)))}, got {type(entry).__name__}"]
    faults = [str(unknown_name("key", str(key), known)).removesuffix(".") for key in entry if key not in known]
    return faults + [f"missing key '{key}'" for key in sorted(known - {*entry, *optional})]
