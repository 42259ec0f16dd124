# SPDX-License-Identifier: MIT
"""Tasks by name: those that come with Bitwright, and `package.module:factory` of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from bitwright.errors import BitwrightError, TaskError, unknown_name
from bitwright.imported import import_factory
from bitwright.raised import described
from bitwright.task.definition import Task
from bitwright.task.score import Shape

DEFAULT = "classification"

Factory = TypeVar("Factory", bound=Callable[..., Task])

_TASKS: dict[str, Callable[[], Task]] = {}


def task(name: str) -> Callable[[Factory], Factory]:
    """Make a decorated function, which needs no argument, the maker of the task `name`.

    Raises:
        ValueError: If the name is taken, or has a colon.
    """
    if name in _TASKS or ":" in name:
        raise ValueError(f"the task name '{name}' is taken, or has a colon.")

    def register(function: Factory) -> Factory:
        _TASKS[name] = function
        return function

    return register


def names() -> tuple[str, ...]:
    """The known tasks.

    >>> import bitwright.task
    >>> names()
    ('agreement', 'classification', 'dense-classification')
    """
    return tuple(sorted(_TASKS))


def load_task(name: str = DEFAULT) -> Task:
    """A task by name.

    Args:
        name: One of these, or `package.module:factory`, whose factory is called without arguments and returns a `Task`.
            `classification`: one class for each image.
            `dense-classification`: a class for each pixel; 255 is none.
            `agreement`: outputs like the float network's, without labels.

    Raises:
        UnknownNameError: If there is no such task, module or factory.
        TaskError: If the factory raises, or makes no task.
    """
    if name in _TASKS:
        return _TASKS[name]()
    module, colon, factory = name.partition(":")
    if not colon or not factory:
        raise unknown_name("task", name, [*_TASKS, "package.module:factory"])
    make = import_factory(module, factory, makes="a bitwright.task.Task", kind="task", known=names(), error=TaskError)
    try:
        made = make()
    except BitwrightError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskError(f"'{name}', called without arguments, raised {described(error)}.") from error
    if not isinstance(made, Task):
        raise TaskError(f"'{name}' returned {type(made).__name__}, expected a bitwright.task.Task.")
    return made


def require_outputs(task: Task, shape: Shape, model: str) -> None:
    """Refuse a network whose outputs a task cannot judge.

    Args:
        task: What it is used for.
        shape: The shape of what it returns for one image.
        model: Its name.

    Raises:
        TaskError: It names the task to use instead.
    """
    if not task.fits(shape):
        raise TaskError(
            f"{model} returns {' x '.join(map(str, shape)) or 'one number'} for each image, but the task {task.name} expects "
            f"{task.expects}: use --task {_fitting(shape)} (in Python, task=), or a task of your own."
        )


def require_one_output(task: Task, outputs: Collection[str], model: str, *, distilled: bool = False) -> None:
    """Refuse a network with several outputs, unless its task is of several and no teacher takes part.

    Args:
        task: What it is trained for.
        outputs: Their names.
        model: Its name.
        distilled: Whether it is compared with a teacher.

    Raises:
        TaskError: It names the outputs.
    """
    if len(outputs) > 1 and (distilled or not task.several_outputs):
        what = "distillation" if task.several_outputs else f"the task {task.name}"
        raise TaskError(
            f"{model} returns {', '.join(outputs)}, but {what} is of one output: train it for a task of your own with "
            "several_outputs=True, whose loss gets all of them by name."
        )


def _fitting(shape: Shape) -> str:
    """The name of a task for outputs of this shape: one with labels where there is one, else `agreement`."""
    made = {name: make() for name, make in sorted(_TASKS.items())}
    return next((name for name, task in made.items() if not task.label_free and task.fits(shape)), "agreement")
