"""The gauges: rates, shares, queues, memory and price, of a shard, a worker and a run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import echo_settings, look, make_pdfs, process, run, table

from flows import story
from flows.progress import line
from flows.story import shard_rows
from tasks.estimate import estimate
from tasks.feed import Fed
from tasks.gauges import Report, together
from tasks.gpu_memory import GpuMemory
from tasks.reconcile import Work, price
from tasks.report import sheet_rows


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_pdfs(tmp_path / "in", 3, 4)


def test_a_balance_sheet_shows_rates_queue_and_price(tmp_path: Path, source: Path) -> None:
    settings = echo_settings(tmp_path, work__gpu_hour_price=2.0)
    balance = run(source, tmp_path / "out", settings)
    cost, rows = balance.cost, table(tmp_path / "out")  # seconds are rounded to ms there
    prompt = sum(row["prompt_tokens"] for row in rows)
    completion = sum(row["completion_tokens"] for row in rows)
    assert prompt == 12 * 2 * 100
    assert cost["prompt_tokens_per_second"] == pytest.approx(prompt / balance.seconds, 0.1)
    assert cost["completion_tokens_per_second"] == pytest.approx(completion / balance.seconds, 0.1)
    # At most eight pages of two requests, of which the engine reads four at once.
    assert 0 <= cost["engine_queue"] <= cost["engine_longest_queue"] <= 2 * 8 - 4
    assert cost["gpu_memory_gb"] is None
    paid = 2.0 * balance.seconds / 3600
    assert cost["price_per_1000_pages"] == pytest.approx(1000 * paid / 12, abs=0.001)
    (worker,) = balance.workers
    assert (worker["prompt_tokens"], worker["completion_tokens"]) == (prompt, completion)
    shown = dict(sheet_rows(balance))
    assert shown["completion tokens per second"] == cost["completion_tokens_per_second"]
    assert shown["prompt tokens per second"] == cost["prompt_tokens_per_second"]
    assert "GB of GPU memory in use, at most" not in shown


def test_gpus_are_paid_once_however_many_share_them(tmp_path: Path) -> None:
    shared = {"work__runner": "process", "work__workers_per_gpu": 2}
    settings = echo_settings(tmp_path, work__gpu_hour_price=2.0, **shared)
    names = ["gpu-0.1", "gpu-1.1", "gpu-0.2", "gpu-1.2"]
    paid = [price(1800, names[:workers], settings) for workers in (0, 1, 2, 3, 4)]
    assert paid == [1.0, 1.0, 1.0, 2.0, 2.0]


def test_a_worker_in_the_place_of_a_lost_one_is_not_paid_twice(tmp_path: Path) -> None:
    settings = echo_settings(tmp_path, work__gpu_hour_price=2.0)
    again = ["ray-1@10.0.0.1/5", "ray-2@10.0.0.1/6", "ray-1@10.0.0.2/7"]
    assert price(3600, again, settings) == 4.0


def test_each_shard_has_its_own(tmp_path: Path, source: Path) -> None:
    settings = echo_settings(tmp_path, work__shard_documents=1)
    worker, plan = look(source, tmp_path / "out", settings)
    worker.ledger.prepare(worker.job.recipe)
    receipts = [process(worker, shard) for shard in plan.shards]
    failure = RuntimeError("no more")
    failed, *shown = shard_rows(Work(receipts, [failure]))
    assert (failed["shard"], failed["what"], failed["pages/s"]) == ("failed", "no more", "")
    assert [list(row) for row in shown] == [list(failed)] * 3
    for row, receipt in zip(shown, receipts, strict=True):
        rate = receipt.completion_tokens / receipt.seconds
        assert (row["pages"], row["output tokens/s"]) == ("4 ok", round(rate))
        assert receipt.idle is not None and receipt.hungry is not None
        assert 0 <= receipt.idle <= receipt.hungry <= 1
        assert row["engine not full"] == f"{receipt.hungry:.1%}"


def test_a_dry_run_tells_time_and_price(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = echo_settings(tmp_path, work__gpu_hour_price=1e6)
    balance = run(source, tmp_path / "out", settings)
    make_pdfs(source / "more", 1, 500)
    worker, plan = look(source, tmp_path / "out", settings)
    worker.ledger.write_run(balance.run_id, balance.as_dict())
    facts = {**plan.summary(), **estimate(plan, settings, worker.ledger)}
    told: list[Any] = []
    monkeypatch.setattr(story, "create_table_artifact", lambda *a: told.append(a))  # the UI
    said = story.publish_estimate(facts)
    assert said.startswith("dry run: 1 shards, 500 pages of 4 documents, about ")
    assert said.endswith(f", price about {facts['price']}")
    assert facts["price"] > 0
    assert {"what": "price", "value": str(facts["price"])} in told[0][0]


def test_a_shard_that_asks_nothing_has_no_shares(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing")
    worker, plan = look(source, tmp_path / "out", echo_settings(tmp_path))
    worker.ledger.prepare(worker.job.recipe)
    receipt = process(worker, plan.shards[0])
    assert (receipt.idle, receipt.hungry) == (None, None)
    assert shard_rows(Work([receipt]))[0]["engine idle"] == "model not needed"


def test_the_time_between_two_looks() -> None:
    before, after = Fed(10, 2, 4, 100), Fed(30, 2, 9, 180)
    between = after - before
    assert (between.idle_share, between.hungry_share, between.queue) == (0, 0.25, 4)
    assert (Fed() - Fed()).hungry_share == 0


def test_workers_together() -> None:
    one = Report("one", 1, 3, {"ok": 5, "failed": 1}, 600, 60, 0.1, 0.2, 10, 30, 70.5, None, 60)
    two = Report("two", 1, 1, {"ok": 4}, 400, 40, 0.3, 0.4, 20, 20, 71.0, 12.0, 70)
    new = Report("new")
    both = together([one, two, new])
    assert both.pages == {"ok": 9, "failed": 1}
    assert (both.prompt_tokens, both.completion_tokens, both.documents) == (1000, 100, 4)
    assert (both.idle, both.hungry, both.queue) == pytest.approx((0.2, 0.3, 15))
    assert (both.longest_queue, both.gpu_memory_gb, both.loading) == (30, 71.0, 12.0)
    assert (both.loads, both.load_seconds) == (2, 70)
    assert line(8, both, 10) == (
        "4/8 documents, 0:10 left, 10 pages, 1 failed, 1.00 pages/s, 100 + 10 tokens/s, "
        "engine 20% idle, 30% not full, 15 queued, 71.0 GB on the GPU, loading the model for 12 s"
    )
    assert line(8, new, 10) == "0/8 documents, ? left, 0 pages, 0 failed, 0.00 pages/s"


class Driver:
    """Stands in for nvidia-ml-py: there is no GPU here."""

    def __init__(self) -> None:
        self.used = {"0": 1e9, "1": 2e9, "GPU-abc": 4e9}
        self.nvmlInit = lambda: None
        self.nvmlDeviceGetHandleByIndex = str
        self.nvmlDeviceGetHandleByUUID = lambda name: name

    def nvmlDeviceGetMemoryInfo(self, name: str) -> Any:  # noqa: N802 (its name)
        return SimpleNamespace(used=self.used[name])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[arg-type]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return driver


def on_gpus(tmp_path: Path, device: str = "cuda", count: int = 1) -> GpuMemory:
    model = {"model__framework": "transformers", "model__device": device}
    return GpuMemory(echo_settings(tmp_path, **model, work__gpus_per_worker=count))


def test_the_most_memory_that_was_seen_on_the_workers_gpus(
    tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = on_gpus(tmp_path)
    assert memory.most_gb() == 1.0
    driver.used["0"] = 9e9
    assert memory.most_gb() == 9.0
    driver.used["0"] = 3e9
    assert memory.most_gb() == 9.0
    assert on_gpus(tmp_path, "cuda:1").most_gb() == 2.0
    assert on_gpus(tmp_path, count=2).most_gb() == 5.0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-abc")
    assert on_gpus(tmp_path).most_gb() == 2.0
    assert on_gpus(tmp_path, count=2).most_gb() == 6.0


def test_where_nothing_is_known_of_gpu_memory(tmp_path: Path, driver: Driver) -> None:
    memory = on_gpus(tmp_path)
    assert memory.most_gb() == 1.0
    driver.used.clear()  # the driver fails
    assert memory.most_gb() == 1.0
    assert on_gpus(tmp_path, "cuda:7").most_gb() is None
    assert GpuMemory(echo_settings(tmp_path)).most_gb() is None
