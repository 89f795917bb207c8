"""Which objects are in scope, and which committed pages are read again."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import echo_settings, look, make_image, make_pdf, name, process, run, table
from pydantic import ValidationError

from loaders.engine import Request
from pagemill import open_dataset
from pagemill.document import SourceObject
from pagemill.errors import UsageError
from pagemill.schema import row_schema
from pagemill.settings import Select
from pagemill.storage import Storage
from tasks.estimate import estimate
from tasks.reconcile import Work, reconcile
from tasks.selection import OTHER_TIME, Selection

OLD, NEW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        make_pdf(folder / f"{number}.pdf", number + 1)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def found(
    uri: str = "s3://b/a.pdf", size: int = 10, modified: datetime | None = OLD
) -> SourceObject:
    return SourceObject(uri, "e", size, modified)


@pytest.mark.parametrize(
    ("select", "source", "reason"),
    [
        ({}, found(), None),
        ({"include": ["*.tif"]}, found(), "not selected"),
        ({"modified_since": "2026-02-01"}, found(), OTHER_TIME),
        ({"modified_since": "2026-02-01"}, found(modified=NEW), None),
        ({"modified_since": "2026-02-01"}, found(modified=None), None),
        (
            {"modified_until": "2026-06-01"},
            found(modified=NEW),
            "not modified in the time asked for",
        ),
        ({"modified_until": "2026-06-01T00:00:01Z"}, found(modified=NEW), None),
        ({"min_bytes": 11}, found(), "smaller than asked for"),
        ({"max_bytes": 9}, found(), "larger than asked for"),
        ({"min_bytes": 10, "max_bytes": 10}, found(), None),
        ({"min_bytes": 10}, found(size=-1), None),
    ],
)
def test_an_object_is_in_scope_or_there_is_a_reason(
    select: dict[str, Any], source: SourceObject, reason: str | None
) -> None:
    assert Selection(Select.model_validate(select)).reason("a.pdf", source) == reason


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"partition": "9/8"}, "write i/n"),
        ({"partition": "0/8"}, "write i/n"),
        ({"pages": "3-1"}, "write first-last"),
        ({"modified_since": "2026-02-01", "modified_until": "2026-01-01"}, "is not before"),
        ({"min_bytes": 2, "max_bytes": 1}, "is above"),
        ({"new": False}, "nothing to do"),
        ({"redo": {"status": ["lost"]}}, "status"),
        ({"redo": {"error_kind": ["bad_luck"]}}, "error_kind"),
    ],
)
def test_a_selection_that_cannot_be_meant_is_refused(select: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Select.model_validate(select)


@pytest.mark.parametrize(
    ("pages", "numbers"),
    [(None, [1, 2, 3, 4]), ("2-3", [2, 3]), ("3-", [3, 4]), (2, [2]), ("9", [])],
)
def test_page_ranges(pages: str | None, numbers: list[int]) -> None:
    assert list(Select.model_validate({"pages": pages}).page_range(4)) == numbers


def test_shares_are_disjoint_and_together_everything() -> None:
    uris = [f"s3://b/{n}.pdf" for n in range(300)]
    shares = [
        {u for u in uris if Selection(Select(partition=f"{i}/3")).reason(u, found(u)) is None}
        for i in (1, 2, 3)
    ]
    assert set.union(*shares) == set(uris)
    assert sum(map(len, shares)) == len(uris)
    assert min(map(len, shares)) > 60


def test_a_sample_is_the_same_whatever_the_order_and_grows_by_adding() -> None:
    objects = [found(f"s3://b/{n}.pdf") for n in range(100)]
    outside: Counter[str] = Counter()
    ten = Selection(Select(sample=10)).sample(objects, outside)
    assert outside == {"not in the sample": 90}
    assert Selection(Select(sample=10)).sample(objects[::-1], Counter()) == ten
    assert set(ten) < set(Selection(Select(sample=20)).sample(objects, Counter()))


# -- in a run --------------------------------------------------------------------------------


def test_partitions_of_one_job_balance_by_themselves_and_together(
    tmp_path: Path, source: Path, out: Path
) -> None:
    for share in ("1/2", "2/2"):
        balance = run(source, out, echo_settings(tmp_path, select__partition=share))
        assert balance.balanced
        outside = sum(balance.documents["outside"].values())  # how many is chance
        assert balance.documents["selected"] + outside == 6
        assert balance.documents["deleted"] == 0
    whole = run(source, out, echo_settings(tmp_path))
    assert (whole.documents["done"], whole.documents["selected"]) == (6, 6)
    assert len(table(out)) == 21


def test_a_range_of_pages_is_read_and_a_wider_one_reads_the_rest(
    tmp_path: Path, source: Path, out: Path, asked: list[Request]
) -> None:
    balance = run(source, out, echo_settings(tmp_path, select__pages="1-2"))
    assert balance.balanced
    assert balance.pages["by_status"] == {"ok": 11, "skipped": 10}
    skipped = [r for r in table(out) if r["status"] == "skipped"]
    assert {(r["error_kind"], r["decided_by"]) for r in skipped} == {("not_selected", "pages=1-2")}
    assert len(asked) == 11 * 2
    again = run(source, out, echo_settings(tmp_path, select__pages="1-2"))
    assert again.documents["done"] == 6
    third = run(source, out, echo_settings(tmp_path, select__pages="3"))
    assert len(asked) == (11 + 4) * 2
    assert third.pages["by_status"] == {"ok": 15, "skipped": 6}
    assert run(source, out, echo_settings(tmp_path)).pages["by_status"] == {"ok": 21}
    assert len(asked) == 21 * 2


def test_a_sample_is_read_and_the_rest_counted(tmp_path: Path, source: Path, out: Path) -> None:
    balance = run(source, out, echo_settings(tmp_path, select__sample=2))
    assert (balance.documents["selected"], balance.documents["new"]) == (2, 2)
    assert balance.documents["outside"] == {"not in the sample": 4}
    assert balance.balanced


def test_documents_of_another_recipe_can_be_chosen_or_left_out(
    tmp_path: Path, source: Path, out: Path
) -> None:
    first = run(source, out, echo_settings(tmp_path, select__include=["0.pdf", "1.pdf"]))
    other = {"render__max_pixels": 30_000}
    fingerprint = first.recipe.rsplit("-", 1)[1]
    made = run(source, out, echo_settings(tmp_path, select__made_by=fingerprint, **other))
    assert (made.documents["selected"], made.balanced) == (2, True)
    rest = run(source, out, echo_settings(tmp_path, select__not_made_by=first.recipe, **other))
    assert (rest.documents["selected"], rest.documents["new"]) == (4, 4)
    assert rest.documents["outside"] == {f"made by {first.recipe}": 2}
    with pytest.raises(UsageError, match=f"no recipe 'nope'.*{first.recipe}"):
        run(source, out, echo_settings(tmp_path, select__made_by="nope"))


@pytest.fixture
def flawed(tmp_path: Path, source: Path, out: Path) -> Path:
    """An output with pages of several statuses."""
    (source / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing of the kind")
    options = {"fail_rate": 0.4}
    run(source, out, echo_settings(tmp_path, model__options=options, render__text_layer="never"))
    return out


def flawed_settings(tmp_path: Path, **select: Any) -> Any:
    options = {"fail_rate": 0.4}
    return echo_settings(
        tmp_path, model__options=options, render__text_layer="never", select=select
    )


@pytest.mark.parametrize("with_source", [True, False])
def test_only_the_rows_that_redo_names_are_read_again(
    tmp_path: Path, source: Path, flawed: Path, asked: list[Request], with_source: bool
) -> None:
    before = table(flawed)
    partial = {(name(r), r["page_number"]) for r in before if r["status"] == "partial"}
    assert partial
    make_pdf(source / "new.pdf")
    settings = flawed_settings(tmp_path, new=False, redo={"status": ["partial"]})
    balance = run(source if with_source else None, flawed, settings)
    assert balance.balanced
    assert {tuple(request.key.rsplit("/", 1)[1].split()) for request in asked} == {
        (n, str(page)) for n, page in partial
    }
    after = table(flawed)
    assert len(after) == len(before)
    redone = {(name(r), r["page_number"]) for r in after if r["run_id"] == balance.run_id}
    assert redone == partial
    assert all(r["tries"] == 2 for r in after if r["run_id"] == balance.run_id)
    assert balance.documents["retry"] == len({n for n, _ in partial})
    if with_source:
        assert balance.documents["outside"]["nothing to redo"] > 0


def test_rows_are_chosen_by_error_kind_and_by_age(
    tmp_path: Path, source: Path, flawed: Path
) -> None:
    redo = {"status": ["failed"], "error_kind": ["corrupt"]}
    _, plan = look(None, flawed, flawed_settings(tmp_path, new=False, redo=redo))
    assert [name({"source_uri": i.source.uri}) for i in plan.items] == ["broken.pdf"]
    assert next(iter(plan.items)).pages is None
    latest = max(r["processed_at"] for r in table(flawed))
    before = {"before": latest.isoformat()}
    _, plan = look(None, flawed, flawed_settings(tmp_path, new=False, redo=before))
    assert sum(len(i.pages or [1]) for i in plan.items) == len(
        [r for r in table(flawed) if r["processed_at"] < latest]
    )


def test_rows_of_which_the_model_was_unsure_are_chosen(
    tmp_path: Path, source: Path, out: Path, asked: list[Request]
) -> None:
    run(source, out, echo_settings(tmp_path))
    unsure = {("5.pdf", 2): -0.8, ("3.pdf", 1): -0.7}  # a mean probability of 45 and 50 %
    for part in out.glob("recipe=*/pages/*.parquet"):
        rows = pq.ParquetFile(part).read().to_pylist()
        for row in rows:
            value = unsure.get((name(row), row["page_number"]), -0.1)
            row["mean_logprob"] = {"text": value, "caption": None}
        pq.write_table(pa.Table.from_pylist(rows, row_schema(["text", "caption"])), part)
    asked.clear()
    chosen = {"new": False, "redo": {"confidence_below": 0.49}}
    run(None, out, echo_settings(tmp_path, select=chosen))
    assert {request.key.rsplit("/", 1)[1] for request in asked} == {"5.pdf 2"}


def test_a_page_that_cannot_be_read_again_keeps_its_row(
    tmp_path: Path, source: Path, flawed: Path
) -> None:
    before = table(flawed)
    for file in source.glob("*.pdf"):
        file.unlink()
    settings = flawed_settings(tmp_path, new=False, redo={"status": ["partial"]})
    assert run(None, flawed, settings).balanced
    after = table(flawed)
    assert [r["text"] for r in after] == [r["text"] for r in before]
    assert [r["status"] for r in after] == [r["status"] for r in before]
    assert {r["tries"] for r in after if r["status"] == "partial"} == {2}


def test_without_a_source_something_must_be_named(tmp_path: Path, out: Path) -> None:
    with pytest.raises(UsageError, match="which pages to read again"):
        look(None, out, echo_settings(tmp_path))


def test_deleted_documents_keep_their_rows_and_are_counted(
    tmp_path: Path, source: Path, out: Path
) -> None:
    make_image(source / "picture.png")
    run(source, out, echo_settings(tmp_path))
    (source / "0.pdf").unlink()
    (source / "picture.png").unlink()
    balance = run(source, out, echo_settings(tmp_path))
    assert (balance.documents["deleted"], balance.documents["selected"]) == (2, 5)
    assert balance.balanced
    assert len(table(out)) == 22
    narrower = run(source, out, echo_settings(tmp_path, select__include=["*.pdf"]))
    assert narrower.documents["deleted"] == 1
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_pdf(elsewhere / "x.pdf")
    assert run(elsewhere, out, echo_settings(tmp_path)).documents["deleted"] == 0


def test_a_plan_says_what_it_costs(tmp_path: Path, source: Path, out: Path) -> None:
    run_once = echo_settings(tmp_path, select__include=["5.pdf"], model__options={"delay": 0.01})
    worker, plan = look(source, out, run_once)
    assert estimate(plan, run_once, worker.ledger)["seconds"] is None
    started = datetime.now(UTC)
    receipts = [process(worker, shard) for shard in plan.shards]
    balance = reconcile(worker.job, plan, worker.ledger, Work(receipts), started)
    worker.ledger.write_run(balance.run_id, balance.as_dict())
    priced = echo_settings(tmp_path, work__gpu_hour_price=3600, model__options={"delay": 0.01})
    worker, plan = look(source, out, priced)
    facts = estimate(plan, priced, worker.ledger)
    assert (facts["pages"], facts["pages_are"]) == (15, "counted")
    rate = balance.cost["pages_per_second"]
    assert facts["price"] == pytest.approx(15 / rate, abs=0.01)
    assert facts["seconds"] == round(15 / rate)
    assert facts["gpu_hours"] is not None


def test_the_life_of_documents_on_s3(tmp_path: Path, asked: list[Request], s3: Any) -> None:
    bucket = s3.bucket()
    source, out = f"s3://{bucket}/in", f"s3://{bucket}/out"
    files = {n: make_pdf(tmp_path / f"{n}.pdf", n).read_bytes() for n in (1, 2, 3)}
    for n, data in files.items():
        s3.put(bucket, f"in/{n}.pdf", data)
    s3.put(bucket, "in/copy of 2.pdf", files[2])  # equal bytes within one run
    settings = echo_settings(tmp_path, storage__endpoint_url=s3.endpoint_url)
    first = run(source, out, settings)
    assert (first.documents["copied"], first.pages["rows"], first.balanced) == (1, 8, True)
    assert len(asked) == 6 * 2
    storage = Storage(source, settings.storage)
    storage.delete("1.pdf")
    storage.delete("3.pdf")
    s3.put(bucket, "in/renamed 3.pdf", files[3])
    s3.put(bucket, "in/2.pdf", make_pdf(tmp_path / "new.pdf", 4).read_bytes())
    second = run(source, out, settings)
    assert second.documents["outcomes"] == {"read": 3}
    assert [second.documents[k] for k in ("deleted", "new", "changed", "copied")] == [2, 1, 1, 1]
    assert len(asked) == (6 + 4) * 2
    assert second.balanced
    rows = open_dataset(out, endpoint_url=s3.endpoint_url).to_table().to_pylist()
    pages = Counter(name(r) for r in rows)
    assert pages == {"1.pdf": 1, "2.pdf": 4, "3.pdf": 3, "copy of 2.pdf": 2, "renamed 3.pdf": 3}
    assert {r["copied_from"] for r in rows if name(r) == "renamed 3.pdf"} == {f"{source}/3.pdf"}
    since = max(r["processed_at"] for r in rows if name(r) == "copy of 2.pdf")
    old = {"new": False, "redo": {"before": (since + timedelta(microseconds=1)).isoformat()}}
    again = settings.model_copy(update={"select": Select.model_validate(old)})
    third = run(source, out, again)
    assert third.documents["outside"] == {"nothing to redo": 2}
    assert (third.documents["retry"], len(asked)) == (1, (6 + 4 + 2) * 2)
    assert third.balanced


def test_pages_are_guessed_before_anything_is_opened(
    tmp_path: Path, source: Path, out: Path
) -> None:
    settings = echo_settings(tmp_path)
    make_image(source / "photo.PNG")
    (source / "photo.PNG").write_bytes((source / "photo.PNG").read_bytes() + b"\0" * 400_000)
    with (source / "5.pdf").open("ab") as file:
        file.write(b"\n" * 1_000_000)
    _, plan = look(source, out, settings)
    assert plan.about_pages() == 5 + 1 + 20  # small PDFs, a picture, a PDF of a megabyte
    _, plan = look(source, out, echo_settings(tmp_path, select__pages="1-3"))
    assert plan.about_pages() == 5 + 1 + 3
    run(source, out, settings)
    _, plan = look(source, out, settings)
    assert plan.about_pages() == 0
    again = {"new": False, "redo": {"status": ["ok"]}}
    _, plan = look(source, out, echo_settings(tmp_path, select=again))
    assert plan.about_pages() == len(table(out)) == 22  # known by now
