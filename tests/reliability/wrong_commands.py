# SPDX-License-Identifier: MIT
"""The table of wrong commands: a right command line for every command, and every mistake in every place where it can be made.

In a command line `@name` is a file of the test's folder, `+name` one that is written there, and `=name` a data set, whose folder
follows `:@`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from typer.main import get_command

from bitwright.cli import app
from bitwright.cli.quant_flags import parser

RIGHT = {
    "capture": "capture reliability.networks:tiny -o +x --image-size 8 --channels 1",
    "capture weights": "capture reliability.networks:tiny -o +x --image-size 8 --channels 1 --weights @tiny.safetensors",
    "sensitivity": "sensitivity @tiny.graph -d =mnist-5k -o +x -n 8 --max-probes 10",
    "allocate": "allocate @tiny.graph @tiny.sensitivities.json size0.5 -o +x",
    "allocate latency": (
        "allocate @tiny.graph @tiny.sensitivities.json latency0.5 -o +x --latency-table @tiny.latency.json "
        "--plot +p.png --frontier +f.json"
    ),
    "train float": "train reliability.networks:tiny -d =mnist-5k -o +x --image-size 8 --data-fraction 0.02",
    "train quantized": "train @tiny.graph -d =mnist-5k -o +x --scheme @tiny.yaml --data-fraction 0.02",
    "reconstruct graph": "reconstruct @tiny.graph -d =mnist-5k -o +x --scheme @tiny.yaml -n 32 --steps 2",
    "reconstruct checkpoint": "reconstruct @tiny.checkpoint --reference @tiny.graph -d =mnist-5k -o +x -n 32 --steps 2",
    "evaluate graph": "evaluate @tiny.graph -d =mnist-5k",
    "evaluate checkpoint": "evaluate @tiny.checkpoint -d =mnist-5k",
    "evaluate integer": "evaluate @tiny.integer -d =mnist-5k",
    "evaluate onnx": "evaluate @tiny.onnx -d =mnist-5k",
    "lower": "lower @tiny.checkpoint -o +x",
    "export": "export @tiny.integer -o +x.onnx",
    "verify": "verify @tiny.integer -d =mnist-5k --engine onnxruntime --images 4",
    "auto": "auto @tiny.graph -d =mnist-5k --bops-g 1 -o +x.onnx",
    "compare-layers": "compare-layers @tiny.graph @tiny.integer -d =mnist-5k -n 4",
    "explain": (
        "explain @tiny.integer --graph @tiny.graph --sensitivities @tiny.sensitivities.json --latency-table @tiny.latency.json "
        "-d =mnist-5k -n 4 -o +x"
    ),
    "bench files": "bench @tiny.onnx --batch 1 --rounds 1",
    "bench layers": "bench layers @tiny.graph -o +x --rounds 1",
    "demo": "demo -d =mnist-5k -o +demo --epochs 1",
    "zoo list": "zoo list",
    "zoo show": "zoo show resnet18-bops0.5 -o +x",
    "zoo table": "zoo table --model resnet18",
    "zoo check": "zoo check --model resnet18",
    "zoo download": "zoo download resnet18-bops0.5",
    "zoo import": "zoo import @tiny.safetensors --model resnet18 --scheme bops0.5 -o +x",
    "zoo reproduce": "zoo reproduce resnet18-bops0.5 -d =imagefolder:@photographs -o +runs",
}
"""One for each command, and for each kind of file that it reads."""

WRONG_FILES = ("missing", "folder", "pipe", "/dev/zero", "empty", "text", "cut", "altered", "other", "x" * 300, "nul\0")
WRONG_OUTPUTS = ("folder", "/dev/full", "text/x", "/proc/none/x", "x" * 300, "nul\0")
WRONG_DATA = (
    "mnist-6k", "imagefolder:", "imagefolder:@missing", "imagefolder:@oneclass", "imagefolder:@nopictures",
    "fashion-mnist:@missing", "imagefolder:@text", "",
)  # fmt: skip
HUGE = "1" + "0" * 23
NUMBERS = {int: ("x", "-1", "1.5", "nan", HUGE, "9" * 5000, ""), float: ("x", "-1", "nan", "inf", "")}
CHOICES = {
    "scheme": ("W9A9", "W4", "missing.yaml"), "metric": ("trace",), "engine": ("abacus",), "target": ("arm",),
    "split": ("validation",), "ranges": ("wide",), "device": ("abacus",), "choices": ("1-9", "W4A4,", "9"),
    "pins": ("stem.0", "nothing=W4A4", "stem.0=W9A9"), "latency_table": ("missing.json",), "deploy": ("abacus",),
    "track": ("abacus",), "least": ("abacus",), "max_loss": ("x", "nan"),
}  # fmt: skip
"""Words that an option does not know, by the parameter's name."""

MORE = (
    "", "frobnicate", "trian", "zoo frobnicate",
    "capture resnet18 -o +x", "capture pytorchcv:resnet1 -o +x", "capture nopackage:net -o +x",
    "capture reliability.networks:none -o +x", "capture reliability.networks:SIZE -o +x", "capture : -o +x",
    "capture reliability.networks:tiny -o +x --weights @tiny.safetensors --pretrained",
    "capture reliability.networks:tiny -o +x --ema", "capture reliability.networks:tiny -o +x --image-size 100000000",
    "capture reliability.networks:tiny -o +x --data mnist-5k --channels 1 --classes 10",
    "sensitivity @tiny.graph -d =mnist-5k -o +x --metric loss_perturbation --max-probes 10",
    "sensitivity @tiny.graph -d =mnist-5k -o +x --checkpoint +x",
    "allocate @tiny.graph @tiny.sensitivities.json -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json accuracy=1% -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json --accuracy 1% -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json --least latency --max-loss 1 -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json --least activation --max-loss 1 -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json --least size -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json --least size --max-loss -1 -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json --least size --max-loss 1 --explain -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json size0.5 --max-loss 1 -o +x",
    "auto @tiny.graph -d =mnist-5k --least latency -o +x.xml", "auto @tiny.graph -d =mnist-5k --least time -o +x.onnx",
    "auto @tiny.graph -d =mnist-5k --least bops --size-mb 1 -o +x.onnx",
    "auto @tiny.graph -d =mnist-5k --latency-ms 1 -o +x.xml", "auto @tiny.graph -d =mnist-5k --latency-ms -1 -o +x.onnx",
    "allocate @tiny.graph @tiny.sensitivities.json weight0.5 -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json size1.5 -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json size=0.00001MB -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json bops=1MB -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json latency=1ms -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json --size-mb nan -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json --bops-g -1 -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json size0.5 --latency-table @tiny.latency.json -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json size0.5 --plot +x -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json size0.5 --frontier +f.json --plot +f.png -o +x",
    "allocate @tiny.graph @tiny.sensitivities.json size0.5 --latency-table nvidia-t4 -o +x",
    "train reliability.networks:tiny -d =mnist-5k -o +x --scheme W4A4",
    "train @tiny.graph -d =mnist-5k -o +x",
    "train @tiny.graph -d =mnist-5k --scheme W4A4 -o @link", "lower @tiny.checkpoint -o @tiny.checkpoint",
    "sensitivity @tiny.graph -d =mnist-5k -o @link", "sensitivity @tiny.graph -d =mnist-5k -o +x --checkpoint @link",
    "train @tiny.integer -d =mnist-5k -o +x --scheme W4A4",
    "train @tiny.graph -d =mnist-5k -o +x --scheme @tiny.yaml --residual-bits 16",
    *(f"train @tiny.graph -d =mnist-5k -o +x --scheme W4A4 {option}" for option in (
        "--pretrained", "--weights @tiny.safetensors", "--classes 10", "--channels 1", "--image-size 8", "--ema",
        "--epochs 0 --lr 0.1", "--epochs 0 --wd 0",
        "--epochs 0 --track tensorboard", "--epochs 0 --data-fraction 0.1", "--data-fraction 0",
    )),
    *(f"train reliability.networks:tiny -d =mnist-5k -o +x {option}" for option in (
        "--ranges ema", "--free-norm", "--fixed-norm", "--distill 0.5", "--residual-bits 16", "--deploy onnx", "--ema",
        "--pretrained --weights @tiny.safetensors", "--epochs 0 --lr 0.1", "--classes 3 --image-size 8",
    )),
    "reconstruct @tiny.graph -d =mnist-5k -o +x", "reconstruct @tiny.checkpoint -d =mnist-5k -o +x",
    "reconstruct @tiny.graph -d =mnist-5k -o +x --scheme W4A4 --reference @tiny.graph",
    "reconstruct @tiny.checkpoint -d =mnist-5k -o +x --reference @tiny.graph --scheme W4A4",
    "reconstruct @tiny.checkpoint -d =mnist-5k -o +x --reference @tiny.graph --equalise",
    "reconstruct @tiny.integer -d =mnist-5k -o +x --reference @tiny.graph",
    "reconstruct @tiny.graph -d =mnist-5k -o +x --scheme W4A4 --deploy abacus",
    "lower @tiny.checkpoint -o +x --images 10", "lower @tiny.checkpoint -o +x --data mnist-5k",
    "lower @tiny.checkpoint -o +x --target vnni", "lower @tiny.checkpoint -o +x --target avx2 --images 10",
    "lower @tiny.graph -o +x", "lower @tiny.integer -o +x",
    "export @tiny.checkpoint -o +x.onnx",
    "export @tiny.integer -o +x.onnx --tvm-target generic", "export @tiny.integer -o +x.onnx --data mnist-6k",
    "verify @tiny.checkpoint -d =mnist-5k", "verify @tiny.onnx -d =mnist-5k",
    "evaluate @tiny.yaml -d =mnist-5k", "evaluate @tiny.sensitivities.json -d =mnist-5k",
    "compare-layers @tiny.integer @tiny.graph -d =mnist-5k",
    "explain @tiny.integer", "explain @tiny.integer -o +x -n 4", "explain @tiny.integer -o +x --mean 0.5",
    "explain @tiny.graph -o +x",
    "explain @tiny.integer -o +x --result @tiny.latency.json",
    "explain @tiny.integer -o +x --result @tiny.allocation.json",
    "explain @tiny.integer -o @tiny.graph",
    "bench", "bench @tiny.graph", "bench @tiny.yaml", "bench layers @tiny.graph -o +x --engine tvm",
    "demo -d =imagefolder:@oneclass -o +demo", "demo -d =mnist-5k -o @tiny.graph", "demo -d =mnist-5k -o @.",
    "zoo show resnet18-bops0.5 --residual-bits 16", "zoo show resnet18-bops0.9", "zoo show resnet18-baseline -o +x",
    "zoo table --model vgg16", "zoo check --model vgg16", "zoo check --write +x --model resnet18",
    "zoo download resnet99-bops0.5", "zoo import @tiny.safetensors --model resnet18 -o +x",
    "zoo import @tiny.safetensors --model resnet18 --float --scheme bops0.5 -o +x",
    "zoo import @tiny.safetensors --model resnet99 --scheme bops0.5 -o +x",
    "zoo reproduce resnet18-bops0.5 -d =imagefolder:@photographs epochs=-1 -o +runs",
    "zoo reproduce resnet18-bops0.5 -d =imagefolder:@photographs epoch=1 -o +runs",
    "zoo reproduce resnet18-bops0.5 -d =imagefolder:@photographs epochs -o +runs",
    "zoo reproduce resnet18-bops0.5 -d =imagefolder:@photographs learning_rate=.nan -o +runs",
)  # fmt: skip
"""Contradictions, options that would be ignored, names that are none, and files of the wrong kind: whole command lines."""


@dataclass(frozen=True)
class Cell:
    """A wrong command line.

    Attributes:
        command: The right one it was made from.
        mistake: What is wrong.
        arguments: As they are given, after the name of the program, with the marks of `RIGHT`.
        program: `bitwright` or `quant_train.py`.
    """

    command: str
    mistake: str
    arguments: tuple[str, ...]
    program: str = "bitwright"

    def __str__(self) -> str:
        return f"{self.command}: {self.mistake}"[:80].replace("\0", "0")


def cells() -> tuple[Cell, ...]:
    """All of them, each once."""
    found = {cell.arguments: cell for cell in (*_made(), *_made_for_quant_train())}
    return tuple(found.values())


def _made() -> Iterator[Cell]:
    for name, line in RIGHT.items():
        words = tuple(line.split())
        yield Cell(name, "an unknown option", (*words, "--frobnicate"))
        yield Cell(name, "one argument too many", (*words, "-o") if "-o" not in words else (*words, "-o", "a", "-o"))
        if not name.startswith("bench files") and "zoo reproduce" not in name and "allocate" not in name:
            yield Cell(name, "another argument", (*words, "surplus"))
        yield from _left_out(name, words)
        yield from _files(name, words)
        yield from _options(name, words)
    for line in MORE:
        yield Cell("more", line or "nothing at all", tuple(line.split()))


QUANT_TRAIN = (
    "-a", "reliability.networks:tiny", "--data", "=mnist-5k", "--save-path", "+run", "--epochs", "1", "-b", "32",
    "--data-percentage", "0.02",
)  # fmt: skip
"""A right command line of `quant_train.py`."""

QUANT_TRAIN_FILES = ("--resume", "--teacher-weights")


def _made_for_quant_train() -> Iterator[Cell]:
    def cell(mistake: str, *arguments: str) -> Cell:
        return Cell("quant_train.py", mistake, arguments, "quant_train.py")

    yield cell("nothing at all", "--epochs", "1")
    yield cell("an unknown option", *QUANT_TRAIN, "--frobnicate")
    yield cell("a surplus argument", *QUANT_TRAIN, "surplus")
    for name in ("resnet1", "nopackage:net", "reliability.networks:none", "reliability.networks:SIZE", "resnet18:", ""):
        yield cell(f"-a {name}", *QUANT_TRAIN, "-a", name)
    for name in WRONG_DATA:
        yield cell(f"--data {name}", *QUANT_TRAIN, "--data", f"={name}")
    for place in WRONG_OUTPUTS[1:]:  # in an empty folder, a folder can be made
        yield cell(
            f"--save-path {place}", *QUANT_TRAIN, "--save-path", place if place.startswith("/") else f"@{place}/x"
        )
    for option in QUANT_TRAIN_FILES:
        for wrong in WRONG_FILES:
            if wrong != "x" * 300 or option != "--quant-scheme":
                yield cell(f"{option} {wrong}", *QUANT_TRAIN, option, wrong if wrong.startswith("/") else f"@{wrong}")
    for action in parser()._actions:
        flag = max(action.option_strings, key=len, default="")
        if action.nargs == 0 or not flag:
            continue
        yield cell(f"{flag} without a value", *QUANT_TRAIN, flag)
        if action.choices is not None:
            yield cell(f"{flag} abacus", *QUANT_TRAIN, flag, "abacus")
        elif action.type not in (None, Path):
            below = () if flag == "--mean" else ("-7",)  # pixels may be below zero, and so their mean
            for value in ("x", "nan", "inf", *below, "", "9" * 5000):
                yield cell(f"{flag} {value[:10]}", *QUANT_TRAIN, f"{flag}={value}")


def _left_out(name: str, words: tuple[str, ...]) -> Iterator[Cell]:
    """Without each of what is required."""
    for place, word in enumerate(words):
        if word == "-o" and name == "zoo reproduce":  # which has a folder of its own
            continue
        if word in ("-o", "-d", "--model") and name not in ("zoo show", "demo", "zoo table", "zoo check"):
            yield Cell(name, f"without {word}", words[:place] + words[place + 2 :])
        if word in ("-o", "-d", "--model"):
            yield Cell(name, f"{word} without a value", (*words[:place], *words[place + 2 :], word))


def _files(name: str, words: tuple[str, ...]) -> Iterator[Cell]:
    """Wrong things where a file, an output or a data set is expected."""
    for place, word in enumerate(words):
        inputs = [other for other in words if other.startswith("@")]
        kind = word[:1]
        instead = {
            "@": [f"{'' if wrong.startswith('/') else '@'}{wrong}" for wrong in WRONG_FILES],
            "+": [*(f"{'' if wrong.startswith('/') else '@'}{wrong}" for wrong in WRONG_OUTPUTS), *inputs],
            "=": list(WRONG_DATA),
        }.get(kind, [])
        for wrong in instead:
            if (word, wrong) in HARMLESS:
                continue
            yield Cell(name, f"{word} is {wrong}", (*words[:place], wrong, *words[place + 1 :]))


HARMLESS = {("+demo", "@folder"), ("+runs", "@folder")}
"""An empty folder is what these two write to."""


def _options(name: str, words: tuple[str, ...]) -> Iterator[Cell]:
    """A wrong value for every option that has a number or a choice."""
    command = find(words)
    for option in command.params:
        kind = annotation(command, str(option.name))
        if option.param_type_name != "option":
            continue
        values = NUMBERS.get(kind, ()) if str(option.name) not in CHOICES else CHOICES[str(option.name)]
        flag = max(option.opts, key=len)
        for value in values:
            yield Cell(name, f"{flag} {value[:30]}", (*words, flag, value))


def find(words: tuple[str, ...]) -> object:
    """The command that a command line calls."""
    found = get_command(app)
    for word in words:
        if word in getattr(found, "commands", {}):
            found = found.commands[word]
        elif hasattr(found, "commands"):
            return found.commands["files"]  # bench FILE
    return found


def annotation(command: object, parameter: str) -> type | None:
    """int, float or None: the kind of number that a parameter of a command is."""
    hint = str(command.callback.__annotations__.get(parameter, ""))
    head = hint.partition("Annotated[")[2].partition(",")[0] if "Annotated[" in hint else hint
    return (
        int if head.startswith(("int", "list[int]")) or hint in SHARED else float if head.startswith("float") else None
    )


SHARED = {"BatchSize", "Seed", "ImageSize", "Channels", "Classes"}
"""The types of options that several commands share, which are whole numbers."""
