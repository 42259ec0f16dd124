# SPDX-License-Identifier: MIT
"""The file that an unfinished reconstruction is kept in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bitwright.decode import decode
from bitwright.errors import FileFormatError
from bitwright.graph.digest import digest
from bitwright.graph.evaluate import Tensors
from bitwright.graph.state_file import StateFile
from bitwright.reconstruction.network_descent import NetworkDescent
from bitwright.reconstruction.settings import ReconstructionSettings
from bitwright.reconstruction.unseen import Change
from bitwright.training.model import QuantizedModel
from bitwright.training.settings import Checkpointing
from bitwright.training.state import load_weights

FORMAT = "bitwright.reconstruction.3"
_MODEL, _BEFORE, _DESCENT, _GENERATOR = "model.", "before.", "descent.", "generator"


@dataclass(frozen=True)
class Finished:
    """How far a reconstruction is.

    Attributes:
        blocks: How many blocks are finished.
        network_steps: How many steps of the network as a whole.
        unseen: What the blocks made of the error on images unseen, where they have been judged.
    """

    blocks: int = 0
    network_steps: int = 0
    unseen: Change | None = None


class Kept:
    """The file of an unfinished reconstruction: the model and the generator as the last finished block or step left them.

    What the next block reads is computed anew by whoever goes on: activations of a thousand images are large, and the finished
    blocks, whose scales no later block moves, make them again to the bit.
    """

    def __init__(
        self,
        checkpoint: Checkpointing,
        model: QuantizedModel,
        images: Tensor,
        floats: Tensors,
        settings: ReconstructionSettings,
        generator: torch.Generator,
    ) -> None:
        state = model.state_dict()
        known: dict[str, Any] = {
            "network": digest(*(state[name] for name in sorted(state))), **model.settings(),
            "reference": digest(*(floats[name] for name in sorted(floats))),
            "images": digest(images), **asdict(settings), **checkpoint.origin,
        }  # fmt: skip
        self._path = checkpoint.path
        self._resume = checkpoint.resume
        self._model = model
        self._generator = generator
        self._network_steps = settings.all_network_steps
        self._finished = Finished()
        self._before: Tensors = {}
        self._descent: Tensors = {}
        self._file = StateFile(
            checkpoint.path, FORMAT, work="reconstruction", settings=known, seconds=60 * checkpoint.minutes
        )

    def begin(self, count: int) -> Finished:
        """How far it is, of `count` blocks; what these made is in the model then."""
        found = self._file.begin(self._resume)
        if found is None:
            return self._finished
        tensors, progress = found
        finished = decode(Finished, progress, f"'{self._path}' does not say how far the reconstruction is")
        if not 0 <= finished.blocks <= count or _GENERATOR not in tensors:
            raise FileFormatError(f"'{self._path}' is damaged: it claims {finished.blocks} finished blocks of {count}.")
        if not 0 <= finished.network_steps <= self._network_steps:
            raise FileFormatError(
                f"'{self._path}' is damaged: it claims {finished.network_steps} finished steps of {self._network_steps}."
            )
        self._generator.set_state(tensors.pop(_GENERATOR))
        parts = {
            part: {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
            for part in (_BEFORE, _MODEL, _DESCENT)
        }
        for part in (_BEFORE, _MODEL):
            load_weights(self._model, parts[part], self._path)
            if part == _BEFORE:
                self._before = state_of(self._model)
        self._descent, self._finished = parts[_DESCENT], finished
        return finished

    def before(self, begun: Tensors) -> Tensors:
        """What the network was before the steps that are not judged yet: as the file has it, else as it begins with them now."""
        self._before = self._before or begun
        return self._before

    def end_block(self, finished: int) -> None:
        """So many blocks are finished: write that, if it is time to."""
        self._finished = Finished(finished)
        self._write()

    def end_blocks(self, before: Tensors, unseen: Change | None) -> None:
        """All of them, and they are judged."""
        self._finished, self._before = replace(self._finished, unseen=unseen), before

    def end_step(self, finished: int, descent: NetworkDescent) -> None:
        """So many steps of the network as a whole are finished: write that, if it is time to."""
        self._finished = replace(self._finished, network_steps=finished)
        self._write(descent)

    def restore(self, descent: NetworkDescent) -> None:
        """Give it the state of the file, if that is so far.

        Raises:
            FileFormatError: If that is not of this network.
        """
        if self._finished.network_steps and not descent.restore(self._descent):
            raise FileFormatError(f"'{self._path}' is damaged: its descent is of another network.")

    def _write(self, descent: NetworkDescent | None = None) -> None:
        if self._file.due():
            tensors = {_MODEL + name: value for name, value in self._model.state_dict().items()}
            tensors |= {_BEFORE + name: value for name, value in self._before.items()}
            tensors |= {_DESCENT + name: value for name, value in (descent.state() if descent else {}).items()}
            self._file.write({**tensors, _GENERATOR: self._generator.get_state()}, asdict(self._finished))


def state_of(model: QuantizedModel) -> Tensors:
    """All tensors of a model, by name, as they are now."""
    return {name: value.clone() for name, value in model.state_dict().items()}
