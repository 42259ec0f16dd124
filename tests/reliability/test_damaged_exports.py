# SPDX-License-Identifier: MIT
"""Damaged exported files end by name, or work: in a process of its own, an engine may even crash at one."""

from __future__ import annotations

import random
import resource
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitwright.benchmark import ENGINES, EngineProcess, Setting
from bitwright.benchmark.engines import Engine
from bitwright.cli import main
from bitwright.errors import BitwrightWarning, EngineError, ExportError, FileFormatError
from bitwright.export.seal import look_for_changes
from reliability.exported import damage, export
from reliability.networks import images, tiny_graph, tiny_integer

SHORT, LONG = 6, 400
LONGEST = 2000  # characters of a line
COMMANDS = (
    "evaluate {file} -d mnist-5k",
    "bench {file} --batch 1 --rounds 1",
    "verify {file} --model {model} --stress 4",
)

INSTALLED = [pytest.param(found, id=name) for name, found in ENGINES.items() if found.installed]


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """A damaged shape of 2**31 values is refused to the engine, rather than asked of this machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def check(engine: Engine, folder: Path, count: int) -> None:
    """Damage a file in `count` ways, and look at it and run it as `evaluate` does."""
    path, counts = export(engine, folder), Counter[str]()
    setting = Setting(engine.name, engine.levels[-1], threads=1, batch=2)
    given = images().numpy()
    with EngineProcess(engine.name) as process:
        expected = process.logits(path, given, setting)
        for number in range(count):
            copy = folder / f"damaged{number % 2}{engine.form.suffix}"
            what = damage(path, copy, random.Random(f"{engine.name} {number}"))
            try:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    look_for_changes(copy)
                assert all(issubclass(one.category, BitwrightWarning) for one in told), what
                got = process.logits(copy, given, setting)
            except (FileFormatError, ExportError) as error:
                message = str(error)
                assert copy.name in message, what
                assert len(message) < LONGEST, what
                counts["refused when it was read"] += 1
            except EngineError as error:
                counts["ended the engine" if "ended" in str(error) else "refused by the engine"] += 1
            except Exception as error:
                raise AssertionError(f"{engine.name} {number}: {what}: {error!r}") from error
            else:
                equal = got.shape == expected.shape and (got == expected).all()
                counts["equal" if equal else "other numbers, told" if told else "other numbers, untold"] += 1
    print(f"{engine.name}: {dict(counts)}")
    assert counts["equal"] <= count / 2


@pytest.mark.parametrize("engine", INSTALLED)
def test_damage_ends_by_name(engine: Engine, tmp_path: Path) -> None:
    """Other bytes, operators, attributes, shapes: refused when the file is read, or by its engine; nothing else is raised."""
    check(engine, tmp_path, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("engine", INSTALLED)
def test_much_damage_ends_by_name(engine: Engine, tmp_path: Path) -> None:
    """The same, many times over."""
    check(engine, tmp_path, LONG)


@pytest.mark.slow
@pytest.mark.parametrize("engine", INSTALLED)
def test_commands_end_by_name(engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`evaluate`, `bench` and `verify` end with a status of 0 or 1, no traceback, and the name of the file where it is 1."""
    path, model = export(engine, tmp_path), tmp_path / "tiny.integer"
    tiny_integer(tiny_graph()).save(model)
    copy = tmp_path / f"damaged{engine.form.suffix}"
    for number in range(5):
        what = damage(path, copy, random.Random(f"commands {engine.name} {number}"))
        before = sorted(tmp_path.iterdir())
        for command in COMMANDS:
            with pytest.raises(SystemExit) as stopped:
                main(command.format(file=copy, model=model).split())
            printed = capfd.readouterr()
            assert stopped.value.code in (0, 1), what
            assert "Traceback" not in printed.err, (what, printed.err)
            lines = [line for line in printed.err.splitlines() if not line.startswith("warning: ")]
            if stopped.value.code == 1 and printed.out == "":
                assert len(lines) == 1, (what, lines)
                assert copy.name in lines[0], (what, lines)
            assert sorted(tmp_path.iterdir()) == before
