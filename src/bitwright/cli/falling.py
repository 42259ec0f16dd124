# SPDX-License-Identifier: MIT
"""`bitwright train --layerwise`: which layers fall to fewer bits, and when."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitwright.graph import Graph
    from bitwright.scheme import Scheme


@dataclass(frozen=True)
class Falling:
    """How bits fall from layer to layer.

    Attributes:
        sensitivities: The file that says in which order.
        rungs: Precisions on the way, the first one where layers start.
        per_stage: Layers that fall before each training.
    """

    sensitivities: Path
    rungs: list[str]
    per_stage: int

    def schemes(self, graph: Graph, target: Scheme) -> tuple[Scheme, ...]:
        """Of all stages.

        Raises:
            DataError: If the sensitivities are those of another network.
        """
        from bitwright.allocation import layerwise_schemes
        from bitwright.allocation.origin import check_origin
        from bitwright.scheme import Precision
        from bitwright.sensitivity import SensitivityTable

        table = SensitivityTable.load(self.sensitivities)
        check_origin(graph, table, None, force=False)
        rungs = [Precision.parse(rung) for rung in self.rungs]
        return layerwise_schemes(target, table, rungs=rungs, per_stage=self.per_stage)
