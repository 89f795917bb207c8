"""The pipeline without Prefect: every page becomes one row, and only once."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import echo_settings, look, make_image, make_pdf, name, process, run, table

from loaders import resident
from loaders.echo import EchoEngine
from loaders.engine import Request
from pagemill.errors import EngineError, Stopped, StorageError
from pagemill.parts import Row
from pagemill.schema import AFTER_OUTPUTS, BEFORE_OUTPUTS, row_schema
from pagemill.storage import Storage
from tasks.open_document import OpenDocument


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    make_pdf(folder / "a.pdf", 3)
    make_pdf(folder / "b.pdf", 1)
    make_image(folder / "c.png")
    return folder


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A folder of one document, which is staged before it is whole."""
    folder = tmp_path / "long"
    folder.mkdir()
    make_pdf(folder / "long.pdf", 20)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_every_page_becomes_one_row(tmp_path: Path, source: Path, out: Path) -> None:
    balance = run(source, out, echo_settings(tmp_path))
    assert [(name(r), r["page_number"], r["status"]) for r in table(out)] == [
        ("a.pdf", 1, "ok"),
        ("a.pdf", 2, "ok"),
        ("a.pdf", 3, "ok"),
        ("b.pdf", 1, "ok"),
        ("c.png", 1, "ok"),
    ]
    assert balance.balanced
    assert balance.pages["expected"] == balance.pages["rows"] == 5


def test_rows_say_what_made_them_and_what_they_cost(
    tmp_path: Path, source: Path, out: Path
) -> None:
    balance = run(source, out, echo_settings(tmp_path))
    row = table(out)[0]
    required = {c.name for c in BEFORE_OUTPUTS + AFTER_OUTPUTS if c.required}
    assert [column for column in required if row[column] is None] == []
    assert row["run_id"] == balance.run_id
    assert (row["framework"], row["framework_version"]) == ("echo", "echo 1")
    assert row["text"].startswith("echo-")
    assert row["engine_load_seconds"] >= 0
    assert row["engine_weight_gb"] is None  # it has no weights
    assert row["mean_logprob"] == row["min_logprob"] == {"text": -0.125, "caption": -0.125}
    assert row["finish_reason"] == {"text": "stop", "caption": "stop"}
    assert row["prompt_tokens"] == 200
    assert row["width"] * row["height"] <= 20_000
    assert balance.cost["completion_tokens"] == sum(r["completion_tokens"] for r in table(out))


def test_the_table_has_the_documented_schema(tmp_path: Path, source: Path, out: Path) -> None:
    import pyarrow.parquet as pq

    run(source, out, echo_settings(tmp_path))
    part = next(out.glob("recipe=*/pages/*.parquet"))
    assert pq.read_schema(part).equals(row_schema(["text", "caption"]), check_metadata=True)
    assert pq.ParquetFile(part).metadata.row_group(0).column(0).compression == "ZSTD"


def test_confidence_can_be_left_out_and_is_no_part_of_the_recipe(
    tmp_path: Path, source: Path, out: Path
) -> None:
    run(source, out, echo_settings(tmp_path, model__confidence=False))
    assert {row["mean_logprob"] for row in table(out)} == {None}
    make_pdf(source / "d.pdf", 1)
    run(source, out, echo_settings(tmp_path))
    assert len(list(out.glob("recipe=*"))) == 1
    assert [row["mean_logprob"] is not None for row in table(out)] == [False] * 5 + [True]


def test_a_third_output_becomes_a_column(tmp_path: Path, source: Path, out: Path) -> None:
    run(source, out, echo_settings(tmp_path, outputs__language={"prompt": "Which language?"}))
    row = table(out)[0]
    assert row["language"].startswith("echo-")
    assert row["finish_reason"]["language"] == "stop"


def test_a_second_run_has_nothing_to_do(
    tmp_path: Path, source: Path, out: Path, asked: list[Request]
) -> None:
    run(source, out, echo_settings(tmp_path))
    before, count = table(out), len(asked)
    balance = run(source, out, echo_settings(tmp_path))
    assert balance.documents["shards"] == 0
    assert balance.documents["done"] == 3
    assert balance.cost["engine_idle_share"] is None
    assert len(asked) == count
    assert table(out) == before


def test_only_new_files_are_read(
    tmp_path: Path, source: Path, out: Path, asked: list[Request]
) -> None:
    run(source, out, echo_settings(tmp_path))
    count = len(asked)
    make_pdf(source / "d.pdf", 2)
    balance = run(source, out, echo_settings(tmp_path))
    assert len(asked) - count == 2 * 2
    assert balance.documents["new"] == 1
    assert balance.balanced


def test_a_changed_file_is_read_again_in_place(tmp_path: Path, source: Path, out: Path) -> None:
    run(source, out, echo_settings(tmp_path))
    parts = sorted(out.glob("recipe=*/pages/*"))
    make_pdf(source / "a.pdf", 2, words="another text")
    balance = run(source, out, echo_settings(tmp_path))
    assert balance.documents["changed"] == 1
    assert balance.balanced
    assert Counter(name(r) for r in table(out)) == {"a.pdf": 2, "b.pdf": 1, "c.png": 1}
    assert sorted(out.glob("recipe=*/pages/*")) == parts


def test_a_touched_file_is_not_read_again(
    tmp_path: Path, source: Path, out: Path, asked: list[Request]
) -> None:
    run(source, out, echo_settings(tmp_path))
    before, count = table(out), len(asked)
    os.utime(source / "a.pdf", (1, 1))
    assert run(source, out, echo_settings(tmp_path)).balanced
    assert len(asked) == count
    after = table(out)
    assert [r["text"] for r in after] == [r["text"] for r in before]
    assert after[0]["source_etag"] != before[0]["source_etag"]
    assert run(source, out, echo_settings(tmp_path)).documents["done"] == 3


def test_equal_files_are_read_once(
    tmp_path: Path, source: Path, out: Path, asked: list[Request]
) -> None:
    shutil.copy(source / "a.pdf", source / "a-copy.pdf")
    balance = run(source, out, echo_settings(tmp_path))
    assert len(asked) == 5 * 2
    copies = [r for r in table(out) if r["copied_from"]]
    originals = {r["page_number"]: r for r in table(out) if name(r) in ("a.pdf", "a-copy.pdf")}
    assert len(copies) == 3
    assert [r["prompt_tokens"] for r in copies] == [0, 0, 0]
    assert all(r["text"] == originals[r["page_number"]]["text"] for r in copies)
    assert balance.documents["copied"] == 1
    assert balance.balanced


def test_a_file_equal_to_a_committed_one_is_not_read(
    tmp_path: Path, source: Path, out: Path, asked: list[Request]
) -> None:
    run(source, out, echo_settings(tmp_path))
    count = len(asked)
    (source / "a.pdf").rename(source / "renamed.pdf")
    balance = run(source, out, echo_settings(tmp_path))
    assert len(asked) == count
    assert balance.balanced
    assert {r["copied_from"] for r in table(out) if name(r) == "renamed.pdf"} == {
        f"file://{source}/a.pdf"
    }


def test_what_cannot_be_read_becomes_a_row_that_says_why(
    tmp_path: Path, source: Path, out: Path
) -> None:
    (source / "empty.pdf").write_bytes(b"")
    (source / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing of the kind")
    (source / "notes.txt").write_text("no document")
    (source / "lie.pdf").write_text("no document either")
    os.mkfifo(source / "fifo.pdf")
    balance = run(source, out, echo_settings(tmp_path))
    rows = {name(r): r for r in table(out) if r["page_number"] is None}
    assert {n: (r["status"], r["error_kind"]) for n, r in rows.items()} == {
        "empty.pdf": ("failed", "empty"),
        "broken.pdf": ("failed", "corrupt"),
        "notes.txt": ("skipped", "unsupported"),
        "lie.pdf": ("failed", "unsupported"),
        "fifo.pdf": ("failed", "unreadable"),
    }
    assert all(r["error_message"] for r in rows.values())
    assert balance.balanced
    assert balance.failed == 4


def test_pages_beyond_the_limit_are_skipped_and_read_when_it_is_raised(
    tmp_path: Path, source: Path, out: Path, asked: list[Request]
) -> None:
    run(source, out, echo_settings(tmp_path, limits__max_pages=1))
    rows = [r for r in table(out) if name(r) == "a.pdf"]
    assert [r["status"] for r in rows] == ["ok", "skipped", "skipped"]
    assert rows[1]["decided_by"] == "max_pages=1"
    count = len(asked)
    balance = run(source, out, echo_settings(tmp_path, limits__max_pages=2))
    rows = [r for r in table(out) if name(r) == "a.pdf"]
    assert [r["status"] for r in rows] == ["ok", "ok", "skipped"]
    assert rows[2]["decided_by"] == "max_pages=2"
    assert len(asked) - count == 2
    assert balance.documents["retry"] == 1
    assert balance.balanced


@pytest.mark.parametrize("pages", [2, 4])
def test_what_has_changed_unnoticed_is_read_as_a_whole_when_a_page_is_due(
    tmp_path: Path, source: Path, out: Path, pages: int
) -> None:
    file, size = source / "a.pdf", 10_000

    def write(count: int, words: str) -> None:
        make_pdf(file, count, words)
        file.write_bytes(file.read_bytes().ljust(size, b"\n"))
        os.utime(file, ns=(0, 10**18))  # as a copy does that keeps times: the etag is the same

    write(3, "before")
    run(source, out, echo_settings(tmp_path, limits__max_pages=2))
    write(pages, "after")
    balance = run(source, out, echo_settings(tmp_path))
    rows = [r for r in table(out) if name(r) == "a.pdf"]
    assert [(r["page_number"], r["page_count"], r["status"]) for r in rows] == [
        (number, pages, "ok") for number in range(1, pages + 1)
    ]
    assert len({r["document_sha256"] for r in rows}) == 1
    assert balance.balanced


def test_pages_that_are_counted_otherwise_than_they_were_are_all_read(
    tmp_path: Path, source: Path, out: Path
) -> None:
    run(source, out, echo_settings(tmp_path))
    (part,) = out.glob("recipe=*/pages/*.parquet")
    rows = pq.ParquetFile(part).read().to_pylist()
    for row in rows:
        if name(row) == "a.pdf":  # as if another version of the renderer had found two
            row.update(page_count=2, tries=1)
            if row["page_number"] == 2:
                row.update(status="failed", error_kind="time_out", text=None)
    rows = [row for row in rows if row["page_number"] != 3]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(part)), part)
    balance = run(source, out, echo_settings(tmp_path))
    assert balance.documents["retry"] == 1
    rows = [r for r in table(out) if name(r) == "a.pdf"]
    assert [(r["page_number"], r["page_count"], r["status"]) for r in rows] == [
        (number, 3, "ok") for number in (1, 2, 3)
    ]
    assert balance.balanced


def test_a_transient_failure_is_tried_by_three_runs(
    tmp_path: Path, source: Path, out: Path
) -> None:
    (source / "gone.pdf").symlink_to(tmp_path / "nowhere.pdf")
    settings = echo_settings(tmp_path)
    reasons = [run(source, out, settings).documents["retry"] for _ in range(5)]
    assert reasons == [0, 1, 1, 0, 0]
    row = next(r for r in table(out) if name(r) == "gone.pdf")
    assert (row["error_kind"], row["tries"]) == ("unreadable", 3)


def test_a_page_on_which_the_model_fails_is_a_row(tmp_path: Path, source: Path, out: Path) -> None:
    options = {"fail_rate": 0.4}
    settings = echo_settings(tmp_path, model__options=options, render__text_layer="never")
    make_pdf(source / "many.pdf", 12)
    balance = run(source, out, settings)
    statuses = Counter(r["status"] for r in table(out))
    assert set(statuses) == {"ok", "partial", "failed"}
    assert balance.balanced
    failed = next(r for r in table(out) if r["status"] == "failed")
    assert (failed["error_kind"], failed["text"]) == ("model_failed", None)
    partial = next(r for r in table(out) if r["status"] == "partial")
    assert "error" in partial["finish_reason"].values()


def test_a_loop_is_tried_hotter_and_then_falls_back_to_the_text_layer(
    tmp_path: Path, source: Path, out: Path
) -> None:
    make_pdf(source / "many.pdf", 12)
    run(source, out, echo_settings(tmp_path, model__options={"loop_rate": 0.5}))
    rows = table(out)
    cured = [r for r in rows if r["finish_reason"]["text"] == "stop" and r["attempts"]["text"]]
    fallen = [r for r in rows if r["status"] == "fallback"]
    assert cured
    assert all(r["attempts"]["text"] == ["t=0: loop"] for r in cured)
    assert fallen
    assert all(r["text_source"] == "text_layer" and "page" in r["text"] for r in fallen)
    assert {r["mean_logprob"]["text"] for r in fallen} == {None}  # the model did not say this
    assert {r["mean_logprob"]["caption"] for r in fallen} == {-0.125}
    assert all(r["attempts"]["text"] == ["t=0: loop", "t=0.4: loop"] for r in fallen)


def test_a_page_on_which_the_model_loops_is_turned_where_the_config_says_so(
    tmp_path: Path, out: Path, asked: list[Request]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    make_pdf(folder / "many.pdf", 24)
    how = {"model__options": {"loop_rate": 0.7}, "render__turned": True}
    run(folder, out, echo_settings(tmp_path, **how, outputs={"text": {"prompt": "Read."}}))
    rows = table(out)
    tried = ["t=0: loop", "t=0.4: loop", "t=0 turned 90: loop", "t=0 turned 180: loop"]
    turned = {r["rotation"]: r for r in rows if r["rotation"]}
    assert set(turned) == {90, 180, 270}
    for place, rotation in enumerate((90, 180, 270)):
        assert turned[rotation]["attempts"]["text"] == tried[: 2 + place]
        assert turned[rotation]["text_source"] == "model" and turned[rotation]["status"] == "ok"
    assert {(r["status"], r["rotation"]) for r in rows if r["status"] != "ok"} == {("fallback", 0)}
    wide = [image for request in asked for image in request.images if image.width > image.height]
    assert wide and len(asked) == sum(
        1 + len(r["attempts"]["text"]) - (r["status"] != "ok") for r in rows
    )


def test_an_answer_that_is_cut_off_makes_the_page_partial(
    tmp_path: Path, source: Path, out: Path
) -> None:
    run(source, out, echo_settings(tmp_path, outputs__caption={"prompt": "?", "max_new_tokens": 3}))
    row = table(out)[0]
    assert row["status"] == "partial"
    assert row["finish_reason"] == {"text": "stop", "caption": "length"}
    assert len(row["caption"].split()) == 3


def test_a_blank_page_costs_no_model_time(
    tmp_path: Path, source: Path, out: Path, asked: list[Request]
) -> None:
    from PIL import Image

    for file in source.iterdir():
        file.unlink()
    Image.new("RGB", (300, 200), "white").save(source / "blank.png")
    balance = run(source, out, echo_settings(tmp_path))
    assert [(r["status"], r["text"], r["prompt_tokens"]) for r in table(out)] == [
        ("blank", None, 0)
    ]
    assert asked == []
    assert balance.balanced


def test_a_long_document_is_staged_and_goes_on_where_it_stopped(
    tmp_path: Path, long: Path, out: Path, asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = echo_settings(tmp_path)
    worker, plan = look(long, out, settings)
    stage = worker.ledger.stage

    def stop_after_two(*args: Any) -> None:
        stage(*args)
        if len(list(out.glob("recipe=*/staging/*/*.parquet"))) == 2:
            worker.stop.set()

    monkeypatch.setattr(worker.ledger, "stage", stop_after_two)
    with pytest.raises(Stopped):
        process(worker, plan.shards[0])
    assert table(out) == []
    parts = len(list(out.glob("recipe=*/staging/*/*.parquet")))
    assert parts in (2, 3)  # pages that were answered before the stop was seen are staged too
    count = len(asked)
    balance = run(long, out, settings)
    assert len(asked) - count == (20 - 6 * parts) * 2
    assert [r["page_number"] for r in table(out)] == list(range(1, 21))
    assert balance.balanced
    assert list(out.glob("recipe=*/staging/*/*.parquet")) == []


def test_what_is_staged_of_a_long_document_is_kept_packed(
    tmp_path: Path, long: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, kept, given = OpenDocument.add, [], []

    def watch(document: OpenDocument, row: Row) -> None:
        given.append(row)
        add(document, row)
        kept.append(len(document.rows))

    monkeypatch.setattr(OpenDocument, "add", watch)
    balance = run(long, out, echo_settings(tmp_path))
    assert max(kept) < 20 and kept[-1] == 0  # staged by sixes, and the last two
    assert [(r["page_number"], r["text"], dict(r["mean_logprob"])) for r in table(out)] == [
        (r["page_number"], r["text"], r["mean_logprob"])
        for r in sorted(given, key=lambda row: row["page_number"])
    ]
    assert balance.balanced


def test_staged_pages_that_other_settings_would_read_are_read_when_it_goes_on(
    tmp_path: Path, long: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, plan = look(long, out, echo_settings(tmp_path, select__pages="1-4"))
    stage = worker.ledger.stage

    def stop_after_one(*args: Any) -> None:
        stage(*args)
        worker.stop.set()

    monkeypatch.setattr(worker.ledger, "stage", stop_after_one)
    with pytest.raises(Stopped):
        process(worker, plan.shards[0])
    assert list(out.glob("recipe=*/staging/*/*.parquet"))  # of pages that were not asked for
    balance = run(long, out, echo_settings(tmp_path))
    assert balance.pages["by_status"] == {"ok": 20} and balance.balanced


def test_a_run_that_is_stopped_ends_no_page_of_another_one(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make_pdf(source / "a.pdf", 20)
    how = {
        **{"model__options": {"delay": 0.5}, "model__batch_size": 64},  # all that wait, at once
        "outputs": {"text": {"prompt": "Read."}},
    }
    jobs = [look(source, tmp_path / out, echo_settings(tmp_path, **how)) for out in ("a", "b")]
    with ThreadPoolExecutor() as pool:
        stopped, other = (pool.submit(process, worker, plan.shards[0]) for worker, plan in jobs)
        while not all(worker.being_read() for worker, _ in jobs):
            assert not other.done()
            time.sleep(0.01)
        jobs[0][0].stop.set()  # the engine is the same one, and so are the document and the pages
    assert isinstance(stopped.exception(), Stopped)
    assert other.result().pages == {"ok": 20}


def test_a_storage_failure_stops_the_shard_and_loses_nothing(
    tmp_path: Path, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise StorageError("cannot write: the disk is full: free some space")

    settings = echo_settings(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "create", full)
        with pytest.raises(StorageError, match="disk is full"):
            run(source, out, settings)
    assert table(out) == []
    assert run(source, out, settings).balanced
    assert len(table(out)) == 5


def test_a_model_that_stops_working_fails_the_shard_not_the_page(
    tmp_path: Path, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the device is lost")

    (source / "a0-broken.pdf").write_bytes(b"")  # complete without the engine
    make_pdf(source / "b.pdf", 12)
    settings = echo_settings(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(EchoEngine, "_answer", broken)
        with pytest.raises(EngineError, match="the device is lost"):
            run(source, out, settings)
    assert [(name(r), r["error_kind"]) for r in table(out)] == [("a0-broken.pdf", "empty")]
    resident.release()
    assert run(source, out, settings).balanced


def test_another_recipe_has_its_own_rows(tmp_path: Path, source: Path, out: Path) -> None:
    run(source, out, echo_settings(tmp_path))
    run(source, out, echo_settings(tmp_path, render__max_pixels=30_000))
    assert len(list(out.glob("recipe=*"))) == 2
    assert len(table(out)) == 10


def test_out_may_lie_in_source(tmp_path: Path, source: Path) -> None:
    settings = echo_settings(tmp_path)
    run(source, source / "out", settings)
    balance = run(source, source / "out", settings)
    assert balance.documents["done"] == 3
    assert balance.documents["outside"]["below OUT"] >= 1


def test_a_wrong_row_is_never_written(tmp_path: Path, source: Path, out: Path) -> None:
    worker, _ = look(source, out, echo_settings(tmp_path))
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError, ValueError)):
        worker.ledger.schema.field("tries")
        pa.Table.from_pylist([{"tries": "three"}], schema=worker.ledger.schema)


def test_the_same_on_s3(tmp_path: Path, source: Path, s3: Any) -> None:
    bucket = s3.bucket()
    for file in source.iterdir():
        s3.put(bucket, f"in/{file.name}", file.read_bytes())
    settings = echo_settings(tmp_path, storage__endpoint_url=s3.endpoint_url)
    balance = run(f"s3://{bucket}/in", f"s3://{bucket}/out", settings)
    assert balance.balanced
    assert balance.pages["rows"] == 5
    again = run(f"s3://{bucket}/in", f"s3://{bucket}/out", settings)
    assert again.documents["done"] == 3
    s3.put(bucket, "in/b.pdf", make_pdf(tmp_path / "b2.pdf", 4).read_bytes())
    changed = run(f"s3://{bucket}/in", f"s3://{bucket}/out", settings)
    assert changed.documents["changed"] == 1
    assert changed.pages["rows"] == 8
    assert changed.balanced


def test_a_name_that_changes_hands_keeps_each_text_with_its_bytes(
    tmp_path: Path, source: Path, out: Path
) -> None:
    settings = echo_settings(tmp_path, work__shards_in_flight=1, work__shard_documents=1)
    run(source, out, settings)
    texts = {name(r): r["text"] for r in table(out) if name(r) == "b.pdf"}
    (source / "b.pdf").rename(source / "old-b.pdf")
    make_pdf(source / "b.pdf", 1, words="something else")
    assert run(source, out, settings).balanced
    after = {name(r): r for r in table(out) if name(r) in ("b.pdf", "old-b.pdf")}
    assert after["old-b.pdf"]["text"] == texts["b.pdf"]
    assert after["b.pdf"]["text"] != texts["b.pdf"]
    assert after["b.pdf"]["document_sha256"] != after["old-b.pdf"]["document_sha256"]
