# SPDX-License-Identifier: MIT
"""Weights load from the files that training scripts write, by whatever keys and prefixes, without executing code."""

from __future__ import annotations

import argparse
import collections
import datetime
import itertools
import os
import tarfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bitwright.errors import FileFormatError
from bitwright.graph import load_model
from bitwright.graph.weights_file import find_weights

State = dict[str, Tensor]


def network() -> nn.Module:
    """A small network with batch norm, and a part that is called like a wrapper."""
    return nn.ModuleDict({"body": nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), "model": nn.Linear(2, 3)})


def load_weights(model: nn.Module, path: Path, **options: bool) -> None:
    """Give the weights in a file to a model."""
    find_weights(model, path, **options).load_into(model)


def trained(value: float) -> State:
    """A state dict of `network` filled with one number."""
    return {name: torch.full_like(tensor, value) for name, tensor in network().state_dict().items()}


def assert_loads(path: Path, value: float, **options: bool) -> None:
    """The weights in the file are those of `trained(value)`."""
    made = network()
    load_weights(made, path, **options)
    expected = trained(value)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in made.state_dict().items())


def renamed(state: State, prefix: str) -> State:
    """`state` under a prefix."""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


NESTINGS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.1},
    "state_dict": lambda state: {"state_dict": state, "best_acc1": torch.tensor(77.7)},
    "two deep": lambda state: {"checkpoint": {"model": state}},
    "three deep": lambda state: {"states": {"ema": None, "train": {"state_dict": state}}},
    "ordered": lambda state: {"net": collections.OrderedDict(state)},
}


@pytest.mark.parametrize("nesting", list(NESTINGS))
@pytest.mark.parametrize("prefix", ["".join(parts) for n in range(3) for parts in itertools.permutations(
    ["module.", "_orig_mod.", "model."], n)] + ["module._orig_mod.model."])  # fmt: skip
def test_any_nesting_and_prefix(tmp_path: Path, nesting: str, prefix: str) -> None:
    """State dicts are found wherever they lie, and wrappers' prefixes are taken away in any combination."""
    torch.save(NESTINGS[nesting](renamed(trained(2.0), prefix)), tmp_path / "file.pth")
    assert_loads(tmp_path / "file.pth", 2.0)


def test_wrappers_themselves(tmp_path: Path) -> None:
    """What the wrappers write is read: DataParallel, a compiled part inside, an averaged model with its counter, Lightning."""
    made, state = network(), trained(3.0)
    made.load_state_dict(state)
    files = {
        "parallel": nn.DataParallel(made).state_dict(),
        "compiled part": {name.replace("body.", "body._orig_mod."): tensor for name, tensor in state.items()},
        "parallel part": {name.replace("body.", "body.module."): tensor for name, tensor in state.items()},
        "averaged": {"n_averaged": torch.tensor(5), **renamed(state, "module.")},
        "lightning": {"state_dict": {**renamed(state, "model."), "loss.weight": torch.ones(3)}},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        assert_loads(tmp_path / name, 3.0)


def test_safetensors(tmp_path: Path) -> None:
    """The same prefixes in a safetensors file."""
    save_file(renamed(trained(4.0), "module."), tmp_path / "file.safetensors")
    assert_loads(tmp_path / "file.safetensors", 4.0)


def test_a_counter_may_be_missing(tmp_path: Path) -> None:
    """Files from before batch norm counted its batches load."""
    state = {name: tensor for name, tensor in trained(1.0).items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    made = network()
    load_weights(made, tmp_path / "old.pth")
    assert torch.equal(made["model"].bias, torch.ones(3))


@pytest.mark.parametrize("key", ["ema", "model_ema", "state_dict_ema", "ema_model"])
def test_the_average_only_when_asked(tmp_path: Path, key: str) -> None:
    """The weights are taken unless their moving average is asked for; where one is missing, the error names what there is."""
    torch.save({"model": trained(1.0), key: renamed(trained(2.0), "module.")}, tmp_path / "both.pth")
    assert_loads(tmp_path / "both.pth", 1.0)
    assert_loads(tmp_path / "both.pth", 2.0, ema=True)
    torch.save({key: trained(2.0), "epoch": 1}, tmp_path / "average.pth")
    with pytest.raises(FileFormatError, match=rf"a moving average of weights only; .*--ema.* keys '{key}', 'epoch'"):
        load_weights(network(), tmp_path / "average.pth")
    torch.save({"model": trained(1.0)}, tmp_path / "plain.pth")
    with pytest.raises(FileFormatError, match=r"no moving average of weights in .* It has the keys 'model'"):
        load_weights(network(), tmp_path / "plain.pth", ema=True)


def test_the_usual_place_is_taken(tmp_path: Path) -> None:
    """Of several that fit, the one under a usual key is taken; where none is usual, nothing is guessed."""
    torch.save({"best": trained(1.0), "model": trained(2.0)}, tmp_path / "file.pth")
    assert_loads(tmp_path / "file.pth", 2.0)
    torch.save({"first": trained(1.0), "second": trained(2.0)}, tmp_path / "file.pth")
    with pytest.raises(FileFormatError, match=r"the weights under 'first' and 'second' in .* all fit the model"):
        load_weights(network(), tmp_path / "file.pth")


RECORDS = {
    "arguments": argparse.Namespace(lr=0.1, out=Path("runs"), when=datetime.datetime(2026, 1, 1), steps=range(3)),
    "namespace": types.SimpleNamespace(depth=18),
    "figures": {"top1": np.float64(77.7), "count": np.int64(3), "confusion": np.zeros((2, 2))},
    "history": collections.defaultdict(list, losses=[0.5]),
    "sets": [{1, 2}, frozenset([3]), slice(1), 1j, b"bytes", torch.float16, torch.device("cpu")],
}


@pytest.mark.parametrize("name", list(RECORDS))
@pytest.mark.parametrize("zipped", [True, False])
def test_records_beside_the_weights(tmp_path: Path, name: str, zipped: bool) -> None:
    """What scripts keep beside the weights does not keep them from loading, in either of PyTorch's formats."""
    content = {"model": trained(2.0), "extra": RECORDS[name], "optimizer": {"state": {0: {"weight": torch.ones(1)}}}}
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    assert_loads(tmp_path / "file.pth", 2.0)


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.witness}'",)


class Hidden(argparse.Namespace):
    """A class of the user's own, which only its code could restore."""


def test_no_code_is_executed_and_no_one_advises_to(tmp_path: Path) -> None:
    """Files with objects in them are refused by their class, wherever it hides; PyTorch's advice and escapes stay out."""
    evil = Evil(tmp_path / "witness")
    contents: dict[str, Any] = {
        "evil": {"model": trained(1.0), "args": argparse.Namespace(x=evil)},
        "factory": {"model": trained(1.0), "x": collections.defaultdict(list, a=evil)},
        "own": {"model": trained(1.0), "args": Hidden()},
        "module": network(),
    }
    for (name, content), zipped in itertools.product(contents.items(), (True, False)):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with pytest.raises(FileFormatError, match=r"it holds objects of '[\w.]+', which could run code; save") as error:
            load_weights(network(), tmp_path / name)
        assert_plain(str(error.value))
    assert not (tmp_path / "witness").exists()


def assert_plain(message: str) -> None:
    """One line in our words."""
    assert "\n" not in message
    assert "\x1b" not in message
    assert not any(word in message for word in ("weights_only", "safe_globals", "torch.load", "trust", "miniz"))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    "name", ["empty", "text", "tar", "cut", "folder", "absent", "script", "number", "keys", "cut.safetensors"]
)
def test_what_is_no_weights_file_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    """Damaged and other files are refused in one line, without PyTorch's own words."""
    path = tmp_path / name
    torch.save(trained(1.0), path)
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "text": b"hello",
        "tar": tarfile.TarInfo("weights").tobuf() + bytes(1024),
        "cut": whole[: len(whole) // 2],
        "cut.safetensors": safetensors.torch.save({"a": torch.zeros(9)})[:-9],
    }
    reason = {
        "folder": "expected a regular file, got a folder", "absent": "No such file", "script": "a TorchScript archive",
        "number": "an object of type int", "keys": "has the keys 'epoch', 'lr'", "cut.safetensors": "no complete safetensors",
        "empty": "it is an empty file; expected a state dict", "text": "it is text; expected a state dict",
        "tar": r"it is an archive \(tar\); expected a state dict",
    }.get(name, "truncated, or no PyTorch file")  # fmt: skip
    if name in contents:
        path.write_bytes(contents[name])
    elif name in ("folder", "absent"):
        path.unlink()
        if name == "folder":
            path.mkdir()
    elif name == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of some releases of PyTorch
            torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)
    else:
        torch.save(3 if name == "number" else {"epoch": 1, "lr": 0.1}, path)
    with pytest.raises(FileFormatError, match=reason) as error:
        load_weights(network(), path)
    assert_plain(str(error.value))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    """The error says where they lie, what does not fit, and what else the file has."""
    state = renamed(trained(1.0), "module.")
    state["module.model.weight"] = torch.zeros(7, 2)
    torch.save({"state_dict": state, "epoch": 1, "args": argparse.Namespace()}, tmp_path / "file.pth")
    with pytest.raises(
        FileFormatError, match=r"under 'state_dict' .* size mismatch .*keys 'state_dict', 'epoch', 'args'"
    ):
        load_weights(network(), tmp_path / "file.pth")
    torch.save({"state_dict": {"stem.weight": torch.zeros(1)}}, tmp_path / "file.pth")
    with pytest.raises(FileFormatError, match=r"under 'state_dict' .*Missing key.*Unexpected key"):
        load_weights(network(), tmp_path / "file.pth")


def test_by_name(tmp_path: Path) -> None:
    """`load_model` passes the file and the question for its average on; without a file that question has no meaning."""
    made = load_model("cli.networks:small")
    torch.save({"ema": renamed(made.state_dict(), "module.")}, tmp_path / "file.pth")
    loaded = load_model("cli.networks:small", weights=tmp_path / "file.pth", ema=True).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in made.state_dict().items())
    with pytest.raises(FileFormatError, match="name the file"):
        load_model("cli.networks:small", ema=True)
