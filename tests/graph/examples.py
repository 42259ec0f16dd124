# SPDX-License-Identifier: MIT
"""A small network for every ATen operation that capture knows: what tests run, and the page of operations shows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graph.networks import Called, Then

aten = torch.ops.aten


def factors(**shapes: tuple[int, ...]) -> dict[str, Any]:
    """Parameters of the top module."""
    generator = torch.Generator().manual_seed(3)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


EXAMPLES: dict[str, nn.Module] = {
    "_to_copy": Then(lambda x: F.relu(aten._to_copy(x, dtype=torch.float64))),
    "_unsafe_view": Then(lambda x: aten._unsafe_view(x, [x.shape[0], -1])),
    "_upsample_bilinear2d_aa": Then(lambda x: F.interpolate(x, size=(12, 8), mode="bilinear", antialias=True)),
    "_upsample_nearest_exact2d": Then(lambda x: F.interpolate(x, scale_factor=(2, 0.25), mode="nearest-exact")),
    "adaptive_avg_pool2d": Then(lambda x: F.adaptive_avg_pool2d(x, (2, 4))),
    "adaptive_max_pool2d": Then(lambda x: F.adaptive_max_pool2d(x, (3, 1))),
    "amax": Then(lambda x: x.flatten(2).amax(-1)),
    "conv_transpose2d": nn.ConvTranspose2d(3, 6, (3, 5), 2, (0, 1), 1, groups=3, dilation=(1, 2)),
    "conv1d": Called(
        lambda m, x: m.conv(F.relu(m.norm(m.first(x[:, :, 0])))).mean(2),
        first=nn.Conv1d(3, 6, 3, padding=1),
        norm=nn.BatchNorm1d(6),
        conv=nn.Conv1d(6, 4, 4, 2, padding=2, groups=2),
    ),
    "add": Then(lambda x: torch.add(x, F.relu(x))),
    "addmm": Called(lambda m, x: torch.addmm(m.b, x.mean((2, 3)), m.w, beta=2, alpha=0.5), **factors(b=(4,), w=(3, 4))),
    "alias": Then(lambda x: F.relu(aten.alias(x))),
    "alpha_dropout": Then(lambda x: F.alpha_dropout(x, 0.5, training=False)),
    "avg_pool2d": Then(lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "batch_norm": Called(lambda m, x: m.norm(m.conv(x)), conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8)),
    "broadcast_to": Then(lambda x: torch.broadcast_to(x[:, :, :1], x.shape)),
    "cat": Then(lambda x: torch.cat([x.new_zeros(x.shape[0], 3, 8, 8), x, F.relu(x), torch.zeros_like(x[:, :2])], 1)),
    "channel_shuffle": Then(lambda x: F.channel_shuffle(x, 4)),
    "chunk": Then(lambda x: torch.cat(x.chunk(3, 1)[::-1], 1)),
    "clamp": Then(lambda x: x.clamp(-0.5, 0.25)),
    "clamp_max": Then(lambda x: torch.clamp_max(x, 0.25)),
    "clamp_min": Then(lambda x: torch.clamp_min(x, -0.25)),
    "clone": Then(lambda x: F.relu(x.clone())),
    "constant_pad_nd": Then(lambda x: aten.constant_pad_nd(x, [1, 2, 0, 3])),
    "contiguous": Then(lambda x: F.relu(x.contiguous(memory_format=torch.channels_last))),
    "conv2d": nn.Conv2d(3, 6, (3, 5), stride=(2, 1), padding=(0, 4), dilation=(1, 2), groups=3),
    "detach": Then(lambda x: F.relu(x.detach())),
    "div": Then(lambda x: x / 4),
    "dropout": Then(lambda x: F.dropout(x, 0.5, training=False)),
    "expand": Then(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 3, 2)),
    "expand_as": Then(lambda x: x[:, :1].expand_as(x)),
    "feature_alpha_dropout": Then(lambda x: torch.feature_alpha_dropout(x, 0.5, False)),
    "feature_dropout": Then(lambda x: F.dropout2d(x, 0.5, training=False)),
    "flatten": Then(lambda x: x.flatten(1)),
    "full_like": Then(lambda x: x * torch.full_like(x, 0.5)),
    "ones_like": Then(lambda x: torch.ones_like(x) * -x),
    "zeros_like": Then(lambda x: x.relu() + torch.zeros_like(x).sin()),
    "flip": Then(lambda x: x.flip(3).flip([1, -2])),
    "getitem": Then(lambda x: F.relu(x.chunk(2, 1)[1])),
    "hardtanh": Then(lambda x: F.hardtanh(x, -0.5, 0.75)),
    "index": Then(lambda x: x[:, :, [0, 0, -1, 3]]),
    "index_select": Then(lambda x: x.index_select(1, torch.tensor([3, 1, 1]))),
    "lift_fresh_copy": Then(lambda x: F.relu(aten.lift_fresh_copy(x))),
    "linear": Called(lambda m, x: m.fc(x.flatten(1)), fc=nn.Linear(3 * 8 * 8, 10)),
    "matmul": Called(lambda m, x: x.mean((2, 3)) @ m.w, **factors(w=(3, 4))),
    "max": Then(lambda x: torch.max(x, x.relu() * 0.5)),
    "max_pool2d": Then(lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), (1, 2), ceil_mode=True)),
    "max_pool2d_with_indices": Then(lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[0]),
    "maximum": Then(lambda x: torch.maximum(x, torch.tensor(0.25))),
    "mean": Then(lambda x: torch.stack([x, x.relu()]).mean(0).mean((2, 3))),
    "min": Then(lambda x: torch.min(x, x.relu() * 0.5)),
    "minimum": Then(lambda x: torch.minimum(torch.tensor(0.25), x)),
    "mm": Called(lambda m, x: torch.mm(x.mean((2, 3)), m.w), **factors(w=(3, 4))),
    "narrow": Then(lambda x: x.narrow(2, 3, 4)),
    "neg": Then(lambda x: -x),
    "pad": Then(lambda x: F.pad(x, (1, 2, 0, 3, 2, 1))),
    "permute": Then(lambda x: x.view(-1, 2, 4, 8, 8).permute(0, 4, 2, 1, 3).reshape(-1, 4, 4, 32)),
    "pixel_shuffle": Then(lambda x: F.pixel_shuffle(x, 2)),
    "pixel_unshuffle": Then(lambda x: F.pixel_unshuffle(x, 2)),
    "reflection_pad2d": Then(lambda x: aten.reflection_pad2d(x, [1, 2, 3, 4])),
    "relu": Then(F.relu),
    "relu6": Then(lambda x: aten.relu6(x)),
    "repeat": Then(lambda x: x.repeat(1, 2, 1, 3)),
    "replication_pad2d": Then(lambda x: aten.replication_pad2d(x, [1, 2, 3, 4])),
    "reshape": Then(lambda x: x.reshape(x.shape[0], -1)),
    "roll": Then(lambda x: x.roll((1, -2), (2, 3))),
    "rsub": Then(lambda x: torch.rsub(x, x.relu(), alpha=0.5)),
    "select": Then(lambda x: x[:, :, 1, None]),
    "slice": Then(lambda x: x[:, 1:7, ::2, -3:]),
    "split": Then(lambda x: torch.cat(x.split(3, 1)[::-1], 1)),
    "split_with_sizes": Then(lambda x: torch.cat(x.split([1, 5, 2], 1)[::-1], 1)),
    "squeeze": Then(lambda x: F.avg_pool2d(x, 8).squeeze(3).squeeze(2)),
    "stack": Then(lambda x: torch.stack([x, x.relu(), -x], 1).sum(1)),
    "sub": Then(lambda x: torch.sub(x, x.relu(), alpha=2)),
    "sum": Then(lambda x: torch.stack([x, x.relu()]).sum(0)),
    "tensor_split": Then(lambda x: torch.cat(x.tensor_split(3, 1)[::-1], 1)),
    "threshold": Then(lambda x: F.threshold(x, 0.25, 0.25)),
    "to": Then(lambda x: F.relu(x.to(torch.float64))),
    "transpose": Then(lambda x: x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)),
    "type_as": Then(lambda x: F.relu(x.type_as(x))),
    "unbind": Then(lambda x: x.unbind(3)[2].unsqueeze(3)),
    "unflatten": Then(lambda x: x.flatten(1).unflatten(1, (8, 8, 8))),
    "unsqueeze": Then(lambda x: x.mean((2, 3)).unsqueeze(-1).unsqueeze(-1).squeeze((2, 3))),
    "abs": Then(torch.abs),
    "celu": Then(lambda x: F.celu(x, 0.7)),
    "elu": Then(lambda x: F.elu(x, 1.5)),
    "erf": Then(torch.erf),
    "exp": Then(torch.exp),
    "gelu": Then(lambda x: F.gelu(F.gelu(x), approximate="tanh")),
    "hardsigmoid": Then(F.hardsigmoid),
    "hardswish": Then(F.hardswish),
    "log_sigmoid": Then(F.logsigmoid),
    "pow": Then(lambda x: x**3 + x**2 + (x.abs() + 1) ** -0.5),
    "prelu": Called(lambda m, x: m.other(m.one(m.conv(x))), conv=nn.Conv2d(3, 8, 3), one=nn.PReLU(), other=nn.PReLU(8)),
    "leaky_relu": Then(lambda x: F.leaky_relu(x, 0.2)),
    "log": Then(lambda x: torch.log(x.exp())),
    "mish": Then(F.mish),
    "mul": Then(lambda x: 0.5 * x * x.relu() * x.mean((2, 3), keepdim=True)),
    "reciprocal": Then(lambda x: x.exp().reciprocal()),
    "rsqrt": Then(lambda x: x.exp().rsqrt()),
    "selu": Then(F.selu),
    "sigmoid": Then(lambda x: torch.sigmoid(x) * 2),
    "silu": Then(F.silu),
    "softplus": Then(lambda x: F.softplus(F.softplus(x), 2.0)),
    "sqrt": Then(lambda x: x.abs().sqrt()),
    "square": Then(torch.square),
    "tanh": Then(torch.tanh),
    "upsample_bilinear2d": Then(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "upsample_nearest2d": Then(lambda x: F.interpolate(x, scale_factor=(2, 0.5))),
    "view": Then(lambda x: x.view(x.size(0), -1)),
}

ALIASES = {
    **{f"new_{name}": f"{name}_like" for name in ("zeros", "ones", "full")},
    **{name: f"{name}_like" for name in ("zeros", "ones", "full")},
    "native_channel_shuffle": "channel_shuffle",
    **dict.fromkeys(("movedim", "swapaxes", "swapdims", "transpose"), "permute"),
    "reflection_pad1d": "reflection_pad2d",
    "replication_pad1d": "replication_pad2d",
    "upsample_nearest1d": "upsample_nearest2d",
}
"""Operations that torch.export does not leave alone, by the example that calls the same handler."""


ENDS = {"softmax", "log_softmax"}
"""Left out where they end a network, as `test_probabilities.py` shows."""
