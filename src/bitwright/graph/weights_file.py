# SPDX-License-Identifier: MIT
"""Weights from the files that training scripts write: a state dict, somewhere in a dictionary, under wrappers' prefixes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from bitwright.errors import FileFormatError
from bitwright.graph.pickled import read_pickled
from bitwright.kinds import PICKLED, SAFETENSORS, what_is
from bitwright.reading import require_file

_PREFERRED = ("", "model", "model_state_dict", "state_dict", "net", "network", "weights", "params", "module")
"""Where weights are usually kept, best first; "" is the file itself."""

_WRAPPERS = ("module", "model")
"""Names that DataParallel, averaged models and Lightning put before a network's own."""

_MOST_NESTED = 5
_NO_WEIGHTS = re.compile(r"optim|sched|scaler")


@dataclass(frozen=True)
class FoundWeights:
    """The weights in a file that are nearest to a model's.

    Attributes:
        state: Tensors by name, the model's names where they fit.
        where: In words, for a message.
        keys: What else the file holds, likewise.
    """

    state: Mapping[str, Tensor]
    where: str
    keys: str

    def load_into(self, model: nn.Module) -> None:
        """Give them to the model.

        Raises:
            FileFormatError: If their names or shapes are not the model's.
        """
        try:
            model.load_state_dict(dict(self.state))
        except RuntimeError as error:
            faults = [line.strip() for line in str(error).splitlines()[1:]]
            raise FileFormatError(
                f"{self.where} do not fit the model: {' '.join(faults)[:400]} The file has {self.keys}."
            ) from error


def find_weights(model: nn.Module, path: str | Path, *, ema: bool = False) -> FoundWeights:
    """Find the weights for `model` in a file, by their names.

    They are looked for under any keys (`model`, `model_state_dict`, `state_dict`, …, one in another), with any of the prefixes
    `module.`, `_orig_mod.` and `model.` in any combination, and taken where their names are exactly the model's.

    Args:
        model: The network.
        path: A safetensors file, or one of PyTorch's, which is read without executing code.
        ema: Take the moving average of the weights, which some scripts keep under a key with `ema` in it, and nothing else.

    Raises:
        FileFormatError: If the file cannot be read, or holds no weights; says what it holds.
    """
    content = _read(path)
    kept = {name: state for name, state in _state_dicts(content) if _is_average(name) == ema}
    if not kept:
        raise FileFormatError(_nothing(path, content, ema))
    names = set(model.state_dict())
    fitting = {name: found for name, state in kept.items() if (found := _renamed(state, names)) is not None}
    chosen = _choose(fitting, path) if fitting else _closest(kept, names)
    where = f" under '{chosen}'" if chosen else ""
    return FoundWeights(fitting.get(chosen, kept[chosen]), f"the weights{where} in '{path}'", _keys(content))


def _read(path: str | Path) -> Any:
    """What a file holds; its beginning says how it is read, whatever the end of its name."""
    require_file(path, "weights")
    kind = what_is(path)
    if kind in PICKLED:
        return read_pickled(path, path)
    if kind != SAFETENSORS:
        raise FileFormatError(
            f"cannot read weights from '{path}': it is {kind}; expected a state dict, as torch.save or safetensors writes it."
        )
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError as error:
        reason = error.strerror or "no such file"
        raise FileFormatError(f"cannot read weights from '{path}': {reason}.") from error
    except (SafetensorError, ValueError) as error:
        raise FileFormatError(f"cannot read weights from '{path}': it is no complete safetensors file.") from error


def _state_dicts(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dictionary with tensors in it, by its dotted path; an optimizer's are no weights."""
    if not isinstance(content, Mapping) or len(path) > _MOST_NESTED:
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield ".".join(path), tensors
    for key, value in content.items():
        if not _NO_WEIGHTS.search(str(key).lower()):
            yield from _state_dicts(value, (*path, str(key)))


def _is_average(path: str) -> bool:
    return "ema" in re.split(r"[^a-z]+", path.lower())


def _renamed(state: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor] | None:
    """`state` under the model's `names`, if some prefix taken away leaves exactly these.

    What lies beside the prefix belongs to something else: the counter of an averaged model, the weights of a loss.
    """
    # A counter that batch norm had not before PyTorch 0.4.1 may be missing.
    needed = {name for name in names if not name.endswith("num_batches_tracked")}
    # Compiled modules and DataParallel may also stand inside a network.
    for dropped in ({"_orig_mod"}, {"_orig_mod", "module"}):
        plain = {_without(name, dropped): tensor for name, tensor in state.items()}
        prefixes = {prefix for name in plain for prefix in _prefixes(name)}
        for prefix in sorted(prefixes, key=len):
            found = {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}
            if needed <= set(found) <= names:
                return found
    return None


def _without(name: str, dropped: set[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in dropped)


def _prefixes(name: str) -> Iterator[str]:
    """Every run of wrappers that a name begins with, the empty one first."""
    prefix = ""
    yield prefix
    for part in name.split("."):
        if part not in _WRAPPERS:
            return
        prefix += f"{part}."
        yield prefix


def _choose(fitting: Mapping[str, object], path: str | Path) -> str:
    """Of several state dicts that fit, the one at the usual place."""
    ranks = {name: _PREFERRED.index(leaf) for name in fitting if (leaf := name.rpartition(".")[2]) in _PREFERRED}
    if len(fitting) > 1 and not ranks:
        named = " and ".join(f"'{name}'" for name in fitting)
        raise FileFormatError(f"the weights under {named} in '{path}' all fit the model: save the ones to use alone.")
    return min(ranks, key=ranks.__getitem__) if ranks else next(iter(fitting))


def _closest(kept: Mapping[str, Mapping[str, Tensor]], names: set[str]) -> str:
    """Where most names are the model's: the one whose faults are worth telling."""
    return max(kept, key=lambda name: len(names & set(kept[name])))


def _nothing(path: str | Path, content: Any, ema: bool) -> str:
    if ema:
        return f"no moving average of weights in '{path}': expected a key with 'ema' in it. It has {_keys(content)}."
    if any(True for _ in _state_dicts(content)):
        return (
            f"'{path}' holds a moving average of weights only; ask for that (ema=True, --ema), or save the weights "
            f"themselves. It has {_keys(content)}."
        )
    return f"expected a state dict (names to tensors) in '{path}'; it has {_keys(content)}."


def _keys(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"an object of type {type(content).__name__}"
    shown = ", ".join(f"'{key}'" for key in list(content)[:8]) or "none"
    return f"the keys {shown}" + (f", … ({len(content)} in all)" if len(content) > 8 else "")
