# SPDX-License-Identifier: MIT
"""What certification changed: the integers and the scores of a trained model before and after its multipliers were proved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.progress import Progress, silent
from bitwright.returned import first
from bitwright.task import Scores, Task
from bitwright.training.evaluate import evaluate
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Quantized


@dataclass(frozen=True)
class Differing:
    """Integers of one tensor, over all images.

    Attributes:
        elements: How many there were.
        differing: How many have another value with proved constants than with the model's own.
    """

    elements: int
    differing: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.differing / self.elements


@dataclass(frozen=True)
class CertificationEffect:
    """A model with its own float32 ratios, and with the proved multipliers of its integer model.

    Attributes:
        tensors: Counts by tensor, in execution order. Differences of earlier tensors act on later ones.
        before: Scores, of the first output of several, with the ratios of training.
        after: Scores with proved multipliers, which is that of the integer model.
    """

    tensors: Mapping[str, Differing]
    before: Scores
    after: Scores

    @property
    def total(self) -> Differing:
        """All tensors together."""
        counts = self.tensors.values()
        return Differing(sum(count.elements for count in counts), sum(count.differing for count in counts))

    def to_dict(self) -> dict[str, Any]:
        """Counts and scores as JSON values."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "elements": self.total.elements,
            "differing": self.total.differing,
            "share": self.total.share,
            "tensors": {name: asdict(count) for name, count in self.tensors.items()},
        }


@torch.no_grad()
def certification_effect(
    model: QuantizedModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    task: Task | None = None,
    progress: Progress = silent,
) -> CertificationEffect:
    """Run a lowered model with and without its proved constants, and count what differs.

    Args:
        model: With the certificates that `lowered` found, which it keeps.
        batches: (images, labels).
        task: What the network is for; None is classification.
        progress: Told about every batch.

    Raises:
        LoweringError: If the model has no certificates, or was trained since.
        DataError: If there is no image, or images or labels do not fit the model.
    """
    certificates = model.certificates
    if not certificates:
        raise LoweringError(
            "the model has no proved multipliers: certify it with those of `lowered` first, and do not train it afterwards."
        )
    elements: dict[str, int] = {}
    differing: dict[str, int] = {}
    guesses: dict[bool, list[tuple[Tensor, Tensor]]] = {False: [], True: []}
    total = len(batches) if isinstance(batches, Sized) else 0
    try:
        for done, (images, labels) in enumerate(batches, 1):
            proved: dict[str, Tensor] = {}

            def keep(name: str, value: Quantized, kept: dict[str, Tensor] = proved) -> None:
                kept[name] = value.values

            def compare(name: str, value: Quantized, kept: dict[str, Tensor] = proved) -> None:
                other = kept.pop(name)
                elements[name] = elements.get(name, 0) + other.numel()
                differing[name] = differing.get(name, 0) + int((other != value.values).sum())

            guesses[True].append((first(model(images, keep)), labels))
            model.certify({})
            guesses[False].append((first(model(images, compare)), labels))
            model.certify(certificates)
            progress(done, max(total, done))
    finally:
        model.certify(certificates)
    before, after = (evaluate(lambda logits: logits, guesses[certified], task=task) for certified in (False, True))
    tensors = {name: Differing(count, differing[name]) for name, count in elements.items()}
    return CertificationEffect(tensors, before, after)
