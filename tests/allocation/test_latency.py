# SPDX-License-Identifier: MIT
"""Latency tables and layer shapes: files come back as they were, names go before shapes, what is missing is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bitwright.allocation import ConvShape, LatencyTable, LinearShape, layer_shapes, parse_shape
from bitwright.errors import FileFormatError, UnknownNameError
from bitwright.scheme import Precision
from graph.networks import captured

W4, W8 = Precision(4, 4), Precision(8, 8)
COUNTS = st.integers(0, 9999)
PAIRS = st.tuples(COUNTS, COUNTS)
CONVOLUTIONS = st.builds(ConvShape, COUNTS, COUNTS, PAIRS, PAIRS, PAIRS, PAIRS, COUNTS, PAIRS)
SHAPES = st.one_of(CONVOLUTIONS, st.builds(LinearShape, COUNTS, COUNTS))
PRECISIONS = st.builds(Precision, st.integers(2, 8), st.integers(2, 8))
LATENCIES = st.dictionaries(PRECISIONS, st.floats(0, 1e6), min_size=1, max_size=4)
NAMES = st.text(min_size=1, max_size=8)
TABLES = st.builds(
    LatencyTable,
    NAMES,
    NAMES,
    st.integers(1, 64),
    st.dictionaries(SHAPES, LATENCIES, max_size=4),
    st.dictionaries(NAMES, LATENCIES, max_size=4),
    st.lists(NAMES, max_size=2).map(tuple),
    st.text(max_size=8),
)


@given(SHAPES)
def test_a_shape_is_read_back_from_its_text(shape: ConvShape | LinearShape) -> None:
    """`parse_shape` is the inverse of `str`."""
    assert parse_shape(str(shape)) == shape


@pytest.mark.parametrize("text", ["", "conv2d", "linear 3", "linear ٣->4", "linear 3->4 ", "conv3d 1->2"])
def test_other_texts_are_no_shapes(text: str) -> None:
    """What is none is refused with an example of both."""
    with pytest.raises(FileFormatError, match=r"expected a layer shape such as 'conv2d .*' or 'linear 512->1000'"):
        parse_shape(text)


@given(TABLES)
def test_a_table_is_read_back_from_json(table: LatencyTable) -> None:
    """Every number comes back to the last bit, through text."""
    assert LatencyTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_shapes_of_a_network() -> None:
    """A strided, grouped, dilated convolution and a matrix product, as the graph holds them."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=2, padding=(1, 2)),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4),
        nn.Flatten(),
        nn.Linear(128, 7),
    )
    shapes = list(layer_shapes(captured(network)).values())
    assert shapes == [
        ConvShape(3, 8, (3, 5), (2, 2), (1, 2), (1, 1), 1, (8, 8)),
        ConvShape(8, 8, (3, 3), (1, 1), (2, 2), (2, 2), 4, (4, 4)),
        LinearShape(128, 7),
    ]


def test_look_up() -> None:
    """A layer's own time goes before that of its shape; layers left out on purpose take no time; the rest is missing, by name."""
    shape = LinearShape(3, 4)
    table = LatencyTable("a device", "an engine", 1, {shape: {W4: 1.0, W8: 2.0}}, {"head": {W8: 9.0}}, ("stem",))
    shapes = dict.fromkeys(("stem", "body", "head"), shape)
    found = table.lookup(shapes, dict.fromkeys(shapes, (W4, W8)))
    assert found == {"stem": {W4: 0.0, W8: 0.0}, "body": {W4: 1.0, W8: 2.0}, "head": {W4: 1.0, W8: 9.0}}
    with pytest.raises(UnknownNameError, match=r"a device \(an engine\) lacks 'linear 3->4' \(layer 'body'\) at W2A2"):
        table.lookup(shapes, {"body": (Precision(2, 2), W4)})


GOOD: dict[str, Any] = {"device": "d", "engine": "e", "batch": 1, "unit": "ms", "entries": []}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"unit": "s"}, "'unit' must be ms, got 's'"),
        ({"batch": 0}, "'batch' must be a whole number of at least 1, got 0"),
        ({"batch": True}, "'batch' must be a whole number of at least 1, got True"),
        ({"entries": {}}, "'entries' must be a list, got dict"),
        ({"speed": 1}, "unknown key 'speed'"),
        ({"entries": [{"layer": "a"}]}, "entry 0: expected 'latency_ms' and either 'layer' or 'shape', got layer"),
        ({"entries": [{"layer": "a", "latency_ms": {"W4A4": "fast"}}]}, "entry 0: 'latency_ms' at W4A4 must be a number"),
        ({"entries": [{"layer": "a", "latency_ms": {"W9A4": 1}}]}, "entry 0: weight bits must be 2 to 8, got 9"),
        ({"entries": [{"layer": "a", "latency_ms": {"W4A4": 1}}] * 2}, "entry 1: 'a' appears twice"),
        ({"entries": [{"layer": "a", "latency_ms": {"W4A4": -1}}]}, "'a' takes -1.0 ms at W4A4; expected a finite number"),
        ({"entries": [{"layer": "a", "latency_ms": {"W4A4": float("nan")}}]}, "'a' takes nan ms at W4A4"),
    ],
)  # fmt: skip
def test_faults_of_a_table(change: dict[str, Any], fault: str, tmp_path: Path) -> None:
    """Each fault of a file is told with its place."""
    path = tmp_path / "table.json"
    path.write_text(json.dumps(GOOD | change), encoding="utf-8")
    with pytest.raises(FileFormatError) as error:
        LatencyTable.load(path)
    assert fault in str(error.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    """A missing file, no JSON, a list: one line with the path."""
    with pytest.raises(FileFormatError, match=r"cannot read a latency table from '.*missing'"):
        LatencyTable.load(tmp_path / "missing")
    for text, fault in (("{", "cannot read a latency table"), ("[]", "expected a mapping, got list")):
        (tmp_path / "table.json").write_text(text)
        with pytest.raises(FileFormatError, match=fault):
            LatencyTable.load(tmp_path / "table.json")
