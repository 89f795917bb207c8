"""The model loads while documents are fetched and pages are drawn."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import echo_settings, look, make_pdfs, process, table, write_config
from PIL import Image

from loaders import resident as residency
from loaders.echo import EchoEngine, EchoOptions
from loaders.engine import Completion, Request
from loaders.resident import release
from pagemill.errors import EngineError, Stopped
from tasks.crew import muster
from tasks.hand import LocalHand
from tasks.warm_engine import WarmEngine
from tasks.worker import AHEAD, Worker

PROJECT = Path(__file__).resolve().parents[1]
SECONDS = 300


class Door:
    """Stands before the loading of a model: `open` lets it end, with an error if one is given."""

    def __init__(self) -> None:
        self.wanted, self._open = threading.Event(), threading.Event()
        self._error: Exception | None = None

    def open(self, error: Exception | None = None) -> None:
        self._error = error
        self._open.set()

    def engine_for(self, model: Any) -> EchoEngine:
        self.wanted.set()
        assert self._open.wait(SECONDS)
        if self._error:
            raise self._error
        return EchoEngine(EchoOptions(), model.batch_size)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    release()
    door = Door()
    monkeypatch.setattr(residency, "engine_for", door.engine_for)
    yield door
    door.open()
    release()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_pdfs(tmp_path / "in", 3, 4)


def begun(worker: Worker, shards: Any) -> tuple[ThreadPoolExecutor, list[Future[Any]]]:
    """Shards being processed."""
    pool = ThreadPoolExecutor(2)
    return pool, [pool.submit(process, worker, shard) for shard in shards]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of all that is asked of the worker's engine, loaded or not."""
    keys: list[str] = []
    submit = WarmEngine.submit

    def note(self: WarmEngine, request: Request) -> Future[Completion]:
        keys.append(request.key)
        return submit(self, request)

    monkeypatch.setattr(WarmEngine, "submit", note)
    return keys


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_pages_are_drawn_and_asked_about_while_the_model_loads(
    tmp_path: Path, source: Path, door: Door, asked: list[str]
) -> None:
    worker, plan = look(source, tmp_path / "out", echo_settings(tmp_path))
    worker.ledger.prepare(worker.job.recipe)
    pool, futures = begun(worker, plan.shards)
    places = AHEAD * worker.job.settings.model.batch_size
    until(lambda: len(set(asked)) >= places)
    loading = worker.report()
    assert (loading.pages, loading.loads, loading.idle) == ({}, 0, None)
    assert loading.loading is not None
    assert len(set(asked)) == places  # those that it will read at once, and the next
    door.open()
    assert sum(future.result(SECONDS).pages["ok"] for future in futures) == 12
    pool.shutdown()
    done = worker.report()
    assert (done.loading, done.loads) == (None, 1)
    assert done.load_seconds > 0
    assert {row["engine_load_seconds"] for row in table(tmp_path / "out")} == {
        round(done.load_seconds, 3)
    }


def test_pages_that_waited_for_the_model_are_let_go(tmp_path: Path, door: Door) -> None:
    warm = WarmEngine(echo_settings(tmp_path).model)
    page = Image.new("L", (8, 8))
    kept = weakref.ref(page)
    answer = warm.submit(Request((page,), "read"))
    del page
    door.open()
    assert answer.result(SECONDS).finish_reason == "stop"
    del answer
    until(lambda: gc.collect() >= 0 and kept() is None)


def test_a_load_that_fails_ends_the_run_and_blames_no_page(
    tmp_path: Path, source: Path, door: Door, asked: list[str]
) -> None:
    worker, plan = look(source, tmp_path / "out", echo_settings(tmp_path))
    worker.ledger.prepare(worker.job.recipe)
    with muster(worker.job, worker) as crew, ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(crew.process, shard) for shard in plan.shards]
        until(lambda: asked)
        door.open(EngineError("CUDA out of memory: use quantization: 4bit"))
        errors = [future.exception(SECONDS) for future in futures]
    told = [error for error in errors if not isinstance(error, Stopped)]
    assert told
    assert all(isinstance(error, EngineError) for error in told)
    assert str(told[0]).startswith("CUDA out of memory: use quantization: 4bit")
    assert table(tmp_path / "out") == []
    with pytest.raises(EngineError, match="CUDA out of memory"):  # once failed, it stays so
        worker.engine()


def test_a_run_that_is_stopped_does_not_wait_for_the_model(
    tmp_path: Path, source: Path, door: Door, asked: list[str]
) -> None:
    worker, plan = look(source, tmp_path / "out", echo_settings(tmp_path))
    worker.ledger.prepare(worker.job.recipe)
    pool, futures = begun(worker, plan.shards)
    until(lambda: asked)
    worker.stop.set()
    assert all(isinstance(future.exception(SECONDS), Stopped) for future in futures)
    pool.shutdown()
    assert worker.report().loading is not None  # still


def test_what_was_given_up_meanwhile_is_not_submitted(
    tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    answer = EchoEngine.submit

    def note(self: EchoEngine, request: Request) -> Any:
        said.append(request.prompt)
        return answer(self, request)

    monkeypatch.setattr(EchoEngine, "submit", note)
    warm = WarmEngine(echo_settings(tmp_path).model)
    answers = [warm.submit(Request((), f"{n}", 4, key=f"page {n % 2}")) for n in range(6)]
    warm.abort("page 1")
    door.open()
    reasons = [future.result(SECONDS).finish_reason for future in answers]
    assert reasons[1::2] == ["aborted"] * 3
    assert "aborted" not in reasons[::2]
    assert said == ["0", "2", "4"]


def test_a_load_that_cannot_begin_is_tried_again(
    tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    warm = WarmEngine(echo_settings(tmp_path).model)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(threading.Thread, "start", start)
        warm.begin()
    door.open()
    assert warm.begin().result(SECONDS).engine.version == "echo 1"


@pytest.mark.parametrize(("framework", "begins"), [("vllm", True), ("openai", False)])
def test_loading_begins_with_the_work_where_it_takes_time(
    tmp_path: Path, source: Path, door: Door, framework: str, begins: bool
) -> None:
    changed = echo_settings(tmp_path, model__framework=framework, model__id=MODEL["id"])
    worker, _ = look(source, tmp_path / "out", changed)
    assert not door.wanted.is_set()  # a plan loads nothing
    LocalHand(worker, None)
    assert (worker.report().loading is not None) is begins
    assert not begins or door.wanted.wait(SECONDS)


# -- the command line -----------------------------------------------------------------------

MODEL = {
    "name": "qwen25vl",
    "id": str(PROJECT / "models" / "pagereader-19m"),
    "framework": "transformers",
    "device": "cpu",
}


@pytest.fixture
def begin(
    tmp_path: Path, source: Path, prefect_home: Callable[[Path], str]
) -> Callable[[], subprocess.Popen[str]]:
    """Begins `pagemill run`."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", "run"]
    config = str(write_config(tmp_path, model=MODEL))
    environment = {**os.environ, "PREFECT_HOME": prefect_home(tmp_path), "PYTHONPATH": ""}
    return lambda: subprocess.Popen(
        [*command, str(source), str(tmp_path / "out"), "-c", config],
        cwd=PROJECT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_run_that_needed_no_model_after_all_ends_in_order(
    source: Path, begin: Callable[[], subprocess.Popen[str]]
) -> None:
    for file in source.iterdir():
        file.write_bytes(b"")
    run = begin()
    out, err = run.communicate(timeout=SECONDS)
    assert run.returncode == 3, err
    assert "3 of 3 rows: balanced" in out
    assert "loaded" not in err


def test_ctrl_c_while_the_model_loads(
    tmp_path: Path, begin: Callable[[], subprocess.Popen[str]]
) -> None:
    run = begin()
    assert run.stderr
    until(lambda: list((tmp_path / "out").glob("recipe=*/leases/*.json")))
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=SECONDS)
    assert run.returncode == 130, err
    assert "stopped: what is committed stays" in err
    assert "Traceback" not in err
