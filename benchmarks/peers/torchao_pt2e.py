# SPDX-License-Identifier: MIT
"""torchao's PT2E after training: `prepare_pt2e`, calibration, `convert_pt2e`, with its quantizer for x86 processors.

Histograms of activations, uint8 with a zero point; int8 weights with a scale a channel; batch norm is folded when it prepares.
"""

from __future__ import annotations

import torch
from exchange import BATCH, answer, question
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

asked = question()
size = torch.export.Dim("batch", min=2, max=BATCH)
exported = torch.export.export(asked.network, (asked.judged[:2],), dynamic_shapes=({0: size},)).module()
quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
prepared = prepare_pt2e(exported, quantizer)
with torch.no_grad():
    for images, _ in asked.batches():
        prepared(images)
quantized = convert_pt2e(prepared)
move_exported_model_to_eval(quantized)
answer(asked, quantized, ["torchao", "torch"], {"quantizer": "X86InductorQuantizer", "observer": "histogram"})
