"""Fetching tells an object that cannot be had from a storage that fails."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import WebServer, settings_for

from pagemill import s3 as s3_module
from pagemill.document import Failure, SourceObject
from pagemill.errors import ErrorKind, Stopped, StorageError
from pagemill.s3 import CHUNK, TRIES
from pagemill.s3_errors import S3Error
from pagemill.settings import Settings, StorageOptions
from tasks import fetch as fetch_module
from tasks.discover import discover
from tasks.fetch import Fetched, fetch
from tests.fault_proxy import FaultProxy, Request
from tests.seaweed import S3Server

SETTINGS = settings_for()


def find(source: str | Path, settings: Settings = SETTINGS) -> SourceObject:
    (found,) = discover(str(source), settings, "/nonexistent/out")
    return found


def failure(source: SourceObject, settings: Settings = SETTINGS) -> Failure:
    result = fetch(source, settings)
    assert isinstance(result, Failure)
    return result


def success(source: SourceObject, settings: Settings = SETTINGS) -> Fetched:
    result = fetch(source, settings)
    assert isinstance(result, Fetched)
    return result


Place = tuple[Callable[[bytes], str], Settings]


@pytest.fixture(params=["local", "s3", "memory", "http"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A way to put a document somewhere, which gives its URL, and settings that reach it."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        return _bucket(server), settings_for(storage=server.options)
    if request.param == "http":
        web: WebServer = request.getfixturevalue("web")
        return web.serve, SETTINGS
    url = str(tmp_path / "a b#1.pdf") if request.param == "local" else f"memory://{tmp_path.name}"

    def put(data: bytes) -> str:
        import fsspec

        with fsspec.open(url, "wb") as file:
            file.write(data)
        return url

    return put, SETTINGS


def _bucket(server: S3Server) -> Callable[[bytes], str]:
    bucket = server.bucket()

    def put(data: bytes) -> str:
        server.put(bucket, "a b#1.pdf", data)
        return f"s3://{bucket}/a b#1.pdf"

    return put


def test_a_run_that_is_stopped_reads_no_object_to_its_end(place: Place) -> None:
    put, settings = place
    found, chunks = find(put(b"%PDF-1.4" + bytes(5 * CHUNK)), settings), iter(range(9))

    def check_stop() -> None:
        if next(chunks) == 2:
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        fetch(found, settings, check_stop)
    assert next(chunks) == 3  # nor tries again


@pytest.mark.parametrize("size", [0, 1, 5 << 20, (8 << 20) + 7])
def test_the_bytes_come_whole_with_their_hash_and_etag(place: Place, size: int) -> None:
    put, settings = place
    data = os.urandom(size)
    source = find(put(data), settings)
    with success(source, settings) as fetched:
        assert fetched.source == source
        assert (fetched.source.size, fetched.source.etag) == (size, source.etag)
        assert fetched.sha256 == hashlib.sha256(data).hexdigest()
        assert fetched.file.read() == data
        assert fetched.file.seek(0) == 0
        assert os.fstat(fetched.file.fileno()).st_size == size
        assert os.fstat(fetched.file.fileno()).st_nlink == 0  # nothing stays when killed
    assert fetched.file.closed


def test_what_changed_since_the_listing_comes_with_its_own_etag(place: Place) -> None:
    put, settings = place
    listed = find(put(b"old"), settings)
    put(b"newer")
    now = find(put(b"newer"), settings)
    with success(listed, settings) as fetched:
        assert fetched.source == now != listed
        assert fetched.file.read() == b"newer"


def test_a_large_object_is_not_fetched(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    put, settings = place
    settings = settings.model_copy(
        update={"limits": settings_for(limits={"max_file_mb": 1}).limits}
    )
    fits = find(put(bytes(1 << 20)), settings)
    success(fits, settings).close()
    large = find(put(bytes((1 << 20) + 1)), settings)
    grown = SourceObject(large.uri, large.etag, 1, large.modified)
    expected = Failure(ErrorKind.TOO_LARGE, "over 1 MB", "max_file_mb=1")
    assert failure(grown, settings) == expected
    monkeypatch.setattr(fetch_module, "_opened", None)
    assert failure(large, settings) == expected


def test_what_is_gone_meanwhile_is_unreadable(place: Place) -> None:
    put, settings = place
    listed = find(put(b"x"), settings)
    gone = SourceObject(listed.uri.replace("a b#1", "gone") + "404", "", 1)
    assert failure(gone, settings).kind is ErrorKind.UNREADABLE


def test_a_known_problem_is_unreadable_without_another_look() -> None:
    source = SourceObject("file:///dev/tty", "", 0, None, "not a regular file")
    assert failure(source) == Failure(ErrorKind.UNREADABLE, "not a regular file")


# -- local ---------------------------------------------------------------------------------


def test_a_file_that_became_a_fifo_or_a_folder_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        source = SourceObject(f"file://{path}", "", 1)
        assert failure(source) == Failure(ErrorKind.UNREADABLE, "not a regular file")


def test_a_symlink_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"data")
    (tmp_path / "link").symlink_to("a")
    with success(find(tmp_path / "link")) as fetched:
        assert fetched.file.read() == b"data"


def test_a_file_without_permission_is_unreadable(
    open_folder: Path, unprivileged: Callable[[], None]
) -> None:
    (open_folder / "a").write_bytes(b"x")
    (open_folder / "a").chmod(0)
    unprivileged()
    source = find(open_folder / "a")
    assert failure(source) == Failure(ErrorKind.UNREADABLE, "permission denied")


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    source, copy, changes = find(path), fetch_module._copy, [b"new", b"newest"]

    def disturb(now: SourceObject, chunks: Iterator[bytes], limit: int) -> Fetched:
        if changes:
            path.write_bytes(changes.pop(0))
            os.utime(path, ns=(0, len(changes)))
        return copy(now, chunks, limit)

    monkeypatch.setattr(fetch_module, "_copy", disturb)
    with success(source) as fetched:
        assert fetched.file.read() == b"newest"
        assert fetched.source == find(path)
    changes = [b"1", b"2", b"3"]
    assert failure(source).message == "it keeps changing while it is read"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE])
def test_a_failing_disk_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "a").write_bytes(b"x")
    source = find(tmp_path / "a")

    def fail(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fetch_module.os, "open", fail)
    with pytest.raises(StorageError, match=f"cannot read {tmp_path}/a"):
        fetch(source, SETTINGS)


def test_a_full_temporary_folder_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x")

    def full(**_: Any) -> Any:
        return os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb", 0)

    monkeypatch.setattr(fetch_module.tempfile, "TemporaryFile", full)
    with pytest.raises(StorageError, match=r"disk is full.*TMPDIR"):
        fetch(find(tmp_path / "a"), SETTINGS)


# -- S3 ------------------------------------------------------------------------------------


def test_an_object_that_alone_is_forbidden_is_unreadable(s3: S3Server, reader_bucket: str) -> None:
    for key in ("open/a.pdf", "shut/b.pdf"):
        s3.put(reader_bucket, key, b"x")
    reader = settings_for(storage=s3.as_user("reader"))
    success(find(f"s3://{reader_bucket}/open/a.pdf", reader), reader).close()
    shut = SourceObject(f"s3://{reader_bucket}/shut/b.pdf", "", 1)
    assert failure(shut, reader) == Failure(ErrorKind.UNREADABLE, "access denied")


def test_a_bucket_that_is_forbidden_as_a_whole_is_raised(s3: S3Server) -> None:
    bucket = s3.bucket()
    s3.put(bucket, "a", b"x")
    for user, words in (("reader", "access denied"), ("wrong", "keys are refused")):
        with pytest.raises(StorageError, match=words):
            fetch(SourceObject(f"s3://{bucket}/a", "", 1), settings_for(storage=s3.as_user(user)))


def test_a_missing_bucket_is_raised(s3: S3Server) -> None:
    settings = settings_for(storage=s3.options)
    with pytest.raises(StorageError, match="no such bucket"):
        fetch(SourceObject("s3://no-such-bucket/a", "", 1), settings)


def test_an_unreachable_server_is_raised(s3: S3Server, impatient: None) -> None:
    nobody = settings_for(storage=StorageOptions(endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(StorageError, match="cannot reach"):
        fetch(SourceObject("s3://bucket/a", "", 1), nobody)


@pytest.mark.parametrize(
    ("code", "words"),
    [("InvalidObjectState", "archived"), ("KMS.DisabledException", "cannot be decrypted")],
)
def test_archived_and_undecryptable_objects_are_unreadable(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    def refuse(*_: Any) -> None:
        raise S3Error("no", code)

    monkeypatch.setattr(s3_module.S3, "open", refuse)
    result = failure(SourceObject("s3://bucket/a", "", 1), settings_for(storage=s3.options))
    assert result.kind is ErrorKind.UNREADABLE and words in result.message


def test_a_body_cut_midway_goes_on_where_it_broke(s3: S3Server, proxy: FaultProxy) -> None:
    bucket, data = s3.bucket(), os.urandom(6 << 20)
    s3.put(bucket, "a", data)
    settings = settings_for(storage=proxy.options)
    source = find(f"s3://{bucket}/a", settings)
    proxy.requests.clear()
    proxy.strike("cut", times=2)
    with success(source, settings) as fetched:
        assert fetched.file.read() == data
    # What came before the cut may be lost with it, so not where exactly it went on.
    asked = [(r.headers.get("Range"), r.headers.get("If-Match")) for r in proxy.requests]
    assert proxy.faults == {"cut": 2} and asked[0] == (None, None)
    assert [etag for _, etag in asked[1:]] == [f'"{source.etag}"'] * 2


def test_an_object_replaced_while_a_broken_body_is_read_is_read_anew(
    s3: S3Server, proxy: FaultProxy
) -> None:
    bucket, old, new = s3.bucket(), os.urandom(1 << 20), os.urandom(1 << 20)
    s3.put(bucket, "a", old)
    settings = settings_for(storage=proxy.options)
    source = find(f"s3://{bucket}/a", settings)
    etags = []

    def replace_then_cut(request: Request) -> str | None:
        if request.method != "GET" or etags:
            return None
        etags.append("")
        return "cut"

    def replace_before_the_rest(request: Request) -> str | None:
        if "If-Match" in request.headers and not etags[0]:
            etags[0] = s3.put(bucket, "a", new)
        return replace_then_cut(request)

    proxy.decide = replace_before_the_rest
    with success(source, settings) as fetched:
        assert fetched.file.read() == new
        assert fetched.source.etag == etags[0] != source.etag


def test_a_body_that_always_breaks_is_raised(
    s3: S3Server, proxy: FaultProxy, impatient: None
) -> None:
    bucket = s3.bucket()
    s3.put(bucket, "a", b"")
    s3.put(bucket, "b", bytes(1 << 20))
    settings = settings_for(storage=proxy.options)
    source = find(f"s3://{bucket}/b", settings)
    proxy.strike("lost", "GET", times=99)
    with pytest.raises(StorageError, match=r"cannot read s3://.*/b: cannot reach"):
        fetch(source, settings)
    assert TRIES <= proxy.faults["lost"] <= 2 * TRIES  # the HTTP client makes some twice


@pytest.mark.parametrize("fault", ["internal", "slow_down", "unavailable", "refused", "lost"])
def test_a_passing_fault_is_not_noticed(
    s3: S3Server, proxy: FaultProxy, impatient: None, fault: str
) -> None:
    bucket = s3.bucket()
    s3.put(bucket, "a", b"bytes")
    settings = settings_for(storage=proxy.options)
    proxy.strike(fault, times=TRIES - 1)
    source = find(f"s3://{bucket}/a", settings)
    proxy.strike(fault, times=TRIES - 1)
    with success(source, settings) as fetched:
        assert fetched.file.read() == b"bytes"
    assert proxy.faults == {fault: 2 * (TRIES - 1)}


def test_an_archived_object_is_unreadable_in_the_servers_own_words(
    s3: S3Server, proxy: FaultProxy
) -> None:
    bucket = s3.bucket()
    s3.put(bucket, "a", b"x")
    proxy.strike("archived", "GET")
    settings = settings_for(storage=proxy.options)
    result = failure(SourceObject(f"s3://{bucket}/a", "", 1), settings)
    assert result == Failure(ErrorKind.UNREADABLE, "archived: restore the object first")


def test_rights_lost_halfway_are_raised_and_do_not_become_rows(
    s3: S3Server, proxy: FaultProxy
) -> None:
    bucket = s3.bucket()
    s3.put(bucket, "a", b"x")
    settings = settings_for(storage=proxy.options)
    source = find(f"s3://{bucket}/a", settings)
    proxy.strike("denied", times=99)
    with pytest.raises(StorageError, match="access denied"):
        fetch(source, settings)
    assert len(proxy.requests) < 10  # it is not asked again and again


def test_a_multipart_upload_is_read_with_its_own_kind_of_etag(s3: S3Server) -> None:
    settings, bucket = settings_for(storage=s3.options), s3.bucket()
    parts = [os.urandom(5 << 20), b"end"]
    etag = s3.put_multipart(bucket, "a.pdf", parts)
    assert etag.endswith("-2")
    source = find(f"s3://{bucket}/a.pdf", settings)
    with success(source, settings) as fetched:
        assert fetched.source.etag == source.etag == etag
        assert fetched.file.read() == b"".join(parts)


def test_a_public_bucket_is_read_without_keys(s3: S3Server, public_bucket: str) -> None:
    s3.put(public_bucket, "a", b"open to all")
    anonymous = StorageOptions(endpoint_url=s3.endpoint_url, anonymous=True)
    settings = settings_for(source_storage=anonymous, storage=s3.as_user("wrong"))
    with success(find(f"s3://{public_bucket}/a", settings), settings) as fetched:
        assert fetched.file.read() == b"open to all"


def test_many_small_objects_are_read_at_once(s3: S3Server, proxy: FaultProxy) -> None:
    bucket, count = s3.bucket(), 8
    for number in range(count):
        s3.put(bucket, f"{number}", b"%d" % number)
    settings = settings_for(storage=proxy.options)
    everybody = threading.Barrier(count, timeout=60)

    def wait_for_all(request: Request) -> None:
        if request.method == "GET" and not request.lists:
            everybody.wait()

    proxy.before = wait_for_all
    sources = list(discover(f"s3://{bucket}", settings, "/nonexistent/out"))
    with ThreadPoolExecutor(count) as pool:
        fetched = list(pool.map(lambda source: success(source, settings), sources))
    assert [each.file.read() for each in fetched] == [b"%d" % n for n in range(count)]


# -- HTTP ----------------------------------------------------------------------------------


def test_http_failures_are_told_apart(web: WebServer, impatient: None) -> None:
    for status, words in ((404, "gone"), (410, "gone"), (403, "access denied")):
        assert words in failure(SourceObject(f"{web.url}/{status}", "", 1)).message
    for status in (500, 503):
        with pytest.raises(StorageError, match=f"cannot read {web.url}/{status}"):
            fetch(SourceObject(f"{web.url}/{status}", "", 1), SETTINGS)
    with pytest.raises(StorageError, match="cannot read"):
        fetch(SourceObject("http://127.0.0.1:1/a.pdf", "", 1), SETTINGS)
