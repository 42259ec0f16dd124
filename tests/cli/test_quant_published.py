# SPDX-License-Identifier: MIT
"""The command lines of the published document, on its networks: word for word, and from checkpoints as it wrote them."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitwright.cli import quant_start
from bitwright.cli.quant_train import main
from bitwright.data import load_data
from bitwright.graph import load_model
from bitwright.graph.pretrained import published_weights
from bitwright.graph.sources import image_size
from bitwright.integer import load_integer
from bitwright.training import load_trained
from cli.conftest import Command
from cli.quant_runs import ACCURACY, BEST, Run
from zoo.networks import trained

pytestmark = pytest.mark.slow

TRAIN = (
    "-a resnet50 --epochs 1 --lr 0.0001 --batch-size 128 --data /path/to/imagenet/ --pretrained --save-path "
    "/path/to/checkpoints/ --act-range-momentum=0.99 --wd 1e-4 --data-percentage 0.0001 --fix-BN --checkpoint-iter -1 "
    "--quant-scheme uniform8"
)
EVALUATE = (
    "-a resnet50 --epochs 90 --lr 0.0001 --batch-size 128 --data /path/to/imagenet/ --save-path /path/to/checkpoints/ "
    "--act-range-momentum=0.99 --wd 1e-4 --data-percentage 1 --checkpoint-iter -1 --quant-scheme bops_0.5 --resume "
    "/path/to/resnet50_bops0.5/checkpoint.pth.tar --resume-quantize -e"
)
"""Of the document, word for word; only `/path/to` and the network are replaced."""


def settled(arch: str, data: str, classes: int = 1000) -> torch.nn.Module:
    """A network with random weights whose batch norm knows the images: without, its activations explode."""
    torch.manual_seed(0)
    network = load_model(f"pytorchcv:{arch}", num_classes=classes)
    side = image_size(arch, network)
    images, _ = load_data(data, image_size=side).train.read(range(6))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(images)
    return network.eval()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, torch.nn.Module], None]:
    """`place(ARCH, NETWORK)`: save weights where `--pretrained` looks for pytorchcv's, under a digest that fits."""
    monkeypatch.setenv("HOME", str(tmp_path))
    from pytorchcv.models.common import model_store

    def put(arch: str, network: torch.nn.Module) -> None:
        torch.save(network.state_dict(), tmp_path / "weights")
        digest = hashlib.sha1((tmp_path / "weights").read_bytes()).hexdigest()
        monkeypatch.setattr(model_store, "get_model_name_suffix_data", lambda name: ("1739", digest, "v0.0.1"))
        path = published_weights("pytorchcv", arch).path
        path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "weights").rename(path)

    return put


def run(line: str, arch: str, root: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """A documented line, with `/path/to` under `root`."""
    capsys.readouterr()
    main(shlex.split(line.replace("/path/to", str(root)).replace("resnet50", arch)))
    return Run(root / "checkpoints", capsys.readouterr().out)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_the_documented_lines(
    arch: str,
    imagenette: Path,
    tmp_path: Path,
    place: Callable[[str, torch.nn.Module], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ten classes of photographs, enough that 0.0001 is one: training writes and validates, evaluation comes to its end."""
    monkeypatch.setattr(quant_start, "CALIBRATION_IMAGES", 64)  # 512 take minutes on a processor
    root = tmp_path / "to"
    (root / f"{arch}_bops0.5").mkdir(parents=True)
    imagenette.rename(root / "imagenet")
    for folder in (root / "imagenet" / "train").iterdir():
        for number in range(600):
            os.link(folder / "0.jpg", folder / f"again{number}.jpg")
    place(arch, settled(arch, f"imagefolder:{root / 'imagenet'}"))
    done = run(TRAIN, arch, root, capsys)
    assert "training on 1 of 6,030 images" in done.out
    assert "residual additions have 16 bits, as published" in done.out
    assert "Epoch: [0][0/1]" in done.out
    assert len(ACCURACY.findall(done.out)) == len(BEST.findall(done.out)) == 1
    assert {op.weight_bits for op in done.integer.layers().values()} == {8}
    assert done.checkpoint()[1].epoch == 1
    twin, _, _ = trained(arch, "bops0.5", 64)
    torch.save(twin.full_checkpoint(), root / f"{arch}_bops0.5" / "checkpoint.pth.tar")
    evaluated = run(EVALUATE, arch, root, capsys)
    assert len(ACCURACY.findall(evaluated.out)) == 1
    assert "Test: [0/1]" in evaluated.out


def test_a_published_checkpoint_goes_on(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--resume-quantize` and without, epoch, accuracy, momenta and ranges are those of the file, under any scheme."""
    twin, _, _ = trained("resnet18", "bops0.5", 64)
    content = twin.full_checkpoint()
    buffers = ("running_mean", "running_var", "num_batches_tracked", "scaling_factor", "_integer", "x_min", "x_max")
    weights = {name: value for name, value in content["state_dict"].items() if not name.endswith(buffers)}
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(value.float()) for value in weights.values()], lr=0.1, momentum=0.8, weight_decay=0.02
    )
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    content |= {"epoch": 7, "best_acc1": torch.tensor([99.5]), "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    common = f"-a resnet18 --data {photographs} -b 3 -j 0 --lr 1e-4 --fix-BN --resume {tmp_path}/checkpoint.pth.tar"
    kept = []
    for name, flags in (("with", "--resume-quantize"), ("without", ""), ("other", "--quant-scheme uniform4 --wd 0.5")):
        scheme = "" if "scheme" in flags else "--quant-scheme bops_0.5"
        main(shlex.split(f"{common} --save-path {tmp_path}/{name} --epochs 8 {scheme} {flags}"))
        printed = capsys.readouterr().out
        assert "(epoch 7), best Acc@1 99.500, momenta of 62 parameters" in printed
        assert "--momentum 0.8 is that of" in printed
        assert ("--wd 0.5 wins over the 0.02 of" in printed) == ("--wd" in flags)
        assert "Epoch: [7]" in printed
        assert "Best acc at epoch 7: 99.500" in printed
        assert "activation quantizers are those of the file" in printed
        found = load_trained(tmp_path / name / "checkpoint.safetensors")[1]
        assert found is not None
        assert (found.epoch, found.best_top1, found.momentum) == (8, 99.5, 0.8)
        assert not (tmp_path / name / "model_best.safetensors").exists()
        kept.append((tmp_path / name / "checkpoint.safetensors").read_bytes())
    assert kept[0] == kept[1] != kept[2]
    main(shlex.split(f"{common} --save-path {tmp_path}/plain -e --quant-scheme bops_0.5"))
    assert "activation quantizers are those of the file" in capsys.readouterr().out


def train_and_evaluate(
    arch: str,
    schemes: tuple[str, ...],
    photographs: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    weights: Path | None = None,
) -> None:
    """One short epoch under each scheme in turn, each resuming the one before; evaluation gives the same accuracy."""
    common = ["-a", arch, "--data", str(photographs), "--save-path", str(folder), "-j", "0", "-b", "3"]
    resume = [] if weights is None else ["--resume", str(weights)]
    for count, scheme in enumerate(schemes, 1):
        options = ["--quant-scheme", scheme, "--epochs", str(count), "--lr", "0.0001", "--fix-BN"]
        main([*common, *options, *resume])
        expected = ACCURACY.findall(capsys.readouterr().out)
        assert len(expected) == 1
        resume = ["--resume", str(folder / "checkpoint.safetensors"), "--resume-quantize"]
        main([*common, "--quant-scheme", scheme, *resume, "-e"])
        assert ACCURACY.findall(capsys.readouterr().out) == expected
        quantized = folder / "quantized_checkpoint.safetensors"
        main([*common, "--quant-scheme", scheme, "--resume", str(quantized), "-e"])
        assert ACCURACY.findall(capsys.readouterr().out) == expected
        bits = {op.weight_bits for op in load_integer(quantized).layers().values()}
        assert bits == ({8} if scheme == "uniform8" else {4, 8})


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_training_layer_by_layer(
    arch: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ResNet18 and ResNet50 train under each scheme, going on from the former's checkpoint."""
    train_and_evaluate(arch, ("uniform8", "size0.5", "uniform4"), photographs, tmp_path, capsys)


def test_inception(photographs: Path, tmp_path: Path, bitwright: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """InceptionV3 trains too, from float weights in a file; its size0.5, which nobody published, comes from a search."""
    data = f"imagefolder:{photographs}"
    weights, graph, sensitivities, scheme = (
        tmp_path / name for name in ("w.pth", "graph", "sensitivities", "size.yaml")
    )
    torch.save(settled("inceptionv3", data, 2).state_dict(), weights)
    named = ("--weights", weights, "--data", data, "-o", graph)
    assert bitwright("capture", "pytorchcv:inceptionv3", *named).status == 0
    assert bitwright("sensitivity", graph, "--data", data, "--max-probes", 2, "-o", sensitivities).status == 0
    assert bitwright("allocate", graph, sensitivities, "size0.5", "-o", scheme).status == 0
    capsys.readouterr()
    train_and_evaluate("inceptionv3", ("uniform8", str(scheme), "uniform4"), photographs, tmp_path, capsys, weights)
