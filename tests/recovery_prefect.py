"""What happens to a run when a part of Prefect dies: `make test-prefect` (minutes, so not in CI).

Real servers, workers and signals. In every case nothing is lost and nothing is done twice; the run
goes on, or its state says why not and the next one does the rest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from postgresql import binaries, postgresql
from prefect_site import PROJECT, Site, site, wait_for
from seaweed import S3Server
from test_prefect import Place, _objects, rows

from tasks.check import check_ledger

SECONDS = {"model.options": {"delay": 1.5}, "model.batch_size": 1, "work.part_pages": 2}
"""A run of some 40 s."""
PAGEMILL = (sys.executable, "-c", "from flows.cli import main; main()")
LONG = {**SECONDS, "model.options": {"delay": 5}}


@pytest.fixture
def prefect(s3: S3Server, tmp_path: Path) -> Iterator[Site]:
    more = {"PAGEMILL_SOURCE": "s3://x/in", "PAGEMILL_OUT": "s3://x/out"}
    with site(tmp_path / "site", **more) as started:
        yield started
        for process in _processes(started):  # orphans of a killed worker
            process.kill()


@pytest.fixture
def place(s3: S3Server, tmp_path: Path) -> Place:
    place = Place(s3, tmp_path)
    for number in range(7):
        place.put(f"{number}.pdf")
    return place


def _processes(prefect: Site) -> list[psutil.Process]:
    """The flow run processes of a site."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("PREFECT_HOME") == str(prefect.folder)
            if ours and "PREFECT__FLOW_RUN_ID" in process.environ():
                found.append(process)
        except psutil.Error:
            continue
    return found


def _in_the_middle(prefect: Site, place: Place, settings: dict[str, Any]) -> str:
    """Start a run and wait until it has committed rows."""
    run = prefect.start("ingest/on-demand", **place.form(overrides=settings))
    wait_for(lambda: any("/pages/" in path for path in _objects(place)), of="the first rows")
    return run


def _whole(place: Place, settings: dict[str, Any]) -> None:
    ledger = place.ledger(**settings)
    assert check_ledger(ledger).problems == []
    assert rows(ledger) == 14


def _the_next_run_does_the_rest(prefect: Site, place: Place) -> None:
    run = prefect.start("ingest/on-demand", **place.form())
    message = prefect.until(run, "COMPLETED", seconds=240)["message"]
    assert "14 of 14 rows: balanced" in message
    read = int(message.split(" documents, ")[1].split(" pages")[0])
    assert 0 < read < 14  # what was committed is not read again
    _whole(place, {})


def test_a_flow_process_that_is_killed_is_crashed_at_once(prefect: Site, place: Place) -> None:
    run = _in_the_middle(prefect, place, SECONDS)
    for process in _processes(prefect):
        process.send_signal(signal.SIGKILL)
    prefect.until(run, "CRASHED")
    _the_next_run_does_the_rest(prefect, place)


def test_a_worker_that_is_killed_leaves_its_run_to_end_either_way(
    prefect: Site, place: Place
) -> None:
    """Both were seen: the orphan finishes, or ends itself and says so."""
    run = _in_the_middle(prefect, place, SECONDS)
    assert prefect.worker
    prefect.worker.kill()
    prefect.worker.wait()
    ended = prefect.until(run, "COMPLETED", "CRASHED", seconds=240)["type"]
    wait_for(lambda: not _processes(prefect), of="the end of the run's process")
    prefect.start_worker()
    if ended == "CRASHED":
        _the_next_run_does_the_rest(prefect, place)
    _whole(place, {})


def test_a_host_that_is_lost_is_crashed_by_the_automation(prefect: Site, place: Place) -> None:
    for said in ("created", "updated"):
        done = subprocess.run(
            [*PAGEMILL, "prefect", "automations", "--within", "60"],
            env=prefect.environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
        )
        assert done.stdout.startswith(said), done.stdout + done.stderr
    assert len(prefect.post("automations/filter")) == 1
    run = _in_the_middle(prefect, place, LONG)
    time.sleep(5)  # its heartbeat has reached the server
    assert prefect.worker
    for process in (prefect.worker, *_processes(prefect)):
        process.send_signal(signal.SIGKILL)
    prefect.worker.wait()
    state = prefect.until(run, "CRASHED", seconds=240)
    assert "its process or host is gone" in state["message"]
    prefect.start_worker()
    _the_next_run_does_the_rest(prefect, place)


def test_a_run_outlives_an_api_that_is_silent_for_a_minute(prefect: Site, place: Place) -> None:
    run = _in_the_middle(prefect, place, LONG)
    assert prefect.server
    os.killpg(prefect.server.pid, signal.SIGSTOP)
    time.sleep(60)
    os.killpg(prefect.server.pid, signal.SIGCONT)
    assert "14 of 14 rows: balanced" in prefect.until(run, "COMPLETED", seconds=240)["message"]
    _whole(place, LONG)


def test_a_run_outlives_the_restart_of_the_server(prefect: Site, place: Place) -> None:
    run = _in_the_middle(prefect, place, LONG)
    assert prefect.server
    os.killpg(prefect.server.pid, signal.SIGKILL)
    prefect.server.wait()
    time.sleep(20)
    prefect.start_server()
    assert "14 of 14 rows: balanced" in prefect.until(run, "COMPLETED", seconds=240)["message"]
    _whole(place, LONG)


@pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed (apt: postgresql)")
def test_a_site_on_postgresql_runs_by_its_forms(s3: S3Server, tmp_path: Path, place: Place) -> None:
    url = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
    more = {"PAGEMILL_SOURCE": "s3://x/in", "PAGEMILL_OUT": "s3://x/out"}
    with postgresql() as database, site(tmp_path / "site", **{url: database, **more}) as prefect:
        run = prefect.start("ingest/on-demand", **place.form())
        assert "14 of 14 rows: balanced" in prefect.until(run, "COMPLETED")["message"]
        assert "pagemill-output" in prefect.artifacts(run)
        assert not prefect.database.exists()  # it was not SQLite
    _whole(place, {})
