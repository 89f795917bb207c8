"""Discovery finds every object, counts what it leaves out and says what it cannot read."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import WebServer, settings_for

from pagemill.document import SourceObject
from pagemill.errors import StorageError, UsageError
from pagemill.settings import StorageOptions
from tasks.discover import Discovery, discover
from tasks.list_local import local_object
from tasks.list_other import other_object
from tests.seaweed import S3Server

NOWHERE = "/nonexistent/out"


def look(source: str | Path, out: str | Path = NOWHERE, **parts: Any) -> Discovery:
    return discover(str(source), settings_for(**parts), str(out))


def names(found: Discovery, root: str | Path) -> list[str]:
    return [source.uri.removeprefix(f"file://{root}/") for source in found]


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


# -- local ---------------------------------------------------------------------------------


def test_a_file_is_one_object_with_what_its_listing_says(tmp_path: Path) -> None:
    file = make(tmp_path, "a.pdf") / "a.pdf"
    os.utime(file, ns=(0, 1_700_000_000_123_456_789))
    (source,) = look(file)
    assert source == SourceObject(
        f"file://{file}",
        f"{1_700_000_000_123_456_789:x}-1",
        1,
        datetime(2023, 11, 14, 22, 13, 20, 123457, UTC),
    )


def test_a_copy_that_keeps_its_times_keeps_its_etag(tmp_path: Path) -> None:
    file = make(tmp_path, "a.pdf") / "a.pdf"
    (before,) = look(file)
    (tmp_path / "b").write_bytes(b"x")
    os.utime(tmp_path / "b", ns=(0, file.stat().st_mtime_ns))
    os.replace(tmp_path / "b", file)
    (after,) = look(file)
    assert before.etag == after.etag


def test_a_time_that_no_calendar_has_is_none(tmp_path: Path) -> None:
    seconds = 3 * 10**11  # tmpfs keeps it
    times = {"st_mtime": float(seconds), "st_mtime_ns": seconds * 10**9}
    at = os.stat_result((stat.S_IFREG, 1, 1, 1, 0, 0, 7, 0, seconds, 0), times)
    assert local_object("/a.pdf", at).modified is None
    for when in (1e30, "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-10:00"):
        info = {"name": "/a.pdf", "size": 7, "mtime": when}
        assert other_object(fsspec.filesystem("memory"), info).modified is None


def test_a_size_that_no_row_can_hold_is_unknown() -> None:
    info = {"name": "/a.pdf", "size": 2**63}  # as a web server may claim
    assert other_object(fsspec.filesystem("memory"), info).size == -1


def test_a_folder_is_walked_in_order_and_to_the_bottom(tmp_path: Path) -> None:
    make(tmp_path, "b.pdf", "a/z.pdf", "a/deep/er/y.pdf", ".hidden.pdf", "c/x.pdf")
    found = look(tmp_path)
    paths = [".hidden.pdf", "b.pdf", "a/z.pdf", "a/deep/er/y.pdf", "c/x.pdf"]
    assert names(found, tmp_path) == paths
    assert not found.outside
    assert names(found, tmp_path) == paths  # and may be listed again


def test_an_empty_folder_holds_no_objects(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert list(found) == [] and not found.outside


def test_empty_files_are_objects(tmp_path: Path) -> None:
    (tmp_path / "empty.pdf").touch()
    assert [source.size for source in look(tmp_path)] == [0]


@pytest.mark.parametrize("source", ["nothing", "nothing/*.pdf", "*.tif", "a.pdf/b"])
def test_nothing_there_is_a_usage_error(tmp_path: Path, source: str) -> None:
    make(tmp_path, "a.pdf")
    with pytest.raises(UsageError, match=r"nothing at .*: check the path"):
        list(look(f"{tmp_path}/{source}"))


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({}, ["a.pdf", "b.tif", "x/c.pdf", "x/y/d.PDF"]),
        ({"include": ["*.pdf"]}, ["a.pdf", "x/c.pdf"]),
        ({"include": ["**/*.pdf"]}, ["a.pdf", "x/c.pdf"]),
        ({"include": ["x/*"]}, ["x/c.pdf", "x/y/d.PDF"]),
        ({"include": ["c.pdf", "*.tif"]}, ["b.tif", "x/c.pdf"]),
        ({"exclude": ["x/*"]}, ["a.pdf", "b.tif"]),
        ({"include": ["*.pdf"], "exclude": ["c.*"]}, ["a.pdf"]),
        ({"include": []}, []),
    ],
)
def test_select_matches_paths_below_the_source_and_bare_names(
    tmp_path: Path, select: dict[str, list[str]], expected: list[str]
) -> None:
    make(tmp_path, "a.pdf", "b.tif", "x/c.pdf", "x/y/d.PDF")
    found = look(tmp_path, select=select)
    assert names(found, tmp_path) == expected
    assert found.outside["not selected"] == 4 - len(expected)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.pdf", ["a.pdf"]),
        ("**/*.pdf", ["a.pdf", "x/c.pdf", "x/y/d.pdf"]),
        ("x*", ["x/c.pdf", "x/y/d.pdf"]),
        ("?/y/*", ["x/y/d.pdf"]),
        ("[ab].*", ["a.pdf", "b.tif"]),
    ],
)
def test_a_source_glob_is_a_shells(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    make(tmp_path, "a.pdf", "b.tif", "x/c.pdf", "x/y/d.pdf")
    assert names(look(tmp_path / pattern), tmp_path) == expected


def test_a_bad_glob_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a glob"):
        list(look(tmp_path / "a**b/*"))


ODD = ["sp ace.pdf", "ünï/日本.pdf", "h#a.pdf", "100%.pdf", "a%20b.pdf", "q?.pdf", "st*r.pdf"]
ODD += ["br[1].pdf", "br1.pdf", "nl\n.pdf", "~.pdf", "a::b.pdf", "-x.pdf", "a:b@c.pdf"]


def test_odd_names_are_names(tmp_path: Path) -> None:
    make(tmp_path, *ODD)
    assert sorted(names(look(tmp_path), tmp_path)) == sorted(ODD)


@pytest.mark.parametrize("name", ODD)
def test_an_existing_name_is_taken_literally(tmp_path: Path, name: str) -> None:
    make(tmp_path, *ODD)
    assert names(look(tmp_path / name), tmp_path) == [name]
    assert names(look(f"file://{tmp_path}/{name}"), tmp_path) == [name]


def test_a_name_that_is_not_utf8_is_a_problem_with_a_writable_uri(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.pdf"))).touch()
    (source,) = look(tmp_path)
    assert source.problem == "its name is not UTF-8: rename it"
    assert source.uri.encode() == f"file://{tmp_path}/caf\\xe9.pdf".encode()


def test_what_pagemill_writes_into_the_source_is_outside(tmp_path: Path) -> None:
    make(tmp_path, "a.pdf", "out/recipe=x/pages/part-0.parquet", "out/notes.txt", "outer/b.pdf")
    found = look(tmp_path, tmp_path / "out")
    assert names(found, tmp_path) == ["a.pdf", "outer/b.pdf"]
    assert found.outside == {"below OUT": 2}


def test_an_output_inside_the_source_is_found_through_symlinks(tmp_path: Path) -> None:
    make(tmp_path, "real/a.pdf", "real/out/recipe=x/pages/part-0.parquet")
    (tmp_path / "link").symlink_to("real")
    for source, out in [("link", "real/out"), ("real", "link/out"), ("link", "link/out/")]:
        found = look(tmp_path / source, f"{tmp_path}/{out}")
        assert names(found, tmp_path / source) == ["a.pdf"]
        assert found.outside == {"below OUT": 1}


@pytest.mark.parametrize("source", ["", "/*"])
def test_source_and_output_may_be_one_folder(tmp_path: Path, source: str) -> None:
    make(tmp_path, "a.pdf", "recipe=x/pages/part-0.parquet", ".pagemill-lock")
    found = look(f"{tmp_path}{source}", tmp_path)
    assert names(found, tmp_path) == ["a.pdf"]
    assert found.outside == {"below OUT": 2}


def test_an_output_above_the_source_hides_nothing(tmp_path: Path) -> None:
    make(tmp_path, "in/a.pdf")
    found = look(tmp_path / "in", tmp_path)
    assert names(found, tmp_path) == ["in/a.pdf"] and not found.outside


def test_an_unreadable_folder_is_a_problem_not_a_gap(
    open_folder: Path, unprivileged: Callable[[], None]
) -> None:
    make(open_folder, "a.pdf", "shut/b.pdf", "other/c.pdf")
    (open_folder / "shut").chmod(0)
    unprivileged()
    for select in ({}, {"include": ["*.pdf"]}):
        sources = list(look(open_folder, select=select))
        problems = {s.uri: s.problem for s in sources if s.problem}
        assert problems == {f"file://{open_folder}/shut": "permission denied"}
        assert len(sources) == 3
    for pattern in ("**/*.pdf", "s*", "*"):
        sources = list(look(open_folder / pattern))
        assert f"file://{open_folder}/shut" in [s.uri for s in sources if s.problem]
    assert names(look(open_folder, select={"exclude": ["shut/*"]}), open_folder) == [
        "a.pdf",
        "other/c.pdf",
    ]
    for source in ("shut", "shut/*"):
        with pytest.raises(StorageError, match=r"cannot list .*/shut.*: permission denied"):
            list(look(open_folder / source))


def test_a_source_behind_a_shut_folder_is_a_storage_error(
    open_folder: Path, unprivileged: Callable[[], None]
) -> None:
    make(open_folder, "shut/b.pdf")
    (open_folder / "shut").chmod(0)
    unprivileged()
    with pytest.raises(StorageError, match="permission denied"):
        list(look(open_folder / "shut" / "b.pdf"))


def test_symlinks_to_files_are_followed_and_those_to_folders_counted(tmp_path: Path) -> None:
    make(tmp_path, "in/a.pdf", "far/b.pdf")
    (tmp_path / "in/link.pdf").symlink_to("../far/b.pdf")
    (tmp_path / "in/folder").symlink_to("../far")
    (tmp_path / "in/self").symlink_to(".")
    (tmp_path / "in/up").symlink_to("..")
    found = look(tmp_path / "in")
    assert names(found, tmp_path / "in") == ["a.pdf", "link.pdf"]
    assert found.outside == {"symlinked folder": 3}


def test_a_source_that_is_itself_a_symlink_is_followed(tmp_path: Path) -> None:
    make(tmp_path, "real/a.pdf")
    (tmp_path / "link").symlink_to("real")
    assert names(look(tmp_path / "link"), tmp_path) == ["link/a.pdf"]


def test_dangling_and_looping_symlinks_are_problems(tmp_path: Path) -> None:
    (tmp_path / "dangling.pdf").symlink_to("nowhere")
    (tmp_path / "loop.pdf").symlink_to("loop.pdf")
    problems = {Path(s.uri).name: s.problem for s in look(tmp_path)}
    assert problems == {
        "dangling.pdf": "dangling symlink",
        "loop.pdf": "too many levels of symbolic links",
    }
    assert [s.problem for s in look(tmp_path / "dangling.pdf")] == ["dangling symlink"]


def test_what_is_no_regular_file_is_a_problem_and_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.pdf")
    (tmp_path / "link.pdf").symlink_to("fifo.pdf")
    (tmp_path / "null.pdf").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.pdf"))
        problems = {Path(s.uri).name: s.problem for s in look(tmp_path)}
    kinds = dict.fromkeys(["fifo.pdf", "link.pdf", "null.pdf", "socket.pdf"], "not a regular file")
    assert problems == kinds
    assert [s.problem for s in look(tmp_path / "fifo.pdf")] == ["not a regular file"]


def test_a_folder_too_deep_for_a_path_is_a_problem(tmp_path: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(here)
    (source,) = look(tmp_path)
    assert source.problem == "file name too long"


def test_a_tree_deeper_than_pythons_recursion_is_walked(tmp_path: Path) -> None:
    make(tmp_path, "d/" * 300 + "a.pdf")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        sources = list(look(tmp_path))
    finally:
        sys.setrecursionlimit(limit)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # pytest's own way recurses
    assert len(sources) == 1


# -- S3 ------------------------------------------------------------------------------------


def look_s3(s3: S3Server, source: str, out: str = NOWHERE, **parts: Any) -> Discovery:
    return look(source, out, storage=s3.options, **parts)


def fill(s3: S3Server, *keys: str) -> str:
    bucket = s3.bucket()
    for key in keys:
        s3.put(bucket, key, b"x")
    return f"s3://{bucket}"


def test_an_s3_object_comes_with_its_etag_size_and_time(s3: S3Server) -> None:
    bucket = s3.bucket()
    etag = s3.put(bucket, "a/b.pdf", b"123")
    (source,) = look_s3(s3, f"s3://{bucket}/a/b.pdf")
    assert (source.uri, source.etag, source.size) == (f"s3://{bucket}/a/b.pdf", etag, 3)
    assert source.modified is not None and source.modified.tzinfo is UTC
    for listed in (f"s3://{bucket}/a", f"s3://{bucket}", f"s3a://{bucket}/a/", f"s3://{bucket}/"):
        assert list(look_s3(s3, listed)) == [source]


def test_a_prefix_is_a_folder_with_and_without_its_slash(s3: S3Server) -> None:
    root = fill(s3, "in/a.pdf", "in/deep/b.pdf", "inner/c.pdf", "in.pdf")
    expected = [f"{root}/in/a.pdf", f"{root}/in/deep/b.pdf"]
    assert [s.uri for s in look_s3(s3, f"{root}/in")] == expected
    assert [s.uri for s in look_s3(s3, f"{root}/in/")] == expected


def test_a_key_that_is_also_a_prefix_is_both(s3: S3Server) -> None:
    root = fill(s3, "a", "a/b.pdf")
    assert [s.uri for s in look_s3(s3, f"{root}/a")] == [f"{root}/a", f"{root}/a/b.pdf"]
    assert [s.uri for s in look_s3(s3, f"{root}/a/")] == [f"{root}/a/b.pdf"]
    assert len(list(look_s3(s3, root))) == 2


def test_folder_markers_are_outside_and_empty_objects_are_not(s3: S3Server) -> None:
    bucket = s3.bucket()
    s3.put(bucket, "in/", b"")
    s3.put(bucket, "in/empty.pdf", b"")
    found = look_s3(s3, f"s3://{bucket}/in")
    assert [(s.uri, s.size) for s in found] == [(f"s3://{bucket}/in/empty.pdf", 0)]
    assert found.outside == {"folder marker": 1}


ODD_KEYS = ["sp ace.pdf", "ünï/日本.pdf", "h#a.pdf", "a%20b.pdf", "q?versionId=1.pdf", "st*r.pdf"]
ODD_KEYS += ["br[1].pdf", "br1.pdf", "pl+us.pdf", "a:b@c.pdf", "x&<y>\"'.pdf", "trail "]


def test_odd_keys_are_keys(s3: S3Server) -> None:
    root = fill(s3, *ODD_KEYS)
    assert sorted(s.uri for s in look_s3(s3, root)) == sorted(f"{root}/{k}" for k in ODD_KEYS)
    for key in ODD_KEYS:
        assert [s.uri for s in look_s3(s3, f"{root}/{key}")] == [f"{root}/{key}"]


def test_a_folder_with_glob_characters_is_taken_literally(s3: S3Server) -> None:
    root = fill(s3, "f[1]/a.pdf", "f1/b.pdf")
    assert [s.uri for s in look_s3(s3, f"{root}/f[1]")] == [f"{root}/f[1]/a.pdf"]
    assert [s.uri for s in look_s3(s3, f"{root}/f[12]")] == [f"{root}/f1/b.pdf"]


def test_globs_and_select_work_on_keys_as_on_files(s3: S3Server) -> None:
    root = fill(s3, "a.pdf", "b.tif", "x/c.pdf", "x/y/d.pdf", "out/recipe=x/pages/p.parquet")
    assert [s.uri for s in look_s3(s3, f"{root}/*.pdf")] == [f"{root}/a.pdf"]
    deep = [f"{root}/x/c.pdf", f"{root}/x/y/d.pdf"]
    assert [s.uri for s in look_s3(s3, f"{root}/**/*.pdf")] == [f"{root}/a.pdf", *deep]
    assert [s.uri for s in look_s3(s3, f"{root}/x*")] == deep
    found = look_s3(s3, root, f"{root}/out/", select={"include": ["x/*.pdf"]})
    assert [s.uri for s in found] == deep
    assert found.outside == {"not selected": 2, "below OUT": 1}


def test_more_objects_than_one_answer_holds_are_all_found(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(s3, *(f"n/{n}" for n in range(9)))
    monkeypatch.setattr("pagemill.s3.S3.list.__defaults__", (4,))
    assert [s.uri for s in look_s3(s3, root)] == [f"{root}/n/{n}" for n in range(9)]


def test_an_empty_bucket_holds_no_objects(s3: S3Server) -> None:
    found = look_s3(s3, f"s3://{s3.bucket()}")
    assert list(found) == [] and not found.outside


@pytest.mark.parametrize("key", ["nothing", "nothing/", "a.pdf/", "a*.tif"])
def test_no_such_key_or_prefix_is_a_usage_error(s3: S3Server, key: str) -> None:
    root = fill(s3, "a.pdf")
    with pytest.raises(UsageError, match=r"nothing at s3://.*: check the path"):
        list(look_s3(s3, f"{root}/{key}"))


def test_no_such_bucket_is_a_usage_error(s3: S3Server) -> None:
    for source in ("s3://no-such-bucket", "s3://no-such-bucket/a.pdf"):
        with pytest.raises(UsageError, match=r"no such bucket: check its name"):
            list(look_s3(s3, source))


def test_keys_that_may_read_one_object_only_find_it(s3: S3Server, reader_bucket: str) -> None:
    s3.put(reader_bucket, "open/a.pdf", b"x")
    reader = s3.as_user("reader")
    (source,) = look(f"s3://{reader_bucket}/open/a.pdf", storage=reader)
    assert source.uri == f"s3://{reader_bucket}/open/a.pdf"


def test_refused_and_denied_sources_are_storage_errors(s3: S3Server) -> None:
    root = fill(s3, "a.pdf")
    for source in (root, f"{root}/a.pdf", f"{root}/b*.pdf", f"{root}/in/"):
        with pytest.raises(StorageError, match="access denied"):
            list(look(source, storage=s3.as_user("reader")))
        with pytest.raises(StorageError, match=r"keys are refused|access denied"):
            list(look(source, storage=s3.as_user("wrong")))


def test_an_unreachable_source_is_a_storage_error(s3: S3Server, impatient: None) -> None:
    nobody = StorageOptions(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(StorageError, match="cannot reach"):
        list(look("s3://bucket/x", storage=nobody))


def test_keys_in_the_url_are_refused_before_anything_is_listed() -> None:
    with pytest.raises(UsageError, match="keys"):
        look("s3://AKIA:secret@bucket/x")


# -- anything else that fsspec knows -------------------------------------------------------


@pytest.fixture
def memory() -> str:
    import fsspec

    root = f"memory://{uuid.uuid4().hex}"
    for path in ("a.pdf", "x/c.pdf", "x/y/d.tif"):
        with fsspec.open(f"{root}/{path}", "wb") as file:
            file.write(b"123")
    return root


def test_any_fsspec_url_is_walked(memory: str) -> None:
    found = look(memory, select={"include": ["*.pdf"]})
    paths = [s.uri.rpartition("memory://")[2].lstrip("/").partition("/")[2] for s in found]
    assert paths == ["a.pdf", "x/c.pdf"]
    assert found.outside == {"not selected": 1}
    assert [s.size for s in look(f"{memory}/a.pdf")] == [3]
    assert len(list(look(f"{memory}/**/*.pdf"))) == 2
    with pytest.raises(UsageError, match="nothing at memory://"):
        list(look(f"{memory}/none"))


def test_a_folder_that_fails_below_any_fsspec_url_is_a_problem(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    ls = MemoryFileSystem.ls

    def fail(self: Any, path: str, **options: Any) -> Any:
        if path.endswith("/x"):
            raise PermissionError("no entry")
        return ls(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", fail)
    assert [s.problem for s in look(memory)] == [None, "PermissionError: no entry"]
    with pytest.raises(StorageError, match="no entry"):
        list(look(f"{memory}/x"))


def test_an_http_url_is_one_object(web: WebServer) -> None:
    (source,) = look(f"{web.url}/a.pdf?page=[1]&q=*")
    assert source.uri == f"{web.url}/a.pdf?page=[1]&q=*"
    assert (source.etag, source.size) == ("tag-1", 5)
    assert source.modified == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_an_http_url_that_fails_is_told_from_one_that_is_missing(
    web: WebServer, impatient: None
) -> None:
    with pytest.raises(UsageError, match="nothing at"):
        list(look(f"{web.url}/404"))
    for status in (403, 500):
        with pytest.raises(StorageError, match=f"cannot list {web.url}/{status}"):
            list(look(f"{web.url}/{status}"))
    with pytest.raises(StorageError, match="cannot list"):
        list(look("http://127.0.0.1:1/a.pdf"))
