"""Sources that are neither local nor S3: a web server's folder, Google's storage in an emulator.

What runs for ``gs://`` needs `gcsfs` (the extra ``gs``) and `gcp-storage-emulator`; without them
it is skipped. ``az://`` is not run: Azure's emulator, Azurite, is no Python package.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import settings_for

from pagemill.document import Failure, SourceObject
from pagemill.errors import ErrorKind, StorageError, UsageError
from pagemill.settings import Settings
from pagemill.urls import within
from tasks.discover import discover
from tasks.fetch import Fetched, fetch
from tests.seaweed import free_ports

FILES = {
    "in/a.pdf": b"a",
    "in/empty.pdf": b"",
    "in/sp ace#1%20.pdf": b"odd",
    "in/deep/ünï.pdf": b"deep",
    "in2/not-this.pdf": b"other",
}


def read(source: str, settings: Settings) -> dict[str, bytes]:
    """The bytes of every object of a source, by the end of its uri."""
    found = {}
    for listed in discover(source, settings, "/nonexistent"):
        fetched = fetch(listed, settings)
        assert isinstance(fetched, Fetched), fetched
        with fetched:
            assert fetched.etag == listed.etag
            assert fetched.size == len(fetched.file.read())
            fetched.file.seek(0)
            found[listed.uri.partition("/in/")[2]] = fetched.file.read()
    return found


# -- a folder of a web server ----------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web server that lists its folders as pages of links."""
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_folder_of_a_web_server_is_walked_and_read(site: str) -> None:
    found = read(f"{site}/in/", settings_for())
    assert sorted(found.values()) == sorted(d for p, d in FILES.items() if p.startswith("in/"))
    assert found["a.pdf"] == b"a"


def test_a_web_server_that_hangs_is_given_up(
    site: str, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    hang = threading.Event()
    monkeypatch.setattr(Quiet, "do_HEAD", lambda _: hang.wait(30))
    monkeypatch.setattr(Quiet, "do_GET", lambda _: hang.wait(30))
    monkeypatch.setattr("tasks.list_other.DEADLINE", 0.5)
    monkeypatch.setattr("tasks.fetch.DEADLINE", 0.5)
    with pytest.raises(StorageError, match=r"cannot list .* no answer in 0 s"):
        list(discover(f"{site}/in/a.pdf", settings_for(), "/nonexistent"))
    with pytest.raises(StorageError, match="cannot read"):
        fetch(SourceObject(f"{site}/in/a.pdf", "", 1), settings_for())
    hang.set()


def test_within_gives_results_and_errors_and_ends_what_hangs() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(KeyError, match="mine"):
        within(5, lambda: {}["mine"])
    with pytest.raises(TimeoutError, match="no answer in 0 s"):
        within(0.05, threading.Event().wait)


# -- Google's --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def google() -> Iterator[Settings]:
    """An emulator of Google Cloud Storage with a bucket ``scans``, and settings that reach it."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    (port,) = free_ports(1)
    # Else gcsfs asks Google over gRPC what kind of bucket it is, which the emulator cannot say.
    environment = {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    with mock.patch.dict(os.environ, environment):
        gcsfs = pytest.importorskip("gcsfs", reason="pip install 'pagemill[gs]'")
        server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="scans")
        server.start()
        fs = gcsfs.GCSFileSystem(token="anon", project="p")
        for path, data in FILES.items():
            fs.pipe_file(f"scans/{path}", data)
        yield settings_for(source_storage={"anonymous": True})
        server.stop()


@pytest.mark.parametrize("source", ["gs://scans/in", "gs://scans/in/", "gs://scans/in/**/*.pdf"])
def test_a_bucket_of_google_is_listed_and_read(google: Settings, source: str) -> None:
    wanted = {p.removeprefix("in/"): d for p, d in FILES.items() if p.startswith("in/")}
    assert read(source, google) == wanted


def test_what_is_missing_in_a_bucket_of_google_is_told_apart(google: Settings) -> None:
    gone = fetch(SourceObject("gs://scans/in/gone.pdf", "", 1), google)
    assert isinstance(gone, Failure) and gone.kind is ErrorKind.UNREADABLE
    with pytest.raises(UsageError, match="nothing at"):
        list(discover("gs://scans/nothing", google, "/nonexistent"))
