# SPDX-License-Identifier: MIT
"""Imported checkpoints give the logits of the published arithmetic, bit for bit."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitwright.errors import BitwrightWarning, FileFormatError, LoweringError, SchemeError
from bitwright.graph import FloatModel, Graph, load_model
from bitwright.graph.nodes import MaxPool2d
from bitwright.integer import IntegerModel, logits, requantize, run
from bitwright.integer.execution.reference import execute_op
from bitwright.integer.ops import IntegerAdd, IntegerConv2d, Quantize, ReciprocalQuantize, Rescale
from bitwright.integer.reader import load_integer
from bitwright.zoo import import_checkpoint, import_floats, import_notes
from bitwright.zoo.checkpoint import Checkpoint, float_parameters, load_checkpoint
from bitwright.zoo.layout import layout
from zoo.networks import trained
from zoo.twin import Twin


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[IntegerModel, Twin, Graph, Tensor]:
    """ResNet18 at eight bits, imported; its twin, graph and images."""
    twin, graph, images = trained("resnet18", "w8a8", 64)
    path = tmp_path_factory.mktemp("zoo") / "quantized_checkpoint.pth.tar"
    torch.save(twin.quantized_checkpoint(), path)
    return import_checkpoint(path, "resnet18", "w8a8", graph=graph), twin, graph, images


def assert_same(one: IntegerModel, other: IntegerModel) -> None:
    """Equal in all fields of all operations, and in everything else."""
    assert np.array_equal(one.outputs["logits"].unit, other.outputs["logits"].unit)
    rest = [
        (model.model, model.scheme, dict(model.formats), model.outputs["logits"].tensor, model.facts)
        for model in (one, other)
    ]
    assert rest[0] == rest[1]
    for first, second in zip(one, other, strict=True):
        assert type(first) is type(second)
        for item in fields(first):
            values = [getattr(op, item.name) for op in (first, second)]
            if isinstance(values[0], Rescale):
                assert values[0].multipliers == values[1].multipliers
                values = [(value.low, value.high) for value in values]
            assert np.array_equal(*values), (first.name, item.name)


def check(model: str, scheme: str, side: int, folder: Path) -> None:
    """Both formats give one model, whose logits are those of the twin, also after a round trip through a file."""
    twin, graph, images = trained(model, scheme, side)
    expected = twin(images)
    torch.save(twin.full_checkpoint(), folder / "checkpoint.pth.tar")
    torch.save(twin.quantized_checkpoint(""), folder / "quantized_checkpoint.pth.tar")
    imported = import_checkpoint(folder / "checkpoint.pth.tar", model, scheme, graph=graph)
    assert torch.equal(logits(imported, images).float(), expected)
    assert len(expected.unique()) > 1000
    other = import_checkpoint(folder / "quantized_checkpoint.pth.tar", model, scheme, graph=graph)
    assert_same(other, imported)
    other.save(folder / "model.safetensors")
    loaded = load_integer(folder / "model.safetensors")
    assert_same(loaded, imported)
    assert torch.equal(logits(loaded, images).float(), expected)


@pytest.mark.parametrize(
    "scheme", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("w8a8", "w4a4")), "bops_0.5"]
)
def test_resnet18(scheme: str, tmp_path: Path) -> None:
    """A mix of four and eight bits; and each of them alone."""
    check("resnet18", scheme, 64, tmp_path)


def test_resnet50(tmp_path: Path) -> None:
    """Bottlenecks, mixed."""
    check("resnet50", "latency0.5", 64, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["uniform8", "uniform4", "size0.5"])
@pytest.mark.parametrize(("model", "side"), [("resnet18", 224), ("resnet50", 64), ("resnet50", 224)])
def test_full_size(model: str, side: int, scheme: str, tmp_path: Path) -> None:
    """At the resolution of the zoo."""
    check(model, scheme, side, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "scheme"), [("resnet50b", "uniform4"), ("resnet101", "uniform8")])
def test_networks_without_a_quantized_row(model: str, scheme: str, tmp_path: Path) -> None:
    """Their bits were published, though no checkpoint was: one that the reference would make can be imported."""
    check(model, scheme, 64, tmp_path)


@pytest.mark.parametrize("area", [4, 16, 49, 64])
def test_the_published_mean_is_a_floor(area: int) -> None:
    """For every sum of values that are not negative, up to a mean of 2**16, in float32."""
    sums = torch.arange(area * 2**16)
    published = torch.trunc(sums.float() / torch.tensor(float(area)) + 0.01)
    assert torch.equal(published.long(), sums // area)


def test_a_published_input_is_multiplied_by_the_reciprocal() -> None:
    """Near halves, this differs from a division by the scale, which has one rounding less."""
    images = torch.rand(1, 1, 1000, 1000)
    scale = float(torch.tensor(0.0173))
    common = {"name": "input", "inputs": (), "shape": (1, 1000, 1000), "scale": scale, "low": -128, "high": 127}
    reciprocal = execute_op(ReciprocalQuantize(**common), [images], [])
    assert torch.equal(reciprocal, torch.round((1.0 / torch.tensor(scale)) * images).to(torch.int32))
    difference = (reciprocal - execute_op(Quantize(**common), [images], [])).abs()
    assert int(difference.max()) <= 1


def test_sums_are_rounded_separately_and_not_clamped(resnet18: tuple[IntegerModel, Twin, Graph, Tensor]) -> None:
    """Residuals exceed 16 bits, as the reference's does, and no format claims otherwise."""
    model, twin, _, images = resnet18
    expected = twin(images)
    seen: dict[str, Tensor] = {}
    run(model, images, observe=lambda name, values: seen.update({name: values}))
    sums = [op.name for op in model if isinstance(op, IntegerAdd)]
    assert max(int(seen[name].max()) for name in sums) > 2**15
    for name, residual in zip(sums, twin.residuals, strict=True):
        assert torch.equal(seen[name], residual.round().clamp(min=0).to(torch.int32))
    for op in model:
        if op.name in model.formats:
            params = model.formats[op.name]
            assert params.quant_min <= int(seen[op.name].min())
            assert int(seen[op.name].max()) <= params.quant_max
    assert torch.equal(logits(model, images).float(), expected)


def test_maximum_and_requantization_commute(resnet18: tuple[IntegerModel, Twin, Graph, Tensor]) -> None:
    """The stem may pool before or after it requantizes: the integers are the same."""
    model, _, _, images = resnet18
    stem = next(op for op in model if isinstance(op, IntegerConv2d))
    pool = next(op for op in model if isinstance(op, MaxPool2d))
    inputs = execute_op(model.ops[0], [images], [])
    sums = execute_op(replace(stem, rescale=None), [inputs], [model.formats["input"]])
    ratio = stem.rescale.multipliers
    pooled = torch.nn.functional.max_pool2d(sums.double(), pool.kernel, pool.stride, pool.padding).long()
    early = requantize(pooled.numpy(), ratio, 0, 2**15 - 1)
    late = execute_op(pool, [execute_op(stem, [inputs], [model.formats["input"]])], [])
    assert np.array_equal(early, late.numpy())


def test_notes_say_where_float32_was_inexact(resnet18: tuple[IntegerModel, Twin, Graph, Tensor]) -> None:
    """Layers whose accumulators can leave 2**24 or 2**22 are named."""
    model = resnet18[0]
    first, second = import_notes(model)
    assert "beyond 2**24, where the reference's own float32 sums were inexact" in first
    assert "beyond 2**22" in second
    wide = [name for name, facts in model.facts.items() if facts.get("largest_accumulator", 0) > 2**24]
    assert f"{len(wide)} layers can accumulate up to" in first
    assert wide[0] in first


def checkpoint_of(scheme: str = "w8a8") -> tuple[dict[str, Any], Graph]:
    """A full checkpoint of ResNet18."""
    twin, graph, _ = trained("resnet18", scheme, 64)
    return twin.full_checkpoint(), graph


def test_dead_channels_become_constants(tmp_path: Path) -> None:
    """A channel whose bias was clamped at 2**31 always gives one value: the model stores that value, and says so."""
    content, graph = checkpoint_of()
    state = content["state_dict"]
    layer = "module.stage1.unit1.quant_convbn1"
    state[f"{layer}.convbn_scaling_factor"][3] = 1e-8 / 127
    state[f"{layer}.weight_integer"][3] = 0
    state[f"{layer}.bias_integer"][3] = 2.0**31
    torch.save(content, tmp_path / "file")
    model = import_checkpoint(tmp_path / "file", "resnet18", "w8a8", graph=graph)
    op = model.layers()["features.stage1.unit1.body.conv1.conv"]
    unit = (
        state[f"{layer}.convbn_scaling_factor"][3].double() * state["module.stage1.unit1.quant_act.act_scaling_factor"]
    )
    value = round(float(2.0**31 * unit / state["module.stage1.unit1.quant_act1.act_scaling_factor"].double()))
    assert int(op.bias[3]) == value
    assert not op.weight[3].any()
    assert any(
        "1 channels of features.stage1.unit1.body.conv1.conv have a bias beyond int32" in note
        for note in import_notes(model)
    )
    scales = [state[f"module.stage1.unit1.{name}.act_scaling_factor"] for name in ("quant_act1", "quant_act")]
    state[f"{layer}.convbn_scaling_factor"][3] = 60.4 * scales[0] / scales[1] / 2**31
    state[f"{layer}.weight_integer"][3] = 127
    torch.save(content, tmp_path / "file")
    with pytest.raises(LoweringError, match=r"an accumulator can reach \d+, beyond int32, in channel 3, which is not"):
        import_checkpoint(tmp_path / "file", "resnet18", "w8a8", graph=graph)


def test_another_scheme_is_refused(tmp_path: Path) -> None:
    """Weights that are too large or too small for the bits of the scheme, and scales of other bits."""
    content, graph = checkpoint_of()
    torch.save(content, tmp_path / "file")
    with pytest.raises(
        FileFormatError, match=r"reach 127, but scheme 'bops0.5' gives them 4 bits|was quantized to 8 bits"
    ):
        import_checkpoint(tmp_path / "file", "resnet18", "bops0.5", graph=graph)
    narrow, _ = checkpoint_of("w4a4")
    torch.save(narrow, tmp_path / "file")
    with pytest.raises(FileFormatError, match=r"was quantized to 4 bits in .* but scheme 'uniform8' gives it 8"):
        import_checkpoint(tmp_path / "file", "resnet18", "w8a8", graph=graph)
    twin, _, _ = trained("resnet18", "w4a4", 64)
    torch.save(twin.quantized_checkpoint(), tmp_path / "file")
    with pytest.raises(FileFormatError, match=r"reach 7, but scheme 'uniform8' gives them 8 bits"):
        import_checkpoint(tmp_path / "file", "resnet18", "w8a8", graph=graph)


def test_another_network_is_refused(tmp_path: Path) -> None:
    """Missing tensors, other shapes, other layers, and networks without published checkpoints."""
    content, graph = checkpoint_of()
    state = content["state_dict"]
    torch.save(content, tmp_path / "file")
    with pytest.raises(SchemeError, match="does not fit the model"):
        import_checkpoint(tmp_path / "file", "resnet50", "w8a8", graph=graph)
    for name in ("mobilenetv2_w1", "inceptionv3"):
        with pytest.raises(
            FileFormatError, match=f"for ResNets only, so the layout of {name}'s .* float weights can be"
        ):
            layout(name, graph)
    weight = state.pop("module.stage2.unit1.quant_convbn1.weight_integer")
    torch.save(content, tmp_path / "file")
    with pytest.raises(FileFormatError, match=r"lacks 'stage2.unit1.quant_convbn1.weight_integer'"):
        import_checkpoint(tmp_path / "file", "resnet18", "w8a8", graph=graph)
    state["module.stage2.unit1.quant_convbn1.weight_integer"] = weight[:, :32]
    torch.save(content, tmp_path / "file")
    with pytest.raises(FileFormatError, match=r"has shape \(128, 32, 3, 3\) .* needs \(128, 64, 3, 3\)"):
        import_checkpoint(tmp_path / "file", "resnet18", "w8a8", graph=graph)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("quant_input.act_scaling_factor", 0.0, "has the scale 0.0"),
        ("quant_input.act_scaling_factor", float("nan"), "has the scale nan"),
        ("quant_output.weight_integer", 0.5, "are no 32-bit integers"),
        ("quant_output.bias_integer", float("inf"), "are no 32-bit integers"),
        ("quant_output.fc_scaling_factor", -1.0, "are not all positive"),
    ],
)
def test_values_that_no_training_leaves(name: str, value: float, message: str, tmp_path: Path) -> None:
    """Scales are positive numbers, weights and biases integers."""
    content, graph = checkpoint_of()
    content["state_dict"][f"module.{name}"].reshape(-1)[0] = value
    torch.save(content, tmp_path / "file")
    with pytest.raises(FileFormatError, match=message):
        import_checkpoint(tmp_path / "file", "resnet18", "w8a8", graph=graph)


def test_running_extremes_have_no_axis(tmp_path: Path) -> None:
    """With momentum -1 the reference stores ranges and scales without an axis, which it cannot read itself."""
    content, graph = checkpoint_of()
    torch.save(content, tmp_path / "one")
    for name, value in content["state_dict"].items():
        if name.endswith((".x_min", ".x_max", ".act_scaling_factor")):
            content["state_dict"][name] = value.reshape(())
    torch.save(content, tmp_path / "other")
    assert_same(*[import_checkpoint(tmp_path / name, "resnet18", "w8a8", graph=graph) for name in ("one", "other")])


def test_float_weights_for_fine_tuning(tmp_path: Path) -> None:
    """A training checkpoint gives back the float network; one of integers says that it cannot."""
    twin, graph, images = trained("resnet18", "w8a8", 64)
    blank = graph.with_parameters({name: torch.zeros_like(value) for name, value in graph.parameters.items()})
    torch.save(twin.full_checkpoint(), tmp_path / "file")
    parameters = float_parameters(load_checkpoint(tmp_path / "file", floats=True), blank, "resnet18")
    filled = blank.with_parameters(parameters)
    assert all(torch.equal(filled.parameters[name], value) for name, value in graph.parameters.items())
    assert torch.equal(FloatModel(filled).eval()(images), FloatModel(graph).eval()(images))
    torch.save(dict(graph.parameters), tmp_path / "file")
    plain = float_parameters(load_checkpoint(tmp_path / "file", floats=True), blank, "resnet18")
    assert all(torch.equal(plain[name], value) for name, value in graph.parameters.items())
    torch.save(twin.quantized_checkpoint(), tmp_path / "file")
    with pytest.raises(FileFormatError, match="holds integers only: fine-tuning needs the float weights"):
        float_parameters(load_checkpoint(tmp_path / "file", floats=True), blank, "resnet18")


def test_classes_come_from_the_checkpoint(tmp_path: Path) -> None:
    """Float weights of 7 classes make a network of 7, in both namings; asked for 3, all but the head comes from the file."""
    state = load_model("pytorchcv:resnet18", num_classes=7).state_dict()
    torch.save(state, tmp_path / "plain.pth")
    graph = import_floats(tmp_path / "plain.pth", "resnet18")
    assert graph.output_shape == (7,)
    assert all(torch.equal(graph.parameters[name], value) for name, value in state.items() if name in graph.parameters)
    published = Checkpoint(tmp_path, {"quant_output.weight_integer": torch.zeros(5, 512)}, False)
    assert published.classes(load_model("pytorchcv:resnet18")) == 5
    with pytest.warns(
        BitwrightWarning, match=r"another number of classes: the head \(output.weight, output.bias\) is new"
    ):
        changed = import_floats(tmp_path / "plain.pth", "resnet18", classes=3)
    assert changed.output_shape == (3,)
    differing = {name for name, value in changed.parameters.items() if not torch.equal(value, graph.parameters[name])}
    assert differing == {"output.weight", "output.bias"}
