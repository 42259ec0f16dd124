# SPDX-License-Identifier: MIT
"""Recipes are data that opens with its command, and running one ends with the row, published beside measured."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.data import ImageData, InMemoryImages
from bitwright.errors import BitwrightWarning, DataError, SchemeError
from bitwright.graph import FloatModel, Graph, capture, load_model
from bitwright.integer import logits
from bitwright.integer.reader import load_integer
from bitwright.training import evaluate
from bitwright.zoo import recipe, rows
from bitwright.zoo.recipes import parse_recipe
from bitwright.zoo.reproduction import reproduce

RECIPES = sorted(
    entry.name for entry in files("bitwright.zoo").joinpath("data", "recipes").iterdir() if entry.name.endswith(".yaml")
)


def test_every_row_has_one() -> None:
    """27 rows, 27 recipes, each opening with its own command."""
    assert [f"{published.name}.yaml" for published in sorted(rows(), key=lambda published: published.name)] == RECIPES
    for published in rows():
        text = files("bitwright.zoo").joinpath("data", "recipes", f"{published.name}.yaml").read_text()
        assert text.startswith(f"# bitwright zoo reproduce {published.name} --data imagefolder:DIR\n")
        assert recipe(published.name).row == published.name
        assert (recipe(published.name).epochs == 0) == published.is_float


@pytest.mark.parametrize(
    ("name", "epochs", "fraction"),
    [
        ("resnet50-uniform8", 1, 0.0001),
        ("resnet18_size_0.75", 90, 0.01),
        ("resnet50-latency0.75", 90, 0.1),
        ("resnet18-bops0.5", 90, 1.0),
        ("resnet18-w4a4", 90, 1.0),
    ],
)
def test_published_hyperparameters(name: str, epochs: int, fraction: float) -> None:
    """What the publication says of each scheme."""
    found = recipe(name)
    assert (found.epochs, found.data_fraction) == (epochs, fraction)
    assert (found.learning_rate, found.batch_size, found.weight_decay, found.act_range_momentum) == (
        1e-4,
        128,
        1e-4,
        0.99,
    )
    settings = found.settings()
    assert (settings.epochs, settings.data_fraction, settings.learning_rate) == (epochs, fraction, 1e-4)


def test_changes_and_files(tmp_path: Path) -> None:
    """`key=value` changes a recipe, and a saved one reads back equal."""
    changed = recipe("resnet18-bops0.5").changed(["epochs=2", "learning_rate=1.0e-3", "fix_batch_norm=false"])
    assert (changed.epochs, changed.learning_rate, changed.fix_batch_norm) == (2, 1e-3, False)
    changed.save(tmp_path / "recipe.yaml")
    text = (tmp_path / "recipe.yaml").read_text()
    assert text.startswith("# bitwright zoo reproduce resnet18-bops0.5")
    assert parse_recipe(text, "file") == changed


def test_all_faults_are_named_together() -> None:
    """Unknown keys, wrong types and values out of range."""
    wrong = ["epoch=3", "batch_size=0", "seed=x", "data_fraction=1.5", "residual_bits=12", "momentum"]
    with pytest.raises(SchemeError) as caught:
        recipe("resnet18-bops0.5").changed(wrong)
    for part in (
        "expected KEY=VALUE, got 'momentum'",
        "unknown key 'epoch': did you mean 'epochs'?",
        "'batch_size' must be above 0, got 0",
        "'seed' must be of type int, got 'x'",
        "'data_fraction' must be above 0 and at most 1, got 1.5",
        "'residual_bits' must be 8 or 16, got 12",
    ):
        assert part in str(caught.value)
    with pytest.raises(SchemeError, match="missing key 'row'"):
        parse_recipe("epochs: 1", "x")
    with pytest.raises(SchemeError, match="expected a mapping in the recipe 'x', got list"):
        parse_recipe("- 1", "x")


def images(side: int = 32) -> ImageData:
    """Two classes of noise, one brighter than the other."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 2
    pixels = torch.randint(0, 128, (24, 3, side, side), generator=generator) + 100 * labels.reshape(-1, 1, 1, 1)
    mean, std = (0.5,) * 3, (0.25,) * 3
    made = InMemoryImages(pixels.to(torch.uint8), labels, mean=mean, std=std)
    return ImageData("noise", ("dark", "bright"), (3, side, side), made, made, mean, std, "a generator")


def network() -> Graph:
    """ResNet18 for small images."""
    torch.manual_seed(0)
    made = load_model("pytorchcv:resnet18", num_classes=2)
    made.features.final_pool = nn.AvgPool2d(1, stride=1)
    return capture(made, (3, 32, 32), name="pytorchcv:resnet18")


def test_float_rows_are_evaluated_as_they_are() -> None:
    """Nothing is trained, and images of another size are refused."""
    data, graph = images(), network()
    result = reproduce(recipe("resnet18"), graph, data)
    assert result.losses == ()
    assert result.accuracy == evaluate(FloatModel(graph).eval(), data.batches("test", 5))
    assert result.to_dict()["published"]["top1_percent"] == 71.47
    with pytest.raises(DataError, match="reads images of shape"):
        reproduce(recipe("resnet18-bops0.5"), graph, images(16))


@pytest.mark.slow
def test_reproduction(tmp_path: Path) -> None:
    """The recipe runs to the end; accuracy is that of the saved integer model, size and BOPs are recomputed."""
    data, graph = images(), network()
    short = recipe("resnet18-bops0.5").changed(["epochs=1", "batch_size=8", "data_fraction=0.5"])
    with pytest.warns(BitwrightWarning, match="24 calibration images are too few"):
        result = reproduce(short, graph, data, folder=tmp_path)
    assert result.row.top1 == 70.22
    assert result.training_images == (12, 24)
    assert len(result.losses) == 1
    integer = load_integer(tmp_path / "integer.safetensors")
    again = evaluate(lambda batch: logits(integer, batch), data.batches("test", 24))
    assert again == result.accuracy
    assert integer.scheme.name == "bops0.5"
    assert parse_recipe((tmp_path / "recipe.yaml").read_text(), "x") == short
    assert result.to_dict()["measured"]["images"] == 24
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml", "quantized.safetensors", "integer.safetensors"}
