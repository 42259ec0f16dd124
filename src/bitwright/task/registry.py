# SPDX-License-Identifier: MIT
"""Tasks by name: those that come with Bitwright, and `package.module:factory` of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from bitwright.errors import BitwrightError, TaskError, unknown_name
from bitwright.extras import require
from bitwright.imported import import_factory
from bitwright.raised import described
from bitwright.task.definition import Task
from bitwright.task.score import Shape

DEFAULT = "classification"

Factory = TypeVar("Factory", bound=Callable[..., Task])

_TASKS: dict[str, tuple[Callable[[], Task], str | None]] = {}
"""What makes each, and the library that it is judged by, where it is an optional one."""


def task(name: str, *, needs: str | None = None) -> Callable[[Factory], Factory]:
    """Make a decorated function, which needs no argument, the maker of the task `name`.

    Args:
        name: Of the task.
        needs: An optional library that it is judged by.

    Raises:
        ValueError: If the name is taken, or has a colon.
    """
    if name in _TASKS or ":" in name:
        raise ValueError(f"the task name '{name}' is taken, or has a colon.")

    def register(function: Factory) -> Factory:
        _TASKS[name] = function, needs
        return function

    return register


def names() -> tuple[str, ...]:
    """The known tasks.

    >>> import bitwright.task
    >>> names()
    ('agreement', 'classification', 'dense-classification', 'detection')
    """
    return tuple(sorted(_TASKS))


def load_task(name: str = DEFAULT) -> Task:
    """A task by name.

    Args:
        name: One of these, or `package.module:factory`, whose factory is called without arguments and returns a `Task`.
            `classification`: one class for each image.
            `dense-classification`: a class for each pixel; 255 is none.
            `detection`: a box around each object, from maps of one scale or several.
            `agreement`: outputs like the float network's, without labels.

    Raises:
        MissingLibraryError: If a library is not installed that the task is judged by.
        UnknownNameError: If there is no such task, module or factory.
        TaskError: If the factory raises, or makes no task.
    """
    if name in _TASKS:
        build, needs = _TASKS[name]
        if needs is not None:
            require(needs, f"the task {name}")
        return build()
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


def require_one_output(task: Task, outputs: Collection[str], model: str, otherwise: str = "") -> None:
    """Refuse a network with several outputs, unless its task is of several.

    Args:
        task: What it is used for.
        outputs: Their names.
        model: Its name.
        otherwise: What else can be done, for the message.

    Raises:
        TaskError: It names the outputs.
    """
    if len(outputs) > 1 and not task.several_outputs:
        raise TaskError(
            f"{model} returns {', '.join(outputs)}, but the task {task.name} is of one output: take the task agreement, or "
            f"one of your own with several_outputs=True, whose loss gets all of them by name{otherwise}."
        )


def _fitting(shape: Shape) -> str:
    """The name of a task for outputs of this shape: one with labels where there is one, else `agreement`."""
    made = {name: make() for name, (make, _) in sorted(_TASKS.items())}
    return next((name for name, task in made.items() if not task.label_free and task.fits(shape)), "agreement")
