# SPDX-License-Identifier: MIT
"""Data sets of Hugging Face and shards of WebDataset: the same pictures as in a folder give the same images, in any order."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from bitwright.data import ImageData, load_data
from bitwright.data.hugging_face import HubImages
from bitwright.data.own import _data
from bitwright.data.pictures import list_pictures
from bitwright.errors import DataError, MissingLibraryError

CLASSES = ("flower", "person")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache", raising=False)


def _samples(photographs: Path, split: str) -> list[tuple[Path, int]]:
    """Path and label of each picture, in the order of a folder."""
    return [
        (Path(path), label)
        for path, label in list_pictures(photographs / split, {name: label for label, name in enumerate(CLASSES)})
    ]


def shard(path: Path, members: list[tuple[str, bytes]]) -> None:
    """A tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def shards(photographs: Path, folder: Path, names: dict[str, list[str]], label: str = "cls") -> None:
    """The photographs in shards, two in the first."""
    for split, files in names.items():
        samples = _samples(photographs, split)
        parts = [samples[:2], samples[2:]] if len(files) > 1 else [samples]
        for name, part in zip(files, parts, strict=True):
            members = []
            for picture, number in part:
                key = f"{picture.parent.name}/{picture.stem}"
                data = str(number).encode() if label == "cls" else json.dumps({"label": number}).encode()
                members += [(f"{key}.{label}", data), (f"{key}.jpg", picture.read_bytes())]
            shard(folder / name, members)


def _disk(photographs: Path, folder: Path) -> str:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    made = {}
    for split, name in (("train", "train"), ("val", "validation")):
        rows = [{"image": str(path), "label": label} for path, label in _samples(photographs, split)]
        made[name] = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict(made).save_to_disk(folder / "disk")
    return f"hfds:{folder / 'disk'}"


def _parquet(photographs: Path, folder: Path) -> str:
    import datasets

    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.Value("int32")})
    (folder / "parquet").mkdir()
    for split, name in (("train", "train"), ("val", "test")):
        rows = [
            {"img": {"bytes": path.read_bytes(), "path": None}, "fine_label": label}
            for path, label in _samples(photographs, split)
        ]
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "parquet" / f"{name}-0000.parquet")
    return f"hfds:{folder / 'parquet'}"


def _folder_of_shards(photographs: Path, folder: Path) -> str:
    shards(
        photographs,
        folder / "wds",
        {"train": ["photos-train-000.tar", "photos-train-001.tar"], "val": ["photos-validation-000.tar"]},
    )
    (folder / "wds" / "classes.txt").write_text("flower\nperson\n")
    return f"wds:{folder / 'wds'}"


def _patterns(photographs: Path, folder: Path) -> str:
    shards(photographs, folder / "wds", {"train": ["a-08.tar", "a-09.tar"], "val": ["b.tar"]}, label="json")
    return f"wds:{folder}/wds/a-{{08..09}}.tar,{folder}/wds/b*.tar"


def _stated(photographs: Path, folder: Path) -> str:
    shards(photographs, folder / "wds", {"train": ["one.tar", "two.tar"], "val": ["three.tar"]})
    splits = {"big": {"filenames": ["one.tar", "two.tar"]}, "small": {"filenames": ["three.tar"]}}
    (folder / "wds" / "_info.json").write_text(json.dumps({"splits": splits}))
    return f"wds:{folder / 'wds'}:big,small"


BUILT: dict[str, Callable[[Path, Path], str]] = {
    "disk": _disk,
    "parquet": _parquet,
    "shards": _folder_of_shards,
    "patterns": _patterns,
    "stated": _stated,
}


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("kind", BUILT)
def test_the_same_pictures_are_the_same_images(kind: str, photographs: Path, tmp_path: Path) -> None:
    """Splits, labels, preprocessing, augmentation, shuffled orders and workers: all as of an image folder."""
    name = BUILT[kind](photographs, tmp_path)
    found, expected = (load_data(each, image_size=32) for each in (name, f"imagefolder:{photographs}"))
    assert found.name == name
    assert found.classes == (CLASSES if kind in ("disk", "shards") else ("0", "1"))
    assert found.preprocessing == expected.preprocessing
    for split in ("train", "test"):
        assert torch.equal(found.split(split).labels, expected.split(split).labels)
    for workers in (0, 2):
        for ours, theirs in zip(_order(found, workers), _order(expected, 0), strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])
    assert torch.equal(found.test[3][0], expected.test[3][0])


def _order(data: ImageData, workers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two epochs of a training, the second resumed."""
    loader = data.batches("train", 4, shuffle=True, augment=True, seed=5, workers=workers)
    loader.batch_sampler.sampler.set_epoch(1)  # type: ignore[union-attr]
    return list(loader)


def test_headers_are_read_once(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is kept, until the shard is another; a damaged note is written anew."""
    name = _folder_of_shards(photographs, tmp_path)
    load_data(name)
    kept = sorted((tmp_path / "cache" / "shards").iterdir())
    assert len(kept) == 3
    with monkeypatch.context() as patch:
        patch.setattr("bitwright.data.shards._samples", lambda path: pytest.fail("read again"))
        again = load_data(name)
        patch.setattr("bitwright.data.shards.VERSION", 0)  # as another release wrote it
        with pytest.raises(pytest.fail.Exception, match="read again"):
            load_data(name)
    kept[0].write_bytes(b"damaged")
    assert torch.equal(load_data(name).train.labels, again.train.labels)
    (first, *_) = sorted((tmp_path / "wds").glob("*train*"))
    shard(first, [("x.jpg", b""), ("x.cls", b"7")])
    (tmp_path / "wds" / "classes.txt").unlink()
    assert 7 in load_data(name).train.labels


def test_splits_are_found_by_names_of_any_kind(photographs: Path, tmp_path: Path) -> None:
    """Those that are asked for come first, with digits and underscores; what macOS writes beside a shard is none."""
    names = {"train": ["x-train_part1-00.tar"], "val": ["x-train_part10-00.tar"]}
    shards(photographs, tmp_path / "wds", names)
    for file in ("._x-train_part1-00.tar", ".hidden/x-train_part10-01.tar"):
        (tmp_path / "wds" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "wds" / file).write_bytes(b"Mac OS X")
    folder = tmp_path / "wds"
    for given in (
        f"{folder}:part1,part10",
        f"{folder}:Train_Part1,train_part10",
        f"{folder}/*1-*.tar,{folder}/*10-*.tar",
    ):
        found = load_data(f"wds:{given}")
        assert [len(images.shards) for images in (found.train, found.test)] == [1, 1]
        assert len(found.train) == len(_samples(photographs, "train"))
    with pytest.raises(DataError, match=r"no split 'part2' in .*, which has part1, train"):
        load_data(f"wds:{folder}:part2,part1")


SHARDS: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "no label": ([("a.jpg", b"x")], r"no label of 'a'.*expected 'a\.cls'"),
    "no class": ([("a.jpg", b"x"), ("a.cls", b"dog")], "expected the number of a class in 'a.cls'.*got 'dog'"),
    "below zero": ([("a.jpg", b"x"), ("a.cls", b"-1")], "a class from 0"),
    "too much": ([("a.jpg", b"x"), ("a.cls", b"1" * 2**21)], "expected a label.*2,097,152 bytes"),
    "two pictures": ([("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"1")], "one picture a sample"),
    "no pictures": ([("a.txt", b"x")], "no images in"),
    "a program": ([("a.jpg", b"x"), ("a.pyd", b"\x80\x04K\x01.")], "no label of 'a'"),  # is not unpickled
}


@pytest.mark.parametrize("fault", SHARDS)
def test_shards_that_are_refused(fault: str, tmp_path: Path) -> None:
    """In one line that names the shard and the sample."""
    members, message = SHARDS[fault]
    shard(tmp_path / "train.tar", members)
    shard(tmp_path / "val.tar", [("a.jpg", b"x"), ("a.cls", b"1")])
    with pytest.raises(DataError, match=message) as error:
        load_data(f"wds:{tmp_path}")
    assert "\n" not in str(error.value)


def test_what_else_is_refused(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards elsewhere, compressed, cut off or linked; splits that are not there; one channel; a picture that is none."""
    name = _folder_of_shards(photographs, tmp_path)
    cases = {
        "wds:https://x/train-{0..9}.tar,https://x/val.tar": "expected shards on this machine.*Download",
        "wds:pipe:cat x.tar": "expected shards on this machine",
        f"wds:{tmp_path / 'none'}": "no folder",
        f"{name}:big,small": "no split 'big' in .*, which has train, validation",
        f"{name}:one": "expected two splits",
        f"wds:{tmp_path}/wds/*x.tar,{tmp_path}/wds/y.tar": "no shards",
        f"wds:{tmp_path}/wds/x.tar,{tmp_path}/wds/y.tar": "cannot read images from '.*x.tar': No such file",
        "wds:x-{0..999999999}.tar,y.tar": "at most 100,000 shards",
        f"hfds:{tmp_path / 'none'}": "cannot load hfds:",
        f"hfds:{photographs}:a,b": "no split 'a' in",
    }
    for wrong, message in cases.items():
        with pytest.raises(DataError, match=message) as error:
            load_data(wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="wds gives colour images of 3 channels"):
        load_data(name, channels=1)
    first = sorted((tmp_path / "wds").glob("*train*"))[0]
    whole = first.read_bytes()
    first.write_bytes(b"\x1f\x8b" + whole[2:])
    with pytest.raises(DataError, match="Shards are plain tar files"):
        load_data(name)
    first.write_bytes(whole[:3000])
    with pytest.raises(DataError, match=r"cut off|cannot read"):
        load_data(name)
    shard(first, [("a.cls", b"1"), ("a.jpg", b"no picture")])
    with pytest.raises(DataError, match=r"cannot read the image '.*train-000.tar, byte \d+'"):
        load_data(name).train[0]
    (tmp_path / "wds" / "_info.json").write_text('{"splits": {"train": {"filenames": ["../x.tar"]}}}')
    with pytest.raises(DataError, match="in the folder itself"):
        load_data(name)
    monkeypatch.setattr("bitwright.extras.find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match=r"hfds:NAME needs datasets.*'bitwright\[huggingface\]'"):
        load_data("hfds:beans")


def test_no_label_decides_the_memory(tmp_path: Path) -> None:
    """A number that is no class is refused before there is a name for each below: in shards, of the hub, in sets of one's own."""
    import datasets

    shard(tmp_path / "train.tar", [("a.jpg", b"x"), ("a.cls", b"2147483647")])
    shard(tmp_path / "val.tar", [("a.jpg", b"x"), ("a.cls", b"1")])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    part = datasets.Dataset.from_dict({"image": [None], "label": [2**31 - 1]}).cast(features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "disk")
    own = TensorDataset(torch.zeros(2, 3, 4, 4), torch.tensor([0, 2**31 - 1]))
    for load in (
        lambda: load_data(f"wds:{tmp_path}"),
        lambda: load_data(f"hfds:{tmp_path / 'disk'}"),
        lambda: _data("own:images", (own, own), fixed=True),
    ):
        with pytest.raises(DataError, match=r"expected labels below 1,048,576, got 2,147,483,647 in .*: number the"):
            load()


@pytest.mark.parametrize("kind", ["pandas", "arrow", "numpy", "torch"])
def test_saved_formats_are_left_aside(kind: str, photographs: Path, tmp_path: Path) -> None:
    """How a set was last read in another program is kept with it, and says nothing about its pictures; nor do chosen columns."""
    import datasets

    name = _disk(photographs, tmp_path)
    expected = load_data(name, image_size=8).train[1]
    for columns in (None, ["label"]):
        formatted = datasets.load_from_disk(tmp_path / "disk").with_format(kind, columns=columns)
        formatted.save_to_disk(tmp_path / "formatted")
        found = load_data(f"hfds:{tmp_path / 'formatted'}", image_size=8).train[1]
        assert torch.equal(found[0], expected[0])
        assert found[1] == expected[1]


def test_no_file_is_opened_that_lies_elsewhere(photographs: Path, tmp_path: Path) -> None:
    """A data set names files: those below its folder are read, but neither others nor pipes."""
    import datasets

    picture = str(_samples(photographs, "train")[0][0])
    os.mkfifo(tmp_path / "pipe.jpg")
    where = {
        "inside": picture,
        "outside": "/etc/hostname",
        "up": f"{photographs}/../../x.jpg",
        "pipe": str(tmp_path / "pipe.jpg"),
    }
    storage = [{"bytes": None, "path": path} for path in where.values()]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"image": storage, "label": [0] * len(where)}, features=features)
    how = load_data(f"imagefolder:{photographs}", image_size=8).preprocessing
    found = HubImages(
        rows, "image", (str(photographs), str(tmp_path)), torch.zeros(4, dtype=torch.int64), how, "x, train"
    )
    assert found[0][0].shape == (3, 8, 8)
    found.below = (str(photographs),)
    assert found[0][0].shape == (3, 8, 8)
    for row in (1, 2, 3):
        with pytest.raises(
            DataError, match=rf"cannot read the image 'x, train\[{row}\]': expected a file below .*, got '"
        ):
            found[row]
    found.below = (str(tmp_path),)
    with pytest.raises(DataError, match=r"expected a file below .*, got '.*pipe\.jpg'"):
        found[3]


def test_releases_that_run_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of before may have one, whatever the package asks for."""
    monkeypatch.setattr("bitwright.data.hugging_face.version", lambda name: "3.6.0")
    with pytest.raises(MissingLibraryError, match=r"needs datasets 4 or newer, .*, got 3\.6\.0: pip install --upgrade"):
        load_data("hfds:beans")


def test_columns_that_are_not_told_apart(tmp_path: Path) -> None:
    """A data set without pictures or without labels is refused by what it has; one whose labels are secret, too."""
    import datasets

    def save(**features: object) -> str:
        rows = [{name: 0 if name != "image" else {"bytes": b"", "path": None} for name in features}]
        part = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "made")
        return f"hfds:{tmp_path / 'made'}"

    whole = datasets.Value("int64")
    with pytest.raises(DataError, match=r"expected one column of pictures in .* \(train\), got 0; it has label"):
        load_data(save(label=whole))
    with pytest.raises(DataError, match=r"expected one column of whole labels .* got 0; it has image, a, b"):
        load_data(save(image=datasets.Image(), a=whole, b=whole))
    with pytest.raises(
        DataError, match=r"labels \(ClassLabel, or integers called label, .* or cls\) .*; it has image, image_id\."
    ):
        load_data(save(image=datasets.Image(), image_id=whole))
    classes = datasets.ClassLabel(names=list(CLASSES))
    assert load_data(save(image=datasets.Image(), species=classes, image_id=whole)).classes == CLASSES
    part = datasets.Dataset.from_dict({"image": [None], "label": [-1]})
    part = part.cast(datasets.Features({"image": datasets.Image(), "label": whole}))
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "secret")
    with pytest.raises(DataError, match=r"has images without labels"):
        load_data(f"hfds:{tmp_path / 'secret'}")
