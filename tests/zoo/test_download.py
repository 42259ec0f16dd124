# SPDX-License-Identifier: MIT
"""Downloads from a local server: whole, resumed, damaged, refused, and files placed by hand."""

from __future__ import annotations

import gzip
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bitwright.errors import DataError, FileFormatError, UnknownNameError
from bitwright.zoo import archive_path, download
from bitwright.zoo.downloads import checksum_path

NAME = "resnet18-uniform8"


class Server:
    """Serves one file, with ranges; may break off after some bytes."""

    def __init__(self) -> None:
        self.data = gzip.compress(os.urandom(3_000_000))
        self.break_after: int | None = None
        self.kind = "application/gzip"
        self.requests: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append(self.headers.get("Range"))
                match = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
                start = int(match[1]) if match else 0
                self.send_response(206 if match else 200)
                if match:
                    size = len(outer.data)
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                self.send_header("Content-Length", str(len(outer.data) - start))
                self.send_header("Content-Type", outer.kind)
                self.send_header("Content-Disposition", 'attachment; filename="x.tar.gz"')
                self.send_header("ETag", '"one"')
                self.end_headers()
                stop = len(outer.data) if outer.break_after is None else start + outer.break_after
                self.wfile.write(outer.data[start:stop])
                if outer.break_after is not None:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/x.tar.gz"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that lives for one test; no proxy stands before it."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.close()


def test_download(server: Server, tmp_path: Path) -> None:
    """The file arrives whole, with its checksum beside it, and is not fetched twice."""
    told: list[tuple[int, int]] = []
    path = download(NAME, folder=tmp_path, url=server.url, progress=lambda done, total: told.append((done, total)))
    assert path == tmp_path / "resnet18_uniform8.tar.gz" == archive_path("ResNet18 W8A8", tmp_path)
    assert path.read_bytes() == server.data
    assert told[-1] == (len(server.data), len(server.data))
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, checksum_path(path).name]
    count = len(server.requests)
    assert download(NAME, folder=tmp_path, url=server.url) == path
    assert len(server.requests) == count


def test_a_broken_download_goes_on(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived stays; the next call asks for the rest only, and no half file ever has the archive's name."""
    monkeypatch.setattr("gdown.download", _without_retries(__import__("gdown").download))
    server.break_after = 2_000_000
    with pytest.raises(
        DataError, match=r"cannot download resnet18_uniform8.tar.gz .* goes on where it stopped; or open"
    ):
        download(NAME, folder=tmp_path, url=server.url)
    assert not (tmp_path / "resnet18_uniform8.tar.gz").exists()
    server.break_after = None
    server.requests.clear()
    path = download(NAME, folder=tmp_path, url=server.url)
    assert path.read_bytes() == server.data
    assert any(asked is not None and int(asked[6:].rstrip("-")) > 0 for asked in server.requests)


def _without_retries(function):
    return lambda **options: function(**{**options, "retries": 0})


def test_a_changed_file_is_refused(server: Server, tmp_path: Path) -> None:
    """After the first download, the file must keep its checksum."""
    path = download(NAME, folder=tmp_path, url=server.url)
    path.write_bytes(server.data[:-1] + b"?")
    with pytest.raises(FileFormatError, match=r"has changed since it was downloaded \(SHA-256 .*: remove it and"):
        download(NAME, folder=tmp_path, url=server.url)


def test_a_page_is_no_archive(server: Server, tmp_path: Path) -> None:
    """Quota pages of Google Drive are HTML: nothing is kept."""
    server.data, server.kind = b"<!DOCTYPE html><html></html>", "application/octet-stream"
    with pytest.raises(DataError, match=r"something else than resnet18_uniform8.tar.gz .*web page.* in a browser"):
        download(NAME, folder=tmp_path, url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_offline(tmp_path: Path, server: Server) -> None:
    """Without a network, the message says what to download by hand and where to put it."""
    server.close()
    link = r"https://drive.google.com/file/d/1CLAd3LhiRVYwiBZRuUJgrzrrPFfLvfWG/view\?usp=sharing"
    with pytest.raises(DataError, match=f"open {link} in a browser and save the file as '.*resnet18_uniform8.tar.gz'"):
        download(NAME, folder=tmp_path, url=server.url)
    by_hand = tmp_path / "resnet18_uniform8.tar.gz"
    by_hand.write_bytes(server.data)
    assert download(NAME, folder=tmp_path, url=server.url) == by_hand
    assert checksum_path(by_hand).exists()
    server.close = lambda: None  # type: ignore[method-assign]


def test_names_and_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows are named as everywhere, and archives are kept in the cache folder."""
    monkeypatch.setenv("BITWRIGHT_CACHE", str(tmp_path))
    assert archive_path("resnet50_modelsize_0.5") == tmp_path / "zoo" / "resnet50_size0.5.tar.gz"
    with pytest.raises(UnknownNameError):
        archive_path("vgg16-uniform8")
