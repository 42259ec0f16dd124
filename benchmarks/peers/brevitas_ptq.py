# SPDX-License-Identifier: MIT
"""Brevitas, after training and in training, by the functions of its example (`brevitas_examples.imagenet_classification.ptq`).

Its layerwise backend: weights with a scale a channel, inputs of layers with a zero point; sums of branches stay in float. Scales
by least squares (its `mse`), then, where the recipe says so, GPTQ; at last batch norm from the calibration images. For that
PyTorch averages what all batches have in the quantized network: Brevitas's `norm_correction_mode` leaves the geometric mean of
new variances and old ones. The recipe `example` is its example's, at its defaults but for a scale a channel: the 99.999th
percentile of activations, batch norm merged, channels equalised, bias correction; `example-gptq` has GPTQ before that.
ReLU6 stays, which Brevitas makes ReLU unless told otherwise.

The recipe `qat2` trains what least squares calibrated, before batch norm is averaged: the scale of each channel's weights and the
scale and zero point of each input are parameters there already (`PARAMETER_FROM_STATS`), and batch norm has batch statistics.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from brevitas.export.inference import quant_inference_mode
from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize
from brevitas.inject import value
from brevitas_examples.imagenet_classification.ptq import ptq_common as ptq
from exchange import answer, question
from training_loop import train

asked = question()
example, gptq = asked.recipe.startswith("example"), asked.recipe.endswith("gptq")
ranges = "stats" if example else "mse"


def bits(inner: int) -> object:
    """The bits of a layer, by the module that it is made from: 8 in the first and in the last."""

    @value
    def of(module: torch.nn.Module) -> int:
        outer = isinstance(module, torch.nn.Linear) or module.in_channels == asked.judged.shape[1]
        return 8 if outer else inner

    return of


teacher = deepcopy(asked.network)
network = preprocess_for_quantize(
    asked.network, relu6_to_relu=False, equalize_iters=20 if example else 0, merge_bn=example
)
_, layers, _, _ = ptq.create_quant_maps(
    dtype=torch.float32,
    bias_bit_width=None,
    weight_bit_width=bits(asked.weight_bits),
    weight_param_method=ranges,
    weight_scale_type="float_scale",
    weight_quant_type="sym",
    weight_quant_granularity="per_channel",
    weight_narrow_range=False,
    weight_quant_format="int",
    act_quant_format="int",
    act_bit_width=bits(asked.act_bits),
    act_scale_type="float_scale",
    act_scale_computation_type="static",
    act_param_method=ranges,
    act_quant_type="asym",
    act_quant_granularity="per_tensor",
    act_quant_percentile=99.999,
)
network = layerwise_quantize(network, compute_layer_map=layers)
loader = asked.batches()
with torch.no_grad():
    network(loader[0][0])  # weights find their scales
ptq.calibrate(loader, network)
if gptq:
    ptq.apply_gptq(loader, network, act_order=True, use_quant_activations=False, create_weight_orig=True)
if asked.recipe == "qat2":
    train(network, teacher, asked)
if example:
    ptq.apply_bias_correction(loader, network)
else:
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average of all batches
        norm.train()
    with torch.no_grad():
        for images, _ in asked.batches(128):
            network(images)
    network.eval()
with torch.no_grad(), quant_inference_mode(network):
    network(loader[0][0])
    settings = {"ranges": ranges, "gptq": gptq, "batch_norm": "merged" if example else "settled"}
    settings |= {} if asked.training is None else {"training": asked.training}
    answer(asked, network, ["brevitas", "torch"], settings)
