# SPDX-License-Identifier: MIT
"""Tasks by name, and those of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bitwright.errors import BitwrightError, TaskError, UnknownNameError
from bitwright.task import Task, agreement, classification, dense_classification, load_task, names, registry, task

OWN = """
import torch
from bitwright.task import Task

def good(): return Task(name="own", loss=torch.nn.functional.mse_loss)
def wrong(): return torch.nn.functional.mse_loss
def needs(width): return None
def raises(): raise ValueError("no\\nsuch thing")
made = good()
text = "classification"
"""


@pytest.fixture
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tasks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_tasks", raising=False)


def test_every_known_task_can_be_made() -> None:
    """By the name that it has itself; the default is classification; two of a kind differ where their settings do."""
    for name in names():
        made = load_task(name)
        assert made.name == name
        assert made.scores
        assert made.identity()["name"] == name
    assert load_task().name == "classification"
    assert dense_classification().identity() != dense_classification(0).identity()
    assert classification().identity() == classification().identity()


def test_names_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new task is a decorated function."""
    monkeypatch.setattr(registry, "_TASKS", {**registry._TASKS})

    @task("nothing")
    def nothing() -> Task:
        return Task(name="nothing", loss=lambda outputs, targets: outputs.sum())

    assert load_task("nothing").name == "nothing"
    for name in ("nothing", "a:b"):
        with pytest.raises(ValueError, match="is taken, or has a colon"):
            task(name)


@pytest.mark.usefixtures("_module")
def test_a_task_of_ones_own() -> None:
    """A factory in the working directory, called without arguments."""
    made = load_task("own_tasks:good")
    assert (made.name, made.scores, made.fits((3, 4))) == ("own", (), True)
    assert made.distance(torch.ones(2), torch.zeros(2), 4.0) == 0.5


@pytest.mark.usefixtures("_module")
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("clasification", UnknownNameError, "unknown task 'clasification': did you mean 'classification'"),
        ("own_tasks", UnknownNameError, "unknown task 'own_tasks': Known: agreement, classification, dense-"),
        (
            "no_such:good",
            UnknownNameError,
            r"unknown task 'no_such' \(No module .*Known: agreement, class.*package.module",
        ),
        (
            "own_tasks:god",
            UnknownNameError,
            "module 'own_tasks' has no factory 'god'. It has: good, needs, raises, wrong",
        ),
        (
            "own_tasks:text",
            TaskError,
            "'own_tasks:text' is of type str: expected a function, or a class, that makes a bitw",
        ),
        ("own_tasks:made", TaskError, "'own_tasks:made' is of type Task"),
        ("own_tasks:wrong", TaskError, "'own_tasks:wrong' returned function, expected a bitwright.task.Task"),
        ("own_tasks:needs", TaskError, "called without arguments, raised TypeError: .*missing 1 required"),
        ("own_tasks:raises", TaskError, r"raised ValueError: no such thing \('.*own_tasks.py', line 8, in raises\)"),
    ],
)
def test_what_is_no_task_is_refused(name: str, kind: type[BitwrightError], message: str) -> None:
    """In one line: what was named, what was found, what there is."""
    with pytest.raises(kind, match=message) as caught:
        load_task(name)
    assert "\n" not in str(caught.value)


def test_references_are_taken_where_none_was_given() -> None:
    """A task that imitates takes the network that it is handed, unless it has one; others take none."""
    first, second = (lambda images: images), (lambda images: 2 * images)
    assert agreement().towards(second).reference is second
    assert agreement(first).towards(second).reference is first
    assert classification().towards(second).reference is None
