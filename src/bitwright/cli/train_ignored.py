# SPDX-License-Identifier: MIT
"""Options of `bitwright train` that the training at hand would not look at."""

from __future__ import annotations

from pathlib import Path

import typer

from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.models import refuse_ignored_weights, refuse_two_heads
from bitwright.cli.teacher import is_name


def refuse_ignored_in_training(context: typer.Context, in_float: bool) -> None:
    """Options of the other kind of training, and of any where there is none."""
    if in_float:
        reason = "a float network has no scales. Leave it out, or train a captured network with --scheme."
        refuse_ignored(
            context,
            reason,
            "ranges",
            "free_norm",
            "settle_norm",
            "teacher_alpha",
            "teacher",
            "teacher_weights",
            "residual_bits",
            "activations",
            "deploy",
            "layerwise",
        )
        refuse_ignored_weights(context)
        refuse_two_heads(context)
    else:
        reason = "a captured network has its weights and its shape. Leave it out, or name a model as SOURCE:MODEL."
        refuse_ignored(
            context, reason, "pretrained", "weights", "ema", "image_size", "channels", "classes", "replace_head"
        )
    if not in_float and Path(context.params["scheme"]).exists():
        refuse_ignored(context, "the file of a scheme has its own.", "residual_bits", "activations")
    if context.params["teacher_alpha"] == 0:
        refuse_ignored(context, "--distill 0 gives a teacher no weight.", "teacher")
    if context.params["teacher"] is None or not is_name(context.params["teacher"]):
        refuse_ignored(context, "they are those of a teacher by name (--teacher SOURCE:MODEL).", "teacher_weights")
    if context.params["layerwise"] is None:
        reason = "it is about layers that fall one after another. Add --layerwise SENSITIVITIES."
        refuse_ignored(context, reason, "rungs", "layers_per_stage")
    if context.params["epochs"] == 0:
        training = (
            "learning_rate",
            "batch_size",
            "weight_decay",
            "label_smoothing",
            "data_fraction",
            "teacher_alpha",
            "teacher",
            "validates",
            "track",
        )
        reason = "nothing is trained in 0 epochs."
        refuse_ignored(context, reason, *training, "layerwise", "checkpoint_minutes", "checkpoint_steps")
