# SPDX-License-Identifier: MIT
"""Every ATen operation that capture knows, on a network of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.errors import CaptureError
from bitwright.graph import FloatModel, capture
from bitwright.graph.aten import HANDLERS, IGNORED, supported
from bitwright.graph.aten.registry import handles
from bitwright.graph.nodes import AvgPool2d, Bounds, Conv2d, MaxPool2d
from graph import operations_page
from graph.examples import ALIASES, ENDS, EXAMPLES
from graph.networks import IMAGE, Called, Then, captured, kinds, randomized


def test_every_handler_has_an_example() -> None:
    """No operation is supported that these tests do not show to be."""
    assert sorted({*EXAMPLES, *ALIASES, *ENDS}) == supported() == sorted(HANDLERS)
    assert all(HANDLERS[alias] is HANDLERS[name] for alias, name in ALIASES.items())
    assert not IGNORED & set(HANDLERS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_handler(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example reaches its handler, and the graph computes what the module does, at any batch size."""
    handler, calls = HANDLERS[name], []

    def spy(*arguments: Any) -> Any:
        calls.append(name)
        return handler(*arguments)

    monkeypatch.setitem(HANDLERS, name, spy)
    graph = captured(EXAMPLES[name])
    assert calls
    assert operations_page.written()[name] == operations_page.becomes(name, graph), "docs/operations.md is out of date"


def test_the_page_of_operations_is_current() -> None:
    """docs/operations.md has every handler, its example and every reason; what is left of an example is tested with it."""
    assert operations_page.PAGE.read_text(encoding="utf-8") == operations_page.page(operations_page.written())


def test_a_handler_is_registered_once() -> None:
    """Two handlers for one operation are a mistake in the library."""
    with pytest.raises(ValueError, match="two handlers for relu"):
        handles("relu")(HANDLERS["relu"])


@pytest.mark.parametrize(
    ("function", "bounds"),
    [
        (nn.ReLU(inplace=True), Bounds(0.0)),
        (nn.ReLU6(inplace=True), Bounds(0.0, 6.0)),
        (nn.Hardtanh(), Bounds(-1.0, 1.0)),
        (lambda x: x.clamp(max=0.5), Bounds(None, 0.5)),
        (lambda x: x.clamp_(min=-0.5), Bounds(-0.5)),
        (lambda x: x.clamp(-1, 1).relu(), Bounds(0.0, 1.0)),
    ],
)
def test_clamps_become_bounds(function: Any, bounds: Bounds) -> None:
    """Every element-wise clamp ends in the bounds of the layer before it."""
    graph = captured(Then(function))
    assert kinds(graph) == ["Input", "Conv2d"]
    assert graph.layers["conv"].bounds == bounds


@pytest.mark.parametrize(
    ("padding", "kernel", "dilation", "expected"),
    [("same", (3, 5), (1, 2), (1, 4)), ("valid", (4, 4), (1, 1), (0, 0)), ("same", (1, 1), (1, 1), (0, 0))],
)
def test_named_padding(padding: str, kernel: Any, dilation: Any, expected: tuple[int, int]) -> None:
    """Padding given by name becomes numbers."""
    graph = captured(nn.Conv2d(3, 4, kernel, padding=padding, dilation=dilation))
    (layer,) = graph.layers.values()
    assert isinstance(layer, Conv2d)
    assert layer.padding == expected


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["same", (1, 2)])
def test_paddings_of_convolutions(mode: str, padding: Any) -> None:
    """Every mode and side; zeros on both sides alike are part of the convolution."""
    graph = captured(nn.Conv2d(3, 4, (4, 3), padding=padding, padding_mode=mode))
    assert ("Pad" in kinds(graph)) == (mode == "zeros" and padding == "same")


def test_pads_become_padding() -> None:
    """Zeros on both sides alike go into convolutions and average pools that read them; others read the pad."""
    graph = captured(Then(lambda x: F.relu(F.conv2d(F.pad(x, (2, 2, 1, 1)), torch.ones(2, 8, 3, 3).to(x), padding=1))))
    assert kinds(graph) == ["Input", "Conv2d", "Conv2d"]
    graph = captured(Then(lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3)))
    assert kinds(graph) == ["Input", "Conv2d", "AvgPool2d"]
    graph = captured(Then(lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 3)))
    assert kinds(graph) == ["Input", "Conv2d", "Pad", "MaxPool2d"]


@pytest.mark.parametrize("join", [torch.add, torch.mul, lambda *parts: torch.cat(parts, 1)])
def test_pads_are_read_by_any_operand(join: Callable[..., Tensor]) -> None:
    """Also where the first one is no pad."""
    wide = torch.ones(8, 8, 3, 3)
    graph = captured(Then(lambda x: join(F.relu(F.conv2d(x, wide.to(x), padding=2)), F.pad(x, (1, 1, 1, 1)))))
    assert "Pad" in kinds(graph)


def test_pooling_defaults() -> None:
    """A stride that is not given is the kernel's size."""
    graph = captured(Then(lambda x: F.avg_pool2d(F.max_pool2d(x, 2), (2, 4))))
    pools = [node for node in graph if isinstance(node, MaxPool2d | AvgPool2d)]
    assert [(node.kernel, node.stride, node.shape) for node in pools] == [
        ((2, 2), (2, 2), (8, 4, 4)),
        ((2, 4), (2, 4), (8, 2, 1)),
    ]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), "Take Take AvgPool2d"),
        (lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), "Take Take AvgPool2d"),
        (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), "Pad Take Take AvgPool2d"),
        (lambda x: F.avg_pool2d(x, 2, 2, 1, ceil_mode=True, count_include_pad=False), "Take Take AvgPool2d"),
        (lambda x: F.avg_pool2d(x, 2, 2, divisor_override=2), "AvgPool2d"),
        (lambda x: F.adaptive_avg_pool2d(x, (3, 5)), "Take Take AvgPool2d"),
        (lambda x: F.adaptive_avg_pool2d(x, (16, 8)), "Take"),
        (lambda x: F.adaptive_avg_pool2d(x[:, :, :1, :1], 7), "Slice Take Take Take Take"),
        (lambda x: F.adaptive_max_pool2d(x, 1), "MaxPool2d"),
        (lambda x: x.sum((2, 3)), "AvgPool2d Flatten"),
        (lambda x: x.mean(3, keepdim=True), "AvgPool2d"),
        (lambda x: x.view(x.shape[0], 8, -1).mean(2), "AvgPool2d Flatten"),
    ],
)
def test_windows_of_any_form(function: Any, expected: str) -> None:
    """Means over windows of unlike lengths repeat places until all windows are of one length."""
    assert kinds(captured(Then(function))) == ["Input", "Conv2d", *expected.replace("Slice ", "").split()]


@pytest.mark.parametrize("size", [(1, 8), (5, 16), (24, 19)])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "align_corners"])
def test_interpolation_to_any_size(mode: str, size: tuple[int, int]) -> None:
    """Nearest places are selected, interpolation is a mean over windows of one area, whatever the sizes."""
    corners = {"mode": "bilinear", "align_corners": True} if mode == "align_corners" else {"mode": mode}
    made = kinds(captured(Then(lambda x: F.interpolate(x, size=size, **corners))))
    assert set(made) <= {"Input", "Conv2d", "Take", *({"AvgPool2d"} if "nearest" not in mode else ())}
    assert made.count("Take") == sum(out != 8 for out in size)


@pytest.mark.parametrize("factor", [0.5, 2.3, (4, 1)])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_interpolation_by_any_factor(mode: str, factor: Any) -> None:
    """A factor decides the places even where the size that it makes was rounded."""
    captured(Then(lambda x: F.interpolate(x, scale_factor=factor, mode=mode)))


@pytest.mark.parametrize("channels", [1, 2, 8, 16])
def test_reductions_over_channels(channels: int) -> None:
    """Maxima are max pools of channels that became pixels; means and sums are convolutions."""
    found = captured(Then(lambda x: x.max(1, keepdim=True)[0] + x.amax((1, 2, 3), keepdim=True), channels))
    assert set(kinds(found)) <= {"Input", "Conv2d", "Take", "DepthToSpace", "MaxPool2d", "Add"}
    found = captured(
        Then(lambda x: x.mean(1, keepdim=True) + x.mean((1, 2, 3), keepdim=True) + x.sum(1, True), channels)
    )
    assert set(kinds(found)) <= {"Input", "Conv2d", "Take", "AvgPool2d", "Add"}
    captured(Then(lambda x: x.max(3, True)[0] + x.max(2, True)[0], channels))


def test_padding_that_no_maximum_is() -> None:
    """Minus infinity around an image leaves the maxima what they are, on any side, as "same" pooling pads."""
    for sizes in ((0, 1, 0, 1), (1, 2, 2, 0), (1, 1, 1, 1)):
        graph = captured(Then(lambda x, sizes=sizes: F.max_pool2d(F.pad(x, sizes, value=-torch.inf), 3, 2)))
        assert set(kinds(graph)) == {"Input", "Conv2d", "Take", "MaxPool2d"}


def test_images_side_by_side() -> None:
    """Concatenation along height and width: each with zeros in the places of the others, added up."""
    graph = captured(
        Then(lambda x: torch.cat([torch.cat([x, x.relu(), x[:, :, :, 1:]], 3), x.repeat(1, 1, 1, 3)[..., 1:]], -2))
    )
    assert "Concat" not in kinds(graph)


@pytest.mark.parametrize("align_corners", [True, False])
def test_interpolation_of_one_place_and_to_one(align_corners: bool) -> None:
    """What has one place is repeated; from corner to corner, one place is the first."""

    def resized(x: Tensor) -> Tensor:
        x = F.interpolate(x[:, :, :1], size=(5, 1), mode="bilinear", align_corners=align_corners)
        return F.interpolate(x, size=(5, 4), mode="bilinear", align_corners=align_corners)

    captured(Then(resized))


def test_large_interpolation_is_done_an_axis_at_a_time() -> None:
    """Up to a factor of four, all is rounded once; beyond, windows over both axes would be out of proportion."""
    for factor, means in ((2, 1), (4, 1), (8, 2)):
        found = kinds(captured(Then(lambda x, by=factor: F.interpolate(x, scale_factor=by, mode="bilinear"))))
        assert (found.count("Take"), found.count("AvgPool2d")) == (2, means)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(3, 4, 2, 2),
        nn.ConvTranspose2d(3, 4, 4, 2, 1),
        nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1, bias=False),
        nn.ConvTranspose2d(3, 6, 3, 3, 1, groups=3, dilation=2),
        nn.ConvTranspose2d(3, 4, (3, 5), 1, (1, 0)),
        nn.ConvTranspose2d(3, 4, 2, 3),
    ],
)
def test_transposed_convolutions(layer: nn.Module) -> None:
    """Any kernel, padding, dilation and groups: one convolution, and moves."""
    assert kinds(captured(layer)).count("Conv2d") == 1


def test_features_that_become_images_again() -> None:
    """Matrix products between them are convolutions of one pixel, as in gates that are written with linear layers."""

    def gate(m: nn.Module, x: Tensor) -> Tensor:
        y = x.mean((2, 3)) if m.pooled else x.flatten(1)
        return x * torch.sigmoid(m.second(F.relu(m.first(y)))).view(-1, 3, 1, 1)

    for pooled in (True, False):
        model = Called(gate, first=nn.Linear(3 if pooled else 192, 4), second=nn.Linear(4, 3))
        model.pooled = pooled
        graph = captured(model)
        assert all(isinstance(layer, Conv2d) for layer in graph.layers.values())
        assert not {"Reshape", "Flatten", "Linear"} & set(kinds(graph))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda m, x: m.fc(x.flatten(2).transpose(1, 2)).mean(1),
        lambda m, x: F.relu(m.fc(x.view(-1, 3, 4, 16).transpose(1, 3))).amax((2, 3)),
        lambda m, x: x * m.conv(x.mean((2, 3), keepdim=True).view(-1, 1, 3)).sigmoid().view(-1, 3, 1, 1).expand_as(x),
        lambda m, x: x * m.conv(F.pad(x.mean((2, 3))[:, None], (1, 1), mode="circular")[:, :, 1:-1]).view(-1, 3, 1, 1),
    ],
)
def test_what_computes_on_views(function: Any) -> None:
    """Linear layers over the last of several axes, reductions of views, and convolutions over channels, as ECA has them."""
    captured(Called(function, fc=nn.Linear(3, 5), conv=nn.Conv1d(1, 1, 3, padding=1)))


@pytest.mark.parametrize("branches", [2, 3, 5])
@pytest.mark.parametrize("stacked", [True, False])
def test_softmax_over_branches(branches: int, stacked: bool) -> None:
    """As SKNet and ResNeSt weight their branches: of additions and tables."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        parts = [conv(x) for conv in m.convs]
        gap = m.fc(sum(parts).mean((2, 3), keepdim=True))
        if stacked:
            weights = torch.softmax(4 * gap.view(-1, branches, 8, 1, 1), 1)
            return (torch.stack(parts, 1) * weights).sum(1)
        weights = F.softmax(4 * gap.view(-1, 2, branches, 4).transpose(1, 2), dim=1).reshape(-1, branches * 8, 1, 1)
        return sum(part * weight for part, weight in zip(parts, weights.chunk(branches, 1), strict=True))

    convs = nn.ModuleList(nn.Conv2d(3, 8, 3, padding=1) for _ in range(branches))
    graph = captured(Called(forward, convs=convs, fc=nn.Conv2d(8, 8 * branches, 1)))
    assert set(kinds(graph)) <= {
        "Input",
        "Conv2d",
        "AvgPool2d",
        "Add",
        "Table",
        "Product",
        "Concat",
        "Slice",
        "Take",
        "Rearrange",
    }


def test_sequences_are_refused_with_advice() -> None:
    """A network of one axis says how it can be captured, and then is."""
    network = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten())
    with pytest.raises(
        CaptureError, match=r"\(batch, 3, 16\), .* on images.squeeze\(2\), with images of shape \(3, 1, 16\)\.$"
    ):
        capture(network, (3, 16))
    captured(Called(lambda m, x: m.network(x.squeeze(2)), network=network), (3, 1, 16))


def test_what_follows_a_transposed_convolution_becomes_part_of_it() -> None:
    """Batch norm and clamp go through the move of channels into pixels."""
    model = randomized(nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.BatchNorm2d(4), nn.ReLU()))
    graph = capture(model, IMAGE)
    assert kinds(graph) == ["Input", "Conv2d", "DepthToSpace"]
    images = torch.randn(5, *IMAGE)
    torch.testing.assert_close(FloatModel(graph).eval()(images), model(images), rtol=1e-5, atol=1e-5)


def test_global_pooling_in_all_its_forms() -> None:
    """Adaptive pooling to one pixel, a mean over both axes and a pooling of the image's size are one node."""
    forms = [
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: x.mean((2, 3)),
        lambda x: x.mean((-1, -2), keepdim=True).flatten(1),
        lambda x: F.avg_pool2d(x, 8).view(-1, 8),
        lambda x: F.avg_pool2d(x, 8).squeeze(-1).squeeze(-1),
    ]
    graphs = [captured(Then(form)) for form in forms]
    for graph in graphs:
        assert kinds(graph) == ["Input", "Conv2d", "AvgPool2d", "Flatten"]
        pool = graph.nodes[2]
        assert isinstance(pool, AvgPool2d)
        assert (pool.kernel, pool.stride, pool.padding) == ((8, 8), (8, 8), (0, 0))


def test_what_changes_nothing_leaves_no_node() -> None:
    """Adaptive pooling to the same size, a view of the same shape and copies vanish."""
    graph = captured(Then(lambda x: F.adaptive_avg_pool2d(x, 8).view(-1, 8, 8, 8).clone().detach()))
    assert kinds(graph) == ["Input", "Conv2d"]


def test_average_that_counts_its_padding() -> None:
    """Padding that counts as zeros keeps the area constant; ceil_mode is fine where no window leaves the image."""
    captured(Then(lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=True)))
    captured(Then(lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True)))


def test_features_are_joined_and_split_like_channels() -> None:
    """Concatenation and splits of (batch, features) work on the features."""
    captured(Then(lambda x: torch.cat([x.mean((2, 3)), x.flatten(1)], -1).chunk(2, 1)[0]))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x + torch.arange(64).view(8, 8), "a constant that differs from pixel to pixel"),
        (lambda x: x * (x == F.max_pool2d(x, 3, 1, 1)), "it compares values of each image"),
        (lambda x: x.flip(0), "it selects images of a batch"),
        (lambda x: x[:, :, 4:4], "it selects nothing of 8 places along axis 2"),
        (lambda x: x[:, torch.arange(8) > 3], "places along one axis are known"),
        (lambda x: F.pad(x, (1, 1), value=1.0), r"a padding of 1\.0"),
        (lambda x: F.max_pool2d(F.pad(x, (2, 2), value=-torch.inf), 3, dilation=2), "a padding of -inf"),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), "where the maxima of each image were"),
        (lambda x: F.pad(x.flatten(1), (1, 1)), r"a padding of a tensor of shape \('batch', 512\)"),
        (lambda x: F.interpolate(x, size=5, mode="bilinear", antialias=True), "through a filter of its own"),
        (
            lambda x: F.interpolate(x, size=12, mode="bicubic"),
            "it computes values between pixels: use nearest or bilinear",
        ),
        (
            lambda x: F.interpolate(x, size=1500, mode="bilinear", align_corners=True),
            "from 8 to 1500 places, which is exact over 11992 places; up to 8192 are known: resize by a whole factor",
        ),
        (lambda x: x.flatten(1).sum(1), r"a sum over axes \[1\] of 2; channels, height and width of images"),
        (lambda x: x + x.mean((2, 3)), "unlike numbers of axes|cannot capture"),
        (lambda x: x**1.5, "a power other than -1, -0.5, 0.5, 2, 3, 4"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "a division that rounds"),
        (lambda x: x + torch.rand(8, 1, 1), "it draws random numbers in evaluation mode"),
        (lambda x: x + x.new_zeros(8, 1, x.shape[0])[:, :, :1], "the number of images is not its first axis"),
        (lambda x: x.int().float(), "a cast to torch.int32"),
        (lambda x: x.min(1)[0], r"a minimum over axes: use -amax\(-x\)"),
        (lambda x: F.threshold(x, 0.0, 1.0), "makes a jump"),
        (lambda x: x.softmax(3), "a softmax over axis 3"),
        (lambda x: F.relu(torch.cat([x, x], 1).softmax(1)), "only one that ends it is left out"),
        (lambda x: x.clamp(torch.arange(8.0).view(8, 1, 1)), "its bounds differ from channel to channel"),
        (lambda x: x.mean((2, 3)) @ x.flatten(2).mean(0), "unsupported operation"),
        (lambda x: torch.cat([x, torch.ones_like(x)], 1), "it puts a constant beside"),
        (lambda x: torch.cat([torch.ones(1, 1, 8, 8).expand(x.shape[0], -1, -1, -1), x], 1), "a class token"),
        (lambda x: torch.cat([x, x], 0), "it puts images together along the batch"),
        (lambda x: x.transpose(0, 1).relu(), "it moves the axis of the batch"),
        (lambda x: x.clamp(x, None), "its bounds are activations"),
        (lambda x: F.adaptive_avg_pool2d(x.repeat(1, 1, 16, 1), (7, 1)), "have 380 in common, which is too long"),
        (lambda x: F.conv_transpose2d(x, torch.ones(8, 2, 2, 2), stride=(1, 2)), "unlike strides"),
        (lambda x: x.mean((0, 2)), r"a mean over axes \[0, 2\] of 4|mixes"),
    ],
)
def test_forms_without_an_integer_form_are_refused(function: Any, why: str) -> None:
    """A supported operation in an unsupported form is refused with the reason, and names the supported ones."""
    with pytest.raises(CaptureError, match=why) as caught:
        capture(Then(function), IMAGE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)), "it uses batch statistics"),
    ],
)
def test_layers_without_an_integer_form_are_refused(model: nn.Module, why: str) -> None:
    """A layer in an unsupported form is refused with the reason."""
    with pytest.raises(CaptureError, match=why):
        capture(model, IMAGE)
