# SPDX-License-Identifier: MIT
"""SHA-256 of what results depend on: networks and tensors."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from bitwright.graph.graph import Graph


def network_digest(graph: Graph) -> str:
    """SHA-256 over a graph's structure and tensors."""
    structure = json.dumps(graph.to_dict(), sort_keys=True)
    return digest(*(graph.parameters[name] for name in sorted(graph.parameters)), text=structure)


def digest(*tensors: Tensor, text: str = "") -> str:
    """SHA-256 over text, and the dtypes, shapes and values of tensors."""
    found = hashlib.sha256(text.encode())
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        found.update(f"{values.dtype}:{tuple(values.shape)}:".encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
