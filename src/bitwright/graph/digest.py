# SPDX-License-Identifier: MIT
"""SHA-256 of what results depend on: networks, images and tensors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import torch
from torch import Tensor

from bitwright.data.image_set import ImageSet
from bitwright.graph.graph import Graph


def network_digest(graph: Graph) -> str:
    """SHA-256 over a graph's structure and tensors, whatever is known of its images."""
    structure = json.dumps(replace(graph, preprocessing=None).to_dict(), sort_keys=True)
    return digest(*(graph.parameters[name] for name in sorted(graph.parameters)), text=structure)


def images_digest(images: ImageSet) -> str:
    """SHA-256 over all labels, and over 16 images from the first to the last: enough to tell data sets and sizes apart."""
    some = torch.linspace(0, len(images) - 1, 16).long()
    return digest(images.labels, *images.read(some))


def digest(*tensors: Tensor, text: str = "") -> str:
    """SHA-256 over text, and the dtypes, shapes and values of tensors."""
    found = hashlib.sha256(text.encode())
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        found.update(f"{values.dtype}:{tuple(values.shape)}:".encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
