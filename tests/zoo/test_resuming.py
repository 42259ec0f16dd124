# SPDX-License-Identifier: MIT
"""A published training goes on: its epoch, accuracy, optimizer and ranges find their places in our model."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitwright.errors import FileFormatError
from bitwright.graph import Graph
from bitwright.training import QuantizedModel, TrainSettings, quantize, set_ranges
from bitwright.training.optimizer import restore_slots, sgd, slots
from bitwright.zoo import load_checkpoint, published_ranges, published_scheme, published_training
from zoo.networks import trained

SIDE = 32
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "scaling_factor", "_integer", "x_min", "x_max")


@cache
def published() -> tuple[dict[str, Any], Graph, dict[str, Tensor]]:
    """A checkpoint as the published script writes it after seven epochs, the graph, and the momentum of each weight by key."""
    twin, graph, _ = trained("resnet18", "bops0.5", SIDE)
    content = twin.full_checkpoint()
    weights = {name: value for name, value in content["state_dict"].items() if not name.endswith(BUFFERS)}
    parameters = [torch.nn.Parameter(value.float()) for value in weights.values()]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.8, weight_decay=0.003)
    generator = torch.Generator().manual_seed(3)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    kept = {name: optimizer.state[value]["momentum_buffer"] for name, value in zip(weights, parameters, strict=True)}
    return content | {"epoch": 7, "best_acc1": torch.tensor([70.5]), "optimizer": optimizer.state_dict()}, graph, kept


def written(content: Any, folder: Path) -> Path:
    """As a file."""
    torch.save(content, folder / "checkpoint.pth.tar")
    return folder / "checkpoint.pth.tar"


@pytest.fixture
def model() -> QuantizedModel:
    """Ours, under the published scheme."""
    graph = published()[1]
    scheme = published_scheme("resnet18", "bops0.5", layers=graph.layers, residual_bits=16)
    return quantize(graph, scheme, ranges="ema")


def test_the_optimizer_finds_its_weights(model: QuantizedModel, tmp_path: Path) -> None:
    """Epoch, accuracy, momentum and decay are read, and every momentum is that of the weight of the same name."""
    content, graph, momenta = published()
    found = published_training(load_checkpoint(written(content, tmp_path), floats=True), graph, "resnet18")
    assert (found.epoch, found.best_top1, found.momentum, found.weight_decay) == (7, 70.5, 0.8, 0.003)
    assert len(found.momenta) == len(momenta) == 62
    for own, key in {
        "features.init_block.conv.conv.weight": "quant_init_block_convbn.conv.weight",
        "features.stage2.unit1.identity_conv.bn.bias": "stage2.unit1.quant_identity_convbn.bn.bias",
        "features.stage4.unit2.body.conv2.conv.weight": "stage4.unit2.quant_convbn2.conv.weight",
        "features.stage1.unit1.body.conv1.bn.weight": "stage1.unit1.quant_convbn1.bn.weight",
        "output.bias": "quant_output.bias",
    }.items():
        assert torch.equal(found.momenta[f"network.{own}.momentum_buffer"], momenta[f"module.{key}"])
    optimizer = sgd(model, TrainSettings())
    restore_slots(model, optimizer, found.momenta, "the file")
    assert {name: value.sum() for name, value in slots(model, optimizer).items()} == {
        name: value.sum() for name, value in found.momenta.items()
    }


def test_the_ranges_find_their_quantizers(model: QuantizedModel, tmp_path: Path) -> None:
    """All but those of the terms of sums, which share the range of the sum there; at 4 bits the published scales come out."""
    content, _, _ = published()
    checkpoint = load_checkpoint(written(content, tmp_path))
    state = content["state_dict"]
    found = published_ranges(checkpoint, model.plan, "resnet18")
    for own, name in {
        model.plan.graph.nodes[0].name: "quant_input",
        "features.init_block.conv.conv": "quant_act_int32",
        "features.stage1.unit1.body.conv1.conv": "stage1.unit1.quant_act1",
        model.plan.quantizer_of[model.plan.graph.layers["output"].inputs[0]]: "quant_act_output",
    }.items():
        assert found[own] == (float(state[f"module.{name}.x_min"]), float(state[f"module.{name}.x_max"]))
    terms = {
        source
        for node in model.plan.source
        if len(node.inputs) == 2
        for source in node.inputs
        if source in model.plan.source.layers
    }
    assert set(model.ranges()) - set(found) == terms
    assert set_ranges(model, found) == len(found)
    four = 0
    for layer, node in model.plan.graph.layers.items():
        key = model.plan.quantizer_of[node.inputs[0]]
        if model.plan.scheme.layers[layer].act_bits == 4:
            module = (
                layer.removeprefix("features.")
                .replace(".body.conv1.conv", ".quant_act")
                .replace(".body.conv2.conv", ".quant_act1")
            )
            module = module.replace(".identity_conv.conv", ".quant_act")
            published_scale = float(state[f"module.{module}.act_scaling_factor"])
            assert float(model.activation_quantizer(key).scale) == pytest.approx(published_scale, rel=1e-6)
            four += 1
    assert four > 5


def test_a_plain_state_dict_says_nothing(tmp_path: Path) -> None:
    """A baseline begins with epoch 0; a file without an optimizer keeps its epoch."""
    content, graph, _ = published()
    plain = load_checkpoint(written(dict(graph.parameters), tmp_path), floats=True)
    assert published_training(plain, graph, "resnet18") == published_training(plain, graph, "ResNet18")
    assert published_training(plain, graph, "resnet18").epoch == 0
    without = load_checkpoint(written(content | {"optimizer": {"state": {}}}, tmp_path), floats=True)
    found = published_training(without, graph, "resnet18")
    assert (found.epoch, found.momentum, dict(found.momenta)) == (7, None, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": "seven"}, "'epoch' is no number of at least 0 in"),
        ({"epoch": -1}, "'epoch' is no number of at least 0"),
        ({"best_acc1": torch.zeros(3)}, "'best_acc1' is no number"),
        ({"best_acc1": float("nan")}, "'best_acc1' is no number"),
        ({"optimizer": {"param_groups": [{"lr": 0.1, "params": [0]}], "state": {}}}, "has no optimizer of SGD"),
        ({"optimizer": {"param_groups": [3], "state": {}}}, "has no optimizer of SGD"),
        (
            {"optimizer": {"param_groups": [{"momentum": 0.9, "weight_decay": 0.0, "params": [0, 1]}], "state": {}}},
            "has 2 parameters, its weights 62: it is of another network",
        ),
    ],
)
def test_what_is_no_training_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Each in one line that names the file."""
    content, graph, _ = published()
    checkpoint = load_checkpoint(written(content | change, tmp_path), floats=True)
    with pytest.raises(FileFormatError, match=message) as caught:
        published_training(checkpoint, graph, "resnet18")
    assert str(tmp_path) in str(caught.value)
