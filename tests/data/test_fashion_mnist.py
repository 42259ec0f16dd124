# SPDX-License-Identifier: MIT
"""Fashion-MNIST, from every place that it can come from."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from torchvision.datasets import FashionMNIST

from bitwright.data import InMemoryImages, fashion_mnist, load_data
from bitwright.errors import DataError

pytestmark = pytest.mark.data


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Debian's package, and with an empty cache."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-debian")
    monkeypatch.setenv("BITWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fashion-mnist"


def test_all_images_are_there(fashion_mnist_folder: Path) -> None:
    """Debian's files give 60,000 and 10,000 images, as many of each class, normalised with constants that fit."""
    data = load_data("fashion-mnist")
    assert str(fashion_mnist_folder) in data.source
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert torch.bincount(data.train.labels).tolist() == [6000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.classes == tuple(FashionMNIST.classes)
    images, _ = data.calibration(5000)
    assert abs(float(images.mean())) < 0.02
    assert abs(float(images.std()) - 1) < 0.02


def test_a_given_folder_is_the_one_used(nowhere: Path, fashion_mnist_folder: Path, tmp_path: Path) -> None:
    """A folder may hold the files as they are, or be torchvision's root of gunzipped ones; the images are the same."""
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in fashion_mnist_folder.iterdir():
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    own, torchvision_root = (
        load_data(f"fashion-mnist:{fashion_mnist_folder}"),
        load_data(f"fashion-mnist:{tmp_path / 'root'}"),
    )
    expected = FashionMNIST(tmp_path / "root", train=False)
    for data in (own, torchvision_root):
        assert isinstance(data.test, InMemoryImages)
        assert torch.equal(data.test.pixels[:, 0], expected.data)
        assert torch.equal(data.test.labels, expected.targets)
    assert str(raw) in torchvision_root.source
    assert not nowhere.exists()


def test_an_incomplete_folder_is_refused(fashion_mnist_folder: Path, tmp_path: Path) -> None:
    """A given folder is not replaced by another place: what it lacks is an error that names the files."""
    shutil.copy(fashion_mnist_folder / "train-images-idx3-ubyte.gz", tmp_path)
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=f"no Fashion-MNIST in '{folder}'.*t10k-labels-idx1-ubyte"):
            load_data(f"fashion-mnist:{folder}")


def test_damaged_folders_are_refused(fashion_mnist_folder: Path, tmp_path: Path) -> None:
    """A truncated file, labels for other images, labels out of range, or images of another size: refused by file."""
    good = {file.name: file.read_bytes() for file in fashion_mnist_folder.iterdir()}
    images, labels = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
    plain_labels = bytearray(gzip.decompress(good[labels]))
    plain_labels[100] = 10
    plain_images = gzip.decompress(good[images])
    other_size = plain_images[:8] + (14).to_bytes(4, "big") + (56).to_bytes(4, "big") + plain_images[16:]
    cases = [
        (images, good[images][:-100], "cannot read"),
        (labels, good["train-labels-idx1-ubyte.gz"], "each of 10,000 images in .* got 60,000"),
        (labels, gzip.compress(plain_labels), "label from 0 to 9 for each of 10,000 images in .* got 10,000 up to 10"),
        (images, gzip.compress(other_size, 1), "expected images of 28 x 28 in"),
    ]
    for damaged, content, message in cases:
        for name, whole in good.items():
            (tmp_path / name).write_bytes(content if name == damaged else whole)
        with pytest.raises(DataError, match=message) as caught:
            load_data(f"fashion-mnist:{tmp_path}")
        assert damaged in str(caught.value)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def _serve(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on this machine, and give its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def test_a_download_fills_the_cache(nowhere: Path, fashion_mnist_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without files, torchvision fetches them (here from this machine) into the cache, where the next load looks."""
    checksums = [
        (name, hashlib.md5((fashion_mnist_folder / name).read_bytes()).hexdigest())
        for name, _ in FashionMNIST.resources
    ]
    monkeypatch.setattr(FashionMNIST, "resources", checksums)
    with _serve(fashion_mnist_folder) as address:
        monkeypatch.setattr(FashionMNIST, "mirrors", [address])
        assert len(load_data("fashion-mnist").test) == 10_000
    assert sorted(file.name for file in nowhere.iterdir()) == sorted(name for name, _ in checksums)
    monkeypatch.setattr(FashionMNIST, "mirrors", [])
    assert str(nowhere) in load_data("fashion-mnist").source


def test_a_failing_download_says_what_to_do(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be fetched, one line names the Debian package and the way to give a folder."""
    # Port 9 of this machine, where nothing listens: the connection is refused at once.
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError, match=r"cannot download .* dataset-fashion-mnist.*fashion-mnist:DIR") as caught:
        load_data("fashion-mnist")
    assert "\n" not in str(caught.value)
    assert list(nowhere.iterdir()) == []
