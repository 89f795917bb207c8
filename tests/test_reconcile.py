"""The balance sheet is exact, and what does not balance is named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import echo_settings, look, make_pdf, make_pdfs, process, run

from flows.ingest import _raise_for
from pagemill.errors import Unbalanced
from tasks.reconcile import Balance, Work, reconcile
from tasks.report import headline, sheet_rows


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_pdfs(tmp_path / "in", 6, 2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run_some(source: Path, out: Path, settings: Any, shards: int) -> Balance:
    """A run that forgets all but the first shards, in silence."""
    worker, plan = look(source, out, settings)
    receipts = [process(worker, shard) for shard in plan.shards[:shards]]
    return reconcile(worker.job, plan, worker.ledger, Work(receipts), datetime.now(UTC))


def test_a_forgotten_shard_is_found_and_its_documents_are_named(
    tmp_path: Path, source: Path, out: Path
) -> None:
    balance = run_some(source, out, echo_settings(tmp_path), 1)
    assert not balance.balanced
    assert balance.missing == [f"file://{source}/{n}.pdf: no rows" for n in (4, 5)]
    assert balance.documents["outcomes"] == {"missing": 2, "read": 4}
    assert "NOT BALANCED" in headline(balance)
    with pytest.raises(Unbalanced, match=r"2 documents do not add up: .*4\.pdf: no rows; .*5\.pdf"):
        _raise_for(balance, [])


def test_a_changed_document_with_its_old_rows_is_not_balanced(
    tmp_path: Path, source: Path, out: Path
) -> None:
    settings = echo_settings(tmp_path)
    run(source, out, settings)
    make_pdf(source / "3.pdf", 2, words="another text")
    balance = run_some(source, out, settings, 0)
    assert balance.missing == [f"file://{source}/3.pdf: rows of an older version"]
    assert not balance.balanced
    assert run(source, out, settings).balanced


def test_rows_that_a_stranger_took_away_are_missed(tmp_path: Path, source: Path, out: Path) -> None:
    settings = echo_settings(tmp_path)
    run(source, out, settings)
    part = next(out.glob("recipe=*/pages/*.parquet"))
    rows = pq.ParquetFile(part).read()
    pq.write_table(rows.slice(1), part)
    balance = run(source, out, settings)
    assert not balance.balanced
    assert (balance.pages["expected"], balance.pages["rows"]) == (12, 11)
    assert len(balance.missing) == 1
    assert "1 of 2 pages have no row, the first is page 1" in balance.missing[0]


def test_a_document_that_is_there_twice_is_not_balanced(
    tmp_path: Path, source: Path, out: Path
) -> None:
    settings = echo_settings(tmp_path)
    run(source, out, settings)
    part = next(out.glob("recipe=*/pages/*.parquet"))
    (part.parent / "part-000099.parquet").write_bytes(part.read_bytes())
    balance = run(source, out, settings)
    assert not balance.balanced
    assert balance.pages["rows"] > balance.pages["expected"]
    assert "part-000099.parquet" in balance.missing[0]


def test_every_selected_document_has_one_outcome_and_the_rest_is_counted(
    tmp_path: Path, source: Path, out: Path
) -> None:
    (source / "notes.txt").write_text("no document")
    (source / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing of the kind")
    (source / "draft.tmp").write_text("outside")
    run(source, out, echo_settings(tmp_path))
    (source / "0.pdf").unlink()
    settings = echo_settings(tmp_path, select__exclude=["*.tmp"], work__gpu_hour_price=2)
    balance = run(source, out, settings)
    documents = balance.documents
    assert documents["outcomes"] == {"failed": 1, "read": 5, "skipped": 1}
    assert sum(documents["outcomes"].values()) == documents["selected"] == 7
    assert documents["outside"] == {"not selected": 1}
    assert documents["deleted"] == 1
    assert balance.balanced
    shown = {name.strip(): value for name, value in sheet_rows(balance)}
    assert shown["deleted at the source, rows kept"] == 1
    assert (shown["now failed"], shown["now skipped"]) == (1, 1)


def test_a_run_says_its_price(tmp_path: Path, source: Path, out: Path) -> None:
    balance = run(source, out, echo_settings(tmp_path, work__gpu_hour_price=3600))
    assert balance.cost["price"] == pytest.approx(balance.seconds, abs=0.01)
    per_page = balance.cost["price"] / 12
    assert balance.cost["price_per_1000_pages"] == pytest.approx(1000 * per_page, rel=0.01)


def test_more_missing_documents_than_fit_are_counted_all(
    tmp_path: Path, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.reconcile.NAMED", 2)
    balance = run_some(source, out, echo_settings(tmp_path), 0)
    assert len(balance.missing) == 2
    assert balance.documents["outcomes"] == {"missing": 6}
