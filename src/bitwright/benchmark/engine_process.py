# SPDX-License-Identifier: MIT
"""Engines in processes of their own, where one that crashes ends no more than its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitwright.benchmark import engine_server, runtimes
from bitwright.benchmark.engines import known_engine
from bitwright.errors import EngineError
from bitwright.returned import Returned, returned


class Setting(NamedTuple):
    """How an engine is asked to run.

    Attributes:
        engine: Its name.
        level: One of its optimisation levels.
        threads: How many it may use.
        batch: How many images it is given at a time; the last are what is left.
    """

    engine: str
    level: str
    threads: int
    batch: int


class EngineProcess:
    """An engine in a process of its own, which is started when it is first asked, and anew after it crashed.

    Use it as a context, or `close` it.

    Args:
        engine: Its name.
        variables: The variables of its environment, beside those of this process.
    """

    def __init__(self, engine: str, variables: Mapping[str, str] | None = None) -> None:
        self.engine = known_engine(engine).name
        self._variables = {**os.environ, **(variables or {})}
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="bitwright-")
        self._stderr = Path(self._folder.name) / "stderr.txt"

    def image(self, path: str | Path, setting: Setting) -> tuple[tuple[int, ...], str]:
        """The image that a file takes: its shape, (channels, height, width), and the type of its values.

        Raises:
            EngineError: If the engine cannot load the file, or ends.
        """
        found = self._answer({"path": str(path), **setting._asdict()})
        return tuple(found["shape"]), found["kind"]

    def logits(self, path: str | Path, images: npt.NDArray[Any], setting: Setting, *, real: bool = False) -> Returned:
        """What the engine computes.

        Args:
            path: The path of a file that was exported for it.
            images: [count, channels, height, width], as the file takes them.
            setting: How to run it.
            real: Whether real logits are wanted.

        Returns:
            The int32 logits, or the real ones, [count, classes]; of several outputs, these by name.

        Raises:
            EngineError: If it cannot load the file, fails, or ends.
        """
        given = Path(self._folder.name) / "images.npy"
        np.save(given, images)
        return self.logits_of(path, given, setting, real=real)

    def logits_of(self, path: str | Path, images: Path, setting: Setting, *, real: bool = False) -> Returned:
        """The same for images in an .npy file, which several processes may share."""
        made = Path(self._folder.name) / "logits.npz"
        what = "logits" if real else "integers"  # as a session calls them
        asked = {"path": str(path), "images": str(images), "what": what, "logits": str(made), **setting._asdict()}
        names = self._answer(asked)["outputs"]
        with np.load(made) as found:
            return returned(dict(zip(names, (found[key] for key in found.files), strict=True)))

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the process says to a request.

        Raises:
            EngineError: If it says why not, or ends.
        """
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            print(json.dumps(request), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EngineError(f"{self.engine} {self._end()}")
        answer: dict[str, Any] = json.loads(line)
        if "failure" in answer:
            raise EngineError(answer["failure"])
        return answer

    @property
    def pid(self) -> int | None:
        """Of the process, if it runs."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process, if there is one, and remove its files."""
        self._end()
        self._folder.cleanup()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            with open(self._stderr, "wb") as stderr:
                self._process = subprocess.Popen(
                    # -P: the modules beside the script are not to be found by their bare names.
                    [sys.executable, "-P", engine_server.__file__, runtimes.__file__, self.engine],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=self._variables,
                )  # fmt: skip
        return self._process

    def _end(self) -> str:
        """Wait for the end of the process, which has no more to read, and say how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "was not running"
        process.communicate()
        return how_it_ended(process.returncode, self._stderr.read_text(encoding="utf-8", errors="replace"))


def how_it_ended(status: int, stderr: str) -> str:
    r"""The end of a process in words, with the last line that it printed on stderr.

    >>> how_it_ended(-11, "loading\nthe file\n"), how_it_ended(3, "")
    ('was ended by SIGSEGV: the file', 'ended with status 3')
    """
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return ": ".join([how, *stderr.strip().splitlines()[-1:]])
