# SPDX-License-Identifier: MIT
"""The published model zoo as data: rows with their figures, networks, and the bits of every layer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from bitwright.errors import SchemeError, UnknownNameError, unknown_name
from bitwright.scheme import Precision, Scheme
from bitwright.zoo.names import FLOAT, layer_name, model_name, row_name, scheme_name

if TYPE_CHECKING:
    from bitwright.graph import Graph


@dataclass(frozen=True)
class Network:
    """A network of the published table.

    Attributes:
        name: As pytorchcv calls it.
        title: As the table calls it.
        image_size: Height and width of an image, in pixels.
        published_flops: Multiply-accumulates that pytorchcv's own table gives it; the zoo's figures build on them.
    """

    name: str
    title: str
    image_size: int
    published_flops: int


@dataclass(frozen=True)
class Row:
    """One row of the published table.

    Attributes:
        model: Name of its network.
        scheme: Canonical name, as of `names.scheme_name`.
        title: The scheme as the table calls it.
        size_mb: Published size of the model, in MB.
        bops_g: Published bit operations for one image, in G (10**9).
        speedup: Published speed-up against float32 on an NVIDIA T4, or None where the table gives none.
        top1: Published top-1 accuracy on ImageNet, in percent.
        archive: File name of the published archive.
        drive_id: Its identifier on Google Drive.
    """

    model: str
    scheme: str
    title: str
    size_mb: float
    bops_g: float
    speedup: float | None
    top1: float
    archive: str
    drive_id: str

    @property
    def name(self) -> str:
        """`MODEL-SCHEME`."""
        return f"{self.model}-{self.scheme}"

    @property
    def link(self) -> str:
        """The published link to the archive."""
        return f"https://drive.google.com/file/d/{self.drive_id}/view?usp=sharing"

    @property
    def is_float(self) -> bool:
        return self.scheme == FLOAT


def data_text(name: str) -> str:
    """A data file of this package."""
    return files("bitwright.zoo").joinpath("data", name).read_text(encoding="utf-8")


@cache
def _published() -> dict[str, Any]:
    return dict(json.loads(data_text("rows.json")))


@cache
def _configurations() -> dict[str, Any]:
    return dict(json.loads(data_text("schemes.json")))


@cache
def networks() -> Mapping[str, Network]:
    """The networks of the table, by name."""
    return {name: Network(name, **fields) for name, fields in _published()["networks"].items()}


@cache
def rows() -> tuple[Row, ...]:
    """All rows of the published table, in its order."""
    return tuple(Row(**fields) for fields in _published()["rows"])


def row(name: str) -> Row:
    """The row that a name means.

    Raises:
        UnknownNameError: If there is none.

    >>> row("ResNet18 W8A8").top1
    71.56
    """
    wanted = row_name(name)
    for found in rows():
        if found.name == wanted:
            return found
    raise unknown_name("row of the zoo", wanted, (found.name for found in rows()))


def printed_bits(name: str) -> Mapping[str, int]:
    """Bits by published module name in which the printed row `name` differs from its published configuration."""
    return dict(_published()["printed_configurations"].get(name, {}))


def fitted_size_offset(model: str) -> tuple[int, float]:
    """(bytes per MB, MB) of the constant that the published sizes of a network contain, as fitted to its mixed rows."""
    entry = _published()["fitted_size_offsets"][model]
    return int(entry["unit_bytes"]), float(entry["offset_mb"])


def configurations() -> tuple[tuple[str, str], ...]:
    """(model, scheme) of every published configuration of bits, with or without a row in the table."""
    return tuple((model, scheme) for model, entry in _configurations().items() for scheme in entry["bits"])


def published_modules(model: str) -> tuple[str, ...]:
    """The published names of a network's layers with weights, in the published order.

    Raises:
        UnknownNameError: If no configuration of the network was published.
    """
    return tuple(_entry(model)["modules"])


def published_scheme(model: str, scheme: str, *, layers: Iterable[str] | None = None, residual_bits: int = 8) -> Scheme:
    """The published bits of every layer, by the captured model's layer names.

    In all published configurations, the activations that a layer reads have as many bits as its weights.

    Args:
        model: For instance `resnet18`.
        scheme: In any spelling that `scheme_name` takes.
        layers: The layer names of the captured graph, whose order is taken over; None keeps the published order.
        residual_bits: Width of residual tensors: the published models use 16; 8 is fast on every engine.

    Raises:
        UnknownNameError: If this configuration was not published.
        SchemeError: If `layers` are those of another network.

    >>> scheme = published_scheme("resnet18", "w4a4")
    >>> str(scheme.layers["features.stage1.unit1.body.conv1.conv"]), str(scheme.layers["output"])
    ('W4A4', 'W8A8')
    """
    name, entry = scheme_name(scheme), _entry(model)
    if name not in entry["bits"]:
        if name == FLOAT:
            raise UnknownNameError(f"the baseline of {model_name(model)} is float: it has no bits per layer.")
        raise unknown_name(f"published scheme of {model_name(model)}", name, entry["bits"])
    pairs = zip(entry["modules"], entry["bits"][name], strict=True)
    chosen = {layer_name(module): Precision(int(bits), int(bits)) for module, bits in pairs}
    made = Scheme(name, chosen, residual_bits)
    if layers is None:
        return made
    order = list(layers)
    made.check(order)
    return Scheme(name, {layer: chosen[layer] for layer in order}, residual_bits)


def published_schemes(graph: Graph) -> list[Scheme]:
    """All published schemes of a captured network; none if it is not in the zoo, or has other layers than there.

    >>> from bitwright.graph import capture, load_model
    >>> graph = capture(load_model("pytorchcv:resnet18"), (3, 224, 224), name="pytorchcv:resnet18")
    >>> [scheme.name for scheme in published_schemes(graph)][:2]
    ['uniform8', 'uniform4']
    """
    name = graph.model.rpartition(":")[2]
    try:
        return [
            published_scheme(model, scheme, layers=graph.layers) for model, scheme in configurations() if model == name
        ]
    except SchemeError:  # another network of the same name
        return []


def _entry(model: str) -> Any:
    name = model_name(model)
    if name not in _configurations():
        raise unknown_name("network with published bits", name, _configurations())
    return _configurations()[name]
