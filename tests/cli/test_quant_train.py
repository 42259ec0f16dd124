# SPDX-License-Identifier: MIT
"""The documented command line on a small network: what every flag changes is looked at, in files and in printed lines."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bitwright import graph
from bitwright.cli import quant_epochs
from bitwright.cli.quant_flags import parse
from bitwright.cli.quant_start import begin, scheme_of
from bitwright.cli.quant_train import main
from bitwright.data import Preprocessing
from bitwright.errors import UnknownNameError
from bitwright.integer import IntegerModel
from bitwright.quantizer import TensorFormat
from bitwright.training import QuantizedModel, Step
from bitwright.training.state import TrainingFile
from bitwright.zoo import published_scheme
from cli.networks import tiny
from cli.quant_runs import BEST, SHORT, Run, Train, small_photographs

NETWORK = "cli.networks:tiny"


@pytest.fixture(scope="module", autouse=True)
def _captured_once() -> Iterator[None]:
    """Half of a short run is capture, and all runs capture the same network: what the same weights gave is given again."""
    made = dict[bytes, graph.Graph]()
    capture = graph.capture

    def captured(model: torch.nn.Module, shape: tuple[int, ...], *, name: str) -> graph.Graph:
        weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
        key = hashlib.sha256(repr((name, shape)).encode() + weights).digest()
        if key not in made:
            made[key] = capture(model, shape, name=name)
        return made[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(graph, "capture", captured)
        yield


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of eight images to train and two to validate."""
    return small_photographs(tmp_path_factory.mktemp("stripes"))


@pytest.fixture(scope="module")
def done() -> dict[str, Run]:
    """Short runs that several tests compare with, by their flags."""
    return {}


@pytest.fixture
def train(
    stripes: Path,
    done: dict[str, Run],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Train:
    """`train("NAME", "FLAGS")`: a short run in a folder of its own; of two flags of one kind the last one counts.

    Runs that are called plain are made once.
    """

    def run(name: str, flags: str = "", short: str = SHORT) -> Run:
        plain = name == "plain"
        if plain and flags in done:
            return done[flags]
        capsys.readouterr()
        folder = (tmp_path_factory.mktemp("runs") if plain else tmp_path) / name
        main(shlex.split(f"-a {NETWORK} --data {stripes} --save-path {folder} {short} {flags}"))
        made = Run(folder, capsys.readouterr().out)
        if plain:
            done[flags] = made
        return made

    return run


@pytest.fixture
def refused(train: Train, capsys: pytest.CaptureFixture[str]) -> Train:
    """The same, of a run that ends with one line on stderr."""

    def run(name: str, flags: str = "", short: str = SHORT) -> Run:
        with pytest.raises(SystemExit) as stopped:
            train(name, flags, short)
        assert stopped.value.code == 1
        return Run(Path(name), capsys.readouterr().err.splitlines()[-1])

    return run


def test_each_epoch_is_validated_and_kept(train: Train) -> None:
    """Lines have the published form, files are those of the last and of the best epoch, and the log has every line."""
    run = train("run", "--epochs 3 -p 1 -b 20")
    number, loss, percent = r"[ \d.]{6}", r"\d\.\d{4}e[+-]\d\d", r"[ \d.]{6}"
    shown = rf"\tLoss {loss} \({loss}\)\tAcc@1 {percent} \({percent}\)\tAcc@5 {percent} \({percent}\)"
    timed = rf"\tTime {number} \({number}\)"
    data = rf"\tData {number} \({number}\)"
    assert re.findall(rf"^Epoch: \[(\d)\]\[(\d/\d)\]{timed}{data}{shown}$", run.out, re.M) == [
        (str(epoch), f"{index}/2") for epoch in range(3) for index in range(2)
    ]
    assert re.findall(rf"^Test: \[(\d/\d)\]{timed}{shown}$", run.out, re.M) == ["0/1"] * 3
    found = [float(top1) for top1, _ in run.accuracies]
    best = [(int(epoch), float(top1)) for epoch, top1 in BEST.findall(run.out)]
    assert best == [(epoch, max(found[: epoch + 1])) for epoch in range(3)]
    assert {path.name for path in run.folder.iterdir()} == {
        "log.log", "checkpoint.safetensors", "model_best.safetensors", "quantized_checkpoint.safetensors",
        "quantized_best.safetensors", "metrics.jsonl",
    }  # fmt: skip
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], round(line["top1_percent"], 3)) for line in lines] == list(enumerate(found, 1))
    last, kept = run.checkpoint()[1], run.checkpoint("model_best")[1]
    assert (last.epoch, last.best_top1, kept.best_top1) == (3, max(found), max(found))
    assert kept.epoch == found.index(max(found)) + 1
    logged = (run.folder / "log.log").read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d - ", "", line) for line in logged] == run.out.splitlines()
    assert logged[0].split(" - ")[1].startswith("python quant_train.py -a cli.networks:tiny --data ")


def test_the_written_integers_are_those_that_were_validated(train: Train) -> None:
    """`-e` of the checkpoint, of the integer model, and of the best ones gives the printed accuracies; it trains nothing."""
    run = train("plain", "--epochs 2")
    for name, quantize, expected in (
        ("checkpoint", "--resume-quantize", run.accuracies[1]),
        ("checkpoint", "", run.accuracies[1]),
        ("quantized_checkpoint", "", run.accuracies[1]),
        ("model_best", "", max(run.accuracies, key=lambda pair: float(pair[0]))),
        ("quantized_best", "", max(run.accuracies, key=lambda pair: float(pair[0]))),
    ):
        before = (run.folder / f"{name}.safetensors").read_bytes()
        again = train(
            f"{name}{quantize}", f"--resume {run.folder}/{name}.safetensors {quantize} -e", short="-b 16 -j 0"
        )
        assert again.accuracies == [expected]
        assert (run.folder / f"{name}.safetensors").read_bytes() == before
        assert "Epoch" not in again.out
    assert (
        train("checkpoint", short=f"-e -j 0 --resume {run.folder}/checkpoint.safetensors").integer.to_bytes()
        == run.integer.to_bytes()
    )


def test_the_rate_falls_by_absolute_epochs(train: Train) -> None:
    """A tenth each thirty epochs, counted from the very first; the weights follow it."""
    run = train("run", "--start-epoch 29 --epochs 31 --lr 0.2")
    assert re.findall(r"^lr = (.*)$", run.out, re.M) == ["0.2", "0.02"]
    assert re.findall(r"^Epoch: \[(\d+)\]\[0/2\]", run.out, re.M) == ["29", "30"]
    assert run.checkpoint()[1].epoch == 31
    assert not run.same_weights(train("constant", "--epochs 2 --lr 0.2"))
    modern = train("modern", "--epochs 2 --lr 0.2 --recipe modern")
    assert re.findall(r"^lr = (.*)$", modern.out, re.M) == ["0.2", "0.1"]


@pytest.mark.parametrize("flags", ["--momentum 0.5", "--wd 0.3", "--lr 0.1", "--seed 1", "--recipe modern"])
def test_what_decides_the_steps(flags: str, train: Train) -> None:
    """Other settings give other weights; the checkpoint has the optimizer's."""
    plain, other = train("plain"), train("other", flags)
    assert not plain.same_weights(other)
    assert (plain.checkpoint()[1].momentum, plain.checkpoint()[1].weight_decay) == (0.9, 1e-4)
    if "momentum" in flags or "wd" in flags:
        assert (other.checkpoint()[1].momentum, other.checkpoint()[1].weight_decay) in [(0.5, 1e-4), (0.9, 0.3)]


def test_everything_follows_the_seed(train: Train) -> None:
    """The same seed gives the same bytes, with workers and without, and whether or not the folder's name ends in a slash."""
    assert train("plain").same_files(train("second/", "-j 1"))


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ("-b 16", 2),
        ("-b 20", 2),
        ("-b 30", 2),
        ("-b 64", 1),
        ("-b 16 --data-percentage 1", 5),
        ("-b 30 --recipe modern", 1),
    ],
)
def test_every_image_counts(flags: str, steps: int, train: Train) -> None:
    """Of 80 images 0.4 are 32; the last, smaller batch is kept, but by the modern recipe."""
    run = train("run", flags)
    assert re.findall(r"^Epoch: \[0\]\[0/(\d)\]", run.out, re.M) == [str(steps)]
    assert ("training on 32 of 80 images" in run.out) == ("percentage" not in flags)


def test_a_batch_of_one_is_the_default(train: Train) -> None:
    """It is what the published command does; a line advises more, and validation does not suffer."""
    run = train("run", short="--epochs 1 -j 0 --data-percentage 0.05 --quant-scheme w8a8 --lr 1e-4")
    assert "Epoch: [0][0/4]" in run.out
    assert "the model zoo was trained with 128" in run.out
    assert "Test: [0/1]" in run.out


@pytest.mark.parametrize(
    ("scheme", "bits"), [("", {4, 8}), ("--quant-scheme w8a8", {8}), ("--quant-scheme uniform3", {3, 8})]
)
def test_the_scheme_decides_the_bits(scheme: str, bits: set[int], train: Train) -> None:
    """By default uniform4: the inner layers have 4 bits, the first and the last 8."""
    run = train("run", scheme, short="-b 16 --epochs 1 -j 0 --data-percentage 0.2")
    assert {op.weight_bits for op in run.integer.layers().values()} == bits


@pytest.mark.parametrize("bits", [8, 16])
def test_the_residual_stream_has_the_bits_that_are_named(bits: int, train: Train) -> None:
    """A line says how many there are, and whether they are the published ones."""
    run = train("run", f"--residual-bits {bits}")
    assert run.model.plan.scheme.residual_bits == bits
    assert max(params.bit_width for params in run.integer.formats.values()) == bits
    named = {8: "8 bits, not the published 16 (--residual-bits 16)", 16: "16 bits, as published"}[bits]
    assert f"residual additions have {named}" in run.out


def test_asymmetric_activations_have_windows(train: Train) -> None:
    """Tensors that can be negative get the integers around their range; without the flag, all have the same ones."""
    for name, flags, some in (("plain", "", False), ("asymmetric", "--quant-mode asymmetric", True)):
        run = train(name, flags)
        formats = {params.format for params in run.integer.formats.values()}
        usual = {TensorFormat.of(made.bit_width, negative=made.negative) for made in formats}
        assert (formats != usual) == some
        assert run.model.plan.scheme.activations == ("asymmetric" if some else "symmetric")


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ("", {"momentum": -1.0}),
        ("--act-range-momentum=0.5", {"momentum": 0.5}),
        ("--act-percentile 90", {"act_percentile": 90.0}),
        ("--weight-percentile 80", {"weight_percentile": 80.0}),
        ("--channel-wise", {"per_channel": False}),
        ("--bias-bit 6", {"bias_bits": 6}),
    ],
)
def test_quantizers_do_what_the_flags_say(flags: str, settings: dict[str, object], train: Train) -> None:
    """The checkpoint keeps it, and scales and integers are others for it."""
    plain, run = train("plain", "--fix-BN"), train("run", f"--fix-BN {flags}")
    kept = run.model.quantizing.to_dict()
    assert {name: kept[name] for name in settings} == settings
    changed = {name: value for name, value in kept.items() if plain.model.quantizing.to_dict()[name] != value}
    assert changed == (settings if flags else {})
    scales = {name: value for name, value in run.model.state_dict().items() if name.endswith("scale")}
    before = plain.model.state_dict()
    if "bias" in flags:
        assert max(int(abs(op.bias).max()) for op in run.integer.layers().values()) == 31
    else:
        assert all(torch.equal(value, before[name]) for name, value in scales.items()) == (not flags)
    if "channel" in flags:
        assert all(len(value.unique()) == 1 for name, value in scales.items() if name.startswith("weights."))
    again = train("again", f"--resume {run.folder}/checkpoint.safetensors -e", short="-b 16 -j 0")
    assert again.accuracies == run.accuracies  # under the options of the file


def statistics(run: Run) -> list[torch.Tensor]:
    """What batch norm is folded with."""
    return [value for name, value in run.weights().items() if name.endswith(("running_mean", "running_var"))]


def test_fixed_batch_norm_keeps_the_given_statistics(train: Train) -> None:
    """With `--fix-BN` they are to the bit those of the start; without, those of training images seen through the quantizers."""
    fixed, free = train("plain", "--fix-BN"), train("plain")
    for value in statistics(fixed):
        assert value.tolist() in ([0.0] * 8, [1.0] * 8)
    assert not any(torch.equal(one, other) for one, other in zip(statistics(fixed), statistics(free), strict=True))
    assert "--fix-BN keeps the given ones" in free.out
    assert "batch norm" not in fixed.out
    assert not torch.equal(  # the gains learn all the same
        fixed.weights()["network.stem.1.weight"], torch.ones(8)
    )


@pytest.mark.parametrize(("threshold", "free"), [(0, 0), (2, 0), (3, 1), (5, 3), (9, 4)])
def test_the_threshold_counts_iterations(
    threshold: int, free: int, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first T - 2 iterations of all epochs are free, those after them fixed, and the validations after them too."""
    seen, settled = [], []
    after, settle = quant_epochs.Epochs._after_step, QuantizedModel.settle_norm

    def watch(self: quant_epochs.Epochs, step: Step) -> None:
        seen.append(self._model.free_norm)
        after(self, step)

    def count(self: QuantizedModel, batches: object) -> int:
        settled.append(len(seen))
        return settle(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(quant_epochs.Epochs, "_after_step", watch)
    monkeypatch.setattr(QuantizedModel, "settle_norm", count)
    run = train("run", f"--epochs 2 --fix-BN-threshold {threshold}")
    assert seen == [True] * free + [False] * (4 - free)
    assert settled == [steps for steps in (2, 4) if free >= steps]
    assert (f"keeps its statistics from iteration {free + 1} on" in run.out) == (0 < free < 4)


@pytest.mark.parametrize("scheme", ["w2a2", "w3a3"])
def test_few_bits_are_settled_or_warned_about(scheme: str, train: Train, tmp_path: Path) -> None:
    """Without `--fix-BN`, validation has the statistics of 80 images; where there are but 20, a line says what to do."""
    run = train("run", f"--quant-scheme {scheme}")
    assert "the statistics of 80 training images, seen through the quantizers" in run.out
    few = small_photographs(tmp_path / "few", train=2, val=1)
    warned = train("warned", f"--quant-scheme {scheme} --data {few}")
    assert "20 images are too few to settle it on: at 2 and 3 bits these lag behind" in warned.out
    assert "give --fix-BN" in warned.out


def test_fixed_point_is_validated_as_it_is(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that is validated is the trained one, without proved multipliers; the file has them, after the same steps."""
    validated = list[object]()
    validate = quant_epochs.validate

    def watch(model: IntegerModel | QuantizedModel, *rest: object) -> object:
        validated.append(getattr(model, "certificates", "integers"))
        return validate(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(quant_epochs, "validate", watch)
    plain = train("plain")
    validated.clear()
    fixed = train("fixed", "--fixed-point-quantization")
    assert validated == [{}]
    assert fixed.integer.to_bytes() == plain.integer.to_bytes()


@pytest.mark.parametrize(("times", "expected"), [(-1, 1), (0, 1), (1, 1), (5, 2), (40, 3)])
def test_validations_within_an_epoch(times: int, expected: int, train: Train) -> None:
    """K times give one each N // (b K) + 2 steps, but the first: of 80 images in 5 batches, every third at K = 5."""
    run = train("run", f"--data-percentage 1 --evaluate-times {times}")
    assert len(run.accuracies) == len(BEST.findall(run.out)) == expected
    best = max(float(top1) for top1, _ in run.accuracies)
    assert run.checkpoint()[1].best_top1 == run.checkpoint("model_best")[1].best_top1 == best


def test_a_teacher(train: Train, refused: Train, tmp_path: Path) -> None:
    """It changes the weights, by alpha, temperature and scale; one for other classes is refused."""
    torch.manual_seed(1)
    torch.save(tiny().state_dict(), tmp_path / "teacher.pth")
    torch.save(tiny(num_classes=9).state_dict(), tmp_path / "other.pth")
    naive = f"--distill-method KD_naive --teacher-arch {NETWORK} --teacher-weights"
    runs = [train("plain")]
    for name, flags in (
        ("image", ""), ("published", "--distill-scale published"), ("alpha", "--distill-alpha 0.5"), ("warm", "--temperature 2"),
    ):  # fmt: skip
        runs.append(train(name, f"{naive} {tmp_path}/teacher.pth {flags}"))
    assert not any(one.same_weights(other) for index, one in enumerate(runs) for other in runs[:index])
    assert runs[0].same_weights(train("none", f"{naive} {tmp_path}/teacher.pth --distill-alpha 0"))
    assert (
        "the teacher returns 9 for each image and the student 10"
        in refused("other", f"{naive} {tmp_path}/other.pth").out
    )


def interrupted(
    train: Train, name: str, flags: str, at: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """A run that Ctrl-C ends in a step; the words of the command that it advises."""
    after = quant_epochs.Epochs._after_step

    def stop(self: quant_epochs.Epochs, step: Step) -> None:
        if step.number == at:
            raise KeyboardInterrupt
        after(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(quant_epochs.Epochs, "_after_step", stop)
        with pytest.raises(SystemExit, match="130"):
            train(name, flags)
    line = capsys.readouterr().err.splitlines()[-1]
    words = shlex.split(line.removeprefix("interrupted: go on with: "))
    assert words[:2] == ["python", "quant_train.py"]
    return words[2:]


def test_an_interrupted_training_goes_on(
    train: Train, refused: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in its second epoch, it says how to go on, is not started over, and ends with the very files it would have had."""
    begun = train("begun", "--seed 5")
    flags = (
        f"--resume {begun.folder}/checkpoint.safetensors --start-epoch 1 --epochs 4 --checkpoint-iter 1 --fix-BN-threshold 7 "
        "--evaluate-times 40 --data-percentage 0.7"
    )
    whole = train("whole", flags)
    words = interrupted(train, "parted", flags, 11, monkeypatch, capsys)
    state = tmp_path / "parted" / "training.state"
    assert words[-2:] == ["--resume", str(state)]
    kept = state.read_bytes()
    message = refused("parted", flags).out
    assert f"'{state}' holds the state of an interrupted run: add --resume {state} to go on, or delete it" in message
    assert state.read_bytes() == kept
    other = refused("parted", f"{flags} --resume {state} --lr 0.3").out
    assert "belongs to another training: learning_rate was 0.02, is 0.3" in other
    main(words)
    parted = Run(tmp_path / "parted", capsys.readouterr().out)
    assert parted.same_files(whole)
    assert BEST.findall(parted.out)[-1] == BEST.findall(whole.out)[-1]
    assert not state.exists()


@pytest.mark.parametrize(("every", "steps"), [(-1, []), (2, [2, 4]), (3, [3])])
def test_the_state_is_written_between_epochs(
    every: int, steps: list[int], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--checkpoint-iter` counts steps; -1 leaves it to the ends of epochs, and to the minutes."""
    written, write = [], TrainingFile.write

    def watch(self: TrainingFile, progress: object) -> None:
        written.append(progress.steps)  # type: ignore[attr-defined]
        write(self, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingFile, "write", watch)
    train("run", f"--data-percentage 1 --checkpoint-iter {every}")
    assert written == [*steps, 5]


def test_a_checkpoint_goes_on_as_if_it_had_never_ended(train: Train, refused: Train) -> None:
    """Epoch, best accuracy, momenta and ranges come from the file: two epochs in two runs give the bytes of two in one."""
    whole, first = train("plain", "--epochs 2"), train("plain")
    second = train("second", f"--epochs 2 --resume {first.folder}/checkpoint.safetensors --resume-quantize")
    assert (second.folder / "checkpoint.safetensors").read_bytes() == (
        whole.folder / "checkpoint.safetensors"
    ).read_bytes()
    assert f"=> loaded checkpoint '{first.folder}/checkpoint.safetensors' (epoch 1), best Acc@1 " in second.out
    assert "Epoch: [1]" in second.out
    assert "Epoch: [0]" not in second.out
    assert BEST.findall(second.out)[-1] == BEST.findall(whole.out)[-1]
    done = train("done", f"--resume {whole.folder}/checkpoint.safetensors --epochs 2")
    assert "nothing to train: 2 of 2 epochs are done. Give more --epochs, or --start-epoch 0" in done.out
    assert [path.name for path in done.folder.iterdir()] == ["log.log"]
    again = train("again", f"--resume {whole.folder}/checkpoint.safetensors --epochs 1 --start-epoch 0 --wd 0.2")
    assert "--start-epoch 0 wins over the 2 of" in again.out
    assert "--wd 0.2 wins over the 0.0001 of" in again.out
    assert again.checkpoint()[1].weight_decay == 0.2
    integers = refused("integers", f"--resume {whole.folder}/quantized_checkpoint.safetensors").out
    assert "holds integers, which cannot be trained: resume checkpoint.safetensors" in integers
    flags = parse(["--data", "here", "--resume", f"{whole.folder}/checkpoint.safetensors"])
    begin(flags, print)
    assert flags.arch == NETWORK  # not the default
    arch = refused("arch", f"--resume {whole.folder}/checkpoint.safetensors -a resnet18").out
    assert "holds cli.networks:tiny, but -a says resnet18" in arch


def test_another_scheme_is_honoured_or_refused(train: Train, refused: Train) -> None:
    """Ranges stay, scales follow the bits, and a line says so; integers have the bits that they have."""
    run = train("plain", "--fix-BN")
    resume = f"--resume {run.folder}/checkpoint.safetensors --resume-quantize -e"
    other = train("other", resume, short="--quant-scheme w8a8 -b 16 -j 0")
    assert "--quant-scheme w8a8 wins over the file's W4A4: ranges stay, scales follow the bits" in other.out
    assert {op.weight_bits for op in other.integer.layers().values()} == {8}
    name = "body.0"
    before, after = run.integer.formats["stem.0"], other.integer.formats["stem.0"]
    assert before.scale * before.quant_max == pytest.approx(after.scale * after.quant_max, rel=1e-6)
    assert name in other.integer.layers()
    same = train("same", resume, short="-b 16 -j 0")
    assert "the scheme is that of the file, W4A4: no --quant-scheme was given" in same.out
    wrong = refused(
        "wrong", f"--resume {run.folder}/quantized_checkpoint.safetensors -e", short="--quant-scheme w8a8"
    ).out
    assert "holds integers of scheme W4A4, but --quant-scheme w8a8 wants W8A8 in 'body.0' where they are W4A4" in wrong
    train("right", f"--resume {run.folder}/quantized_checkpoint.safetensors -e", short="--quant-scheme w4a4")


def test_without_training_a_network_is_calibrated(train: Train) -> None:
    """`-e` of a network by name validates it with ranges of training images, and writes its integer model as published."""
    run = train("run", "-e")
    assert "ranges of 6 of 6 activation quantizers start from 80 training images" in run.out
    assert len(run.accuracies) == 1
    assert {path.name for path in run.folder.iterdir()} == {"log.log", "quantized_checkpoint.safetensors"}


def test_a_scheme_that_nobody_published(refused: Train, tmp_path: Path) -> None:
    """It is refused with the commands that search it, before anything is trained."""
    layers = published_scheme("resnet18", "uniform8").layers
    for given, message in (
        (
            "size0.4",
            r"'size0.4':.* Known: .* uniform4, uniform8\. Search one with: bitwright capture pytorchcv:resnet18 .*",
        ),
        ("modelsize_0.4", r"bitwright allocate resnet18.graph \S+ size0.4 -o \S+; then train with --quant-scheme \S+"),
        ("latency", r"expected a scheme such as .* Or name a scheme's file\."),
    ):
        with pytest.raises(UnknownNameError, match=message):
            scheme_of(parse(["--data", "here", "--quant-scheme", given]), layers)
    assert "Search one with: bitwright capture" in refused("out", "--quant-scheme size0.4").out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["log.log"]


@pytest.mark.parametrize(("given", "bits"), [("", 16), ("--residual-bits 8", 8)])
def test_published_schemes_have_the_published_stream(given: str, bits: int) -> None:
    """16 bits, unless 8 are asked for; the file of a scheme has its own."""
    layers = published_scheme("resnet18", "uniform8").layers
    flags = parse(["--data", "here", "--quant-scheme", "bops_0.5", *given.split()])
    assert scheme_of(flags, layers) == published_scheme("resnet18", "bops0.5", residual_bits=bits)


def test_weights_that_cannot_be_downloaded(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--pretrained` without a network says what was tried and where to put the file, and exits with 1."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["-a", "resnet18", "--data", str(photographs), "--pretrained"])
    assert stopped.value.code == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("DataError: "))
    assert "tried https://github.com/osmr/imgclsmob" in line
    assert f"save it unpacked as '{tmp_path}/.torch/models/resnet18-" in line
    assert "--resume FILE" in line


def test_mistakes_cost_one_line(tmp_path: Path) -> None:
    """The script itself: a missing folder ends it with one line and status 1, and writes nothing."""
    script = Path(__file__).parents[2] / "quant_train.py"
    command = [sys.executable, str(script), "-a", "resnet18", "--data", str(tmp_path / "none")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("UnknownNameError: unknown data set")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_print_and_write_once(stripes: Path, tmp_path: Path) -> None:
    """Under torchrun both train one model: each line is printed once, and the files are whole."""
    script = Path(__file__).parents[2] / "quant_train.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    flags = f"-a {NETWORK} --data {stripes} --save-path {tmp_path} -b 8 --epochs 2 -j 0 --lr 0.02 --quant-scheme w4a4"
    ended = subprocess.run(
        [*command, *shlex.split(flags)], capture_output=True, text=True, check=True, env=environment, timeout=250
    )
    run = Run(tmp_path, ended.stdout)
    assert re.findall(r"^Epoch: \[(\d)\]\[0/5\]", run.out, re.M) == ["0", "1"]
    assert len(run.accuracies) == len(BEST.findall(run.out)) == 2
    assert run.checkpoint()[1].best_top1 == max(float(top1) for top1, _ in run.accuracies)
    assert not (tmp_path / "training.state").exists()


def test_how_images_are_made_is_kept_and_compared(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    """In the checkpoint and in the integers; and what was trained on such images is not evaluated on others."""
    made = train("made", "--mean 0.25 --std 0.5")
    known = Preprocessing((0.25,) * 3, (0.5,) * 3)
    for found in (made.model.plan.source.preprocessing, made.integer.preprocessing):
        assert found is not None
        assert known.over(found) == found
    again = train("again", f"-e --resume {made.folder / 'quantized_checkpoint.safetensors'}")
    assert again.accuracies == made.accuracies[-1:]
    for name in ("checkpoint", "quantized_checkpoint"):
        with pytest.raises(SystemExit) as end:
            train(f"other.{name}", f"-e --resume {made.folder / name}.safetensors --mean 0.5")
        assert end.value.code == 1
        error = capsys.readouterr().err
        assert "the command line has mean 0.5, not 0.25" in error, error


def test_preprocessing_that_cannot_be_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a number is none, and where the network reads images of another size; nothing is written."""
    for flags, message in (
        ("--mean x", "expected a number, got 'x'"),
        ("--std 0", "expected standard deviations above 0"),
        ("--crop 33", "reads images of 32 x 32, got --crop 33: leave it out"),
    ):
        with pytest.raises(SystemExit) as end:
            main(shlex.split(f"-a {NETWORK} --data mnist-5k --save-path {tmp_path / 'never'} {flags}"))
        assert end.value.code
        error = capsys.readouterr().err
        assert message in error, error
        assert "Traceback" not in error
    assert not (tmp_path / "never").exists()
