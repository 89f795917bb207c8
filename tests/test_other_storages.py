"""Sources that are neither local nor S3: a web server's folder, Google's and Azure's storage.

These two are emulators. What runs for ``gs://`` needs `gcsfs` (the extra ``gs``) and
`gcp-storage-emulator`, what runs for ``az://`` needs the extra ``az`` and Azurite
(`tests.azurite` says how it is found); without them it is skipped.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from click.testing import CliRunner
from conftest import settings_for

from flows.cli import main
from pagemill import azure
from pagemill.document import Failure, SourceObject
from pagemill.errors import ErrorKind, StorageError, UsageError
from pagemill.s3 import CHUNK
from pagemill.settings import Settings
from pagemill.urls import within
from tasks.discover import discover
from tasks.fetch import Fetched, fetch
from tests import azurite
from tests.helpers import echo_settings, look, make_pdf, name, run, table, write_config
from tests.seaweed import free_ports

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient

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
            assert fetched.source.etag == listed.etag
            assert fetched.source.size == len(fetched.file.read())
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


def test_an_object_that_changes_while_it_is_read_never_becomes_two_halves(
    google: Settings, impatient: None
) -> None:
    import gcsfs

    fs = gcsfs.GCSFileSystem(token="anon", project="p")
    before, after = b"1" * (20 << 20), b"2" * (20 << 20)  # gcsfs reads 5 MB and a little at a time
    fs.pipe_file("scans/large.pdf", before)
    changes = iter([lambda: fs.pipe_file("scans/large.pdf", after)])
    source = SourceObject("gs://scans/large.pdf", "", len(before))
    fetched = fetch(source, google, lambda: next(changes, lambda: None)() and None)
    assert isinstance(fetched, Fetched)
    with fetched:
        assert fetched.file.read() == after


def test_what_is_missing_in_a_bucket_of_google_is_told_apart(google: Settings) -> None:
    gone = fetch(SourceObject("gs://scans/in/gone.pdf", "", 1), google)
    assert isinstance(gone, Failure) and gone.kind is ErrorKind.UNREADABLE
    with pytest.raises(UsageError, match="nothing at"):
        list(discover("gs://scans/nothing", google, "/nonexistent"))


# -- Azure's ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def account() -> Iterator[BlobServiceClient]:
    """An emulator of Azure's blob storage with a container ``scans``."""
    pytest.importorskip("azure.storage.blob", reason="pip install 'pagemill[az]'")
    if not azurite.PROGRAM:
        pytest.skip("no azurite-blob on the PATH: npm install -g azurite")
    with azurite.serving() as service:
        scans = service.create_container("scans")
        for path, data in FILES.items():
            scans.upload_blob(path, data)
        yield service


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ask once, with whatever keys the test sets."""
    monkeypatch.setattr(azure, "TRIES", 1)
    azure._service.cache_clear()
    yield
    azure._service.cache_clear()


AZURE = ["az://scans/in", "az://scans/in/", "az://scans/in/**/*.pdf", "abfs://scans/in"]


@pytest.mark.parametrize("source", AZURE)
def test_a_container_of_azure_is_listed_and_read(account: BlobServiceClient, source: str) -> None:
    wanted = {p.removeprefix("in/"): d for p, d in FILES.items() if p.startswith("in/")}
    assert read(source, settings_for()) == wanted
    listing = discover(source, settings_for(), "/nonexistent")
    listed = list(listing)
    assert all(o.uri.startswith("az://scans/in/") and o.modified for o in listed)
    assert all(listing.would_list(o) for o in listed)


def test_a_blob_of_azure_is_a_source(account: BlobServiceClient) -> None:
    (listed,) = discover("az://scans/in/sp ace#1%20.pdf", settings_for(), "/nonexistent")
    assert (listed.uri, listed.size) == ("az://scans/in/sp ace#1%20.pdf", 3)


def test_folders_of_azure_are_no_documents(account: BlobServiceClient) -> None:
    at = account.create_container("folders")
    for key in ("in/", "in/deep/", "in/a//b.pdf", "in/new\nline.pdf"):
        at.upload_blob(key, b"x" if key.endswith("pdf") else b"")
    at.upload_blob("in/real", b"", metadata={"hdi_isfolder": "true"})  # as a data lake has them
    listing = discover("az://folders/in", settings_for(), "/nonexistent")
    assert [o.uri for o in listing] == ["az://folders/in/a//b.pdf", "az://folders/in/new\nline.pdf"]
    assert listing.outside == {"folder marker": 3}
    with pytest.raises(UsageError, match="nothing at"):
        list(discover("az://folders/in/real", settings_for(), "/nonexistent"))


def test_a_blob_that_changes_while_it_is_read_never_becomes_two_halves(
    account: BlobServiceClient, impatient: None
) -> None:
    blob = account.get_blob_client("scans", "large.pdf")
    before, after = b"1" * (3 * CHUNK), b"2" * (3 * CHUNK)
    blob.upload_blob(before)
    changes = iter([lambda: blob.upload_blob(after, overwrite=True)])
    source = SourceObject("az://scans/large.pdf", "", len(before))
    fetched = fetch(source, settings_for(), lambda: next(changes, lambda: None)() and None)
    assert isinstance(fetched, Fetched)
    with fetched:
        assert fetched.file.read() == after
        assert fetched.source.etag == blob.get_blob_properties().etag.strip('"')


def test_a_blob_that_vanishes_while_it_is_read_is_a_failure(
    account: BlobServiceClient, impatient: None
) -> None:
    blob = account.get_blob_client("scans", "short-lived.pdf")
    blob.upload_blob(b"1" * (3 * CHUNK))
    ends = iter([blob.delete_blob])
    source = SourceObject("az://scans/short-lived.pdf", "", 1)
    failure = fetch(source, settings_for(), lambda: next(ends, lambda: None)())
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message) == (ErrorKind.UNREADABLE, "gone meanwhile")


def test_what_is_missing_in_azure_is_told_apart(account: BlobServiceClient) -> None:
    gone = fetch(SourceObject("az://scans/in/gone.pdf", "", 1), settings_for())
    assert isinstance(gone, Failure) and gone.kind is ErrorKind.UNREADABLE
    with pytest.raises(StorageError, match="no such container"):
        fetch(SourceObject("az://none/a.pdf", "", 1), settings_for())
    for source in ("az://scans/nothing", "az://scans/*.tif"):
        with pytest.raises(UsageError, match="nothing at"):
            list(discover(source, settings_for(), "/nonexistent"))
    with pytest.raises(UsageError, match="no such container: check its name"):
        list(discover("az://none/in", settings_for(), "/nonexistent"))


def test_keys_that_azure_refuses_end_the_run_and_are_not_repeated(
    account: BlobServiceClient, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(account.url.split(":")[2].split("/")[0])
    for key, words in (("d3Jvbmc=", "access denied"), ("not base64!", "no keys that can be used")):
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection(port, key))
        with pytest.raises(StorageError, match=words) as caught:
            list(discover("az://scans/in", settings_for(), "/nonexistent"))
        assert key not in str(caught.value)
        with pytest.raises(StorageError, match=words):
            fetch(SourceObject("az://scans/in/a.pdf", "", 1), settings_for())


def test_a_public_container_of_azure_is_read_without_keys(account: BlobServiceClient) -> None:
    account.create_container("public", public_access="container").upload_blob("a.pdf", b"a")
    anonymous = settings_for(source_storage={"anonymous": True})
    assert [o.uri for o in discover("az://public", anonymous, "/x")] == ["az://public/a.pdf"]
    with pytest.raises(StorageError, match="access denied"):
        list(discover("az://scans/in", anonymous, "/nonexistent"))


@pytest.mark.parametrize(
    ("string", "source", "words"),
    [
        ("nonsense", "az://scans/in", "CONNECTION_STRING is malformed"),
        ("", "az://scans/in", "no storage account: set AZURE_STORAGE_CONNECTION_STRING"),
        ("", "abfss://scans@account.dfs.core.windows.net/in", "write az://container/name"),
        ("", "az://", "write az://container/name"),
    ],
)
def test_an_account_that_is_not_named_is_a_usage_error(
    hasty: None, monkeypatch: pytest.MonkeyPatch, string: str, source: str, words: str
) -> None:
    pytest.importorskip("azure.storage.blob", reason="pip install 'pagemill[az]'")
    for variable in ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", string)
    with pytest.raises(UsageError, match=words):
        list(discover(source, settings_for(), "/nonexistent"))


def test_an_account_that_cannot_be_reached_ends_the_run(
    hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("azure.storage.blob", reason="pip install 'pagemill[az]'")
    nobody = azurite.connection(free_ports(1)[0])
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", nobody)
    with pytest.raises(StorageError, match="cannot reach the account"):
        list(discover("az://scans/in", settings_for(), "/nonexistent"))


def test_without_its_package_azure_is_a_usage_error(
    hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "azure.storage.blob", None)
    with pytest.raises(UsageError, match=r"pip install 'pagemill\[az\]'"):
        list(discover("az://scans/in", settings_for(), "/nonexistent"))


def test_a_job_on_azure_does_only_what_is_missing(
    account: BlobServiceClient, tmp_path: Path
) -> None:
    at, out = account.create_container("job"), tmp_path / "out"
    settings = echo_settings(tmp_path)
    for number in range(3):
        with make_pdf(tmp_path / f"{number}.pdf", pages=2, words=str(number)).open("rb") as file:
            at.upload_blob(f"in/{number}.pdf", file)
    assert run("az://job/in", out, settings).balanced
    assert [(name(r), r["page_number"], r["status"]) for r in table(out)] == [
        (f"{document}.pdf", page, "ok") for document in range(3) for page in (1, 2)
    ]
    at.delete_blob("in/0.pdf")
    with make_pdf(tmp_path / "new.pdf", words="new").open("rb") as file:
        at.upload_blob("in/1.pdf", file, overwrite=True)
    assert look("abfs://job/in", out, settings)[1].deleted == 1  # its rows stay
    assert run("abfs://job/in", out, settings).balanced
    assert len(table(out)) == 5


def test_the_command_line_reads_azure(account: BlobServiceClient, tmp_path: Path) -> None:
    account.create_container("cli").upload_blob("a.pdf", make_pdf(tmp_path / "a.pdf").read_bytes())
    config = ["-c", str(write_config(tmp_path)), "--json"]
    planned = CliRunner().invoke(main, ["plan", "az://cli", str(tmp_path / "out"), *config])
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["new"] == 1
    missing = CliRunner().invoke(main, ["plan", "az://none", str(tmp_path / "out"), *config])
    assert missing.exit_code == 2
    assert "no such container" in missing.output
