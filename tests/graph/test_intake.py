# SPDX-License-Identifier: MIT
"""What capture is given: wrapped, compiled, exported and half-precision models are taken; the rest is named as what it is."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim
from torch.optim.swa_utils import AveragedModel

from bitwright.errors import BitwrightWarning, CaptureError
from bitwright.graph import FloatModel, Graph, capture
from graph.networks import IMAGE, Called, Then, randomized


def net() -> nn.Sequential:
    """A small classifier with random statistics."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    return randomized(made)  # type: ignore[return-value]


def exported(model: nn.Module, *, any_batch: bool = True) -> torch.export.ExportedProgram:
    """As `torch.export` writes it."""
    shapes = ({0: Dim.DYNAMIC},) if any_batch else None
    return torch.export.export(model, (torch.randn(2, *IMAGE),), dynamic_shapes=shapes)


def logits(graph: Graph) -> Tensor:
    """Of fixed images."""
    images = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return FloatModel(graph).eval()(images)


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled and parallel": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    "averaged": AveragedModel,
    "program": exported,
    "exported module": lambda model: exported(model).module(),
    "traced": torch.fx.symbolic_trace,
}


@pytest.mark.parametrize("name", list(WRAPPED))
def test_wrapped_models_are_unwrapped(name: str) -> None:
    """The graph of what is inside: the same names, the same logits."""
    expected, got = capture(net(), IMAGE), capture(WRAPPED[name](net()), IMAGE)
    assert list(got.layers) == list(expected.layers)
    assert torch.equal(logits(got), logits(expected))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_cast_and_said(kind: torch.dtype) -> None:
    """The graph is float32, with the model's rounded weights; the model keeps its very tensors; a warning says it."""
    model = net().to(kind)
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    with pytest.warns(BitwrightWarning, match=rf"mine has weights of {kind}: they are captured as torch\.float32"):
        graph = capture(model, IMAGE, name="mine")
    assert torch.equal(logits(graph), logits(capture(copy.deepcopy(model).float(), IMAGE)))
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in graph.parameters.values())
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])
        assert tensor.dtype in (kind, torch.int64)


class Output:
    """What no library should return."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Lazy(nn.Module):
    """Has no weights before its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


class Two(nn.Module):
    """Compares two images."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left - right


class KeywordOnly(nn.Module):
    """Wants a mask by name."""

    def forward(self, images: Tensor, *, mask: Tensor) -> Tensor:
        return images * mask


class NoImages(nn.Module):
    """Makes its own."""

    def forward(self) -> Tensor:
        return torch.zeros(1)


def fails(images: Tensor) -> Tensor:
    """A forward with a fault of its own."""
    raise KeyError("width")


def poisoned(value: float) -> nn.Module:
    """A weight that is no number."""
    model = net()
    with torch.no_grad():
        model[5].weight[0, 0] = value
    return model


def overflowing() -> nn.Module:
    """Finite weights, whose sums are not."""
    model = net()
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    return model


def divides_by_zero() -> nn.Module:
    """Variance 0 and eps 0 in one channel."""
    model = net()
    model[1].eps = 0.0
    model[1].running_var[2] = 0.0
    return model


def quiet_script() -> object:
    """A scripted module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(net())


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (quiet_script, "mine is a TorchScript program.*give the Python module"),
    "fixed batch": (lambda: exported(net(), any_batch=False), r"exported for other images, or for one batch size.*DYNAMIC"),
    "class": (lambda: nn.Flatten, "mine is the class Flatten: make one of it"),
    "function": (lambda: F.relu, "mine is a function of type .*forward"),
    "state": (lambda: net().state_dict(), "mine is an object of type OrderedDict"),
    "two inputs": (Two, r"mine takes 2 inputs \(left, right\), but only one batch of images"),
    "keyword": (KeywordOnly, r"mine takes 2 inputs \(images, mask\)"),
    "no input": (NoImages, r"the forward\(\) of mine takes no images"),
    "lazy": (Lazy, r"'conv\.weight' of mine is lazy"),
    "meta": (lambda: nn.Conv2d(3, 4, 3, device="meta"), "mine has no weights"),
    "nan": (lambda: poisoned(float("nan")), r"'5\.weight' of mine has 1 of 32 values that are NaN or infinite"),
    "infinite": (lambda: poisoned(float("inf")), r"'5\.weight' of mine has 1 of 32 values that are NaN or infinite"),
    "variance 0": (
        divides_by_zero,
        "batch norm '1' divides by zero: channel 2 has variance 0 and eps 0|batch_norm eps must be positive",  # PyTorch 2.11
    ),
    "dropout": (lambda: Then(F.dropout), r"drops values at random in evaluation mode: write F\.dropout\(x, training="),
    "object": (lambda: Then(Output), r"returns an object of type Output, but a network returns tensors"),
    "own fault": (lambda: Then(fails), r"it raises KeyError: 'width' \('.*test_intake\.py', line \d+, in fails\)"),
    "overflow": (overflowing, "returns NaN or infinity for images of normal noise"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_captured_is_named(name: str) -> None:
    """One line says what it is and what to do; none blames the image size."""
    make, message = REFUSED[name]
    with pytest.raises(CaptureError, match=message) as error:
        capture(make(), IMAGE, name="mine")
    assert "\n" not in str(error.value)
    assert "image size" not in str(error.value)


def test_optional_inputs_are_left_out() -> None:
    """Arguments with defaults do not matter."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor, mask: Tensor | None = None, *rest: Tensor) -> Tensor:
            return self.conv(images if mask is None else images * mask)

    assert list(capture(Masked(), IMAGE).layers) == ["conv"]


@pytest.mark.parametrize("shape", [(3, 0, 8), (3, -8, 8), (3, 8.0, 8)])
def test_a_shape_is_of_positive_numbers(shape: Any) -> None:
    """What is no shape is said to be none."""
    with pytest.raises(CaptureError, match=r"expected the shape of an image, \(channels, height, width\), got"):
        capture(net(), shape)


def test_rounding_is_not_taken_for_a_mistake() -> None:
    """A correct capture of an ill-conditioned network differs in float32, is equal in float64, and passes."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 16, 3, padding=1)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for conv in (first, second):
            conv.weight.mul_(1e4)
        second.weight.mul_(-1).add_(1e-3 * torch.randn(second.weight.shape))
        second.bias.mul_(-1)
    norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(16)])
    with torch.no_grad():
        for norm in norms:
            norm.running_var.fill_(0.3)
            norm.running_mean.fill_(1e3)
    norms[1].running_mean.neg_()
    model = Called(lambda m, x: m.b(m.first(x)) + m.c(m.second(x)), first=first, second=second, b=norms[0], c=norms[1])
    graph = capture(model, IMAGE)
    images = torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(images)
        assert float((FloatModel(graph)(images) - expected).abs().max()) > 1e-3 * float(expected.abs().max())
