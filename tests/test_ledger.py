"""The ledger: what is committed stays right whoever else writes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagemill.committed import OpenPages
from pagemill.errors import ErrorKind, StorageError
from pagemill.ledger import DocumentRows, Ledger
from pagemill.schema import row_schema
from pagemill.settings import StorageOptions
from pagemill.storage import Storage

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def row(uri: str, page: int | None = 1, count: int | None = 1, **values: Any) -> dict[str, Any]:
    return {
        "source_uri": uri,
        "source_etag": "v1",
        "source_size": 1,
        "source_modified": T0,
        "document_sha256": f"sha of {uri}",
        "page_number": page,
        "page_count": count,
        "text": f"{uri} {page}",
        "status": "ok",
        "tries": 1,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "gpu_seconds": 0.5,
        "render_seconds": 0.1,
        "model_id": "m",
        "model_revision": "r",
        "quantization": "none",
        "framework": "echo",
        "pagemill_version": "0",
        "run_id": "run",
        "processed_at": T0,
        **values,
    }


def document(uri: str, pages: int = 1, **values: Any) -> DocumentRows:
    return DocumentRows(uri, [row(uri, n, pages, **values) for n in range(1, pages + 1)])


@pytest.fixture(params=["local", "s3"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Ledger]:
    if request.param == "local":
        url, options = str(tmp_path / "out"), StorageOptions()
    else:
        s3 = request.getfixturevalue("s3")
        url = f"s3://{s3.bucket()}/out"
        options = s3.options
    return lambda: Ledger(Storage(url, options), "m-12345678", ("text",))


def all_rows(ledger: Ledger) -> list[tuple[str, int | None, str]]:
    rows = []
    for uri in ledger.documents():
        rows += [(r["source_uri"], r["page_number"], r["text"]) for r in ledger.rows(uri)]
    return sorted(rows)


def test_committed_rows_are_seen_by_another_ledger(opened: Callable[[], Ledger]) -> None:
    assert opened().commit([document("a", 2), document("b")]) == 2
    other = opened()
    other.refresh()
    assert [(u, n) for u, n, _ in all_rows(other)] == [("a", 1), ("a", 2), ("b", 1)]
    assert other.problems() == []


def test_a_document_is_committed_once_by_two_writers(opened: Callable[[], Ledger]) -> None:
    one, two = opened(), opened()
    one.refresh()
    two.refresh()
    assert one.commit([document("a"), document("b")]) == 2
    assert two.commit([document("b"), document("c")]) == 1
    two.refresh()
    assert [u for u, _, _ in all_rows(two)] == ["a", "b", "c"]
    assert two.problems() == []


def test_a_listing_that_lags_behind_does_no_harm(
    opened: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = opened(), opened()
    one.commit([document("a")])
    monkeypatch.setattr(two.storage, "list", lambda *_: [])
    assert two.commit([document("a"), document("b")]) == 1
    third = opened()
    third.refresh()
    assert [u for u, _, _ in all_rows(third)] == ["a", "b"]


def test_a_part_that_a_listing_lacks_is_asked_for_by_its_name(
    opened: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened()
    ledger.commit([document("a")])
    monkeypatch.setattr(ledger.storage, "list", lambda *_: [])
    ledger.refresh()
    known = ledger.get("a")
    assert known is not None
    ledger.storage.delete(known.part)
    ledger.refresh()
    assert ledger.get("a") is None


def test_a_changed_document_replaces_its_rows_in_their_part(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    ledger.commit([document("a", 3), document("b")])
    before = ledger.get("a")
    assert before is not None
    new = document("a", 2, source_etag="v2", text="new")
    new.seen = before.version
    assert ledger.commit_into(before.part, [new]) == 1
    ledger.refresh()
    assert all_rows(ledger) == [("a", 1, "new"), ("a", 2, "new"), ("b", 1, "b 1")]
    assert ledger.problems() == []


def test_retried_pages_replace_only_themselves(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    ledger.commit([document("a", 3)])
    before = ledger.get("a")
    assert before is not None
    again = DocumentRows("a", [row("a", 2, 3, text="again")], before.version, pages=(2,))
    assert ledger.commit_into(before.part, [again]) == 1
    assert all_rows(ledger) == [("a", 1, "a 1"), ("a", 2, "again"), ("a", 3, "a 3")]


def test_of_two_retries_the_second_is_dropped(opened: Callable[[], Ledger]) -> None:
    one, two = opened(), opened()
    one.commit([document("a", 2)])
    two.refresh()
    seen = two.get("a")
    assert seen is not None
    later = {"processed_at": T0 + timedelta(seconds=1)}
    first = DocumentRows("a", [row("a", 1, 2, text="first", **later)], seen.version, (1,))
    second = DocumentRows("a", [row("a", 1, 2, text="second", **later)], seen.version, (1,))
    assert one.commit_into(seen.part, [first]) == 1
    assert two.commit_into(seen.part, [second]) == 0
    two.refresh()
    assert all_rows(two) == [("a", 1, "first"), ("a", 2, "a 2")]


def test_columns_of_a_later_version_are_kept(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    ledger.commit([document("a"), document("b")])
    before = ledger.get("a")
    assert before is not None
    path = before.part
    data, etag = ledger.storage.read_versioned(path)
    table = pq.read_table(pa.BufferReader(data))
    table = table.append_column("from_the_future", pa.array([7, 8]))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    ledger.storage.replace(path, sink.getvalue().to_pybytes(), etag)
    ledger.commit_into(path, [DocumentRows("a", [row("a", text="new")], before.version)])
    rows = {r["source_uri"]: r for r in ledger.rows("a") + ledger.rows("b")}
    assert rows["b"]["from_the_future"] == 8
    assert rows["a"]["from_the_future"] is None
    assert rows["a"]["text"] == "new"


def test_parts_of_an_older_version_are_read_checked_and_rewritten(
    opened: Callable[[], Ledger],
) -> None:
    older = opened()
    schema = row_schema(["text"])
    for name in ("engine_load_seconds", "engine_weight_gb", "mean_logprob", "min_logprob"):
        schema = schema.remove(schema.get_field_index(name))
    older.schema = schema.with_metadata({"pagemill_schema": "1"})
    older.commit([document("a"), document("b", 2)])
    older.stage("abc", 1, 1, [row("c", 1, 2)])
    ledger = opened()
    ledger.refresh()
    assert ledger.problems() == []
    before = ledger.get("a")
    assert before is not None
    assert set(ledger.staged("abc")) == {1}
    new = row("a", text="new") | {"mean_logprob": {"text": -0.5}, "engine_weight_gb": 1.5}
    assert ledger.commit_into(before.part, [DocumentRows("a", [new], before.version)]) == 1
    table = pq.read_table(pa.BufferReader(ledger.storage.read(before.part)))
    assert set(table.column_names) == set(row_schema(["text"]).names)
    assert table.schema.metadata[b"pagemill_schema"] == b"2"
    rows = {(r["source_uri"], r["page_number"]): r for r in table.to_pylist()}
    assert rows["a", 1]["mean_logprob"] == {"text": -0.5}
    assert rows["b", 2]["mean_logprob"] is None
    again = opened()
    again.refresh()
    assert again.problems() == []


def test_staged_pages_are_found_again_and_forgotten(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    ledger.stage("abc", 1, 2, [row("a", 1, 3), row("a", 2, 3)])
    ledger.stage("abc", 1, 2, [row("a", 1, 3), row("a", 2, 3)])
    assert sorted(opened().staged("abc")) == [1, 2]
    ledger.refresh()
    assert list(ledger.documents()) == []
    ledger.unstage("abc")
    assert opened().staged("abc") == {}


def test_what_was_staged_is_forgotten_also_when_a_listing_lags(
    opened: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened()
    before = ledger.staged_ranges()
    ledger.stage("abc", 1, 2, [row("a", 1, 3), row("a", 2, 3)])
    monkeypatch.setattr(ledger.storage, "list", lambda _: before)
    ledger.unstage("abc")
    assert opened().staged_ranges() == []


def test_missing_and_double_pages_are_problems(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    ledger.commit([DocumentRows("a", [row("a", 1, 3), row("a", 3, 3)])])
    ledger.commit([DocumentRows("b", [row("b", 1, 1), row("b", 1, 1)])])
    ledger.commit([DocumentRows("c", [row("c", 1, 2), row("c", 2, 3)])])
    problems = ledger.problems()
    assert len(problems) == 3
    assert "a: 1 of 3 pages have no row, the first is page 2" in problems[0]
    assert "b: 1 pages have more than one row" in problems[1]
    assert "c: rows that do not agree how many pages it has" in problems[2]


def test_a_document_in_two_parts_is_a_problem(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    ledger.commit([document("a")])
    part = ledger.get("a")
    assert part is not None
    ledger.storage.create(part.part.replace("000000", "000007"), ledger.storage.read(part.part))
    ledger.refresh()
    assert len(ledger.problems()) == 1
    assert "part-000000" in ledger.problems()[0]
    assert "part-000007" in ledger.problems()[0]


def test_an_unreadable_part_is_an_error_that_names_it(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    ledger.storage.create(f"{ledger.folder}/pages/part-000000.parquet", b"not parquet")
    with pytest.raises(StorageError, match=r"part-000000\.parquet: not a readable part"):
        ledger.refresh()


def test_runs_are_read_back_oldest_first(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    ledger.write_run("2026b", {"n": 2})
    ledger.write_run("2026a", {"n": 1})
    assert [run["n"] for run in ledger.runs()] == [1, 2]


@pytest.mark.parametrize(
    ("pages", "due"),
    [
        (OpenPages(ErrorKind.TIME_OUT, None, 1, (1,)), True),
        (OpenPages(ErrorKind.TIME_OUT, None, 3, (1,)), False),
        (OpenPages(ErrorKind.TOO_LARGE, "max_pages=5", 1, (6,)), False),
        (OpenPages(ErrorKind.TOO_LARGE, "max_pages=4", 1, (6,)), True),
        (OpenPages(ErrorKind.CORRUPT, None, 1, (None,)), False),
    ],
)
def test_failures_are_due_again_when_they_should_be(pages: OpenPages, due: bool) -> None:
    assert pages.is_due({"max_pages": "5"}) is due


def test_every_column_says_what_it_is() -> None:
    schema = row_schema(["text", "caption"])
    assert all(schema.field(name).metadata[b"description"] for name in schema.names)
    assert schema.metadata[b"pagemill_schema"] == b"2"


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, 5), min_size=1)), max_size=8)
)
def test_any_order_of_writers_gives_every_document_once(
    steps: list[tuple[int, set[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = str(tmp_path_factory.mktemp("out"))
    ledgers = [Ledger(Storage(url, StorageOptions()), "m-12345678", ("text",)) for _ in range(3)]
    for writer, numbers in steps:
        ledgers[writer].commit([document(f"d{n}") for n in sorted(numbers)])
    reader = Ledger(Storage(url, StorageOptions()), "m-12345678", ("text",))
    reader.refresh()
    wanted = sorted({f"d{n}" for _, numbers in steps for n in numbers})
    assert [u for u, _, _ in all_rows(reader)] == wanted
    assert reader.problems() == []
