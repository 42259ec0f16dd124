# SPDX-License-Identifier: MIT
"""The documented command line, on image folders in ImageNet's layout."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitwright.cli import quant_train
from bitwright.cli.quant_flags import parse, parser
from bitwright.cli.quant_train import main
from bitwright.integer import IntegerModel
from bitwright.training import load_quantized

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
    arch: str, schemes: tuple[str, ...], photographs: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One short epoch under each scheme in turn, each resuming the one before; evaluation gives the same accuracy."""
    common = ["-a", arch, "--data", str(photographs), "--save-path", str(folder), "-j", "0", "-b", "3"]
    resume: list[str] = []
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
        bits = {op.weight_bits for op in IntegerModel.load(folder / "model.safetensors").layers().values()}
        assert bits == {"uniform8": {8}, "size0.5": {4, 8}, "uniform4": {4, 8}}[scheme]


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


def test_training_and_evaluation(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ResNet18 trains for one step at W4A4, and is evaluated in integers."""
    train_and_evaluate("resnet18", ("uniform4",), photographs, tmp_path, capsys)


@pytest.mark.slow
def test_an_interrupted_training_goes_on(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its second epoch and resumed, training ends with the very weights it would have had."""
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
        with pytest.raises(KeyboardInterrupt):
            main([*common, "--save-path", str(parted)])
    main([*common, "--save-path", str(parted), "--resume", str(parted / "training.state")])
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
