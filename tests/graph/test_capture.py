# SPDX-License-Identifier: MIT
"""Capture: what a module becomes, what it keeps, and what is refused by name and place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.fx.config as fx_config
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.errors import CaptureError
from bitwright.graph import FloatModel, capture
from bitwright.graph.aten import why_refused
from bitwright.graph.nodes import Add
from graph.networks import IMAGE, Called, Then, assert_same, captured, kinds, randomized


def small_net() -> nn.Sequential:
    """A network with all that a float state dict can hold."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def test_names_are_those_of_the_module() -> None:
    """Parameters keep the names of the state dict; layers bear the name of their module, others of where they ran."""
    model = randomized(Called(lambda m, x: m.head(m.body(x)), body=small_net(), head=nn.Linear(4, 2)))
    graph = captured(model)
    assert set(graph.parameters) == set(model.state_dict())
    assert list(graph.layers) == ["body.0", "body.5", "head"]
    assert [node.name for node in graph] == ["input", "body.0", "body.3.avg_pool", "body.4.flatten", "body.5", "head"]
    assert graph["body.0"].place == "body.0 (aten.conv2d.default)"
    assert graph.input_shape == IMAGE
    assert graph.model == "model"


def test_the_state_dict_maps_both_ways() -> None:
    """Weights pass from the module to its graph and back by name alone."""
    model, other = randomized(small_net()), randomized(small_net())
    graph = captured(model)
    floats = FloatModel(graph)
    assert set(floats.state_dict()) == set(model.state_dict())
    floats.load_state_dict(other.state_dict())
    assert_same(other, graph.with_parameters(floats.state_dict()))
    model.load_state_dict(floats.state_dict())
    assert_same(model, graph.with_parameters(other.state_dict()))


def test_parameters_train_and_statistics_do_not() -> None:
    """The float model's parameters are the module's, and running statistics are buffers."""
    model = small_net()
    floats = FloatModel(captured(model))
    assert {name for name, _ in floats.named_parameters()} == {name for name, _ in model.named_parameters()}
    assert {name for name, _ in floats.named_buffers()} == {name for name, _ in model.named_buffers()}


def test_the_graph_owns_its_tensors() -> None:
    """Training the model later, or the float model, does not change the graph."""
    model = randomized(small_net())
    graph = captured(model)
    before = {name: tensor.clone() for name, tensor in graph.parameters.items()}
    for module in (model, FloatModel(graph)):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1.0)
    assert all(torch.equal(graph.parameters[name], tensor) for name, tensor in before.items())


def test_the_model_is_left_as_it_was() -> None:
    """Capture sees the model in evaluation mode, and puts every module back: frozen batch norm stays frozen."""
    model = small_net().train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    capture(model, IMAGE)
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_model_is_left_as_it_was_after_a_refusal() -> None:
    """A refused model is in training mode again."""
    model = Then(lambda x: torch.cumsum(x, 1)).train()
    with pytest.raises(CaptureError):
        capture(model, IMAGE)
    assert model.training
    assert model.conv.training


def test_capture_draws_no_random_numbers() -> None:
    """A seeded experiment gives the same numbers with and without a capture before it."""
    model = small_net()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    capture(model, IMAGE)
    assert torch.equal(torch.rand(2), expected)


def test_a_module_that_is_called_twice_has_two_names() -> None:
    """Both calls read the same weight; the second gets a number."""
    graph = captured(Called(lambda m, x: m.conv(F.relu(m.conv(x))), conv=nn.Conv2d(3, 3, 3, padding=1)))
    assert list(graph.layers) == ["conv", "conv#2"]
    assert {layer.weight for layer in graph.layers.values()} == {"conv.weight"}


def test_what_the_output_does_not_need_is_dropped() -> None:
    """An auxiliary head leaves no nodes, but its weights stay in the state dict."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        m.aux(x)
        return m.conv(x)

    graph = captured(Called(forward, conv=nn.Conv2d(3, 4, 3), aux=nn.Conv2d(3, 9, 3)))
    assert kinds(graph) == ["Input", "Conv2d"]
    assert "aux.weight" in graph.parameters


def test_a_tensor_added_to_itself() -> None:
    """A node may read a tensor twice."""
    graph = captured(Then(lambda x: x + x))
    assert graph.nodes[-1].inputs == ("conv", "conv")


def test_a_functional_batch_norm_has_a_name_of_its_own() -> None:
    """A norm whose statistics are in buffers of any name is named after where it runs."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return F.batch_norm(x, m.mean, m.spread)

    model = Called(forward)
    model.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]))
    model.register_buffer("spread", torch.tensor([1.0, 2.0, 3.0]))
    graph = captured(model)
    assert list(graph.layers) == ["batch_norm"]


def test_any_name_may_be_a_module() -> None:
    """Modules that bear the names of the library's own attributes are captured like others."""
    captured(Called(lambda m, x: m.network(m.graph(x)), graph=nn.Conv2d(3, 4, 3), network=nn.Conv2d(4, 4, 3)))


def test_a_layer_may_be_the_whole_model() -> None:
    """Top modules without a name of their own: a convolution, and a batch norm that becomes one."""
    assert kinds(captured(nn.Conv2d(3, 4, 3))) == ["Input", "Conv2d"]
    assert kinds(captured(nn.BatchNorm2d(3))) == ["Input", "Conv2d"]


def test_tied_weights_under_two_names() -> None:
    """A parameter that two modules share is read under both names."""
    first, second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    second.weight = first.weight
    captured(Called(lambda m, x: m.second(m.first(x)), first=first, second=second))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.relu_(x) + x,
        lambda x: x + F.relu_(x),
        lambda x: torch.cat([F.relu(x).add_(x), x], 1),
        lambda x: x.add_(F.relu(x)) + x,
    ],
)
def test_in_place_operations_change_what_later_ones_read(function: Callable[[Tensor], Tensor]) -> None:
    """After `relu_(x)`, `x` is the clamped tensor, for every reader that comes later."""
    captured(Then(function))


def test_an_in_place_sum_is_a_node() -> None:
    """`x += y`, as residual networks write it, is an addition."""
    graph = captured(Then(lambda x: F.relu(x).add_(x)))
    assert isinstance(graph.nodes[-1], Add)


@pytest.mark.parametrize("view", [lambda x: x.view(x.shape[0], -1), lambda x: x.transpose(2, 3)])
def test_writing_into_a_view_is_refused(view: Callable[[Tensor], Tensor]) -> None:
    """An operation on a view changes the tensor that was viewed, which a graph cannot say."""

    def function(x: Tensor) -> Tensor:
        view(x).relu_()
        return x

    with pytest.raises(
        CaptureError, match=r"unsupported operation aten\.relu_.*it writes into a view of another tensor"
    ):
        capture(Then(function), IMAGE)


class Attention(nn.Module):
    """The start of a vision transformer: patches as a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).permute(0, 2, 1)
        return self.head(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)).mean(1)


@pytest.mark.parametrize(
    ("model", "operation", "place"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)), "group_norm", "1"),
        (
            Called(lambda m, x: m.block(x), block=nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))),
            "group_norm",
            r"block\.1",
        ),
        (Called(lambda m, x: m.norm(x), norm=nn.GroupNorm(1, 3)), "group_norm", "norm"),
        (Attention(), "scaled_dot_product_attention", "the top module"),
        (Called(lambda m, x: m.vit(x), vit=Attention()), "scaled_dot_product_attention", "vit"),
        (Then(lambda x: torch.cumsum(x, 1)), "cumsum", "the top module"),
        (Then(lambda x: torch.remainder(x, x)), "remainder", "the top module"),
        (Called(lambda m, x: m.deep(x[:, :, None])[:, :, 0], deep=nn.Conv3d(3, 4, 1)), "conv3d", "deep"),
    ],
)
def test_unsupported_operations_are_refused_by_name_and_place(model: nn.Module, operation: str, place: str) -> None:
    """One line says which operation, in which module, and why, where that is known."""
    with pytest.raises(
        CaptureError, match=rf"^mine: unsupported operation aten\.{operation}\.\w+ at {place}: "
    ) as error:
        capture(model, IMAGE, name="mine")
    assert str(error.value).endswith(why_refused(operation))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (Then(lambda x: x.transpose(0, 1)), "aten.transpose.int at the top module: it moves the axis of the batch"),
    ],
)
def test_what_no_pass_resolves_is_refused(model: nn.Module, what: str) -> None:
    """A view that mixes the images of a batch is refused with its place."""
    with pytest.raises(CaptureError, match=what):
        capture(model, IMAGE)


@pytest.mark.parametrize("after", [lambda x: x, nn.Linear(256, 3)])
def test_images_of_a_batch_are_not_mixed(after: Callable[[Tensor], Tensor]) -> None:
    """A reshape that cuts one image into several is refused, whatever reads it."""
    model = Called(
        lambda m, x: m.after(x.view(-1, 256)), after=after if isinstance(after, nn.Module) else nn.Identity()
    )
    with pytest.raises(
        CaptureError, match=r"a reshape from \(8, 8, 8\) to \(256,\), which mixes the images of a batch"
    ):
        capture(Called(lambda m, x: m.model(m.conv(x)), conv=nn.Conv2d(3, 8, 3, padding=1), model=model), IMAGE)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda m, x: None, "mine returns no tensor in evaluation mode"),
        (lambda m, x: (m.conv(x), 3), "mine returns an object of type int as 'output1', but a network returns tensors"),
        (lambda m, x: {"a.b": m.conv(x), "a": {"b": x}}, "mine returns two tensors that are both called 'a.b'"),
        (lambda m, x: {"images": m.conv(x), "b": x}, "mine: an output cannot be called 'images'"),
        (
            lambda m, x: {"b": m.conv(x), "b_int32": x},
            "mine: the name 'b_int32' of an output is that of another's integers",
        ),
        (lambda m, x: m.conv.weight, "mine returns a constant: its output 'logits' does not depend on the images"),
        (lambda m, x: (m.conv(x), m.conv.bias), "mine returns a constant: its output 'output1' does not depend"),
    ],
)
def test_outputs_that_are_refused(forward: Callable[[nn.Module, Tensor], Any], message: str) -> None:
    """No output, one that is no tensor or that no image changes, and names that no file can have."""
    with pytest.raises(CaptureError, match=message):
        capture(Called(forward, conv=nn.Conv2d(3, 8, 3)), IMAGE, name="mine")


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x, None), lambda x: {"out": x}])
def test_one_output_in_a_container_is_that_output(wrap: Callable[[Tensor], object]) -> None:
    """A list or dictionary with one tensor in it is that tensor."""
    graph = capture(Called(lambda m, x: wrap(m.conv(x)), conv=nn.Conv2d(3, 4, 3)), IMAGE)
    assert graph.outputs == {"logits": "conv"}


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(7)), (3, 4, 4)),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 4)), (3, 9, 9)),
        (nn.Conv2d(3, 8, 3), (1, 8, 8)),
        (nn.Conv2d(3, 8, 3), (3, 2, 2)),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), (224, 224)),
    ],
)
def test_a_wrong_image_size_is_one_clear_line(
    model: nn.Module, shape: tuple[int, ...], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Images that do not fit are refused in one line, and the exporter prints nothing of its own."""
    levels = {name: logging.getLogger(name).level for name in ("torch", "torch._subclasses.fake_tensor")}
    with pytest.raises(CaptureError, match=r"cannot capture mine on images of shape .* Check the image size") as error:
        capture(model, shape, name="mine")
    assert str(shape) in str(error.value)
    assert "\n" not in str(error.value)
    assert ". Check" in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert levels == {name: logging.getLogger(name).level for name in levels}


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (lambda x: x if x.sum() > 0 else -x, r"data-dependent control flow \('.*test_capture\.py', line \d+, in"),
        (lambda x: x.view(2, -1), r"holds for one batch size only"),
        (lambda x: torch.cat([row.unsqueeze(0) for row in x]), r"holds for one batch size only"),
        (lambda x: x[: int(x.sum().abs()) + 1], "data-dependent control flow"),
    ],
)
def test_what_export_cannot_follow_is_one_clear_line(
    function: Callable[[Tensor], Tensor],
    cause: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Control flow that depends on the data, or on the batch size, is refused in one line, which blames no image size."""
    with pytest.raises(CaptureError, match=rf"with any batch size: its forward\(\) .*{cause}") as error:
        capture(Then(function), IMAGE)
    assert "\n" not in str(error.value)
    assert "image size" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("shape", [28, None, (), (1, 0, 28), (1, 28.0, 28), "abc"])
def test_what_is_no_shape(shape: object) -> None:
    """It is refused in one line, whatever it is."""
    with pytest.raises(CaptureError, match=r"expected the shape of an image, \(channels, height, width\), got"):
        capture(nn.ReLU(), shape)


def test_a_misread_operation_cannot_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is executed beside the model, so a handler that is wrong is an error, not a loss of accuracy."""
    from bitwright.graph.aten import HANDLERS

    monkeypatch.setitem(HANDLERS, "relu", HANDLERS["contiguous"])
    with pytest.raises(CaptureError, match=r"model: the captured graph differs from the model by .* please report it"):
        capture(Then(F.relu), IMAGE)


def test_capture_needs_no_switch_of_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch 2.11 always makes stack traces; later releases are told not to, and afterwards are as they were."""
    before = fx_config.do_not_emit_stack_traces if hasattr(fx_config, "do_not_emit_stack_traces") else None
    expected = captured(small_net())
    assert getattr(fx_config, "do_not_emit_stack_traces", None) == before
    monkeypatch.setattr(import_module("bitwright.graph.capture"), "fx_config", SimpleNamespace())
    assert list(captured(small_net())) == list(expected)
