# SPDX-License-Identifier: MIT
"""What the process of an `EngineProcess` does: run files over images, one request a line, one answer a line.

Run as a script, so that it imports the engine and NumPy alone: the package around it would import PyTorch.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from typing import Any, TextIO

import numpy as np


def serve(runtimes: str, name: str, answers: TextIO) -> None:
    """Answer the requests on stdin until it ends.

    Args:
        runtimes: Where the module with the registry of runtimes is.
        name: The name of the engine.
        answers: Gets the names of the outputs where these are written as asked, in their order; the shape and the type of an
            image where no images are given; `{"failure": "…"}` where that is impossible.
    """
    load_engine = runpy.run_path(runtimes)["load_engine"]
    sessions: dict[tuple[str, str, int], Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        path, level, threads, batch = asked["path"], asked["level"], asked["threads"], asked["batch"]
        key = (path, level, threads)
        answer: dict[str, Any]
        try:
            if key not in sessions:
                if any(known != path for known, _, _ in sessions):
                    sessions.clear()
                sessions[key] = load_engine(name, path, threads=threads, level=level)
            session = sessions[key]
            if "images" in asked:
                compute, images = getattr(session, asked["what"]), np.load(asked["images"])
                parts = [compute(images[start : start + batch]) for start in range(0, len(images), batch)]
                if not isinstance(parts[0], dict):
                    parts = [{session.outputs[0]: part} for part in parts]
                np.savez(asked["logits"], *(np.concatenate([part[name] for part in parts]) for name in parts[0]))
                answer = {"outputs": list(parts[0])}
            else:
                answer = {"shape": session.shape, "kind": session.kind}
        except Exception as error:  # whatever an engine raises is an answer
            answer = {"failure": " ".join(str(error).split()) or type(error).__name__}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    # Engines print what they like to stdout, which here is for answers alone.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # TVM imports PyTorch where it finds it, which is most of the time that it takes to start.
    sys.modules["torch"] = None  # type: ignore[assignment]
    serve(sys.argv[1], sys.argv[2], replies)
