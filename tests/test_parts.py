"""Parts are read by columns: of one version, and without the text."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_ledger import document

from pagemill import index, parts
from pagemill.committed import OpenPages, facts, load_open, pack_pages, unpack_pages
from pagemill.errors import StorageError
from pagemill.ledger import Ledger
from pagemill.parts import Unreadable, encode, read_columns, read_schema
from pagemill.schema import KEY_COLUMNS
from pagemill.settings import StorageOptions
from pagemill.storage import Storage


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "out"), StorageOptions())
    s3 = request.getfixturevalue("s3")
    return Storage(f"s3://{s3.bucket()}/out", s3.options)


def large(ledger: Ledger) -> None:
    """A part with more text than is fetched whole."""
    noise = random.Random(1)
    texts = ["".join(chr(noise.randrange(32, 1000)) for _ in range(40_000)) for _ in range(60)]
    documents = [document(f"s3://in/{n}", text=text) for n, text in enumerate(texts)]
    assert ledger.commit(documents) == 60


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every fetch."""
    sizes: list[int] = []
    read_range, read_versioned = Storage.read_range, Storage.read_versioned

    def count(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            data = call(*arguments)
            sizes.append(len(data[0]) if isinstance(data, tuple) else len(data))
            return data

        return counted

    monkeypatch.setattr(Storage, "read_range", count(read_range))
    monkeypatch.setattr(Storage, "read_versioned", count(read_versioned))
    return sizes


def test_the_text_of_a_large_part_is_not_fetched(storage: Storage, fetched: list[int]) -> None:
    large(Ledger(storage, "m-12345678", ("text",)))
    ledger = Ledger(storage, "m-12345678", ())
    (entry,) = ledger.parts()
    assert entry.size > 2 * parts.WHOLE
    fetched.clear()
    ledger.refresh()  # the index of the writer is not on this machine's disk: it was not saved
    assert ledger.index.total("rows") == (60, 60)
    assert sum(fetched) < parts.TAIL + 20_000
    assert len(fetched) <= 3


def test_a_part_that_is_replaced_while_it_is_read_is_read_as_one_version(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(storage, "m-12345678", ("text",))
    large(ledger)
    (entry,) = ledger.parts()
    table = pa.Table.from_pylist(document("s3://in/new").rows, ledger.schema)
    read_range = Storage.read_range

    def replaced(self: Storage, *arguments: Any) -> bytes:
        data = read_range(self, *arguments)
        self.put(entry.path, encode(table))
        return data

    monkeypatch.setattr(Storage, "read_range", replaced)
    (part,) = read_columns(storage, [entry], KEY_COLUMNS)
    assert part.table["source_uri"].to_pylist() == ["s3://in/new"]
    assert part.etag == ledger.parts()[0].etag
    assert part.etag != entry.etag


def test_what_is_no_parquet_says_which_and_what_to_do(storage: Storage) -> None:
    storage.create("pages/part-000000.parquet", b"PAR1" + b"x" * (parts.WHOLE + 1) + b"PAR1")
    (entry,) = storage.list("pages")
    with pytest.raises(Unreadable, match=r"part-000000\.parquet: not a readable part .*--repair"):
        list(read_columns(storage, [entry], KEY_COLUMNS))
    with pytest.raises(Unreadable, match=r"part-000000\.parquet"):
        read_schema(storage, entry)


def test_a_column_that_a_part_does_not_have_is_left_out(storage: Storage) -> None:
    ledger = Ledger(storage, "m-12345678", ("text",))
    ledger.commit([document("a")])
    (part,) = read_columns(storage, ledger.parts(), ["source_uri", "from_the_future"])
    assert part.table.column_names == ["source_uri"]


def test_a_parquet_file_of_somebody_elses_is_told_apart(storage: Storage) -> None:
    ledger = Ledger(storage, "m-12345678", ("text",))
    path = f"{ledger.folder}/pages/part-000000.parquet"
    storage.create(path, encode(pa.table({"a": [1]})))
    with pytest.raises(Unreadable, match="not a part of pagemill's"):
        ledger.refresh()


# -- the index -------------------------------------------------------------------------------


def saved() -> list[Path]:
    from pagemill.index import cache_folder

    return sorted(cache_folder().glob("*.sqlite"))


def test_a_second_process_reads_no_part_and_a_lost_or_damaged_index_is_made_again(
    storage: Storage, fetched: list[int]
) -> None:
    first = Ledger(storage, "m-12345678", ("text",))
    first.commit([document("a", 2), document("b")])
    before = set(saved())
    first.refresh()
    (file,) = set(saved()) - before

    def look() -> tuple[int, tuple[int, ...]]:
        fetched.clear()
        ledger = Ledger(storage, "m-12345678", ())
        ledger.refresh()
        assert list(ledger.documents()) == ["a", "b"] and ledger.problems() == []
        return len(fetched), ledger.index.total("rows")

    assert look() == (0, (2, 3))
    file.unlink()
    assert look() == (1, (2, 3))
    good = file.read_bytes()
    starts = range(0, len(good), 4096)
    pages = [good[:at] + b"?" * 4096 + good[at + 4096 :] for at in starts]
    for damage in (b"", b"nonsense", good[:8192], *pages):
        file.write_bytes(damage)
        assert look()[1] == (2, 3)
    assert look() == (0, (2, 3))


def test_an_index_is_not_believed_over_the_parts(storage: Storage) -> None:
    ledger = Ledger(storage, "m-12345678", ("text",))
    ledger.commit([document("a", 2)])
    ledger.commit([document("b")])
    ledger.refresh()
    first, second = ledger.parts()
    storage.put(first.path, encode(pa.Table.from_pylist(document("c").rows, ledger.schema)))
    storage.delete(second.path)
    other = Ledger(storage, "m-12345678", ())
    other.refresh()
    assert list(other.documents()) == ["c"]


def test_without_a_cache_folder_all_works(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    ledger = Ledger(storage, "m-12345678", ("text",))
    ledger.commit([document("a", 2)])
    ledger.refresh()
    assert ledger.index.total("rows") == (1, 2)


def test_a_user_without_a_home_has_no_cache_and_all_works(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 54321)  # which /etc/passwd does not know
    ledger = Ledger(storage, "m-12345678", ("text",))
    ledger.commit([document("a", 2)])
    ledger.refresh()
    assert ledger.index.total("rows") == (1, 2)


def test_without_room_in_the_cache_folder_all_works(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = index._connect

    def full(file: str, fresh: bool) -> sqlite3.Connection:
        if file:
            raise sqlite3.OperationalError("database or disk is full")
        return connect(file, fresh)

    monkeypatch.setattr(index, "_connect", full)
    ledger = Ledger(storage, "m-12345678", ("text",))
    ledger.commit([document("a", 2)])
    ledger.refresh()
    assert ledger.index.total("rows") == (1, 2)


def test_a_full_disk_under_the_index_is_told_and_loses_nothing(storage: Storage) -> None:
    ledger = Ledger(storage, "m-12345678", ("text",))
    ledger.commit([document("a", 2)])
    ledger.index.db.execute("PRAGMA max_page_count = 8")
    many = [document(f"s3://in/{'long ' * 50}{n}") for n in range(2000)]
    with pytest.raises(StorageError, match=r"cannot be written \(database or disk is full\)"):
        ledger.commit(many)
    other = Ledger(storage, "m-12345678", ())
    other.refresh()
    assert other.index.total("rows") == (2001, 2002)


def test_page_numbers_are_kept_as_ranges() -> None:
    assert pack_pages([5, 1, 2, 3, 7]) == [[1, 3], [5, 5], [7, 7]]
    assert unpack_pages([[1, 3], [7, 7]]) == [1, 2, 3, 7]
    assert unpack_pages(pack_pages([None])) == [None]


def test_a_document_of_many_skipped_pages_is_a_short_record() -> None:
    from pagemill.committed import FACTS
    from pagemill.schema import row_schema

    values = {"status": "skipped", "error_kind": "too_large", "decided_by": "max_pages=1"}
    table = pa.Table.from_pylist(document("a", 5000, **values).rows, row_schema(["text"]))
    (record,) = facts(table)
    opened = record[FACTS.index("open")]
    assert len(opened) < 100
    numbers = tuple(range(1, 5001))
    assert load_open(opened) == (OpenPages("too_large", "max_pages=1", 1, numbers),)
