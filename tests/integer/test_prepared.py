# SPDX-License-Identifier: MIT
"""The fast executor gives every integer of the reference executor, whatever arithmetic it chooses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bitwright.errors import DataError
from bitwright.integer import IntegerModel, logits, prepare, run
from bitwright.integer.execution.exact_sums import int8_exact
from bitwright.integer.multipliers import hawq_dyadic
from bitwright.integer.ops import Accumulate, IntegerConv2d, Rescale
from bitwright.integer.proof.bounds import SATURATING_SUM, largest_pair_sum
from export.models import ARCHITECTURES, RESNET20, integer_model


def assert_every_tensor_equal(model: IntegerModel, images: Tensor, device: str = "cpu") -> None:
    """All integers of all tensors, and all logits at another batch size."""
    expected: dict[str, Tensor] = {}
    got: dict[str, Tensor] = {}
    run(model, images, expected.__setitem__)
    prepared = prepare(model, device)
    prepared.run(images, got.__setitem__)
    assert len(got) == len(model.ops)
    differing = {name: int((got[name].cpu().double() != expected[name].double()).sum()) for name in got}
    assert sum(differing.values()) == 0, differing
    more = torch.cat([images.flip(3)] * 5)[: 4 * len(images) + 1]
    fast = prepared.run(more)
    assert fast.dtype is torch.int32
    assert torch.equal(fast.cpu(), run(model, more))
    assert torch.equal(prepared.logits(images).cpu(), logits(model, images))


@pytest.mark.parametrize(
    ("precision", "residual_bits"), [("W8A8", 8), ("W4A4", 8), ("W2A2", 8), ("W3A5", 8), ("W8A8", 16), ("W4A4", 16)]
)
def test_resnet20(precision: str, residual_bits: int) -> None:
    """Every bit width, and both widths of residuals."""
    assert_every_tensor_equal(*integer_model(RESNET20, 32, precision, residual_bits))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
def test_architectures(name: str, precision: str) -> None:
    """Depthwise, shuffled and concatenated networks; negative activations."""
    model, images = integer_model(name, 64, precision)
    assert_every_tensor_equal(model, images[:3])


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "residual_bits"), [("W8A8", 8), ("W4A4", 8), ("W8A8", 16)])
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("pytorchcv:resnet18", 224),
        ("pytorchcv:resnet50", 224),
        ("pytorchcv:resnet101", 224),
        ("pytorchcv:inceptionv3", 299),
        ("pytorchcv:mobilenetv2_w1", 224),
        ("pytorchcv:densenet121", 224),
        ("torchvision:vgg11_bn", 224),
        ("torchvision:googlenet", 224),
    ],
)
def test_full_size_networks(name: str, size: int, precision: str, residual_bits: int) -> None:
    """Networks at full resolution, in every tensor."""
    model, images = integer_model(name, size, precision, residual_bits)
    assert_every_tensor_equal(model, images[:2])


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize(("precision", "residual_bits"), [("W8A8", 8), ("W4A4", 8), ("W8A8", 16)])
def test_cuda(precision: str, residual_bits: int, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CUDA device, with TensorFloat-32 forbidden and allowed: its 11 bits hold all factors of the products."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    assert_every_tensor_equal(*integer_model(RESNET20, 32, precision, residual_bits), device="cuda")


def test_arithmetic_follows_the_weights() -> None:
    """Eight-bit kernels run exactly the convolutions that cannot saturate on this CPU; all else is float32 here."""
    model, _ = integer_model(RESNET20, 32, "W4A8")
    prepared = prepare(model)
    expected = {}
    for name, op in model.layers().items():
        narrow = largest_pair_sum(op.weight, model.formats[op.inputs[0]]) <= SATURATING_SUM
        exact = int8_exact(op.weight, model.formats[op.inputs[0]])
        assert exact or not narrow or not int8_exact(np.zeros((1, 1), np.int8), model.formats[op.inputs[0]])
        expected[name] = "int8" if isinstance(op, IntegerConv2d) and exact else "float32"
    assert prepared.arithmetic == expected
    assert Counter(expected.values())["float32"] >= 1


def test_multipliers_without_a_proof() -> None:
    """31-bit multipliers are no float32 numbers: float64 or int64 requantizes then, with the same integers."""
    model, images = integer_model(RESNET20, 32, "W8A8")

    def changed(op: Accumulate, bits: int) -> Accumulate:
        assert op.rescale is not None
        multipliers = hawq_dyadic(op.rescale.multipliers.real() * (1 + 2.0**-bits))
        return replace(op, rescale=Rescale(multipliers, op.rescale.low, op.rescale.high))

    for bits in (20, 28):
        ops = [changed(op, bits) if isinstance(op, Accumulate) and op.rescale else op for op in model]
        assert_every_tensor_equal(replace(model, ops=tuple(ops), facts={}), images)


def test_observed_tensors_may_be_kept() -> None:
    """What is observed does not change when later operations reuse memory: additions write over their first term."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    prepared = prepare(model)
    kept: dict[str, Tensor] = {}
    copied: dict[str, Tensor] = {}
    prepared.run(images, lambda name, value: (kept.update({name: value}), copied.update({name: value.clone()})))
    assert all(torch.equal(kept[name], copied[name]) for name in kept)


def test_bad_images_are_refused() -> None:
    """Another shape, and NaN, as the reference executor refuses them."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    prepared = prepare(model)
    with pytest.raises(DataError, match="reads images of batch x 3 x 32 x 32"):
        prepared.run(images[:, :1])
    with pytest.raises(DataError, match="finite"):
        prepared.run(images * float("nan"))
