# SPDX-License-Identifier: MIT
"""AIMET after training: AdaRound, or, as the recipe `seqmse`, sequential MSE; then ranges, then batch norm from the same images.

Weights are symmetric with a scale a channel; inputs of convolutions and of the linear layer have a zero point, ranges by AIMET's
`tf_enhanced` (least squared error over a histogram); sums of branches stay in float. Batch norm is not merged: a factor for each
channel changes no rounding where scales have channels, and `reestimate_bn_stats` has something to estimate anew. AdaRound has
fewer steps a layer than its default of 15,000, which would take most of an hour; its other settings are its defaults. With
`folded` before the recipe, batch norm is merged first, as AIMET's guide has it, and keeps its statistics: those of images unlike
the training set would ruin the network.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.bn_reestimation import reestimate_bn_stats
from aimet_torch.common.defs import QuantScheme
from aimet_torch.model_preparer import prepare_model
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.seq_mse import apply_seq_mse
from exchange import answer, question
from torch import Tensor, nn

STEPS = 1500
SCHEME = QuantScheme.post_training_tf_enhanced
ASYMMETRIC = {"is_symmetric": "False"}
WANTED = {"is_input_quantized": "True", "params": {"weight": {"is_quantized": "True", "is_symmetric": "True"}}}
CONFIG = {
    "defaults": {
        "ops": {"is_symmetric": "False"},
        "params": {"is_quantized": "False", "is_symmetric": "True"},
        "per_channel_quantization": "True",
    },
    "params": {},
    # Unless these are named here, AIMET does not quantize what they leave, and refuses that the layer behind wants it.
    "op_type": dict.fromkeys(("Conv", "Gemm", "MatMul"), WANTED) | dict.fromkeys(("Dropout", "Pad"), ASYMMETRIC),
    "supergroups": [],
    "model_input": {},
    "model_output": {},
}


def outer(module: nn.Module) -> bool:
    """Whether this is the first layer or the last, which have 8 bits."""
    return isinstance(module, nn.Linear) or module.in_channels == asked.judged.shape[1]


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """What AIMET asks for: the network on one batch."""
    return model(images)


@torch.no_grad()
def everything(model: nn.Module) -> None:
    """The network on all calibration images."""
    for images in loader:
        model(images)


asked = question()
folded, sequential = asked.recipe.startswith("folded"), asked.recipe.endswith("seqmse")
loader = [images for images, _ in asked.batches()]
network, first = prepare_model(asked.network).eval(), asked.calibration[:1]
if folded:
    fold_all_batch_norms(network, None, first)
with tempfile.TemporaryDirectory() as folder:
    config = Path(folder) / "config.json"
    config.write_text(json.dumps(CONFIG))
    if not sequential:
        layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        network = Adaround.apply_adaround(
            network,
            first,
            AdaroundParameters(loader, len(loader), STEPS, forward_fn=forward),
            folder,
            "rounded",
            8,  # AIMET has less than 4 bits for single layers only
            [(module, asked.weight_bits) for module in layers if not outer(module)],
            default_quant_scheme=SCHEME,
            default_config_file=str(config),
        )
    simulation = QuantizationSimModel(network, first, SCHEME, 8, 8, config_file=str(config))
    for _, layer in simulation.named_qmodules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not outer(layer):
            layer.input_quantizers[0].bitwidth = asked.act_bits
            layer.param_quantizers["weight"].bitwidth = asked.weight_bits
    if sequential:
        apply_seq_mse(simulation, loader, forward_fn=forward)
    else:
        simulation.set_and_freeze_param_encodings(str(Path(folder) / "rounded.encodings"))
simulation.compute_encodings(everything)
if not folded:
    reestimate_bn_stats(simulation.model, [images for images, _ in asked.batches(128)])
settings = {"scheme": "tf_enhanced", "batch_norm": "merged" if folded else "re-estimated", "sums": "float"}
settings |= {"sequential_mse": True} if sequential else {"adaround_steps": STEPS}
answer(asked, simulation.model, ["aimet-torch", "torch"], settings)
