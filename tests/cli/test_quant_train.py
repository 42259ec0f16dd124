# SPDX-License-Identifier: MIT
"""The documented command line, on image folders in ImageNet's layout."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitwright.cli import quant_train
from bitwright.cli.quant_flags import parse, parser
from bitwright.cli.quant_train import main
from bitwright.data import load
from bitwright.graph import load_model
from bitwright.graph.sources import image_size
from bitwright.integer.reader import load_integer
from bitwright.training import load_quantized
from cli.conftest import Command

FLAGS = """
-a --teacher-arch -j --epochs --start-epoch -b --lr --momentum --wd -p --resume -e --pretrained --world-size --rank --dist-url
--dist-backend --seed --gpu --multiprocessing-distributed --act-range-momentum --quant-mode --save-path --data-percentage
--fix-BN --fix-BN-threshold --checkpoint-iter --evaluate-times --quant-scheme --resume-quantize --act-percentile
--weight-percentile --channel-wise --bias-bit --distill-method --distill-alpha --temperature --fixed-point-quantization --data
"""
ACCURACY = re.compile(r" \* Acc@1 ([\d.]+) Acc@5 ([\d.]+) of the integer model on ([\d,]+) images")


def test_every_flag_of_the_published_parser_is_known() -> None:
    """All names are there, the long ones of the document too."""
    known = {option for action in parser()._actions for option in action.option_strings}
    assert set(FLAGS.split()) <= known
    assert {"--arch", "--workers", "--batch-size", "--weight-decay", "--evaluate", "--learning-rate"} <= known


def test_the_documented_commands_parse() -> None:
    """Both command lines, word for word, give what they say."""
    train = (
        "-a resnet50 --epochs 1 --lr 0.0001 --batch-size 128 --data /path/to/imagenet/ --pretrained --save-path "
        "/path/to/checkpoints/ --act-range-momentum=0.99 --wd 1e-4 --data-percentage 0.0001 --fix-BN --checkpoint-iter -1 "
        "--quant-scheme uniform8"
    )
    flags = parse(train.split())
    assert (flags.arch, flags.epochs, flags.lr, flags.batch_size, flags.fix_bn) == ("resnet50", 1, 1e-4, 128, True)
    assert (flags.act_range_momentum, flags.weight_decay, flags.checkpoint_iter) == (0.99, 1e-4, -1)
    evaluate = (
        "-a resnet50 --epochs 90 --lr 0.0001 --batch-size 128 --data /path/to/imagenet/ --save-path /path/to/checkpoints/ "
        "--act-range-momentum=0.99 --wd 1e-4 --data-percentage 1 --checkpoint-iter -1 --quant-scheme bops_0.5 --resume "
        "/path/to/resnet50_bops0.5/checkpoint.pth.tar --resume-quantize -e"
    )
    flags = parse(evaluate.split())
    assert (flags.quant_scheme, flags.resume_quantize, flags.evaluate) == ("bops_0.5", True, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--gpu 1", "CUDA_VISIBLE_DEVICES=1 python quant_train.py"),
        ("--world-size 2", "accelerate launch quant_train.py"),
        ("--rank 0", "accelerate launch"),
        ("--dist-url tcp://localhost", "accelerate launch"),
        ("--dist-backend gloo", "accelerate launch"),
        ("--multiprocessing-distributed", "accelerate launch"),
        ("--quant-mode asymmetric", "there are no zero points"),
        ("--weight-percentile 99", "bitwright train --ranges learned"),
        ("--bias-bit 16", "biases are int32"),
        ("--act-range-momentum 2", r"must lie in \[0, 1\)"),
        ("--resume-quantize", "says what the file of --resume is"),
    ],
)
def test_what_has_moved_is_refused(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that is not honoured says what to use instead; the status is 2."""
    with pytest.raises(SystemExit) as stopped:
        parse(["--data", "somewhere", *given.split()])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def accuracy(text: str) -> tuple[str, ...]:
    """Top-1, top-5 and images of the last line that reports them."""
    return ACCURACY.findall(text)[-1]


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
    for scheme in schemes:
        options = ["--quant-scheme", scheme, "--epochs", "1", "--lr", "0.0001", "--fix-BN"]
        main([*common, *options, *resume])
        trained = accuracy(capsys.readouterr().out)
        assert trained[2] == "4"
        resume = ["--resume", str(folder / "checkpoint.safetensors"), "--resume-quantize"]
        main([*common, "--quant-scheme", scheme, *resume, "-e"])
        assert accuracy(capsys.readouterr().out) == trained
        main([*common, "--quant-scheme", scheme, "--resume", str(folder / "model.safetensors"), "-e"])
        assert accuracy(capsys.readouterr().out) == trained
        bits = {op.weight_bits for op in load_integer(folder / "model.safetensors").layers().values()}
        assert bits == ({8} if scheme == "uniform8" else {4, 8})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "schemes"),
    [
        ("resnet18", ("uniform8", "size0.5", "uniform4")),
        ("resnet50", ("uniform8", "size0.5", "uniform4")),
    ],
)
def test_training_layer_by_layer(
    arch: str, schemes: tuple[str, ...], photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ResNet18 and ResNet50 train under each scheme, going on from the former's checkpoint."""
    train_and_evaluate(arch, schemes, photographs, tmp_path, capsys)


@pytest.mark.slow
def test_inception(photographs: Path, tmp_path: Path, bitwright: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """InceptionV3 trains too, from float weights in a file; its size0.5, which nobody published, comes from a search."""
    data = f"imagefolder:{photographs}"
    weights, graph, sensitivities, scheme = (
        tmp_path / name for name in ("w.pth", "graph", "sensitivities", "size.yaml")
    )
    torch.save(settled("inceptionv3", data).state_dict(), weights)
    named = ("--weights", weights, "--data", data, "-o", graph)
    assert bitwright("capture", "pytorchcv:inceptionv3", *named).status == 0
    assert bitwright("sensitivity", graph, "--data", data, "--max-probes", 2, "-o", sensitivities).status == 0
    assert bitwright("allocate", graph, sensitivities, "size0.5", "-o", scheme).status == 0
    capsys.readouterr()
    train_and_evaluate("inceptionv3", ("uniform8", str(scheme), "uniform4"), photographs, tmp_path, capsys, weights)


def settled(arch: str, data: str) -> torch.nn.Module:
    """A network with random weights whose batch norm knows the images: without, its activations explode."""
    network = load_model(f"pytorchcv:{arch}", num_classes=2)
    side = image_size(arch, network)
    images, _ = load(data, image_size=side).train.read(range(6))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def test_a_scheme_that_nobody_published(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused with the commands that search it, before anything is trained."""
    common = ["-a", "resnet18", "--data", str(photographs), "--save-path", str(tmp_path / "out")]
    for given, message in (
        (
            "size0.4",
            r"'size0.4':.* Known: .* uniform4, uniform8\. Search one with: bitwright capture pytorchcv:resnet18 .*",
        ),
        ("modelsize_0.4", r"bitwright allocate resnet18.graph \S+ size0.4 -o \S+; then train with --quant-scheme \S+"),
        ("latency", r"expected a scheme such as .* Or name a scheme's file\."),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*common, "--quant-scheme", given])
        assert stopped.value.code == 1
        assert re.search(message, capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "out").exists()


def test_training_and_evaluation(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ResNet18 trains for one step at W4A4, and is evaluated in integers."""
    train_and_evaluate("resnet18", ("uniform4",), photographs, tmp_path, capsys)


@pytest.mark.slow
def test_an_interrupted_training_goes_on(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in its second epoch, it says how to go on, and ends then with the very weights it would have had."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    common = ["-a", "resnet18", "--data", str(photographs), "-j", "0", "-b", "2", "--epochs", "2", "--lr", "0.0001"]
    common += ["--quant-scheme", "w4a4", "--checkpoint-iter", "1", "--fix-BN-threshold", "1"]
    main([*common, "--save-path", str(whole)])

    def stopping(progress: object, every: int) -> Callable[..., None]:
        def tell(done: int, total: int, /, **figures: float) -> None:
            if done == 5:
                raise KeyboardInterrupt

        return tell

    with monkeypatch.context() as patched:
        patched.setattr(quant_train, "told", stopping)
        with pytest.raises(SystemExit, match="130"):
            main([*common, "--save-path", str(parted)])
    line = capsys.readouterr().err.splitlines()[-1]
    words = shlex.split(line.removeprefix("interrupted: go on with: "))
    assert words[:2] == ["python", "quant_train.py"]
    main(words[2:])
    ended, expected = (load_quantized(path / "checkpoint.safetensors").state_dict() for path in (parted, whole))
    assert all(torch.equal(value, ended[name]) for name, value in expected.items())


def test_weights_that_cannot_be_downloaded(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--pretrained` without a network says what was tried and where to put the file, and exits with 1."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        main(["-a", "resnet18", "--data", str(photographs), "--pretrained"])
    assert stopped.value.code == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("DataError: "))
    assert "tried https://github.com/osmr/imgclsmob" in line
    assert f"save it unpacked as '{tmp_path}/.torch/models/resnet18-" in line
    assert "--resume FILE" in line


def test_mistakes_cost_one_line(tmp_path: Path) -> None:
    """The script itself: a missing folder ends it with one line and status 1."""
    script = Path(__file__).parents[2] / "quant_train.py"
    command = [sys.executable, str(script), "-a", "resnet18", "--data", str(tmp_path / "none")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("UnknownNameError: unknown data set")
    assert ended.stderr.count("\n") == 1
