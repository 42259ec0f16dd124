# SPDX-License-Identifier: MIT
"""A row of the zoo from float weights to the lowered integer model, measured beside what was published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitwright.data import ImageData, part_of
from bitwright.errors import DataError
from bitwright.graph import FloatModel, Graph, float_cost, layer_costs, scheme_cost
from bitwright.integer import IntegerModel, lower, prepare
from bitwright.progress import Progress, silent
from bitwright.task import Scores
from bitwright.training import Checkpointing, evaluate, fine_tune, save_quantized
from bitwright.zoo.recipes import Recipe
from bitwright.zoo.registry import Row, published_scheme, row

STATE = "training.state"


@dataclass(frozen=True)
class Reproduction:
    """A row, published and measured.

    Attributes:
        row: As published, on ImageNet.
        recipe: As it was run.
        data: Name of the images.
        training_images: How many training images were used, of how many.
        accuracy: The accuracy of the integer model (of the float one, for a float row) on the test images.
        size_mb: Recomputed, in MB of 2**20 bytes.
        bops_g: Recomputed, in 10**9.
        losses: Mean training loss of each epoch.
    """

    row: Row
    recipe: Recipe
    data: str
    training_images: tuple[int, int]
    accuracy: Scores
    size_mb: float
    bops_g: float
    losses: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Published beside measured, as JSON values."""
        return {
            "row": self.row.name,
            "data": self.data,
            "training_images": list(self.training_images),
            "published": {"size_mb": self.row.size_mb, "bops_g": self.row.bops_g, "top1_percent": self.row.top1},
            "measured": {
                "size_mb": self.size_mb,
                "bops_g": self.bops_g,
                **self.accuracy.to_dict(),
            },
            "losses": list(self.losses),
        }


def reproduce(
    recipe: Recipe,
    graph: Graph,
    data: ImageData,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    batch_size: int = 100,
    workers: int | None = None,
    progress: Progress = silent,
) -> Reproduction:
    """Run a recipe: quantize, calibrate, train, lower, and evaluate the integer model.

    Args:
        recipe: The recipe of the row.
        graph: The row's network, captured with trained float weights.
        data: Images of the network's size; `train` is trained on, `test` evaluated.
        folder: Where to keep the recipe as run, the checkpoint and the integer model, and the state of the training until all is
            done; None keeps nothing.
        resume: Go on with the training whose state is in `folder`.
        batch_size: The batch size of the evaluation.
        workers: Processes that read images; None takes what suits the data.
        progress: Told about every step.

    Raises:
        DataError: If the images do not fit the network.
        SchemeError: If the graph is of another network.
        TrainingError: If the loss is no finite number.
    """
    published = row(recipe.row)
    if data.shape != graph.input_shape:
        raise DataError(f"{graph.model} reads images of shape {graph.input_shape}, got {data.shape} from {data.name}.")
    kept = None if folder is None else Path(folder)
    if published.is_float:
        accuracy = evaluate(
            FloatModel(graph).eval(), data.batches("test", batch_size, workers=workers), progress=progress
        )
        if kept is not None:
            recipe.save(kept / "recipe.yaml")
        cost = float_cost(graph)
        used = (0, len(data.train))
        return Reproduction(published, recipe, data.name, used, accuracy, cost.size_mb, cost.bops_g, ())
    used = (part_of(len(data.train), recipe.data_fraction), len(data.train))
    scheme = published_scheme(
        published.model, published.scheme, layers=graph.layers, residual_bits=recipe.residual_bits
    )
    model, trained = fine_tune(
        graph,
        scheme,
        data,
        replace(recipe.settings(), workers=workers),
        ranges="ema",
        act_range_momentum=recipe.act_range_momentum,
        free_norm=not recipe.fix_batch_norm,
        checkpoint=None if kept is None else Checkpointing(kept / STATE, resume=resume),
        progress=progress,
    )
    integer = lower(model)
    if kept is not None:
        save_quantized(kept / "quantized.safetensors", model)
        integer.save(kept / "integer.safetensors")
        recipe.save(kept / "recipe.yaml")  # last: a refused or interrupted run leaves that of the models beside it
    accuracy = evaluate(predictor(integer), data.batches("test", batch_size, workers=workers), progress=progress)
    if kept is not None:
        (kept / STATE).unlink(missing_ok=True)
    cost = scheme_cost(layer_costs(graph), scheme)
    return Reproduction(published, recipe, data.name, used, accuracy, cost.size_mb, cost.bops_g, trained.losses)


def predictor(model: IntegerModel) -> Any:
    """Images to real logits, by the integer model."""
    return prepare(model).logits
