# SPDX-License-Identifier: MIT
"""All spellings of a scheme or a row mean the same one, and published module names lead to the captured layers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.errors import UnknownNameError
from bitwright.zoo import configurations, layer_name, published_modules, row, row_name, rows, scheme_name

NETWORKS = sorted({model for model, _ in configurations()})
FAST_NETWORKS = {"resnet18"}


@pytest.mark.parametrize(
    ("canonical", "spellings"),
    [
        (
            "size0.5",
            ["size0.5", "size_0.5", "modelsize_0.5", "ModelSize-0.50", "size.5", "Mixed Precision Medium Size"],
        ),
        ("bops0.25", ["bops0.25", "bops_0.25", "BOPS 0.25", "Low BOPS"]),
        ("latency0.75", ["latency0.75", "latency_0.75", "High Latency"]),
        ("uniform8", ["uniform8", "uniform_8", "W8A8", "w8a8"]),
        ("uniform4", ["uniform4", "W4A4", "w4_a4"]),
        ("baseline", ["baseline", "Floating Points", "float", "FP32"]),
    ],
)
def test_spellings(canonical: str, spellings: list[str]) -> None:
    """People type what they read in the table, in the files and in the papers."""
    assert {scheme_name(text) for text in spellings} == {canonical}


@pytest.mark.parametrize("text", ["size", "size5", "size1.5", "w4a8", "uniform", "bops_", "", "w44a8", "median size"])
def test_unknown_schemes(text: str) -> None:
    """What is no scheme is refused, with examples of schemes."""
    with pytest.raises(UnknownNameError, match=r"expected a scheme such as .*, got '"):
        scheme_name(text)


@given(st.sampled_from(configurations()), st.sampled_from(["", "_", "-", " "]), st.booleans())
def test_canonical_names_are_fixed_points(configuration: tuple[str, str], separator: str, upper: bool) -> None:
    """Separators and case change nothing, and a canonical name is its own."""
    _, name = configuration
    kind = name.rstrip("0123456789.")
    text = kind + separator + name.removeprefix(kind)
    assert scheme_name(text.upper() if upper else text) == name == scheme_name(name)


def test_row_names() -> None:
    """Every row is found by its name, its archive's, and its configuration's key."""
    for published in rows():
        key = f"bit_config_{published.model}_{published.scheme.replace('size', 'modelsize_').replace('bops', 'bops_')}"
        for text in (published.name, published.archive, published.archive.removesuffix(".tar.gz"), key):
            assert row(text) is published
    assert row("resnet18") is row("ResNet18-float")


@pytest.mark.parametrize("text", ["vgg16-uniform8", "uniform8", "resnet", "resnet18x-uniform8"])
def test_unknown_rows(text: str) -> None:
    """A row needs a model of the zoo."""
    with pytest.raises(UnknownNameError, match="expected a row of the zoo as MODEL-SCHEME"):
        row_name(text)


def test_a_row_that_does_not_exist_lists_those_that_do() -> None:
    """Configurations without a row are no rows."""
    with pytest.raises(UnknownNameError, match=r"unknown row of the zoo 'resnet101-uniform8': did you mean"):
        row("resnet101-uniform8")


@pytest.mark.parametrize(
    "model", [pytest.param(model, marks=[pytest.mark.slow] * (model not in FAST_NETWORKS)) for model in NETWORKS]
)
def test_published_modules_are_the_captured_layers(model: str, zoo_graph) -> None:
    """The published names of each network map one to one to the layers of its captured graph."""
    layers = [layer_name(module) for module in published_modules(model)]
    assert len(layers) == len(set(layers))
    assert set(layers) == set(zoo_graph(model).layers)


@pytest.mark.parametrize("module", ["quant_act", "stage1.unit1.quant_act1", "features.stage1.unit1.quant_act", "x"])
def test_modules_without_weights(module: str) -> None:
    """Activation quantizers are no layers."""
    with pytest.raises(UnknownNameError, match="expected the published name of a layer"):
        layer_name(module)
