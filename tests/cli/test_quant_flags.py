# SPDX-License-Identifier: MIT
"""The flags of the documented command line: all are known, some have moved, and what surprises is said."""

from __future__ import annotations

import os
import re

import pytest

from bitwright.cli.quant_flags import parse, parser
from bitwright.cli.quant_train import choose_gpu, notes, settings_of
from bitwright.errors import UnknownNameError
from bitwright.training import Schedule

FLAGS = """
-a --teacher-arch -j --epochs --start-epoch -b --lr --momentum --wd -p --resume -e --pretrained --world-size --rank --dist-url
--dist-backend --seed --gpu --multiprocessing-distributed --act-range-momentum --quant-mode --save-path --data-percentage
--fix-BN --fix-BN-threshold --checkpoint-iter --evaluate-times --quant-scheme --resume-quantize --act-percentile
--weight-percentile --channel-wise --bias-bit --distill-method --distill-alpha --temperature --fixed-point-quantization --data
"""
DEFAULTS = {
    "arch": "resnet18", "teacher_arch": "resnet101", "workers": 4, "epochs": 90, "start_epoch": 0, "batch_size": 1, "lr": 0.1,
    "momentum": 0.9, "weight_decay": 1e-4, "print_freq": 10, "resume": None, "evaluate": False, "pretrained": False, "gpu": None,
    "act_range_momentum": -1.0, "quant_mode": "symmetric", "data_percentage": 1.0, "fix_bn": False, "fix_bn_threshold": None,
    "checkpoint_iter": -1, "evaluate_times": -1, "quant_scheme": "uniform4", "resume_quantize": False, "act_percentile": 0.0,
    "weight_percentile": 0.0, "channel_wise": False, "bias_bit": 32, "distill_method": "None", "distill_alpha": 0.95,
    "temperature": 6.0, "fixed_point_quantization": False,
}  # fmt: skip
"""Of the published command."""


def test_every_flag_of_the_published_parser_is_known() -> None:
    """All names are there, the long ones of the document too, with the published defaults."""
    known = {option for action in parser()._actions for option in action.option_strings}
    assert set(FLAGS.split()) <= known
    assert {"--arch", "--workers", "--batch-size", "--weight-decay", "--evaluate", "--learning-rate"} <= known
    flags = vars(parse(["--data", "somewhere"]))
    assert {name: flags[name] for name in DEFAULTS} == DEFAULTS
    assert flags["save_path"].as_posix() == "checkpoints/imagenet/test"
    assert flags["given"] == {"data"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--world-size 2", "torchrun --nproc-per-node N quant_train.py"),
        ("--rank 0", "torchrun"),
        ("--dist-url tcp://localhost", "torchrun"),
        ("--dist-backend gloo", "torchrun"),
        ("--multiprocessing-distributed", "torchrun"),
        ("--quant-mode unsigned", "invalid choice: 'unsigned'"),
        ("--weight-percentile 101", "at least 0 and at most 100, got '101'"),
        ("--act-percentile -1", "at least 0 and at most 100, got '-1'"),
        ("--bias-bit 0", "at least 2 and at most 32, got '0'"),
        ("--act-range-momentum 2", "at least -1 and at most 1, got '2'"),
        ("--act-range-momentum=-0.5", r"must lie in \[0, 1\], or be -1, got -0.5"),
        ("--print-freq 0", "at least 1, got '0'"),
        ("--data-percentage 1.5", "at least 0 and at most 1, got '1.5'"),
        ("--residual-bits 4", "expected 8 or 16, got '4'"),
        ("--resume-quantize", "says what the file of --resume is"),
        ("--temperature 0", "must be above 0, got 0"),
        ("--distill-method KD_fancy", "invalid choice: 'KD_fancy'"),
        ("--distill-method KD_naive", "a teacher without weights teaches noise: add --pretrained"),
        ("--distill-method KD_naive --resume x.pth.tar", "a teacher without weights teaches noise"),
        ("--resume elsewhere/training.state", "goes on in its own folder: --save-path elsewhere"),
        ("--save-path here --resume here/training.state -e", "-e evaluates a model"),
    ],
)
def test_what_is_not_honoured_is_refused(given: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what to use; the status is 2."""
    with pytest.raises(SystemExit) as stopped:
        parse(["--data", "somewhere", *given.split()])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed)
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "--batch-size 1 is the published default, slow and noisy: the model zoo was trained with 128"),
        ("--data-percentage 0.5 --seed 3", "--data-percentage 0.5: the same part of every class, drawn with --seed 3"),
        ("--quant-mode asymmetric", "tensors that can be negative get the integers around their range"),
        ("--channel-wise", "each layer has one"),
        ("--act-percentile 99.9", "ranges follow that of each batch"),
        ("--weight-percentile 99", "of layers with batch norm"),
        ("--bias-bit 8", "biases are clamped to 8 bits"),
        ("--fixed-point-quantization", "validated with the scales as they are"),
        ("--checkpoint-iter 5", "checkpoints/imagenet/test/training.state is written after as many steps, too"),
        ("--recipe modern", "one cosine to zero, Nesterov"),
        ("--distill-method KD_naive --pretrained", "--distill-scale image: the teacher's part is averaged over images"),
        ("--distill-method KD_naive --pretrained --distill-scale published", "over images and classes, as published"),
    ],
)
def test_what_surprises_is_said(given: str, message: str) -> None:
    """A flag whose effect is another than one would think says what it does, and only if it was given."""
    quiet = ["--data", "somewhere", "-b", "128"]
    assert not list(notes(parse(quiet)))
    arguments = ["--data", "somewhere", *given.split()] if not given else [*quiet, *given.split()]
    (line,) = notes(parse(arguments))
    assert message in line


def test_the_optimizer_is_the_published_one() -> None:
    """Steps of the rate, plain momentum, decay of all parameters, every image; `--recipe modern` is ours."""
    from bitwright.cli.quant_start import Begun

    given = "--data somewhere --lr 0.2 --momentum 0.8 --wd 0.003 --epochs 7 -b 5 --seed 4 -j 2 --data-percentage 0.5"
    start, said = Begun(graph=None), list[str]()  # type: ignore[arg-type]
    found, begun = settings_of(start, parse(given.split()), said.append)  # type: ignore[arg-type]
    assert (found.learning_rate, found.momentum, found.weight_decay, found.epochs, begun) == (0.2, 0.8, 0.003, 7, 0)
    assert (found.batch_size, found.seed, found.workers, found.data_fraction) == (5, 4, 2, 0.5)
    assert (found.schedule, found.nesterov, found.decay_all, found.drop_last) == (Schedule.STEP, False, True, False)
    modern = settings_of(start, parse([*given.split(), "--recipe", "modern"]), said.append)[0]  # type: ignore[arg-type]
    assert (modern.schedule, modern.nesterov, modern.decay_all, modern.drop_last) == (
        Schedule.COSINE,
        True,
        False,
        True,
    )
    assert not said


@pytest.mark.parametrize("given", ["", "--momentum 0.8 --wd 0.003 --start-epoch 2"])
def test_the_command_line_wins_over_the_file(given: str) -> None:
    """What a resumed file says of momentum, decay and epoch counts unless it was given; a line says which."""
    from bitwright.cli.quant_start import Begun

    start = Begun(graph=None, epoch=5, momentum=0.7, weight_decay=0.5)  # type: ignore[arg-type]
    said = list[str]()
    flags = parse(["--data", "somewhere", "--resume", "x.safetensors", *given.split()])
    found, begun = settings_of(start, flags, said.append)  # type: ignore[arg-type]
    if given:
        assert (found.momentum, found.weight_decay, begun) == (0.8, 0.003, 2)
        assert said[0] == "--momentum 0.8 wins over the 0.7 of 'x.safetensors'"
        assert said[2] == "--start-epoch 2 wins over the 5 of 'x.safetensors'"
    else:
        assert (found.momentum, found.weight_decay, begun) == (0.7, 0.5, 5)
        assert said[1] == "--wd 0.5 is that of 'x.safetensors'"
    assert len(said) == 3


@pytest.mark.parametrize(
    ("visible", "number", "expected"), [(None, 1, "1"), ("2,5", 1, "5"), ("2,5", 2, None), ("", 0, None)]
)
def test_a_gpu_is_chosen(
    visible: str | None, number: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--gpu` shows the process one GPU of those that it may see; where there is none it is refused."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    if expected is None:
        with pytest.raises(
            UnknownNameError, match=f"no GPU {number} among CUDA_VISIBLE_DEVICES={visible}: leave --gpu out"
        ):
            choose_gpu(number)
    else:
        choose_gpu(number)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        with pytest.raises(UnknownNameError, match=f"no GPU {number} here: leave --gpu out"):
            choose_gpu(number)
