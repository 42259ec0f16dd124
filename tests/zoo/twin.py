# SPDX-License-Identifier: MIT
"""A literal twin of what the published models compute, in the reference's own floating point, for ResNets.

Written from the published description of the arithmetic, without any code of the package: values travel as float32 multiples of
their scales, are divided by them again before each convolution, and are requantized by products in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNITS = {
    "resnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet50b": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
CLASSES = 1000


def symmetric_scale(low: Tensor, high: Tensor, bits: int) -> Tensor:
    """max(|low|, |high|) / (2**(bits-1) - 1), in float32."""
    return torch.maximum(low.abs(), high.abs()).clamp(min=1e-8) / (2 ** (bits - 1) - 1)


def unsigned_scale(low: Tensor, high: Tensor, bits: int) -> Tensor:
    """(high - low) / (2**bits - 1), in float32."""
    return (high - low).clamp(min=1e-8) / (2**bits - 1)


def dyadic(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissas of 31 bits, halves up by way of Decimal, and exponents."""
    mantissa, exponent = torch.frexp(ratio.reshape(-1))
    integers = [int((Decimal(m) * Decimal(2**31)).quantize(Decimal(1), ROUND_HALF_UP)) for m in mantissa.tolist()]
    return torch.tensor(integers, dtype=torch.float64), 31.0 - exponent.double()


def per_channel(values: Tensor) -> Tensor:
    """Along the second axis of four."""
    return values.reshape(1, -1, 1, 1)


def quantize_weight(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers and scales, one for each channel, by multiplication with the reciprocal."""
    rows = weight.reshape(len(weight), -1)
    scale = symmetric_scale(rows.min(1).values, rows.max(1).values, bits)
    columns = (1.0 / scale).reshape(-1, *[1] * (weight.dim() - 1))
    limit = 2 ** (bits - 1) - 1
    return torch.clamp(torch.round(columns * weight), -limit - 1, limit), scale


def quantize_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """32 bits, in float32."""
    return torch.clamp(torch.round((1.0 / scale) * bias), -(2**31), 2**31 - 1)


class Twin:
    """A float ResNet of pytorchcv, quantized.

    Args:
        model: One of `UNITS`.
        network: With its weights and statistics.
        bits: Weight bits of each layer with weights, by published name.
    """

    def __init__(self, model: str, network: nn.Module, bits: Mapping[str, int]) -> None:
        self.model, self.network, self.bits = model, network, bits
        self.state: dict[str, Tensor] = {}
        self.stem = "quant_init_block_convbn" if model == "resnet18" else "quant_init_convbn"
        self.last = 2 if model == "resnet18" else 3
        self.residuals: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits; ranges that no batch has set yet are set by this one, and stay."""
        self.residuals = []
        features = self.network.features
        x, sa = self.activation("quant_input", images, 8)
        x, sw = self.convolution(self.stem, features.init_block.conv, x, sa)
        x = F.max_pool2d(x, 3, 2, 1)
        x, s = self.activation("quant_act_int32", x, 16, sa, sw)
        x = F.relu(x)
        for stage, count in enumerate(UNITS[self.model], 1):
            for unit in range(1, count + 1):
                x, s = self.unit(f"stage{stage}.unit{unit}", features[stage][unit - 1], x, s)
        pool = features.final_pool
        mean = F.avg_pool2d(torch.round(x / s), getattr(pool, "avg_pool", pool).kernel_size)
        x, sa = self.activation("quant_act_output", torch.trunc(mean + 0.01) * s, 8, s)
        output = self.network.output
        weight, sw = quantize_weight(output.weight, self.bits["quant_output"])
        bias = quantize_bias(output.bias, sw * sa)
        self.save("quant_output", weight, bias, sw, "fc")
        self.state |= {"quant_output.weight": output.weight, "quant_output.bias": output.bias}
        return torch.round(F.linear(x.flatten(1) / sa, weight, bias)) * (sw.reshape(1, -1) * sa)

    def unit(self, name: str, module: nn.Module, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """One residual unit on a residual of scale s."""
        shortcut, shortcut_scales = x, (s, None)
        x, sa = self.activation(f"{name}.quant_act", x, self.bits[f"{name}.quant_convbn1"], s)
        if module.resize_identity:
            shortcut, sw = self.convolution(f"{name}.quant_identity_convbn", module.identity_conv, x, sa)
            shortcut_scales = (sa, sw)
        for index in range(1, self.last + 1):
            x, sw = self.convolution(f"{name}.quant_convbn{index}", getattr(module.body, f"conv{index}"), x, sa)
            if index < self.last:
                bits = self.bits[f"{name}.quant_convbn{index + 1}"]
                x, sa = self.activation(f"{name}.quant_act{index}", F.relu(x), bits, sa, sw)
        x, s = self.activation(f"{name}.quant_act_int32", x, 16, sa, sw, shortcut, shortcut_scales)
        self.residuals.append(x / s)
        return F.relu(x), s

    def convolution(self, name: str, block: nn.Module, x: Tensor, sa: Tensor) -> tuple[Tensor, Tensor]:
        """Folded, quantized, in float32; the result and the scales of the weights."""
        conv, bn = block.conv, block.bn
        factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        weight, sw = quantize_weight(conv.weight * factor.reshape(-1, 1, 1, 1), self.bits[name])
        bias = quantize_bias((0.0 - bn.running_mean) * factor + bn.bias, sw * sa)
        self.save(name, weight, bias, sw, "convbn")
        self.state[f"{name}.conv.weight"] = conv.weight
        leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        self.state |= {f"{name}.bn.{leaf}": getattr(bn, leaf) for leaf in leaves}
        sums = F.conv2d(x / sa.reshape(1, -1, 1, 1), weight, bias, conv.stride, conv.padding)
        return sums * per_channel(sw * sa), sw

    def save(self, name: str, weight: Tensor, bias: Tensor, scale: Tensor, kind: str) -> None:
        """The buffers of a layer."""
        self.state |= {
            f"{name}.{kind}_scaling_factor": scale,
            f"{name}.weight_integer": weight,
            f"{name}.bias_integer": bias,
        }

    def activation(
        self,
        name: str,
        x: Tensor,
        bits: int,
        sa: Tensor | None = None,
        sw: Tensor | None = None,
        shortcut: Tensor | None = None,
        shortcut_scales: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Quantize images, requantize sums, or add two streams; the result and its scale."""
        for end, value in (("x_min", x.min()), ("x_max", x.max())):
            self.state.setdefault(f"{name}.{end}", value.reshape(1).clone())
        low, high = self.state[f"{name}.x_min"], self.state[f"{name}.x_max"]
        scale = unsigned_scale(low, high, 4) if bits == 4 else symmetric_scale(low, high, bits)
        self.state[f"{name}.act_scaling_factor"] = scale
        self.state[f"{name}.pre_weight_scaling_factor"] = torch.ones(1)
        self.state[f"{name}.identity_weight_scaling_factor"] = torch.ones(1)
        limits = (0, 15) if bits == 4 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if sa is None:
            integers = torch.clamp(torch.round((1.0 / scale) * x), *limits)
        elif shortcut is None:
            integers = torch.clamp(rescaled(x, sa, sw, scale), *limits).float()
        else:
            integers = (rescaled(x, sa, sw, scale) + rescaled(shortcut, *shortcut_scales, scale)).float()
        return integers * scale, scale

    def full_checkpoint(self, prefix: str = "module.") -> dict:
        """What training saves."""
        state = {prefix + name: value.detach().clone() for name, value in self.state.items()}
        best = torch.tensor([70.0])
        return {"epoch": 1, "arch": self.model, "state_dict": state, "best_acc1": best, "optimizer": {"state": {}}}

    def quantized_checkpoint(self, prefix: str = "module.") -> dict:
        """What evaluation saves: five dictionaries of the scales and integers."""
        parts = ("convbn_scaling_factor", "fc_scaling_factor", "weight_integer", "bias_integer", "act_scaling_factor")
        return {
            part: {prefix + name: value for name, value in self.state.items() if name.endswith(f".{part}")}
            for part in parts
        }


def rescaled(x: Tensor, sa: Tensor, sw: Tensor | None, scale: Tensor) -> Tensor:
    """Back to integers in float32, times the mantissa in float64, over a power of two, rounded."""
    unit = sa if sw is None else sa * sw
    integers = torch.round(x / per_channel(unit))
    mantissa, exponent = dyadic(unit.double() / scale.double())
    return torch.round(integers.double() * per_channel(mantissa) / per_channel(2.0**exponent))
