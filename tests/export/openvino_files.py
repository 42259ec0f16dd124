# SPDX-License-Identifier: MIT
"""Files of networks for OpenVINO, with images and integers beside them, for `openvino_run` to compare in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from bitwright.export import export_openvino
from bitwright.integer import IntegerModel, run


def write_files(folder: Path, kinds: Iterable[str], model_of: Callable[[str], tuple[IntegerModel, Tensor]]) -> Path:
    """The file of every network, its images and its integers, which differ; returns the folder."""
    for kind in kinds:
        model, images = model_of(kind)
        path = folder / f"{kind}.xml"
        export_openvino(model, path)
        expected = run(model, images).numpy()
        assert len(np.unique(expected)) > 50
        np.savez(path.with_suffix(".npz"), images=images.numpy(), expected=expected)
    return folder
