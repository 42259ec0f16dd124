# SPDX-License-Identifier: MIT
"""Whether the float tails of an ONNX file are what their names say: run, and compared with PyTorch in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitwright.export.onnx.tail import tail_name

RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""How far a float32 operator may be from the float64 one: engines compute exponentials their own way, within some last digits."""

_EXPECTED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "log_softmax": lambda values: values.log_softmax(1),
    "sigmoid": torch.sigmoid,
    "softmax": lambda values: values.softmax(1),
}


def differing_tail(path: Path, tails: Mapping[str, str], images: Tensor) -> str | None:
    """The first tail of a file that is not what ONNX Runtime's own real outputs make, by the name of its tensor.

    The file is run in this process: it is one whose integers were equal, in a process of its own, just before.

    Args:
        path: An ONNX file; where there are no tails, any.
        tails: The tail of each output that has one.
        images: As the file takes them.
    """
    if not tails:
        return None  # and a file without any may be another engine's
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for name, kind in tails.items():
        real, made = session.run([name, tail_name(name, kind)], {"images": images.numpy()})
        expected = _EXPECTED[kind](torch.from_numpy(real).double()).numpy()
        if not np.allclose(made, expected, rtol=RELATIVE, atol=ABSOLUTE):
            return tail_name(name, kind)
    return None
