# SPDX-License-Identifier: MIT
"""Libraries that not everybody needs: which extra of the package brings each, and the one line where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from types import MappingProxyType

from bitwright.errors import MissingLibraryError

EXTRAS = MappingProxyType(
    {
        "ai_edge_litert": "litert",
        "datasets": "huggingface",
        "flatbuffers": "litert",
        "gdown": "zoo",
        "huggingface_hub": "huggingface",
        "matplotlib": "plots",
        "mlflow": "mlflow",
        "mlxtend": "digits",
        "openvino": "openvino",
        "pycocotools": "detection",
        "pytorchcv": "zoo",
        "qonnx": "qonnx",
        "tensorboard": "tensorboard",
        "timm": "timm",
        "trackio": "trackio",
        "tvm": "tvm",
        "wandb": "wandb",
    }
)
"""The extra of every optional module that anything here imports."""


def installed(module: str) -> bool:
    """Whether a module could be imported; it is not."""
    return find_spec(module) is not None


def require(module: str, reader: str, *, extra: str | None = None) -> None:
    """Refuse to go on without an optional module, before it is imported and before anything is computed.

    Args:
        module: One of `EXTRAS`.
        reader: What needs it, in words: "timm:resnet18".
        extra: What to install, where the reader needs more than this module.

    Raises:
        MissingLibraryError: If it is not installed: it names the extra.
    """
    if not installed(module):
        raise MissingLibraryError(
            f"{reader} needs {module.replace('_', '-')}, which is not installed: "
            f"pip install 'bitwright[{extra or EXTRAS[module]}]'."
        )
