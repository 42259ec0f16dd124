# SPDX-License-Identifier: MIT
"""What every method here begins with: a model whose scales somebody has set, images, and the float network."""

from __future__ import annotations

from torch import Tensor

from bitwright.errors import DataError, FileFormatError, TrainingError
from bitwright.graph.evaluate import Tensors
from bitwright.graph.graph import Graph
from bitwright.graph.images import float_images
from bitwright.reconstruction.equalisation import is_of_equalised
from bitwright.training.model import QuantizedModel


def begun(model: QuantizedModel, images: Tensor, reference: Graph | None, work: str) -> tuple[Tensor, Tensors]:
    """Put the model into evaluation mode, without certificates: its weights or offsets are about to change.

    Args:
        model: A calibrated model.
        images: Shape (count, channels, height, width).
        reference: The float network, where it is not the one that `model` was made from.
        work: What is begun, for messages.

    Returns:
        The images in float32, and the tensors of the float network by name.

    Raises:
        DataError: If there are no images, or they do not fit the network.
        FileFormatError: If `reference` is another network, or the one that was equalised before `model` was made from it.
        TrainingError: If the model was never calibrated, so that its integers say nothing yet.
    """
    graph = model.plan.graph
    if not model.calibrated:
        raise TrainingError(
            f"{graph.model} is not calibrated, so its integers say nothing yet. Call calibrate(model, batches) first."
        )
    model.eval()
    model.certify({})
    images = float_images(images, graph.input_shape, graph.model)
    if len(images) < 1:
        raise DataError(f"a {work} needs images, got none.")
    return images, graph.parameters if reference is None else float_tensors(model, reference)


def float_tensors(model: QuantizedModel, reference: Graph) -> Tensors:
    """The tensors, by name, of the float network that a quantized model is brought close to.

    Raises:
        FileFormatError: If `reference` is another network, or the one that was equalised before `model` was made from it.
    """
    graph = model.plan.graph
    floats = graph.with_parameters(reference.parameters)
    if is_of_equalised(model.parameters_by_name(), floats):
        raise FileFormatError(
            f"{graph.model} was quantized after equalisation, and the reference is the network before it, with other channels: "
            "give the equalised network, equalised(reference) in Python."
        )
    return floats.parameters
