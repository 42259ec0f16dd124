# SPDX-License-Identifier: MIT
"""The published rows and bits, as data of the package."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from bitwright.errors import SchemeError, UnknownNameError
from bitwright.scheme import Precision
from bitwright.zoo import configurations, networks, published_scheme, row, rows


def test_all_rows_are_there() -> None:
    """27 rows: twelve of ResNet18 and of ResNet50, and three float ones."""
    assert Counter(published.model for published in rows()) == {
        "resnet18": 12,
        "resnet50": 12,
        "resnet101": 1,
        "resnet101b": 1,
        "inceptionv3": 1,
    }
    assert len({published.name for published in rows()}) == len({published.drive_id for published in rows()}) == 27
    assert {published.model for published in rows()} == set(networks())


def test_every_quantized_row_has_its_bits() -> None:
    """The 22 quantized rows and ten further configurations; float rows have none."""
    quantized = {(published.model, published.scheme) for published in rows() if not published.is_float}
    assert len(quantized) == 22
    assert quantized < set(configurations())
    assert len(configurations()) == 32
    assert {model for model, _ in set(configurations()) - quantized} == {
        "resnet50b",
        "resnet101",
        "inceptionv3",
        "mobilenetv2_w1",
    }


def test_figures_of_a_row() -> None:
    """One row, read from the published table by eye."""
    published = row("resnet50-latency0.5")
    assert (published.size_mb, published.bops_g, published.speedup, published.top1) == (18.5, 155, 3.75, 74.95)
    assert published.archive == "resnet50_latency0.5.tar.gz"
    assert published.link == "https://drive.google.com/file/d/1GbviN74Z806jyDusohusEjgKuqIyAc5s/view?usp=sharing"


def test_links_and_archives() -> None:
    """Every row names its archive and a Google Drive file."""
    for published in rows():
        assert published.archive == f"{published.model}_{published.scheme}.tar.gz"
        assert re.fullmatch(r"[0-9A-Za-z_-]{33}", published.drive_id)


def test_first_and_last_layers_have_eight_bits() -> None:
    """Every configuration keeps the stem and the classifier at W8A8, and has only 4 and 8 bits in between."""
    for model, name in configurations():
        precisions = list(published_scheme(model, name).layers.values())
        assert precisions[0] == precisions[-1] == Precision(8, 8)
        assert set(precisions) <= {Precision(4, 4), Precision(8, 8)}


def test_tied_layers_have_equal_bits() -> None:
    """A downsample convolution has the bits of the first one of its block, whose input it reads."""
    for model, name in configurations():
        layers = published_scheme(model, name).layers
        for layer, precision in layers.items():
            if "identity_conv" in layer:
                assert precision == layers[layer.replace("identity_conv", "body.conv1")]


def test_the_bits_of_one_scheme() -> None:
    """The nine 4-bit layers of ResNet18 bops0.5, by the names of the captured model."""
    layers = published_scheme("resnet18", "bops_0.5").layers
    assert [layer for layer, precision in layers.items() if precision == Precision(4, 4)] == [
        "features.stage1.unit2.body.conv2.conv",
        "features.stage2.unit2.body.conv2.conv",
        "features.stage3.unit2.body.conv1.conv",
        "features.stage3.unit2.body.conv2.conv",
        "features.stage4.unit1.body.conv1.conv",
        "features.stage4.unit1.body.conv2.conv",
        "features.stage4.unit1.identity_conv.conv",
        "features.stage4.unit2.body.conv1.conv",
        "features.stage4.unit2.body.conv2.conv",
    ]


def test_order_of_the_graph(zoo_graph) -> None:
    """With the layers of a graph, the scheme follows its order, and other layers are refused."""
    graph = zoo_graph("resnet18")
    scheme = published_scheme("ResNet18", "W4A4", layers=graph.layers, residual_bits=16)
    assert list(scheme.layers) == list(graph.layers)
    assert scheme.residual_bits == 16
    with pytest.raises(SchemeError, match="does not fit the model"):
        published_scheme("resnet50", "W4A4", layers=graph.layers)


def test_refusals() -> None:
    """Unknown networks and schemes are refused by name; a float row says that it has no bits."""
    with pytest.raises(UnknownNameError, match="unknown network with published bits 'vgg16'"):
        published_scheme("vgg16", "uniform8")
    with pytest.raises(UnknownNameError, match=r"unknown published scheme of resnet50b 'bops0.5'.*uniform4, uniform8"):
        published_scheme("resnet50b", "bops0.5")
    with pytest.raises(UnknownNameError, match="the baseline of resnet18 is float"):
        published_scheme("resnet18", "baseline")
