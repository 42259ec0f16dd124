# SPDX-License-Identifier: MIT
"""Whatever is wrong with a user's factory is told in one line, with its place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bitwright.cli import main
from bitwright.errors import BitwrightError, ModelError, UnknownNameError
from bitwright.graph import load_model

SOURCE = """
import sys
from torch import nn
import torchvision
from torchvision import models

def good(num_classes=10): return nn.Linear(1, num_classes)
def wrong_classes(num_classes=10):
    if num_classes != 1000:
        raise ValueError(f"only 1000 classes,\\nnot {num_classes}")
def inside(num_classes=10): return nn.Conv2d(3, num_classes, kernel=3)
def needs(width): return nn.Linear(1, width)
def only_position(num_classes, /): return nn.Linear(1, num_classes)
def fixed(in_size=224): return nn.Linear(in_size, 10)
def open_ended(**others): return nn.Linear(1, others["num_classes"])
def nothing(): pass
def the_class(): return nn.Linear
def quits(): sys.exit(3)
def exhausts(): return exhausts()
def given(in_size=224, **others): return nn.Linear(in_size, len(others) + 1)
network = nn.Linear(1, 1)
text = "resnet18"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of factories in the working directory."""
    (tmp_path / "factories.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import torch\nWIDTH = 1 / 0\n")
    (tmp_path / "unfinished.py").write_text("def net(:\n")
    (tmp_path / "needy.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("factories", "broken", "unfinished", "needy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "factories"


CASES = {
    "factories:wrong_classes": (
        ModelError,
        r"called with num_classes=7, raised ValueError: only 1000 classes, not 7 .*factories\.py', line 10, in wrong_classes",
    ),
    "factories:inside": (ModelError, r"raised TypeError: .*'kernel' \('.*factories\.py', line 11, in inside\)"),
    "factories:needs": (ModelError, r"cannot be called with no arguments: missing a required argument: 'width'"),
    "factories:only_position": (ModelError, "cannot be called with num_classes=7"),
    "factories:fixed": (ModelError, r"has no parameter 'num_classes', which would be ignored: leave num_classes=7 out"),
    "factories:nothing": (ModelError, r"returned NoneType, expected a torch\.nn\.Module"),
    "factories:the_class": (ModelError, r"returned the class itself, expected a torch\.nn\.Module"),
    "factories:quits": (ModelError, r"raised SystemExit: 3 .*in quits\)"),
    "factories:exhausts": (ModelError, "raised RecursionError"),
    "factories:network": (ModelError, "is a network already: give a function that returns it, or its class"),
    "factories:text": (ModelError, "is of type str: expected a function, or a class"),
    "factories:models": (ModelError, "is a Python module: expected a function, or a class"),
    "factories:god": (UnknownNameError, "module 'factories' has no factory 'god'. It has: exhausts, fixed, given, good"),
    "broken:net": (ModelError, r"importing 'broken' raised ZeroDivisionError: division by zero .*broken\.py', line 2"),
    "unfinished:net": (ModelError, r"importing 'unfinished' raised SyntaxError: .*unfinished\.py', line 1"),
    "needy:net": (UnknownNameError, "unknown model source 'needy' .*no_such_package"),
    "absent.module:net": (UnknownNameError, r"unknown model source 'absent\.module'"),
    "torchvision:resnet18": (ModelError, r"torchvision:resnet18 does not accept .*'strides'"),
}  # fmt: skip


GIVEN = {
    "factories:needs": {},
    "factories:nothing": {},
    "factories:the_class": {},
    "factories:quits": {},
    "factories:exhausts": {},
}
"""Options of those that have no parameter for them."""


@pytest.mark.parametrize("name", list(CASES))
def test_a_factory_that_makes_no_model(module: str, name: str) -> None:
    """One line: what was raised, where, and for which arguments."""
    kind, message = CASES[name]
    options = {"strides": 2} if name.startswith("torchvision") else {}
    with pytest.raises(kind, match=message) as error:
        load_model(name, **GIVEN.get(name, {"num_classes": 7}), **options)
    assert isinstance(error.value, BitwrightError)
    assert "\n" not in str(error.value)


def test_a_factory_gets_what_it_accepts(module: str) -> None:
    """Suggestions that it does not name are left out; options go to `**others`, and win against suggestions."""
    suggested = {"num_classes": 4, "in_size": 32}
    assert load_model("factories:good", suggested=suggested).out_features == 4
    assert load_model("factories:good", suggested=suggested, num_classes=3).out_features == 3
    given = load_model("factories:given", suggested=suggested)
    assert (given.in_features, given.out_features) == (32, 1)
    assert load_model("factories:open_ended", num_classes=3).out_features == 3


@pytest.mark.parametrize("option", [["--classes", "7"], ["--pretrained"]])
def test_an_option_that_a_factory_would_ignore(
    module: str, option: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What the user asks for is refused where the factory has no parameter for it; sizes and channels are also the images'."""
    more = ["--image-size", "8", "--channels", "1", "-o", str(tmp_path / "x.graph")]
    with pytest.raises(SystemExit) as exit:
        main(["capture", "factories:fixed", *option, *more])
    assert exit.value.code == 1
    assert (
        f"'factories:fixed' has no parameter '{'pretrained' if len(option) == 1 else 'num_classes'}'"
        in capsys.readouterr().err
    )
    assert list(tmp_path.glob("*.graph")) == []


def test_the_command_line_prints_no_traceback(module: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`bitwright capture` ends with one line on stderr and status 1."""
    with pytest.raises(SystemExit) as exit:
        main(["capture", "factories:wrong_classes", "--classes", "7", "-o", str(tmp_path / "x.graph")])
    assert exit.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_network_that_states_its_own_size_takes_no_other() -> None:
    """What is merely suggested is left out where pytorchcv's maker has a size of its own; a wrong name is still refused."""
    with torch.device("meta"):
        assert load_model("pytorchcv:nasnet_4a1056", suggested={"in_size": 32}).in_size == (224, 224)
        assert load_model("pytorchcv:resnet10", suggested={"in_size": 32}).in_size == (32, 32)
    with pytest.raises(ModelError, match="does not accept"):
        load_model("pytorchcv:resnet10", suggested={"in_size": 32}, wrong=1)
