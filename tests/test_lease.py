"""Who works on a recipe: on a real disk and on a real S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import echo_settings, process
from seaweed import S3Server

from pagemill.errors import Busy
from pagemill.lease import Lease
from pagemill.settings import StorageOptions, WhenBusy
from pagemill.storage import Storage

WAIT, STOP, SHARE = WhenBusy.WAIT, WhenBusy.STOP, WhenBusy.SHARE


@pytest.fixture(params=["disk", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return Storage(str(tmp_path), StorageOptions())
    s3: S3Server = request.getfixturevalue("s3")
    return Storage(f"s3://{s3.bucket()}/out", s3.options)


def lease(storage: Storage, holder: str, part: str = "all", **changes: Any) -> Lease:
    return Lease(storage, "leases", part, holder, **{"renew_seconds": 0.2, **changes})


def ignore(_: str) -> None:
    pass


def test_the_second_stops_with_the_name_of_the_first(storage: Storage) -> None:
    with lease(storage, "run 1 on host a").held(WAIT, ignore) as waited:
        assert not waited
        with (
            pytest.raises(Busy, match="run 1 on host a works on this recipe"),
            lease(storage, "run 2").held(STOP, ignore),
        ):
            pass
    assert storage.list("leases") == []


def test_the_second_waits_until_the_first_is_done(storage: Storage) -> None:
    told: list[str] = []
    done = threading.Event()
    order: list[str] = []

    def first() -> None:
        with lease(storage, "run 1").held(WAIT, ignore):
            done.wait()
            order.append("first ended")

    thread = threading.Thread(target=first)
    thread.start()
    while not storage.list("leases"):
        time.sleep(0.01)

    def tell(line: str) -> None:
        told.append(line)
        done.set()

    with lease(storage, "run 2").held(WAIT, tell) as waited:
        order.append("second began")
        assert waited
    thread.join()
    assert order == ["first ended", "second began"]
    assert told == ["run 1 works on this recipe: waiting (work.when_busy)"]


@pytest.mark.parametrize("when_busy", [WAIT, STOP])
def test_a_lease_of_a_dead_run_expires_by_the_observers_own_clock(
    storage: Storage, when_busy: WhenBusy
) -> None:
    storage.create("leases/all.json", b'{"holder": "a killed run", "beat": 3}')
    late = lease(storage, "run 2", dead_seconds=1.0)
    with late.held(when_busy, ignore) as waited:
        assert waited
        assert b"run 2" in storage.read("leases/all.json")
    assert storage.list("leases") == []


def test_a_lease_of_a_process_that_was_killed_on_this_host_counts_for_nothing(
    tmp_path: Path,
) -> None:
    code = (
        "import os, sys, signal; from test_lease import *; "
        f"s = Storage({str(tmp_path)!r}, StorageOptions()); "
        "held = lease(s, 'killed').held(WAIT, ignore); held.__enter__(); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == -signal.SIGKILL
    storage = Storage(str(tmp_path), StorageOptions())
    assert [entry.path for entry in storage.list("leases")] == ["leases/all.json"]
    with lease(storage, "next").held(STOP, ignore) as waited:
        assert not waited


def test_parts_stand_beside_each_other_and_all_in_everybodys_way(storage: Storage) -> None:
    with (
        lease(storage, "one", "1-of-2").held(STOP, ignore),
        lease(storage, "two", "2-of-2").held(STOP, ignore) as waited,
    ):
        assert not waited
        with pytest.raises(Busy, match=r"(one|two) works"), lease(storage, "x").held(STOP, ignore):
            pass
    with (
        lease(storage, "everything").held(STOP, ignore),
        pytest.raises(Busy, match="everything works"),
        lease(storage, "one", "1-of-2").held(STOP, ignore),
    ):
        pass


def test_who_shares_holds_nothing(storage: Storage) -> None:
    with lease(storage, "a").held(WAIT, ignore), lease(storage, "b").held(SHARE, ignore) as waited:
        assert not waited
        assert b'"a"' in storage.read("leases/all.json")


def test_a_holder_that_was_taken_for_dead_leaves_the_others_lease_alone(storage: Storage) -> None:
    with lease(storage, "paused", renew_seconds=0.05).held(WAIT, ignore):
        storage.put("leases/all.json", b'{"holder": "another", "beat": 1}')
        time.sleep(0.3)
    assert b"another" in storage.read("leases/all.json")


def test_two_flows_on_one_recipe_wait_for_each_other(tmp_path: Path) -> None:
    """The plan is made again after the wait: nothing is read twice."""
    from helpers import make_pdf

    from pagemill.ledger import Ledger
    from tasks.job import open_job
    from tasks.plan import Plan
    from tasks.shift import shift
    from tasks.worker import Worker

    source = tmp_path / "in"
    source.mkdir()
    for number in range(4):
        make_pdf(source / f"{number}.pdf")
    settings = echo_settings(tmp_path)
    jobs = [open_job(str(source), str(tmp_path / "out"), settings) for _ in range(2)]
    ledgers: list[Ledger] = [job.open_ledger() for job in jobs]
    plans: list[Plan] = []
    with shift(jobs[0], ledgers[0], ignore) as first:
        assert len(first.shards) == 1
        second = shift(jobs[1], ledgers[1], lambda _: None)
        thread = threading.Thread(target=lambda: plans.append(second.__enter__()))
        thread.start()
        process(Worker(jobs[0]), first.shards[0])
    thread.join()
    assert len(plans[0].shards) == 0
    second.__exit__(None, None, None)
