# SPDX-License-Identifier: MIT
"""Whatever file is given where another kind is expected: one line says which kind it is, in words, and names no format."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import bitwright
from bitwright.cli import main
from bitwright.errors import FileFormatError
from bitwright.export import export_onnx
from bitwright.graph import Graph
from bitwright.integer.reader import load_integer
from bitwright.kinds import EXPORTED, KINDS, kind_of_format, require_exported, what_is
from reliability.formats import write_all
from reliability.networks import tiny
from reliability.wrong_commands import RIGHT

OURS = {
    "tiny.graph": "a graph",
    "tiny.checkpoint": "a quantized model",
    "tiny.integer": "an integer model",
    "tiny.sensitivities.json": "sensitivities",
    "tiny.latency.json": "a latency table",
    "tiny.frontier.json": "a frontier",
    "tiny.allocation.json": "an allocation",
    "tiny.yaml": "a scheme",
    "training.state": "the state of an interrupted training",
    "measurement.state": "the state of an interrupted measurement",
    "settings.json": "a demonstration's record",
}
OTHERS = {
    "tiny.safetensors": "weights (safetensors)",
    "tiny.pth": "weights (PyTorch)",
    "old.pth": "pickled Python objects",
    "tiny.onnx": "an ONNX model",
    "page": "a web page (HTML)",
    "pointer": "a pointer of Git LFS",
    "archive": "a zip archive",
    "tar": "an archive (tar)",
    "packed": "a compressed file (gzip)",
    "picture": "a picture (PNG)",
    "nothing": "an empty file",
    "letter": "text",
}
ALSO = {
    "train": {"tiny.graph", "tiny.checkpoint"},
    "reconstruct": {"tiny.graph", "tiny.checkpoint"},
    "evaluate": {"tiny.graph", "tiny.checkpoint", "tiny.integer", "tiny.onnx"},
    "export": {"tiny.graph", "tiny.integer"},
    "capture": {"tiny.safetensors", "tiny.pth", "old.pth"},
    "explain": {"tiny.graph", "tiny.integer"},
    "auto": {"tiny.graph"},
    "verify": {"tiny.integer", "tiny.onnx"},
    "zoo": {"tiny.pth", "old.pth", "tar", "packed", "archive"},
}
"""What a command reads besides; of archives, the zoo's own reader says what is wrong with them."""

FORMAT = re.compile(r"bitwright\.\w+\.\d")
WRITTEN = re.compile(r'^\w*FORMAT = "(\S+)"', re.MULTILINE)
SHARE = 16


@dataclass(frozen=True)
class Case:
    """A command, and the file that stands where another belongs."""

    command: str
    arguments: tuple[str, ...]
    file: str

    def __str__(self) -> str:
        return f"{self.command}: {self.file}"


def cases() -> Iterator[Case]:
    """Every file, in every place of every command that a file is expected in."""
    for name, line in RIGHT.items():
        words = tuple(line.split())
        for place, word in enumerate(words):
            if not word.startswith("@"):
                continue
            for file in (*OURS, *OTHERS):
                if (word, file) == ("@tiny.yaml", "letter"):  # a scheme is text
                    continue
                if file != word[1:] and file not in ALSO.get(words[0], ()):
                    # Exported files are known by the ends of their names.
                    given = f"{file}.onnx" if word.endswith(".onnx") else file
                    yield Case(f"{name} {word}", (*words[:place], f"@{given}", *words[place + 1 :]), file)


CASES = tuple(dict.fromkeys(cases()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each kind; and again, as if it had been exported."""
    found = tmp_path_factory.mktemp("kinds")
    write_all(found)
    save_file({"weight": Graph.load(found / "tiny.graph").parameters["side.weight"]}, found / "tiny.safetensors")
    torch.save(tiny().state_dict(), found / "tiny.pth")
    torch.save(tiny().state_dict(), found / "old.pth", _use_new_zipfile_serialization=False)
    export_onnx(load_integer(found / "tiny.integer"), found / "tiny.onnx")
    (found / "page").write_text("<!DOCTYPE html>\n<html><body>Not found</body></html>\n")
    (found / "pointer").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 46830571\n")
    with zipfile.ZipFile(found / "archive", "w") as archive:
        archive.writestr("readme", "hello")
    with tarfile.open(found / "tar", "w") as packed:
        packed.addfile(tarfile.TarInfo("readme"))
    (found / "packed").write_bytes(b"\x1f\x8b" + bytes(100))
    Image.new("RGB", (8, 8)).save(found / "picture", "png")
    (found / "nothing").touch()
    (found / "letter").write_text("Dear Sir or Madam,\n")
    for file in (*OURS, *OTHERS):
        shutil.copy(found / file, found / f"{file}.onnx")
    return found


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if number % SHARE == 0 else pytest.mark.slow) for number, case in enumerate(CASES)],
    ids=str,
)
def test_a_file_of_another_kind(
    case: Case, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The line says what the file is, and names it; no format's name of ours stands in it, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    words = (word.removeprefix("=").replace(":@", f":{folder}/") for word in case.arguments)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / word[1:]) if word[:1] == "+" else word.replace("@", f"{folder}/") for word in words])
    printed = capfd.readouterr()
    assert stopped.value.code == 1
    assert printed.err.count("\n") == 1, printed.err
    assert FORMAT.search(printed.err) is None, printed.err
    assert {**OURS, **OTHERS}[case.file] in printed.err, printed.err
    assert case.file in printed.err
    assert list(tmp_path.iterdir()) == []


def test_all_kinds_are_told_apart(folder: Path) -> None:
    """Each file is what it is, whatever its name says, and cut in the middle it is not taken for another kind of ours."""
    assert len(CASES) > 400
    for file, words in {**OURS, **OTHERS}.items():
        assert what_is(folder / file) == what_is(folder / f"{file}.onnx")
        assert what_is(folder / file).startswith(words)
    for file in OURS:
        data = (folder / file).read_bytes()
        (folder / "half").write_bytes(data[: len(data) // 2])
        assert what_is(folder / "half") in (OURS[file], "JSON that is damaged", "text"), file


def test_no_beginning_of_a_file_is_too_short(folder: Path) -> None:
    """A kind, or words, are found for every byte alone and for the first bytes of every file."""
    no_text = {bytes([byte]) for byte in range(128, 256)} | {b"\xff\xfe"}
    begins = {bytes([byte]) for byte in range(128)} | no_text
    for file in (*OURS, *OTHERS):
        data = (folder / file).read_bytes()[:300]
        begins |= {data[:length] for length in (*range(1, 18), 258, 300)}
    for begin in sorted(begins):
        (folder / "begin").write_bytes(begin)
        found = what_is(folder / "begin")
        assert begin not in no_text or found == "bytes of no kind that is known here", begin


def test_text_may_be_cut_in_a_letter_only_where_it_goes_on(tmp_path: Path) -> None:
    """Of a long file a part is looked at, which may end within a letter; a file that ends so is no text."""
    path = tmp_path / "letter"
    for before in range(3):
        path.write_bytes(b"x" * before + "\N{EURO SIGN}".encode() * 30_000)
        assert what_is(path) == "text"
        path.write_bytes(b"x" * before + "\N{EURO SIGN}".encode()[:2])
        assert what_is(path) == "bytes of no kind that is known here"


def test_what_is_named_as_exported_and_is_not(folder: Path) -> None:
    """What is clearly something else than the end of its name says is refused; what may be one, damaged, is the engine's."""
    for suffix, expected in EXPORTED.items():
        file = folder / f"named{suffix}"
        for data, refused in ((b"<a>", suffix != ".xml"), (b"Dear Sir or Madam", True), (b"\x0c\xff\x80", False)):
            file.write_bytes(data)
            with pytest.raises(FileFormatError, match=f"expected {expected}") if refused else nullcontext():
                require_exported(file)


def test_every_format_is_of_a_kind() -> None:
    """Whatever is written with the name of a format: messages say its kind in words."""
    sources = Path(bitwright.__file__).parent.rglob("*.py")
    found = {name for file in sources for name in WRITTEN.findall(file.read_text())}
    kinds = {kind_of_format(name) for name in found}
    assert len(kinds) == len(found) >= 11
    assert kinds == {kind for kind in KINDS if kind.format}
    with pytest.raises(
        ValueError, match=r"no kind of file has the format 'bitwright\.unheard_of\.1': add one to KINDS"
    ):
        kind_of_format("bitwright.unheard_of.1")


def test_every_kind_of_ours_is_tried() -> None:
    """Those that no command reads as an argument, and those that others are made like, apart."""
    unmade = {"what `bitwright auto` measured", "images that were made without data"} | {
        f"the state of an interrupted {work}" for work in ("layer-wise training", "search", "reconstruction")
    }
    assert {kind.words for kind in KINDS} == {*OURS.values(), *unmade}


@pytest.mark.parametrize("opset", [13, 21])
def test_models_of_other_programs(opset: int, tmp_path: Path) -> None:
    """ONNX files are known whoever wrote them."""
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    plain = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    named = onnx.helper.make_model(graph, producer_name="pytorch", doc_string="x", ir_version=8)
    for model in (plain, named):
        stream = io.BytesIO()
        onnx.save(model, stream)
        (tmp_path / "model").write_bytes(stream.getvalue())
        assert what_is(tmp_path / "model") == "an ONNX model"
