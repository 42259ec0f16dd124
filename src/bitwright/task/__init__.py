# SPDX-License-Identifier: MIT
"""What a network is for: loss, targets, scores, and the curvature of the loss at the outputs."""

from bitwright.task.agreement import agreement
from bitwright.task.boxes import decoded
from bitwright.task.classification import classification
from bitwright.task.curvature import (
    Curvature,
    DenseSoftmaxCurvature,
    DifferentiatedCurvature,
    SoftmaxCurvature,
    SquaredCurvature,
)
from bitwright.task.definition import Task
from bitwright.task.dense import dense_classification
from bitwright.task.detection import detection
from bitwright.task.registry import load_task, names, require_one_output, require_outputs, task
from bitwright.task.score import Score, Scores

__all__ = [
    "Curvature",
    "DenseSoftmaxCurvature",
    "DifferentiatedCurvature",
    "Score",
    "Scores",
    "SoftmaxCurvature",
    "SquaredCurvature",
    "Task",
    "agreement",
    "classification",
    "decoded",
    "dense_classification",
    "detection",
    "load_task",
    "names",
    "require_one_output",
    "require_outputs",
    "task",
]
