# SPDX-License-Identifier: MIT
"""A segmenter goes the whole way: float training, sensitivities, quantization-aware training, integers, scores."""

from __future__ import annotations

import pytest
import torch

from bitwright.errors import TaskError
from bitwright.graph import FloatModel, capture
from bitwright.integer import lower, prepare
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity import SensitivitySettings, measure_sensitivity
from bitwright.task import agreement, dense_classification
from bitwright.training import Distillation, TrainSettings, evaluate, fine_tune, fit
from training.segmenter import IMAGE, Segmenter, shapes

TASK = dense_classification()


def test_a_segmenter_is_trained_quantized_and_judged_on_integers() -> None:
    """Mean IoU and pixel accuracy of 4-bit integers are near the float network's, trained by masks or without any."""
    torch.manual_seed(0)
    model, data = Segmenter(), shapes()
    settings = TrainSettings(epochs=4, learning_rate=0.2, batch_size=32, augment=False)
    result = fit(model, data, settings, task=TASK)
    assert result.losses[-1] < 0.4 * result.losses[0]
    graph = capture(model.eval(), IMAGE, name="segmenter")
    exact = evaluate(FloatModel(graph).eval(), data.batches("test", 32), task=TASK)
    assert exact["mean_iou_percent"] > 75
    assert exact["pixel_accuracy_percent"] > 90

    table = measure_sensitivity(
        graph, *data.calibration(64), SensitivitySettings(relative_error=0.2, bits=[4]), task=TASK
    )
    assert table.task == "dense-classification"
    assert all(layer.loss_increase(Precision(4, 4)) > 0 for layer in table.layers)

    scheme = Scheme.uniform(graph.layers, Precision(4, 4))
    few = TrainSettings(epochs=1, learning_rate=0.02, batch_size=32, augment=False)
    teacher = Distillation(FloatModel(graph).eval(), alpha=0.5)
    for task, distillation in ((TASK, teacher), (agreement(), None)):
        quantized, _ = fine_tune(graph, scheme, data, few, task=task, distillation=distillation)
        scores = evaluate(prepare(lower(quantized)).logits, data.batches("test", 32), task=TASK)
        assert scores["mean_iou_percent"] > exact["mean_iou_percent"] - 8
    with pytest.raises(TaskError, match=r"segmenter returns 3 x 16 x 16 .* use --task dense-classification"):
        fine_tune(graph, scheme, data, few)
