# SPDX-License-Identifier: MIT
"""Images beside the network that reads them."""

from __future__ import annotations

from torch import Tensor, nn


def beside(network: object, images: Tensor) -> Tensor:
    """Images on the device of a module's parameters, where training may have put it; as they are for anything without any."""
    first = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return images if first is None else images.to(first.device)
