# SPDX-License-Identifier: MIT
"""Run LiteRT files in a process of their own, which a crash of the interpreter ends instead of the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

RUNS = [(batch, threads) for batch in (1, 2, 3) for threads in (1, 2)]


def operators(path: Path) -> list[str]:
    """The names of a file's operators, in order."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    return [names[made.operatorCodes[node.opcodeIndex].builtinCode] for node in made.subgraphs[0].operators]


def run_in_child(folder: Path) -> dict[str, npt.NDArray[np.int32]]:
    """The integers that each `NAME.tflite` of a folder makes of `NAME.npy`, by `NAME batch BATCH threads THREADS`.

    Raises:
        AssertionError: If the process dies; the message names the file that it was at.
    """
    child = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, (
        f"exit code {child.returncode}: {child.stdout.splitlines()[-1:]} {child.stderr[-800:]}"
    )
    with np.load(folder / "results.npz") as results:
        return dict(results)


def _main(folder: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    results = {}
    for path in sorted(folder.glob("*.tflite")):
        images = np.load(path.with_suffix(".npy"))
        for batch, threads in RUNS:
            name = f"{path.stem} batch {batch} threads {threads}"
            print(name, flush=True)
            interpreter = Interpreter(str(path), num_threads=threads)
            given = interpreter.get_input_details()[0]["index"]
            interpreter.resize_tensor_input(given, [batch, *images.shape[1:]])
            interpreter.allocate_tensors()
            interpreter.set_tensor(given, images[:batch])
            interpreter.invoke()
            found = {output["name"]: output["index"] for output in interpreter.get_output_details()}
            results[name] = interpreter.get_tensor(found["logits_int32"])
    np.savez(folder / "results.npz", **results)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
