# SPDX-License-Identifier: MIT
"""The networks of `benchmarks/networks.yaml` go the whole way, as `benchmarks/networks.py` measures it."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SAMPLE = (
    "torchvision:squeezenet1_1",
    "torchvision:shufflenet_v2_x0_5",
    "pytorchcv:resnet20_cifar10",
    "pytorchcv:nin_cifar10",
    "pytorchcv:regnetx002",
    "pytorchcv:resneta10",
    "pytorchcv:resnetabc14b",
    "pytorchcv:resnetbc14b",
    "pytorchcv:linknet_cityscapes",
    "pytorchcv:darknet_ref",
    "pytorchcv:sepreresnet10",
    "pytorchcv:dla46c",
    "timm:lcnet_050",
    "timm:starnet_s050",
    "timm:tf_mobilenetv3_small_minimal_100",
)
"""Quick ones, of each source: gates, hard-swish, shuffled channels, trees of sums, a segmenter among them."""
PEERS = ("torchvision:squeezenet1_1", "timm:lcnet_050")


sys.path.append(str(BENCHMARKS))  # where the processes that it starts find it as well
networks = importlib.import_module("networks")


def test_the_list_is_long_and_its_names_exist() -> None:
    """At least 150 networks in scope, 60 of pytorchcv and 50 of timm; none twice; those out of scope have a reason."""
    from pytorchcv.model_provider import _models
    from torchvision import models

    named = networks.names()
    every = [*named, *(name for listed in networks.outside().values() for name in listed)]
    assert len(every) == len(set(every))
    assert len(named) >= 150
    sources = {source: [name.partition(":")[2] for name in every if name.startswith(source)] for source in
               ("torchvision", "pytorchcv", "timm")}  # fmt: skip
    assert len(sources["pytorchcv"]) >= 60
    assert len(sources["timm"]) >= 50
    assert set(sources["torchvision"]) <= set(models.list_models())
    assert set(sources["pytorchcv"]) <= set(_models)
    if find_spec("timm") is not None:
        import timm

        assert set(sources["timm"]) <= set(timm.list_models())
    assert set(SAMPLE) <= set(named)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_goes_the_whole_way(name: str) -> None:
    """Captured, W8A8 and W4A4, lowered, equal in ONNX Runtime at batch 1, 2 and 5, and as near to float as its own quantizer."""
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    row = networks.measure(name, peer=name in PEERS)
    assert "error" not in row, row
    assert networks.exact(row)
    assert row["layers"] > 5
    assert name not in PEERS or row["W8A8"]["sqnr_db"] > row["onnxruntime"]["sqnr_db"] - 3


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_at_least_95_percent_of_all_networks_are_exact() -> None:
    """The whole list; none that is lowered has another integer."""
    rows = [networks.measure(name) for name in networks.names()]
    assert all(
        row.get(precision, {"differing": 0})["differing"] == 0 for row in rows for precision in networks.PRECISIONS
    )
    assert sum(map(networks.exact, rows)) >= 0.95 * len(rows)


def test_the_command_keeps_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that takes too long is a row; a row that is there is not measured again, unless this is asked for."""
    results, docs = tmp_path / "networks.json", tmp_path / "networks.md"
    command = ["networks.py", "--only", "^timm:lcnet_050$", "--json", str(results), "--docs", str(docs)]
    monkeypatch.setattr(networks, "PRELOADED", ())
    monkeypatch.setattr(sys, "argv", [*command, "--limit", "0.01"])
    networks.main()
    row = json.loads(results.read_text())["networks"]["timm:lcnet_050"]
    assert (row["step"], row["error"]) == ("time", "not done after 0 s")
    made = {"step": "", "seconds": 1.0, "layers": 9, "size": 32}
    made |= {"W8A8": {"differing": 0, "sqnr_db": 30.0}, "W4A4": {"differing": 0, "sqnr_db": 10.0}}
    monkeypatch.setattr(networks, "_in_process", lambda name, limit: {"network": name, **made})
    networks.main()
    assert "**0 of 1 networks" in docs.read_text()
    monkeypatch.setattr(sys, "argv", [*command, "--again"])
    networks.main()
    text = docs.read_text()
    assert "**1 of 1 networks (100.0 %) go the whole way**" in text
    assert "| lcnet_050 | 32 | 9 | yes | equal | equal | 30.0 | 10.0 |  | 1.0 |" in text
    assert all(reason in text for reason in networks.outside())
