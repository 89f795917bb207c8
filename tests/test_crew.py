"""The same rows from every runner, each engine loaded once, and dead workers replaced."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import echo_settings, make_pdf, name, run, table

from loaders.resident import TURN, release, resident
from loaders.vllm_engine import _start_afresh
from pagemill.errors import EngineError, OrchestratorError, Stopped, UsageError, WorkerLost
from pagemill.settings import Settings
from tasks.children import Child, _Manager, _Served, child_makers
from tasks.crew import BREAKS, Crew, muster
from tasks.gpus import claim, visible_gpus
from tasks.hand import LocalHand
from tasks.job import Job, open_job
from tasks.plan import Plan, plan_job
from tasks.reconcile import Balance, Work, reconcile
from tasks.worker import Worker

SLOW = {"model__options": {"delay": 0.1}, "model__batch_size": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crew")
    for number in range(16):
        make_pdf(folder / f"{number:02}.pdf", 2)
    return folder


def settings(tmp_path: Path, **more: Any) -> Settings:
    return echo_settings(tmp_path, work__shard_documents=2, work__part_pages=2, **more)


class Ran:
    """A job on the crew that its settings ask for, shards from as many threads as it has slots."""

    def __init__(self, source: Path, out: Path, settings: Settings) -> None:
        self.started = datetime.now(UTC)
        self.job: Job = open_job(str(source), str(out), settings)
        self.worker = Worker(self.job)
        self.plan: Plan = plan_job(self.job, self.worker.ledger)
        self.worker.ledger.prepare(self.job.recipe)
        self.errors: list[BaseException] = []

    def go(self, meanwhile: Callable[[Crew], None] = lambda _: None) -> Balance:
        with muster(self.job, self.worker) as crew, ThreadPoolExecutor(crew.slots) as pool:
            futures = [pool.submit(crew.process, shard) for shard in self.plan.shards]
            meanwhile(crew)
            self.errors = [e for f in futures if (e := f.exception())]
            receipts = [f.result() for f in futures if not f.exception()]
            reports = crew.reports()
        work = Work(receipts, [e for e in self.errors if isinstance(e, Exception)], reports)
        return reconcile(self.job, self.plan, self.worker.ledger, work, self.started)


def texts(out: Path) -> dict[tuple[str, int], str]:
    return {(name(row), row["page_number"]): row["text"] for row in table(out)}


def test_threads_and_processes_write_the_same_rows_and_load_once(
    source: Path, tmp_path: Path
) -> None:
    run(source, tmp_path / "plain", settings(tmp_path))
    wanted = texts(tmp_path / "plain")
    assert len(wanted) == 32
    alone = Ran(source, tmp_path / "thread", settings(tmp_path)).go()
    slow = settings(tmp_path, work__runner="process", work__workers=2, **SLOW)
    two = Ran(source, tmp_path / "process", slow).go()
    for out, balance in (("thread", alone), ("process", two)):
        assert texts(tmp_path / out) == wanted
        assert balance.balanced
        assert balance.pages["read"] == {"ok": 32}
    assert sum(r["loads"] for r in alone.workers) <= 1  # resident, if a test before used it
    assert [(r["worker"], r["loads"]) for r in two.workers] == [("child-1", 1), ("child-2", 1)]
    assert all(r["documents"] > 0 for r in two.workers)


def _children(crew: Crew) -> list[Child]:
    return [post.hand for post in crew._posts if isinstance(post.hand, Child)]


def _wait_for_rows(out: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(out.glob("recipe=*/pages/*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_child_is_replaced_and_nothing_is_lost_or_doubled(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    slow = settings(tmp_path, work__runner="process", work__workers=2, **SLOW)
    ran = Ran(source, out, slow)

    def kill_one(crew: Crew) -> None:
        _wait_for_rows(out)
        os.kill(_children(crew)[0].pid, signal.SIGKILL)

    balance = ran.go(kill_one)
    assert ran.errors == []
    assert balance.balanced
    assert balance.pages["read"] == {"ok": 32}
    assert len(texts(out)) == balance.pages["rows"] == 32
    assert [r["worker"] for r in balance.workers].count("child-1") == 2
    assert {r["loads"] for r in balance.workers} == {1}
    assert {r["loading"] for r in balance.workers} == {None}


@contextmanager
def _killing() -> Iterator[tuple[Callable[[Crew], None], set[int]]]:
    """What kills all children of a crew, until the end of the block, and whom it has killed."""
    done, killed = threading.Event(), set[int]()

    def kill_all(crew: Crew) -> None:
        def killer() -> None:
            while not done.wait(0.02):
                for child in _children(crew):
                    if child.pid not in killed:
                        killed.add(child.pid)
                        with suppress(ProcessLookupError):  # the crew has let it go
                            os.kill(child.pid, signal.SIGKILL)

        threading.Thread(target=killer, daemon=True).start()

    try:
        yield kill_all, killed
    finally:
        done.set()


def test_a_shard_that_kills_every_worker_is_given_up_by_name_and_the_next_run_completes_it(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    changes = {"work__workers": 1, "work__shards_in_flight": 1, **SLOW}
    ran = Ran(source, out, settings(tmp_path, work__runner="process", **changes))
    ran.plan.shards = ran.plan.shards[:1]
    with _killing() as (kill_all, _):
        balance = ran.go(kill_all)
    (error,) = ran.errors
    assert isinstance(error, WorkerLost)
    assert "killed by SIGKILL" in str(error)
    assert "2 of its documents are left" in str(error)
    assert "00.pdf" in str(error)
    assert not balance.balanced
    assert run(source, out, settings(tmp_path)).balanced


def test_an_engine_that_breaks_costs_its_worker_and_the_others_go_on(
    source: Path, tmp_path: Path
) -> None:
    slow = {**SLOW, "model__options": {"delay": 0.02}}
    processes = settings(tmp_path, work__runner="process", work__workers=2, **slow)
    ran = Ran(source, tmp_path / "out", processes)

    def break_one(crew: Crew) -> None:
        hand, real = _children(crew)[0], Child.process

        def out_of_memory(self: Child, shard: Any) -> Any:
            if self is hand:
                raise EngineError("CUDA out of memory")
            return real(self, shard)

        hand.process = out_of_memory.__get__(hand)  # type: ignore[method-assign]

    with muster(ran.job, ran.worker) as crew:
        break_one(crew)
        with ThreadPoolExecutor(crew.slots) as pool:
            receipts = list(pool.map(crew.process, ran.plan.shards))
        assert len(_children(crew)) == 1
    assert sum(r.documents for r in receipts) == 16
    assert len(texts(tmp_path / "out")) == 32


READER = {
    "model__framework": "transformers",
    "model__device": "cpu",
    "model__name": "qwen25vl",
    "model__id": str(Path(__file__).resolve().parents[1] / "models" / "pagereader-19m"),
    "outputs": {"text": {"prompt": "Transcribe the text of this page.", "max_new_tokens": 8}},
}


def test_an_engine_that_breaks_is_loaded_anew_and_the_run_goes_on(
    source: Path, tmp_path: Path
) -> None:
    some = {**READER, "model__batch_size": 1, "work__shards_in_flight": 1}
    ran = Ran(source, tmp_path / "out", settings(tmp_path, **some))

    def break_it(_: Crew) -> None:
        _wait_for_rows(tmp_path / "out")
        engine: Any = resident(ran.job.settings.model)
        engine._stop("the card fell off the bus")

    try:
        balance = ran.go(break_it)
    finally:
        release()
    assert ran.errors == []
    assert balance.balanced
    assert len(texts(tmp_path / "out")) == sum(balance.pages["read"].values()) == 32
    assert [worker["loads"] for worker in balance.workers] == [1, 1]


def test_a_child_whose_engine_breaks_is_replaced(source: Path, tmp_path: Path) -> None:
    ran = Ran(source, tmp_path / "out", settings(tmp_path, work__runner="process"))
    with muster(ran.job, ran.worker) as crew:
        hand: Any = _children(crew)[0]

        def breaks(shard: Any) -> Any:
            raise EngineError("CUDA error: an illegal memory access was encountered")

        hand.process, hand.loaded = breaks, True
        crew._posts[0].loads = True  # as with a model
        with ThreadPoolExecutor(crew.slots) as pool:
            receipts = list(pool.map(crew.process, ran.plan.shards))
        assert _children(crew)[0] is not hand
    assert sum(r.documents for r in receipts) == 16
    assert len(texts(tmp_path / "out")) == 32


def test_a_gpu_on_which_every_engine_breaks_is_given_up(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    class Breaks(LocalHand):
        renews = True

        def __init__(self, worker: Worker, pages: int | None) -> None:
            super().__init__(worker, pages)
            tried.append(worker)

        def process(self, shard: Any) -> Any:
            raise EngineError("uncorrectable ECC error")

    monkeypatch.setattr("tasks.crew.LocalHand", Breaks)
    monkeypatch.setattr("tasks.crew.takes_time_to_load", lambda _: True)
    ran = Ran(source, tmp_path / "out", settings(tmp_path))
    balance = ran.go()
    assert len(set(tried)) == len(tried) == BREAKS
    assert len(ran.errors) == 8
    assert any("ECC error; " in str(error) for error in ran.errors)
    assert {type(error) for error in ran.errors} <= {EngineError, Stopped}
    assert not balance.balanced
    assert run(source, tmp_path / "out", settings(tmp_path)).balanced


def test_without_any_engine_left_the_cause_is_told_once(source: Path, tmp_path: Path) -> None:
    ran = Ran(source, tmp_path / "out", settings(tmp_path))
    with muster(ran.job, ran.worker) as crew:
        hand: Any = crew._posts[0].hand

        def broken(shard: Any) -> Any:
            raise EngineError("the card fell off the bus")

        hand.process = broken
        with ThreadPoolExecutor(crew.slots) as pool:
            errors = [
                f.exception() for f in [pool.submit(crew.process, s) for s in ran.plan.shards]
            ]
    told = [e for e in errors if isinstance(e, EngineError)]
    assert 1 <= len(told) <= crew.slots
    assert all(isinstance(e, Stopped) for e in errors if e not in told)


def test_stop_ends_the_shards_of_all_workers(source: Path, tmp_path: Path) -> None:
    slow = {**SLOW, "model__options": {"delay": 30.0}}
    ran = Ran(source, tmp_path / "out", settings(tmp_path, work__runner="process", **slow))
    ran.go(Crew.stop)
    assert len(ran.errors) == 8
    assert all(isinstance(error, Stopped) for error in ran.errors)


def test_a_child_that_hangs_is_replaced_and_nothing_is_lost_or_doubled(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    ran = Ran(source, out, settings(tmp_path, work__runner="process", work__workers=2, **SLOW))
    hung: list[Child] = []

    def hang_one(crew: Crew) -> None:
        _wait_for_rows(out)
        hung.append(_children(crew)[0])
        os.kill(hung[0].pid, signal.SIGSTOP)

    monkeypatch.setattr("tasks.children.SILENT_SECONDS", 5.0)
    balance = ran.go(hang_one)
    assert ran.errors == []
    assert hung[0]._process.returncode == -signal.SIGKILL
    assert "was silent for 5 s" in hung[0]._obituary()
    assert balance.balanced
    assert len(texts(out)) == 32


def test_who_waits_for_a_fresh_worker_hears_of_a_stop_meanwhile(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran(source, tmp_path / "out", settings(tmp_path))
    with muster(ran.job, ran.worker) as crew:
        (post,) = crew._posts
        fresh, post.hand = post.hand, None

        def holder(_: object) -> object:
            crew.stop()
            post.hand = fresh
            return fresh

        monkeypatch.setattr(type(post), "holder", holder)
        with pytest.raises(Stopped):
            crew.process(ran.plan.shards[0])
    assert table(tmp_path / "out") == []


def test_a_worker_that_does_not_hear_that_it_is_to_stop_is_killed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.children.STOP_SECONDS", 0.2)
    job = open_job(str(source), str(tmp_path / "out"), settings(tmp_path))
    child = Child(job, "child-1", None, None)
    os.kill(child.pid, signal.SIGSTOP)
    stop = threading.Thread(target=child.stop, daemon=True)
    stop.start()
    stop.join(60)
    told = not stop.is_alive()
    child.close()
    assert told


def test_an_error_of_a_child_s_system_is_not_taken_for_its_death(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("tasks.children.process_shard", fail)
    ran = Ran(source, tmp_path / "out", settings(tmp_path))
    with pytest.raises(RuntimeError, match="Too many open files"):
        _Served(ran.worker).process(ran.plan.shards[0])


def test_a_child_that_does_not_listen_yet_is_waited_for(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, errors = _Manager.connect, [ConnectionRefusedError, FileNotFoundError]

    def early(self: _Manager) -> None:
        if errors:
            raise errors.pop()
        connect(self)

    monkeypatch.setattr(_Manager, "connect", early)
    job = open_job(str(source), str(tmp_path / "out"), settings(tmp_path))
    child = Child(job, "child-1", None, None)
    report = child.report()
    child.close()
    assert report.worker == "child-1" and not errors


def test_a_child_ends_when_its_parent_is_gone(source: Path, tmp_path: Path) -> None:
    job = open_job(str(source), str(tmp_path / "out"), settings(tmp_path))
    child = Child(job, "child-1", None, None)
    assert child._process.stdin
    child._process.stdin.close()  # as the kernel does when the parent is killed
    assert child._process.wait(timeout=60) == -signal.SIGKILL
    with pytest.raises(WorkerLost, match="child-1"):
        child.report()
    child.close()


FORKS = """
import multiprocessing, threading
from pathlib import Path
from tasks.children import _end_with_parent

watch = threading.Thread(target=_end_with_parent, args=(Path("/nowhere"),), daemon=True)
watch.start()
watch.join(0.5)
engine = multiprocessing.get_context("fork").Process(target=int)
engine.start()
engine.join(60)
print(engine.exitcode, flush=True)
"""


def _piped(code: str) -> subprocess.Popen[bytes]:
    """A process that a child of a crew could be: its parent has both ends of it."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)


def test_a_child_may_fork_as_vllm_does_for_its_engine() -> None:
    child = _piped(FORKS)
    assert child.stdin and child.stdout
    with child.stdin, child.stdout:
        assert child.stdout.readline() == b"0\n"
    child.wait()


@pytest.mark.parametrize(
    ("run", "method"),
    [
        ({"__spec__": importlib.util.find_spec("tasks.children")}, "spawn"),  # python -m
        ({"__spec__": None, "__file__": "/usr/local/bin/pagemill"}, "spawn"),
        ({"__spec__": None, "__file__": "unguarded.py"}, None),
        ({"__spec__": None}, None),  # python -c, or a prompt
    ],
)
def test_vllm_forks_no_process_that_can_do_without(
    run: dict[str, Any], method: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "VLLM_WORKER_MULTIPROC_METHOD"
    main = ModuleType("__main__")
    vars(main).update(run)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setenv(variable, "theirs")
    _start_afresh()
    assert os.environ[variable] == "theirs"
    monkeypatch.delenv(variable)
    _start_afresh()
    assert os.environ.get(variable) == method


SHARES = """
import tempfile
from multiprocessing.shared_memory import SharedMemory
from tasks import children

end = children._end_with_parent

def share(folder):
    left = tempfile.NamedTemporaryFile(dir=folder, delete=False)
    print(SharedMemory(create=True, size=1).name, flush=True)
    end(folder)

children._end_with_parent = share
children.main()
"""


def test_a_child_that_is_killed_leaves_no_shared_memory_and_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "child"
    folder.mkdir()
    child = _piped(SHARES)
    assert child.stdin and child.stdout
    with child.stdout, child.stdin:
        address = {"address": f"{folder}/socket", "authkey": "00"}
        child.stdin.write(json.dumps(address).encode() + b"\n")
        child.stdin.flush()
        shared = Path("/dev/shm") / child.stdout.readline().decode().strip()
        assert shared.is_file()
        assert len(list(folder.iterdir())) >= 1
    assert child.wait(timeout=60) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while shared.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not shared.exists()
    assert not folder.exists()


def test_what_a_child_s_framework_leaves_in_its_temporary_folder_goes_with_it(
    source: Path, tmp_path: Path
) -> None:
    child = Child(open_job(str(source), str(tmp_path / "out"), settings(tmp_path)), "c", None, None)
    folder = Path(_environment(child)["TMPDIR"])
    (folder / "left").touch()
    child.close()
    assert not folder.exists()


def test_a_worker_that_is_being_started_when_the_crew_goes_is_let_go_too(
    source: Path, tmp_path: Path
) -> None:
    ran = Ran(source, tmp_path / "out", settings(tmp_path, work__runner="process"))
    starting, go_on = threading.Event(), threading.Event()
    fresh: list[Child] = []
    with muster(ran.job, ran.worker) as crew:
        (post,) = crew._posts
        make = post.make

        def slowly() -> Child:
            starting.set()
            go_on.wait(60)
            fresh.append(make())  # type: ignore[arg-type]
            return fresh[0]

        post.make = slowly
        os.kill(_children(crew)[0].pid, signal.SIGKILL)
        assert starting.wait(60)
        threading.Timer(0.2, go_on.set).start()
    assert [child._process.returncode for child in fresh] == [-signal.SIGKILL]


def test_a_place_that_cannot_be_filled_for_any_reason_ends_the_run_with_the_cause(
    source: Path, tmp_path: Path
) -> None:
    ran = Ran(source, tmp_path / "out", settings(tmp_path, work__runner="process"))
    with muster(ran.job, ran.worker) as crew, ThreadPoolExecutor(1) as pool:

        def no_room() -> Child:
            raise OSError(28, "No space left on device")

        crew._posts[0].make = no_room
        os.kill(_children(crew)[0].pid, signal.SIGKILL)
        told = pool.submit(crew.process, ran.plan.shards[0])
        try:
            error = told.exception(60)
        finally:
            crew.stop()
    assert isinstance(error, WorkerLost)
    assert "killed by SIGKILL" in str(error)


def test_a_shard_of_a_worker_that_another_shard_has_ended_goes_on_elsewhere(
    source: Path, tmp_path: Path
) -> None:
    slow = settings(tmp_path, work__runner="process", work__workers=2, **SLOW)
    ran = Ran(source, tmp_path / "out", slow)
    both, stopped = threading.Barrier(2), threading.Event()

    def break_one(crew: Crew) -> None:
        hand, real = _children(crew)[0], Child.process

        def breaks(self: Child, shard: Any) -> Any:
            if self is not hand:
                return real(self, shard)
            if both.wait(60) == 0:
                raise EngineError("CUDA out of memory")
            stopped.wait(60)  # its worker answers once more before it is killed
            raise Stopped("stopped")

        hand.process = breaks.__get__(hand)  # type: ignore[method-assign]
        hand.stop = stopped.set  # type: ignore[method-assign]

    with muster(ran.job, ran.worker) as crew:
        break_one(crew)
        with ThreadPoolExecutor(crew.slots) as pool:
            receipts = list(pool.map(crew.process, ran.plan.shards))
    assert sum(r.documents for r in receipts) == 16
    assert len(texts(tmp_path / "out")) == 32


def test_a_model_that_cannot_be_loaded_is_the_error_of_the_run(
    source: Path, tmp_path: Path
) -> None:
    wrong = settings(tmp_path, work__runner="process", model__options={"nonsense": 1})
    ran = Ran(source, tmp_path / "out", wrong)
    ran.go()
    told = [e for e in ran.errors if not isinstance(e, Stopped)]
    assert told  # by those that were with the worker when it was let go; the others were stopped
    assert all(isinstance(error, UsageError) for error in told)
    assert "model.options of echo" in str(told[0])
    assert table(tmp_path / "out") == []


def test_a_place_where_no_worker_lives_to_load_its_engine_is_given_up(
    source: Path, tmp_path: Path
) -> None:
    ran = Ran(source, tmp_path / "out", settings(tmp_path, work__runner="process", **READER))
    with _killing() as (kill_all, killed):
        ran.go(kill_all)
    assert 3 <= len(killed) <= 9
    assert len(ran.errors) == len(ran.plan.shards)
    assert {type(error) for error in ran.errors} <= {WorkerLost, Stopped}
    assert any("killed by SIGKILL" in str(error) for error in ran.errors)
    assert table(tmp_path / "out") == []


# -- GPUs ----------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for nvidia-smi that lists two; nothing here runs on them."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_claimed_by_one_child_and_free_again_when_it_is_killed(
    source: Path, tmp_path: Path
) -> None:
    assert visible_gpus() == ["0", "1"]
    job = open_job(str(source), str(tmp_path / "out"), settings(tmp_path))
    first, second = (Child(job, "gpu", ["0", "1"], None) for _ in range(2))
    seen = [_environment(child)["CUDA_VISIBLE_DEVICES"] for child in (first, second)]
    assert seen == ["0", "1"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert (first.name, second.name) == ("gpu-0", "gpu-1")
    with pytest.raises(EngineError, match="other runs of pagemill hold the GPUs"):
        Child(job, "gpu", ["0", "1"], None)
    os.kill(second.pid, signal.SIGKILL)
    second.close()
    with claim(["0", "1"], 1) as mine:
        assert mine.gpus == ["1"]
    first.close()


SHARED = {
    **{"work__runner": "process", "work__workers_per_gpu": 2},
    **{"model__framework": "vllm", "model__max_memory_gb": 9},
}


@pytest.mark.usefixtures("two_gpus")
def test_workers_that_share_gpus_have_a_place_each(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Child, "_connect", lambda *_: Idle())
    wanted = settings(tmp_path, model__id=str(tmp_path), **SHARED)
    job = Job(str(source), str(tmp_path / "out"), wanted, Any, "run")  # type: ignore[arg-type]
    makers = child_makers(job)
    children = [make(None) for make in makers]
    assert [child.name for child in children] == ["gpu-0.1", "gpu-1.1", "gpu-0.2", "gpu-1.2"]
    environments = [_environment(child) for child in children]
    assert [seen["CUDA_VISIBLE_DEVICES"] for seen in environments] == ["0", "1", "0", "1"]
    for child, seen in zip(children, environments, strict=True):
        # A file of the child's own to lock while it loads; of the same GPU it is the same one.
        file = os.readlink(f"/proc/{child.pid}/fd/{seen[TURN]}")
        assert file.endswith(f"/{seen['CUDA_VISIBLE_DEVICES']}.load.lock")
    with pytest.raises(EngineError, match="other runs of pagemill hold the GPUs"):
        makers[0](None)
    children[2].close()
    with pytest.raises(EngineError), claim(["0", "1"], 1):  # a whole one
        pass
    again = makers[0](None)
    assert again.name == "gpu-0.2"
    for child in (again, children[0]):
        child.close()
    with claim(["0", "1"], 1) as mine:
        assert (mine.gpus, mine.name, mine.turn) == (["0"], "0", None)
        with pytest.raises(EngineError), claim(["0"], 1, sharers=2):
            pass
    for child in (children[1], children[3]):
        child.close()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"work__runner": "thread"}, "workers_per_gpu: 2 of them need work.runner: process"),
        ({"work__runner": "ray"}, "need work.runner: process"),
        ({"model__max_memory_gb": None}, "say model.max_memory_gb"),
        ({"model__framework": "sglang"}, "use model.framework: vllm"),
        ({"model__options": {"tensor_parallel_size": 2}}, "but a worker takes 2 GPUs"),
    ],
)
def test_what_cannot_share_a_gpu_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        settings(tmp_path, **{**SHARED, **changes})


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("", []),
        ("-1", []),
        ("2, 5", ["2", "5"]),
        ("0,-1,3", ["0"]),  # as CUDA reads it
        ("GPU-3f6a,MIG-77e1", ["GPU-3f6a", "MIG-77e1"]),
    ],
)
def test_gpus_are_those_that_cuda_would_see(
    visible: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == gpus


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("options", "environment"), [({}, ["0", "1"]), ({"tensor_parallel_size": 2}, ["0,1"])]
)
def test_each_engine_gets_as_many_gpus_as_its_model_is_split_over(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, int],
    environment: list[str],
) -> None:
    monkeypatch.setattr(Child, "_connect", lambda *_: Idle())
    model = {"framework": "vllm", "id": str(tmp_path), "options": options}
    wanted = settings(
        tmp_path, work__runner="process", **{f"model__{k}": v for k, v in model.items()}
    )
    job = Job(str(source), str(tmp_path / "out"), wanted, Any, "run")  # type: ignore[arg-type]
    children = [make(None) for make in child_makers(job)]
    assert [_environment(child)["CUDA_VISIBLE_DEVICES"] for child in children] == environment
    for child in children:
        child.close()


class Idle:
    """Stands in for the worker at the other end: no GPU is here to load a model on."""

    def warm_up(self, pages: int | None) -> None: ...

    def load(self) -> None: ...


def test_a_split_that_does_not_fit_its_gpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tensor_parallel_size: 2"):
        settings(tmp_path, work__gpus_per_worker=2, model__framework="vllm")
    split = {"model__options": {"tensor_parallel_size": 4}, "model__framework": "vllm"}
    assert settings(tmp_path, **split).gpus_per_worker == 4
    assert settings(tmp_path, work__gpus_per_worker=4, **split).gpus_per_worker == 4
    assert settings(tmp_path, work__gpus_per_worker=3).gpus_per_worker == 3
    assert settings(tmp_path).gpus_per_worker == 1


def _environment(child: Child) -> dict[str, str]:
    data = ""
    while not data:  # the kernel tells of the exec a moment before it shows the environment
        data = Path(f"/proc/{child.pid}/environ").read_text()
    return dict(pair.split("=", 1) for pair in data.split("\0") if "=" in pair)


def test_too_few_gpus_are_told_before_anything_is_loaded(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert visible_gpus() == ["3"]
    two = {"work__gpus_per_worker": 2, "model__framework": "transformers"}
    wanted = settings(tmp_path, work__runner="process", **two)
    ran = Ran.__new__(Ran)
    ran.job = Job(str(source), str(tmp_path / "out"), wanted, Any, "run")  # type: ignore[arg-type]
    with (
        pytest.raises(UsageError, match="1 workers of 2 GPUs do not fit on the 1 GPUs"),
        muster(ran.job, None),  # type: ignore[arg-type]
    ):
        pass


# -- Ray -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A real Ray cluster of three nodes on this machine; the driver knows its address alone."""
    pytest.importorskip("ray", reason="pip install 'pagemill[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 80 << 20, "include_dashboard": False}
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        nodes = [started.add_node(num_cpus=2, object_store_memory=80 << 20) for _ in range(2)]
        yield started, nodes
        started.shutdown()


def test_a_ray_cluster_writes_the_same_rows_and_survives_the_loss_of_a_node(
    cluster: Any, source: Path, tmp_path: Path
) -> None:
    started, nodes = cluster
    run(source, tmp_path / "plain", settings(tmp_path))
    changes = {
        "work__runner": "ray",
        "work__ray_address": started.address,
        "work__workers": 2,
        **SLOW,
    }
    whole = Ran(source, tmp_path / "whole", settings(tmp_path, **changes)).go()
    assert texts(tmp_path / "whole") == texts(tmp_path / "plain")
    assert len({r["worker"] for r in whole.workers}) == 2
    assert [r["loads"] for r in whole.workers] == [1, 1]
    assert all(r["documents"] > 0 for r in whole.workers)

    out = tmp_path / "out"
    ran = Ran(source, out, settings(tmp_path, **changes))

    def lose_a_node(_: Crew) -> None:
        _wait_for_rows(out)
        started.remove_node(nodes[-1], allow_graceful=False)

    balance = ran.go(lose_a_node)
    assert ran.errors == []
    assert balance.balanced
    assert texts(out) == texts(tmp_path / "plain")
    assert len(balance.workers) >= 2  # the one that was lost, too, and who took its place
    assert {r["loads"] for r in balance.workers} == {1}


def test_no_cluster_at_the_address_is_told_with_the_remedy(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="pip install 'pagemill[ray]'")
    nowhere = settings(tmp_path, work__runner="ray", work__ray_address="127.0.0.1:9")
    with pytest.raises(OrchestratorError, match="ray start --head"):
        Ran(source, tmp_path / "out", nowhere).go()
