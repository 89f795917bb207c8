"""Storage keeps its promises on a local disk and on a real S3 server."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import s3fs
from fsspec.registry import _registry

from pagemill import disk as disk_module
from pagemill import s3 as s3_module
from pagemill.errors import StorageError, UsageError
from pagemill.s3 import TRIES
from pagemill.s3_errors import S3Error, scrub
from pagemill.settings import StorageOptions
from pagemill.storage import AlreadyExists, Changed, Missing, Storage
from pagemill.urls import filesystem
from tests.fault_proxy import FaultProxy
from tests.seaweed import ADMIN, S3Server

LOCAL = StorageOptions()


@pytest.fixture(params=["local", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "out"), LOCAL)
    server: S3Server = request.getfixturevalue("s3")
    return Storage(f"s3://{server.bucket()}/deep/out", server.options)


# -- one writer ----------------------------------------------------------------------------


def test_what_is_created_is_read_and_listed_with_one_etag(out: Storage) -> None:
    etag = out.create("pages/part-0.parquet", b"rows")
    assert out.read("pages/part-0.parquet") == b"rows"
    assert out.read_versioned("pages/part-0.parquet") == (b"rows", etag)
    assert out.list("pages") == [("pages/part-0.parquet", etag, 4)]
    assert out.exists("pages/part-0.parquet")
    assert '"' not in etag


def test_create_refuses_a_taken_name_and_keeps_what_is_there(out: Storage) -> None:
    out.create("a", b"first")
    with pytest.raises(AlreadyExists, match="a"):
        out.create("a", b"second")
    assert out.read("a") == b"first"


def test_create_refuses_a_taken_name_even_for_equal_bytes(out: Storage) -> None:
    out.create("a", b"same")
    with pytest.raises(AlreadyExists):
        out.create("a", b"same")


def test_replace_takes_the_etag_that_was_read_and_no_older_one(out: Storage) -> None:
    first = out.create("a", b"1")
    second = out.replace("a", b"2", first)
    assert out.read_versioned("a") == (b"2", second)
    with pytest.raises(Changed):
        out.replace("a", b"3", first)
    assert out.read_versioned("a") == (b"2", second)
    third = out.replace("a", b"3", second)
    assert out.list() == [("a", third, 1)]


def test_a_range_is_read_of_one_version_only(out: Storage) -> None:
    first = out.create("a", b"0123456789")
    assert out.read_range("a", first, 3, 4) == b"3456"
    second = out.replace("a", b"abcdefghij", first)
    assert out.read_range("a", second, 8, 2) == b"ij"
    for path, etag in (("a", first), ("b", first)):
        with pytest.raises(Changed):
            out.read_range(path, etag, 3, 4)


def test_replace_of_nothing_has_changed(out: Storage) -> None:
    etag = out.create("a", b"1")
    out.delete("a")
    with pytest.raises(Changed):
        out.replace("a", b"2", etag)
    assert not out.exists("a")


def test_put_overwrites_and_makes_older_etags_stale(out: Storage) -> None:
    first = out.create("a", b"1")
    second = out.put("a", b"2")
    assert out.read_versioned("a") == (b"2", second)
    with pytest.raises(Changed):
        out.replace("a", b"3", first)


def test_delete_removes_and_may_be_repeated(out: Storage) -> None:
    out.put("a", b"1")
    out.delete("a")
    out.delete("a")
    assert not out.exists("a")
    assert out.list() == []


def test_reading_nothing_is_missing(out: Storage) -> None:
    with pytest.raises(Missing, match=r"no such"):
        out.read("nothing/here")
    assert not out.exists("nothing/here")


def test_a_missing_folder_is_an_empty_list(out: Storage) -> None:
    assert out.list("no/such/folder") == []
    assert out.list() == []


def test_a_list_goes_down_into_folders_and_is_sorted(out: Storage) -> None:
    for path in ("pages/b", "pages/a", "pages/deep/er/c", "pages2/d", "pagesx"):
        out.put(path, b"x")
    assert [e.path for e in out.list("pages")] == ["pages/a", "pages/b", "pages/deep/er/c"]
    assert [e.path for e in out.list("pages/")] == ["pages/a", "pages/b", "pages/deep/er/c"]
    assert len(out.list()) == 5


def test_a_list_is_never_stale(out: Storage) -> None:
    for number in range(5):
        out.create(f"n/{number}", b"x")
        assert len(out.list("n")) == number + 1


def test_two_storages_of_one_url_see_each_other(out: Storage, s3: S3Server) -> None:
    etag = out.create("a", b"1")
    again = Storage(out.url + "/", s3.options)
    assert again.read_versioned("a") == (b"1", etag)
    assert again.url == out.url


@pytest.mark.parametrize("name", ["sp ace", "ünï/日本", "h#a%20b?c=d", "st*r[1]", "q'uo\"te&<>"])
def test_odd_names_are_names(out: Storage, name: str) -> None:
    etag = out.create(name, b"odd")
    assert out.list() == [(name, etag, 3)]
    assert out.read(out.list()[0].path) == b"odd"


def test_empty_and_large_objects(out: Storage) -> None:
    large = os.urandom(1 << 20) * 120  # above the 100 MiB where s3fs goes over to multipart
    etag = out.create("empty", b"")
    assert out.read_versioned("empty") == (b"", etag)
    etag = out.create("large", large)
    assert out.read_versioned("large") == (large, etag)
    with pytest.raises(AlreadyExists):
        out.create("large", large)
    with pytest.raises(Changed):
        out.replace("large", large, "0" * 32)
    assert out.list()[1] == ("large", etag, len(large))
    assert out.list("large") == []  # an object is no folder


def test_a_thousand_and_more_objects_are_all_listed(s3: S3Server) -> None:
    bucket = s3.bucket()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: s3.put(bucket, f"n/{n:04}", b"x"), range(1005)))
    listed = [e.path for e in Storage(f"s3://{bucket}", s3.options).list("n")]
    assert listed == [f"n/{n:04}" for n in range(1005)]


def test_the_root_of_a_bucket_is_a_folder_too(s3: S3Server) -> None:
    out = Storage(f"s3://{s3.bucket()}", s3.options)
    etag = out.create("pages/a", b"1")
    assert out.list() == out.list("pages") == [("pages/a", etag, 1)]


def test_probe_accepts_storage_that_honours_conditions(out: Storage) -> None:
    out.probe()
    assert out.list() == []


def test_what_a_killed_probe_leaves_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Storage(str(tmp_path), StorageOptions())
    with monkeypatch.context() as killed:
        killed.setattr(out, "delete", lambda _: None)
        out.probe()
    (left,) = [path for path in tmp_path.iterdir() if path.name.startswith(".pagemill-tmp-")]
    assert out.list() == []
    os.utime(left, (0, 0))
    out.sweep()
    assert not left.exists()


def test_probe_refuses_a_server_that_ignores_conditions(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Storage(f"s3://{s3.bucket()}", s3.options)
    put = s3_module.S3.put
    monkeypatch.setattr(s3_module.S3, "put", lambda self, b, k, d, **condition: put(self, b, k, d))
    with pytest.raises(StorageError, match="ignores If-None-Match"):
        out.probe()
    assert out.list() == []


# -- many writers --------------------------------------------------------------------------


def _race(count: int, attempt: Callable[[int], str]) -> list[int]:
    """Start `count` threads at once; the numbers of those that won."""
    start, won = threading.Barrier(count), []

    def run(number: int) -> None:
        start.wait()
        try:
            attempt(number)
        except (AlreadyExists, Changed):
            return
        won.append(number)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, range(count)))
    return won


def _lanes(rounds: int, play: Callable[[int], None]) -> None:
    """Play rounds side by side: SeaweedFS makes a loser wait for its lock for seconds."""
    with ThreadPoolExecutor(rounds) as pool:
        list(pool.map(play, range(rounds)))


def test_of_eight_creators_exactly_one_wins(out: Storage) -> None:
    def play(lane: int) -> None:
        for number in range(2):
            path = f"race/{lane}-{number}"
            won = _race(8, lambda n: out.create(path, b"by %d" % n))  # noqa: B023
            assert len(won) == 1
            assert out.read(path) == b"by %d" % won[0]

    _lanes(10, play)
    assert len(out.list("race")) == 20


def test_of_eight_creators_of_equal_bytes_exactly_one_wins(out: Storage) -> None:
    _lanes(4, lambda lane: _one_wins(_race(8, lambda _: out.create(f"race/{lane}", b"same"))))


def _one_wins(won: list[int]) -> None:
    assert len(won) == 1


def test_of_eight_replacers_exactly_one_wins(out: Storage) -> None:
    def play(lane: int) -> None:
        etag = out.create(f"race/{lane}", b"by nobody")
        for number in range(2):
            data = [b"by %d in round %d" % (n, number) for n in range(8)]
            won = _race(8, lambda n: out.replace(f"race/{lane}", data[n], etag))  # noqa: B023
            assert len(won) == 1
            now, etag = out.read_versioned(f"race/{lane}")
            assert now == data[won[0]]

    _lanes(10, play)


def test_a_counter_incremented_by_eight_threads_loses_nothing(out: Storage) -> None:
    out.create("counter", b"0")

    def increment(_: int) -> None:
        while True:
            data, etag = out.read_versioned("counter")
            try:
                out.replace("counter", b"%d" % (int(data) + 1), etag)
                return
            except Changed:
                continue

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, range(40)))
    assert out.read("counter") == b"40"


def _child(url: str, name: int, start: Any, results: Any) -> None:
    out = Storage(url, LOCAL)
    start.wait()
    for attempt in range(50):
        try:
            out.create(f"race/{attempt}", b"%d" % name)
            results.put((attempt, name))
        except AlreadyExists:
            pass
    for _ in range(25):
        while True:
            data, etag = out.read_versioned("counter")
            try:
                out.replace("counter", b"%d" % (int(data) + 1), etag)
                break
            except Changed:
                continue
    results.put(None)


def test_processes_race_on_a_local_disk_like_threads(tmp_path: Path) -> None:
    out = Storage(str(tmp_path), LOCAL)
    out.create("counter", b"0")
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(4), spawn.Queue()
    children = [
        spawn.Process(target=_child, args=(str(tmp_path), n, start, results)) for n in range(4)
    ]
    for child in children:
        child.start()
    won, finished = [], 0
    while finished < 4:
        result = results.get(timeout=120)
        finished += result is None
        won += [result] if result else []
    for child in children:
        child.join()
    assert sorted(attempt for attempt, _ in won) == list(range(50))
    assert all(out.read(f"race/{attempt}") == b"%d" % name for attempt, name in won)
    assert out.read("counter") == b"100"


# -- local files ---------------------------------------------------------------------------


def test_a_killed_writer_leaves_nothing_that_a_glob_or_a_list_sees(tmp_path: Path) -> None:
    out = Storage(str(tmp_path), LOCAL)
    process = multiprocessing.get_context("fork").Process(target=_die_before_link, args=(out,))
    process.start()
    process.join()
    (left,) = (tmp_path / "pages").iterdir()
    assert out.list() == [] and list(tmp_path.glob("pages/*.parquet")) == []
    assert out.sweep() == 0 and left.exists()
    os.utime(left, (0, 0))
    assert out.sweep() == 1 and not left.exists()


def _die_before_link(out: Storage) -> None:
    def die(*_: object) -> None:
        os._exit(9)

    disk_module.os.link = die  # type: ignore[attr-defined]
    out.create("pages/part-0.parquet", b"half")


def test_writers_leave_no_temporary_files(out: Storage, tmp_path: Path) -> None:
    etag = out.create("pages/a", b"1")
    with pytest.raises(AlreadyExists):
        out.create("pages/a", b"2")
    out.replace("pages/a", b"2", etag)
    with pytest.raises(Changed):
        out.replace("pages/a", b"3", etag)
    out.put("pages/a", b"4")
    names = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert names <= {"a", ".pagemill-lock"}


def test_local_etags_differ_even_within_one_tick_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module.time, "time_ns", lambda: 1_700_000_000_000_000_000)
    out = Storage(str(tmp_path), LOCAL)
    etags = [out.create("a", b"0")]
    for number in range(1, 10):
        etags.append(out.replace("a", b"%d" % number, etags[-1]))
    assert len(set(etags)) == 10


def test_a_link_whose_answer_was_lost_is_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def lossy(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # what an NFS client does that got no answer

    monkeypatch.setattr(disk_module.os, "link", lossy)
    out = Storage(str(tmp_path), LOCAL)
    etag = out.create("a", b"1")
    assert out.read_versioned("a") == (b"1", etag)


@pytest.mark.parametrize(
    ("number", "cause"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EIO, "disk fails")],
)
def test_a_failing_disk_is_a_storage_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, cause: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    out = Storage(str(tmp_path), LOCAL)
    out.create("b", b"1")
    monkeypatch.setattr(disk_module.os, "fsync", fail)
    for write in (lambda: out.create("a", b"1"), lambda: out.put("b", b"2")):
        with pytest.raises(StorageError, match=cause) as caught:
            write()
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.undo()
    assert [e.path for e in out.list()] == ["b"] and out.read("b") == b"1"


def test_a_full_disk_is_a_storage_error() -> None:
    with pytest.raises(StorageError):
        Storage("/dev/full", LOCAL).create("a", b"1")
    with pytest.raises(StorageError):
        Storage("/proc", LOCAL).create("a", b"1")


def test_a_folder_without_permission_is_a_storage_error(
    open_folder: Path, unprivileged: Callable[[], None]
) -> None:
    (open_folder / "out" / "pages").mkdir(parents=True)
    out = Storage(str(open_folder / "out"), LOCAL)
    out.create("pages/a", b"1")
    (open_folder / "out" / "pages").chmod(0)
    unprivileged()
    for attempt in (
        lambda: out.list("pages"),
        lambda: out.read("pages/a"),
        lambda: out.create("pages/b", b""),
        lambda: out.exists("pages/a"),
        lambda: out.delete("pages/a"),
    ):
        with pytest.raises(StorageError, match="permission denied"):
            attempt()


def test_a_file_in_the_way_of_the_output_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    out = Storage(str(tmp_path / "file"), LOCAL)
    with pytest.raises(StorageError, match="is a file"):
        out.list()
    with pytest.raises(StorageError, match="is a file"):
        out.create("a", b"")


def test_paths_may_be_plain_relative_or_file_urls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spelt = ["out", "./out/", "~/out", f"file://{tmp_path}/out", str(tmp_path / "out")]
    assert {Storage(url, LOCAL).url for url in spelt} == {str(tmp_path / "out")}


# -- S3 that fails -------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, TRIES])
def test_a_create_whose_answer_was_lost_is_our_own(
    s3: S3Server, proxy: FaultProxy, impatient: None, times: int
) -> None:
    bucket = s3.bucket()
    out = Storage(f"s3://{bucket}", proxy.options)
    proxy.strike("lost", "PUT", times)
    etag = out.create("a", b"1")
    assert proxy.faults == {"lost": times}
    assert Storage(f"s3://{bucket}", s3.options).read_versioned("a") == (b"1", etag)
    with pytest.raises(AlreadyExists):
        out.create("a", b"1")


def test_a_replace_whose_answer_was_lost_is_our_own(
    s3: S3Server, proxy: FaultProxy, impatient: None
) -> None:
    out = Storage(f"s3://{s3.bucket()}", proxy.options)
    first = out.create("a", b"1")
    proxy.strike("lost", "PUT")
    second = out.replace("a", b"2", first)
    assert proxy.faults == {"lost": 1}
    assert out.read_versioned("a") == (b"2", second)


@pytest.mark.parametrize("fault", ["internal", "slow_down", "refused", "lost", "cut"])
def test_every_call_lives_with_a_passing_fault(
    s3: S3Server, proxy: FaultProxy, impatient: None, fault: str
) -> None:
    out = Storage(f"s3://{s3.bucket()}", proxy.options)

    def struck(call: Callable[[], Any]) -> Any:
        proxy.strike(fault, times=2)
        return call()

    first = struck(lambda: out.create("a", b"1"))
    assert struck(out.list) == [("a", first, 1)]
    assert struck(lambda: out.read("a")) == b"1"
    second = struck(lambda: out.replace("a", b"2", first))
    assert struck(lambda: out.exists("a")) and struck(lambda: out.read_versioned("a")[1]) == second
    with pytest.raises(Changed):
        struck(lambda: out.replace("a", b"3", first))
    with pytest.raises(AlreadyExists):
        struck(lambda: out.create("a", b"3"))
    struck(lambda: out.delete("a"))
    assert not out.exists("a")


@pytest.mark.parametrize("fault", ["internal", "slow_down", "refused", "denied", "skewed"])
def test_a_lasting_fault_is_one_clear_error_of_every_call(
    s3: S3Server, proxy: FaultProxy, impatient: None, fault: str
) -> None:
    out = Storage(f"s3://{s3.bucket()}", proxy.options)
    proxy.decide = lambda _: fault
    words = {"denied": "access denied", "skewed": "clock is wrong", "refused": "cannot reach"}
    for call in (
        out.list,
        lambda: out.read("a"),
        lambda: out.create("a", b"1"),
        lambda: out.replace("a", b"1", "0" * 32),
        lambda: out.delete("a"),
    ):
        proxy.requests.clear()
        with pytest.raises(StorageError, match=words.get(fault, "the server fails")) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, AlreadyExists | Changed)
        # A write asks once more whose it is; and the HTTP client makes some requests twice.
        assert len(proxy.requests) <= 4 * TRIES


def test_a_request_that_hangs_is_made_again(
    s3: S3Server, proxy: FaultProxy, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "SILENCE", 1.5)
    out = Storage(f"s3://{s3.bucket()}", proxy.options)
    proxy.strike("hang")
    etag = out.create("a", b"1")
    proxy.strike("hang")
    assert out.read_versioned("a") == (b"1", etag)
    assert proxy.faults == {"hang": 2}


def test_a_range_cut_midway_goes_on_where_it_broke(s3: S3Server, proxy: FaultProxy) -> None:
    out, data = Storage(f"s3://{s3.bucket()}", proxy.options), os.urandom(10_000)
    etag = out.create("a", data)
    proxy.requests.clear()
    proxy.strike("cut")
    assert out.read_range("a", etag, 1000, 2000) == data[1000:3000]
    asked = [request.headers["Range"] for request in proxy.requests]
    assert len(asked) == 2 and all(span.endswith("-2999") for span in asked)


def test_a_server_that_never_answers_is_given_up(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "DEADLINE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        out = Storage("s3://bucket", StorageOptions(endpoint_url=f"http://127.0.0.1:{port}"))
        with pytest.raises(StorageError, match="no answer in 1 s"):
            out.list()
        with pytest.raises(StorageError, match="no answer"):
            out.create("a", b"1")


def test_an_unreachable_server_is_a_storage_error(s3: S3Server, impatient: None) -> None:
    out = Storage("s3://bucket/x", StorageOptions(endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(StorageError, match=r"cannot reach http://127.0.0.1:1 .*endpoint_url"):
        out.read("a")


def test_a_missing_bucket_is_a_storage_error(s3: S3Server) -> None:
    out = Storage("s3://no-such-bucket/x", s3.options)
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/x/: no such bucket: check"):
        out.list()
    with pytest.raises(StorageError, match="no such bucket"):
        out.read("a")


def test_refused_keys_are_a_storage_error_without_the_keys(s3: S3Server) -> None:
    bucket = s3.bucket()
    out = Storage(f"s3://{bucket}", s3.as_user("wrong"))
    for attempt in (out.list, lambda: out.read("a"), lambda: out.create("a", b"")):
        with pytest.raises(StorageError, match="keys are refused") as caught:
            attempt()
        message = str(caught.value)
        assert "\n" not in message and "not-the-secret" not in message
        assert ADMIN[0] not in message and ADMIN[1] not in message


def test_missing_keys_are_a_storage_error(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    options = StorageOptions(endpoint_url=s3.endpoint_url, region="eu-west-1")
    with pytest.raises(StorageError, match="no keys: set AWS_ACCESS_KEY_ID"):
        Storage("s3://bucket", options).list()


def test_an_unknown_profile_is_a_usage_error(s3: S3Server) -> None:
    with pytest.raises(UsageError, match=r"storage.profile: .*nobody"):
        Storage("s3://bucket", s3.as_user("nobody")).list()


def test_a_forbidden_write_is_a_storage_error(s3: S3Server, reader_bucket: str) -> None:
    out = Storage(f"s3://{reader_bucket}/open", s3.as_user("reader"))
    with pytest.raises(StorageError, match="access denied") as caught:
        out.create("a", b"1")
    assert not isinstance(caught.value, AlreadyExists)


def test_a_child_process_reaches_s3_on_its_own(s3: S3Server) -> None:
    url = f"s3://{s3.bucket()}"
    Storage(url, s3.options).create("parent", b"1")  # its client must be of no account to a child
    child = multiprocessing.get_context("spawn").Process(target=_write, args=(url, s3.options))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert Storage(url, s3.options).read("child") == b"2"


def _write(url: str, options: StorageOptions) -> None:
    out = Storage(url, options)
    assert out.read("parent") == b"1"
    out.create("child", b"2")


def test_errors_survive_the_way_between_processes() -> None:
    error = S3Error("cannot read", "Busy")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.code) == ("cannot read", "Busy")


# -- S3 as users have it -------------------------------------------------------------------


def test_what_goes_over_the_wire(s3: S3Server, proxy: FaultProxy) -> None:
    bucket = s3.bucket()
    options = proxy.options.model_copy(update={"region": "eu-test-7", "requester_pays": True})
    out = Storage(f"s3://{bucket}/x", options)
    out.create("a", b"1")
    out.read("a")
    out.list()
    assert len(proxy.requests) == 3
    for request in proxy.requests:
        assert request.path.startswith(f"/{bucket}")  # path style: the host stays the endpoint's
        assert f"{ADMIN[0]}/" in request.headers["Authorization"]
        assert "/eu-test-7/s3/aws4_request" in request.headers["Authorization"]
    paying = [request.headers.get("x-amz-request-payer") for request in proxy.requests]
    assert paying == ["requester"] * 3


def test_without_keys_nothing_is_signed(proxy: FaultProxy, public_bucket: str) -> None:
    options = proxy.options.model_copy(update={"anonymous": True})
    assert Storage(f"s3://{public_bucket}/nothing/here", options).list() == []
    assert [request.headers.get("Authorization") for request in proxy.requests] == [None]


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_endpoint_region_and_profile_come_from_the_environment(
    s3: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    bucket = s3.bucket()
    monkeypatch.setenv(name, str(proxy.options.endpoint_url))
    monkeypatch.setenv("AWS_DEFAULT_REGION", f"from-{name.lower().replace('_', '-')}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "admin")
    s3fs.S3FileSystem.clear_instance_cache()  # one for equal options, which are no options here
    try:
        Storage(f"s3://{bucket}/x", LOCAL).create("a", b"1")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    (request,) = proxy.requests
    assert request.path == f"/{bucket}/x/a"
    assert f"/from-{name.lower().replace('_', '-')}/s3/" in request.headers["Authorization"]
    assert Storage(f"s3://{bucket}/x", s3.options).read("a") == b"1"


def test_a_clock_that_is_wrong_is_named(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.auth

    bucket, now = s3.bucket(), botocore.auth.get_current_datetime
    monkeypatch.setattr(
        botocore.auth,
        "get_current_datetime",
        lambda *how, **more: now(*how, **more) - timedelta(hours=2),
    )
    with pytest.raises(StorageError, match="clock is wrong"):
        Storage(f"s3://{bucket}", s3.options).list()


# -- URLs ----------------------------------------------------------------------------------


def test_an_output_below_an_empty_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"an empty name: write s3://b/out"):
        Storage("s3://b//out", LOCAL)


@pytest.mark.parametrize("url", ["gs://b/out", "memory://out", "https://host/out", "sftp://h/out"])
def test_an_output_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="local folder or to s3://"):
        Storage(url, LOCAL)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAEXAMPLE:s3cr3tw0rd@bucket/x",
        "s3://AKIAEXAMPLE:s3cr3t/w0rd@bucket/x",
        "s3://s3cr3tw0rd@bucket",
        "https://me:s3cr3tw0rd@host/a.pdf",
        "sftp://me:s3cr3tw0rd@host/a.pdf",
        "https://b.s3.amazonaws.com/a.pdf?X-Amz-Credential=s3cr3tw0rd&X-Amz-Signature=1",
        "https://b.blob.core.windows.net/c/a.pdf?sv=1&sig=s3cr3tw0rd",
    ],
)
def test_keys_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    for use in (lambda: filesystem(url, LOCAL), lambda: Storage(url, LOCAL)):
        with pytest.raises(UsageError, match="keys") as caught:
            use()
        assert "s3cr3t" not in str(caught.value) and "w0rd" not in str(caught.value)
    endpoint = StorageOptions(endpoint_url="http://me:s3cr3tw0rd@host:9000")
    with pytest.raises(UsageError, match="keys"):
        Storage("s3://bucket", endpoint)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("gs://bucket/x", r"pip install 'pagemill\[gs\]'"),
        ("nonsense://x", "is unknown"),
        ("zip://a.pdf::https://host/a.zip", "unpack it"),
    ],
)
def test_what_cannot_be_opened_is_a_usage_error_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, url: str, remedy: str
) -> None:
    for name in ("gs", "az"):  # as where they are not installed
        monkeypatch.delitem(_registry, name, raising=False)
    for package in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=remedy):
        filesystem(url, LOCAL)


def test_an_endpoint_that_is_no_url_is_a_usage_error(s3: S3Server) -> None:
    with pytest.raises(UsageError, match=r"endpoint_url: .*hello.* write it as http://host:port"):
        Storage("s3://bucket/out", StorageOptions(endpoint_url="hello")).exists("x")


def test_keys_are_taken_out_of_messages_but_not_words_that_anybody_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3tw0rd")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "0th3rw0rd")
    said = scrub("cannot read s3://test-bucket/x: s3cr3tw0rd, 0th3rw0rd")
    assert said == "cannot read s3://test-bucket/x: ***, ***"


def test_an_arn_and_a_port_are_no_keys(s3: S3Server) -> None:
    arn = "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/mine/key"
    assert filesystem(arn, LOCAL)[1] == arn.removeprefix("s3://")
    assert filesystem("http://host:8080/a:b@c.pdf", LOCAL)[1] == "http://host:8080/a:b@c.pdf"
