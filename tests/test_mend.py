"""Repair, merge and the rows for readers: on a folder and on a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from helpers import echo_settings, make_pdf, make_pdfs, name, run, table, write_config
from test_ledger import T0, document, row

import pagemill
from flows.cli import main
from pagemill.errors import UsageError
from pagemill.ledger import DocumentRows, Ledger
from pagemill.parts import encode
from pagemill.recipe import Recipe
from pagemill.schema import row_schema
from pagemill.settings import StorageOptions
from pagemill.storage import Storage
from tasks.check import check_ledger
from tasks.merge import merge
from tasks.repair import repair

RECIPE = Recipe("m", "r", "none", {"text": {}}, {})


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Storage]:
    if request.param == "local":
        return lambda name: Storage(str(tmp_path / name), StorageOptions())
    s3 = request.getfixturevalue("s3")
    bucket = s3.bucket()
    return lambda name: Storage(f"s3://{bucket}/{name}", s3.options)


@pytest.fixture
def ledger(place: Callable[[str], Storage]) -> Ledger:
    ledger = Ledger(place("out"), RECIPE.name, ("text",))
    ledger.prepare(RECIPE)
    for letter in "abc":
        ledger.commit([document(f"s3://in/{letter}1", 2), document(f"s3://in/{letter}2")])
    return ledger


def reopened(ledger: Ledger) -> Ledger:
    return Ledger(ledger.storage, ledger.recipe, ())


def overwrite(ledger: Ledger, path: str, rows: list[dict[str, Any]]) -> None:
    """As a stranger would: whatever is there."""
    ledger.storage.put(path, encode(pa.Table.from_pylist(rows, ledger.schema)))


def pages(ledger: Ledger) -> list[tuple[str, int | None]]:
    ledger.refresh()
    found = [r for uri in ledger.documents() for r in ledger.rows(uri)]
    return sorted((r["source_uri"][-2:], r["page_number"]) for r in found)


ALL = [(f"{name}{n}", page) for name in "abc" for n, page in ((1, 1), (1, 2), (2, 1))]


def test_nothing_is_repaired_where_nothing_is_wrong(ledger: Ledger) -> None:
    before = {e.path: e.etag for e in ledger.storage.list(ledger.folder)}
    assert list(repair(reopened(ledger))) == []
    assert {e.path: e.etag for e in ledger.storage.list(ledger.folder)} == before


def test_an_unreadable_part_is_set_aside_and_its_documents_are_missing(ledger: Ledger) -> None:
    path = ledger.parts()[1].path
    damaged = ledger.storage.read(path)[:-50]
    ledger.storage.put(path, damaged)
    verdict = check_ledger(reopened(ledger))
    assert len(verdict.problems) == 1
    assert "check OUT --repair" in verdict.problems[0]
    (line,) = repair(reopened(ledger))
    assert line.startswith(
        f"{path}: not readable; the next run reads its documents again; a copy is at"
    )
    assert ledger.storage.read(line.rsplit(" ", 1)[1]) == damaged
    assert check_ledger(reopened(ledger)).problems == []
    assert pages(reopened(ledger)) == [p for p in ALL if p[0][0] != "b"]
    assert ledger.commit([document("s3://in/b1", 2), document("s3://in/b2")]) == 2
    assert pages(reopened(ledger)) == ALL


def test_repair_names_the_documents_of_a_part_that_was_readable_before(ledger: Ledger) -> None:
    ledger.refresh()  # and so it is in the index of the next process
    ledger.storage.put(ledger.parts()[2].path, b"nonsense")
    (line,) = repair(reopened(ledger))
    assert "the next run reads s3://in/c1, s3://in/c2 again" in line


def test_an_unreadable_staged_range_is_forgotten(ledger: Ledger) -> None:
    ledger.stage("abc", 1, 2, [row("a", 1, 3), row("a", 2, 3)])
    (entry,) = ledger.staged_ranges()
    ledger.storage.put(entry.path, b"nonsense")
    assert len(check_ledger(reopened(ledger)).problems) == 1
    assert "its pages are read again" in next(repair(reopened(ledger)))
    assert ledger.staged_ranges() == []


def test_of_rows_that_are_there_twice_the_later_stay(ledger: Ledger) -> None:
    first, second, _ = (e.path for e in ledger.parts())
    later = {"processed_at": T0 + timedelta(hours=1), "text": "later"}
    stranger = [row("s3://in/a1", n, 2, **later) for n in (1, 2)]  # of a document of part 0
    overwrite(
        ledger, second, [*stranger, row("s3://in/b1", 1, 1), row("s3://in/b1", 1, 1, **later)]
    )
    assert len(check_ledger(reopened(ledger)).problems) == 2
    lines = list(repair(reopened(ledger)))
    assert sorted(lines) == [
        f"s3://in/a1: all rows removed from {first}",
        f"s3://in/b1: 1 of 2 rows removed from {second}",
    ]
    again = reopened(ledger)
    assert check_ledger(again).problems == []
    assert {r["text"] for r in [*again.rows("s3://in/a1"), *again.rows("s3://in/b1")]} == {"later"}
    assert again.rows("s3://in/a2")


def test_a_copied_part_is_repaired(ledger: Ledger) -> None:
    part = ledger.parts()[0].path
    ledger.storage.create(part.replace("000000", "000009"), ledger.storage.read(part))
    assert len(list(repair(reopened(ledger)))) == 2
    assert check_ledger(reopened(ledger)).problems == []
    assert pages(reopened(ledger)) == ALL


def test_a_document_without_all_its_rows_loses_the_others(ledger: Ledger) -> None:
    path = ledger.parts()[0].path
    overwrite(ledger, path, [row("s3://in/a1", 2, 2), row("s3://in/a2")])
    assert list(repair(reopened(ledger))) == [f"s3://in/a1: all rows removed from {path}"]
    assert check_ledger(reopened(ledger)).problems == []
    assert reopened(ledger).storage.list(f"{ledger.folder}/removed")


# -- merge -----------------------------------------------------------------------------------


def test_a_merged_copy_is_whole_and_out_is_not_changed(
    ledger: Ledger, place: Callable[[str], Storage]
) -> None:
    before = ledger.storage.list()
    new = place("new")
    (line,) = merge(ledger.storage, new, 2)
    assert line == f"{RECIPE.name}: 9 rows in 2 files, 2 of them written now"
    assert ledger.storage.list() == before
    copy = Ledger(new, RECIPE.name, ())
    assert pages(copy) == ALL
    assert check_ledger(copy).problems == []
    assert [e.path.rsplit("/")[-1] for e in copy.parts()] == [
        "part-000000.parquet",
        "part-000001.parquet",
    ]


def test_a_second_merge_writes_only_what_has_changed(
    ledger: Ledger, place: Callable[[str], Storage]
) -> None:
    new = place("new")
    list(merge(ledger.storage, new, 2))
    etags = [e.etag for e in new.list(f"{ledger.folder}/pages")]
    (line,) = merge(ledger.storage, new, 2)
    assert line.endswith("9 rows in 2 files, 0 of them written now")
    before = ledger.get("s3://in/a1")
    assert before is not None
    changed = document("s3://in/a1", 1, source_etag="v2", text="new")
    ledger.commit_into(before.part, [DocumentRows("s3://in/a1", changed.rows, before.version)])
    (line,) = merge(ledger.storage, new, 2)
    assert line.endswith("8 rows in 2 files, 1 of them written now")
    after = [e.etag for e in new.list(f"{ledger.folder}/pages")]
    assert (after[0] != etags[0], after[1] == etags[1]) == (True, True)


def test_a_merge_that_was_killed_goes_on(
    ledger: Ledger, place: Callable[[str], Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = place("new")
    create = Storage.create

    def die(self: Storage, path: str, data: bytes) -> str:
        if path.endswith("part-000001.parquet"):
            raise KeyboardInterrupt
        return create(self, path, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Storage, "create", die)
        list(merge(ledger.storage, new, 2))
    manifest = f"{ledger.folder}/merged.json"
    assert json.loads(new.read(manifest))["finished"] is None
    (line,) = merge(ledger.storage, new, 2)
    assert line.endswith("9 rows in 2 files, 1 of them written now")
    assert json.loads(new.read(manifest))["finished"]
    assert pages(Ledger(new, RECIPE.name, ())) == ALL


def test_a_place_that_would_do_harm_is_refused(
    ledger: Ledger, place: Callable[[str], Storage]
) -> None:
    for where in ("out/merged", "out", ""):
        with pytest.raises(UsageError, match="lie in one another"):
            next(merge(ledger.storage, place(where), 2))
    other = Ledger(place("other"), RECIPE.name, ("text",))
    other.commit([document("x")])
    with pytest.raises(UsageError, match="no copy"):
        next(merge(ledger.storage, other.storage, 2))
    list(merge(ledger.storage, place("new"), 2))
    with pytest.raises(UsageError, match="--parts 2"):
        next(merge(ledger.storage, place("new"), 3))


# -- for readers -----------------------------------------------------------------------------


def opened(ledger: Ledger, **options: Any) -> Any:
    endpoint = ledger.storage.identity.split(" ")[0] if "://" in ledger.storage.url else None
    return pagemill.open_dataset(ledger.storage.url, endpoint_url=endpoint, **options)


def test_the_rows_are_a_typed_dataset_for_polars_and_duckdb(ledger: Ledger) -> None:
    rows = opened(ledger)
    assert rows.schema.equals(row_schema(["text"]))
    assert rows.count_rows() == 9
    found = polars.scan_pyarrow_dataset(rows).filter(polars.col("page_number") == 2).collect()
    assert sorted(found["source_uri"]) == ["s3://in/a1", "s3://in/b1", "s3://in/c1"]
    counted = duckdb.sql("SELECT status, count(*) FROM rows GROUP BY status").fetchall()
    assert counted == [("ok", 9)]


def test_older_and_newer_parts_read_typed_together(ledger: Ledger) -> None:
    older = row_schema(["text"])
    for column in ("engine_load_seconds", "mean_logprob"):
        older = older.remove(older.get_field_index(column))
    path = ledger.parts()[0].path
    rows = pa.Table.from_pylist([row("s3://in/a1", 1, 1)], older)
    ledger.storage.put(path, encode(rows))
    last = ledger.parts()[-1].path
    newer = pq.read_table(pa.BufferReader(ledger.storage.read(last)))
    newer = newer.append_column("from_the_future", pa.array([7] * 3))
    ledger.storage.put(last, encode(newer))
    read = opened(ledger).to_table()
    assert read.num_rows == 7
    assert read["mean_logprob"].type == row_schema(["text"]).field("mean_logprob").type
    assert sorted(v for v in read["from_the_future"].to_pylist() if v) == [7, 7, 7]


def test_older_and_newer_parts_are_read_together_by_a_raw_glob(tmp_path: Path) -> None:
    ledger = Ledger(Storage(str(tmp_path / "out"), StorageOptions()), "m-12345678", ("text",))
    ledger.commit([document("a")])
    ledger.schema = ledger.schema.remove(ledger.schema.get_field_index("mean_logprob"))
    ledger.commit([document("b")])
    parts = f"{tmp_path}/out/recipe=*/pages/*.parquet"
    assert polars.read_parquet(parts, missing_columns="insert")["source_uri"].to_list() == [
        "a",
        "b",
    ]
    found = duckdb.sql(
        f"SELECT source_uri, mean_logprob FROM read_parquet('{parts}', union_by_name=true)"
    )
    assert sorted(found.fetchall()) == [("a", None), ("b", None)]


def test_a_recipe_is_named_where_there_are_several(ledger: Ledger) -> None:
    assert opened(ledger, recipe=RECIPE.fingerprint).count_rows() == 9
    other = Ledger(ledger.storage, "n-87654321", ("text",))
    other.commit([document("x")])
    with pytest.raises(UsageError, match="several recipes, name one"):
        opened(ledger)
    with pytest.raises(UsageError, match="no recipe 'nope'"):
        opened(ledger, recipe="nope")
    assert opened(ledger, recipe=RECIPE.name).count_rows() == 9


# -- the commands ----------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """An output on disk, made by a run."""
    source = make_pdfs(tmp_path / "in", 3, 2)
    run(source, tmp_path / "out", echo_settings(tmp_path, work__part_pages=1))
    return tmp_path / "out"


def test_check_repairs_only_when_it_is_asked_to(tmp_path: Path, local: Path) -> None:
    part = next(local.glob("recipe=*/pages/*.parquet"))
    part.write_bytes(b"nonsense")
    command = CliRunner().invoke
    assert command(main, ["check", str(local)]).exit_code == 1
    assert part.read_bytes() == b"nonsense"
    mended = command(main, ["check", str(local), "--repair"])
    assert mended.exit_code == 0, mended.output
    assert "not readable; the next run reads file://" in mended.output
    assert len(table(local)) == 4
    assert run(tmp_path / "in", local, echo_settings(tmp_path, work__part_pages=1)).balanced
    assert len(table(local)) == 6


def test_merge_and_its_mistakes_on_the_command_line(tmp_path: Path, local: Path) -> None:
    command = CliRunner().invoke
    done = command(main, ["merge", str(local), str(tmp_path / "new")])
    assert (done.exit_code, "6 rows in 1 files" in done.output) == (0, True)
    assert len(table(tmp_path / "new")) == 6
    wrong = command(main, ["merge", str(local), str(local / "new")])
    assert wrong.exit_code == 2
    assert "lie in one another" in wrong.output


def test_retry_reads_what_it_is_told_to_and_says_so_before(
    tmp_path: Path, prefect_home: Callable[[Path], str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    make_pdf(source / "good.pdf", 2)
    (source / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing of the kind")
    run(source, out, echo_settings(tmp_path))
    make_pdf(source / "broken.pdf", 2)  # mended, and a new file beside it
    make_pdf(source / "new.pdf")
    words = ["retry", str(out), "--status", "failed", "-c", str(tmp_path / "echo.yaml"), "--json"]
    planned = json.loads(CliRunner().invoke(main, [*words, "--dry-run"]).output)
    assert (planned["selected"], planned["retry"], planned["pages"]) == (1, 1, 2)
    assert len(table(out)) == 3
    env = {"PREFECT_HOME": prefect_home(tmp_path), "PREFECT_API_URL": ""}
    pagemill_ = str(Path(sys.executable).with_name("pagemill"))
    done = subprocess.run(
        [pagemill_, *words], capture_output=True, text=True, env={**os.environ, **env}, check=False
    )
    assert done.returncode == 0, done.stderr
    balance = json.loads(done.stdout)
    assert (balance["balanced"], balance["pages"]["read"]) == (True, {"ok": 2})
    assert [(name(r), r["page_number"]) for r in table(out)] == [
        *(("broken.pdf", 1), ("broken.pdf", 2), ("good.pdf", 1), ("good.pdf", 2))
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which pages"),
        (["--status", "lost"], "'lost' is not one of"),
        (["--error-kind", "bad_luck"], "'bad_luck' is not one of"),
        (["--confidence-below", "2"], "not in the range"),
        (["--before", "soon", "--status", "ok"], "select.redo.before"),
    ],
)
def test_a_mistake_of_retry_is_told(
    words: list[str], message: str, local: Path, tmp_path: Path
) -> None:
    config = str(write_config(tmp_path))
    done = CliRunner().invoke(main, ["retry", str(local), "-c", config, *words])
    assert done.exit_code == 2
    assert message in done.output
