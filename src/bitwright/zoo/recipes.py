# SPDX-License-Identifier: MIT
"""How to reproduce each row: its training as data, with the hyperparameters that the publication names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from bitwright.decode import MAX_INTEGER
from bitwright.errors import FileFormatError, SchemeError, shown, unknown_name
from bitwright.files import write_text
from bitwright.reading import parse_yaml
from bitwright.training import TrainSettings
from bitwright.zoo.registry import data_text, row


@dataclass(frozen=True)
class Recipe:
    """The training of one row.

    Attributes:
        row: Its name.
        epochs: Passes over the chosen images; 0 for a float row, which is only evaluated.
        data_fraction: Part of the training images used, the same part of every class.
        learning_rate: At the start of the cosine.
        batch_size: Images in a step.
        momentum: The momentum of SGD.
        weight_decay: The weight decay of SGD.
        act_range_momentum: Weight of the old range in the moving average of an activation's range.
        fix_batch_norm: Whether batch norm stays folded with its running statistics during training.
        residual_bits: Width of residual tensors: 8, or the published 16.
        seed: The seed of everything random.
    """

    row: str
    epochs: int = 90
    data_fraction: float = 1.0
    learning_rate: float = 1e-4
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    act_range_momentum: float = 0.99
    fix_batch_norm: bool = True
    residual_bits: int = 8
    seed: int = 0

    def settings(self) -> TrainSettings:
        """The part that the training loop reads."""
        return TrainSettings(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            data_fraction=self.data_fraction,
            seed=self.seed,
        )

    def changed(self, assignments: Iterable[str]) -> Recipe:
        """With `key=value` overrides.

        Raises:
            SchemeError: All faults together.

        >>> recipe("resnet18-bops0.5").changed(["epochs=1", "data_fraction=0.01"]).epochs
        1
        """
        values: dict[str, Any] = {}
        faults = []
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                faults.append(f"expected KEY=VALUE, got '{assignment}'")
            else:
                try:
                    values[key.strip()] = parse_yaml(text, f"'{key.strip()}'")
                except FileFormatError as error:
                    faults.append(str(error).removesuffix("."))
        faults += _faults({"row": self.row, **values})
        if faults:
            raise SchemeError(f"recipe of {self.row}: " + "; ".join(faults) + ".")
        return replace(self, **{key: _kinds()[key](value) for key, value in values.items()})

    def save(self, path: str | Path) -> None:
        """Write YAML that opens with its command, atomically."""
        head = f"# bitwright zoo reproduce {self.row} --data imagefolder:DIR\n"
        write_text(path, head + yaml.safe_dump(asdict(self), sort_keys=False))


def recipe(name: str) -> Recipe:
    """The recipe of a row, in any spelling.

    Raises:
        UnknownNameError: If there is no such row.
    """
    wanted = row(name).name
    return parse_recipe(data_text(f"recipes/{wanted}.yaml"), wanted)


def parse_recipe(text: str, where: str) -> Recipe:
    """Read a recipe from YAML.

    Raises:
        FileFormatError: If it is no YAML.
        SchemeError: If it is no mapping, has unknown keys, or values out of range; all faults together.
    """
    found = parse_yaml(text, f"the recipe '{where}'")
    if not isinstance(found, Mapping):
        raise SchemeError(f"expected a mapping in the recipe '{where}', got {type(found).__name__}.")
    if faults := _faults(found):
        raise SchemeError(f"recipe '{where}': " + "; ".join(faults) + ".")
    return Recipe(**{key: _kinds()[key](value) for key, value in found.items()})


def _kinds() -> dict[str, type]:
    """The type of every key, as its default has it."""
    return {item.name: str if item.name == "row" else type(item.default) for item in fields(Recipe)}


def _faults(values: Mapping[str, Any]) -> list[str]:
    kinds = _kinds()
    faults = [str(unknown_name("key", str(key), kinds)).removesuffix(".") for key in values if key not in kinds]
    if "row" not in values:
        faults.append("missing key 'row'")
    for key, value in values.items():
        kind = kinds.get(key)
        allowed = (int, float) if kind is float else (kind,)
        if kind is None:
            continue
        if type(value) not in allowed:
            faults.append(f"'{key}' must be of type {kind.__name__}, got {shown(value)}")
        elif kind in (int, float) and not 0 <= value <= MAX_INTEGER:
            faults.append(f"'{key}' must be at least 0 and at most {MAX_INTEGER}, got {shown(value)}")
        elif key == "data_fraction" and not 0 < value <= 1:
            faults.append(f"'data_fraction' must be above 0 and at most 1, got {value}")
        elif key in ("batch_size", "learning_rate") and value <= 0:
            faults.append(f"'{key}' must be above 0, got {value}")
        elif key == "residual_bits" and value not in (8, 16):
            faults.append(f"'residual_bits' must be 8 or 16, got {value}")
    return faults
