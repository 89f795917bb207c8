"""Kill a run at a random moment, run it again to the end, compare. See `--help`."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.common import ECHO, as_options, emit, machine, pagemill, print_table
from benchmarks.killing import (
    Run,
    Snapshot,
    faults,
    fresh_environment,
    look,
    make_documents,
    mark,
    said,
)

FINISHED = (0, 3)
"""Exit codes of a run that went to its end: 3 says that there were broken documents."""

HOUR = 3600.0

ENGINES: dict[str, dict[str, Any]] = {
    "echo": {
        "model.options.delay": 0.25,
        "render.max_pixels": 200_000,
        "work.part_pages": 6,
        "work.shard_documents": 4,
    },
    "model": {"work.part_pages": 4, "work.shard_documents": 4},
}


@dataclass(frozen=True)
class Outcome:
    """One killed run."""

    moment: float
    killed: bool
    rows: int
    staged: int
    temporary: int
    children: int
    alone: float
    again: float
    leftover: int
    other_texts: int
    faults: list[str]


@click.command()
@click.option("--runs", default=20, show_default=True)
@click.option("--engine", type=click.Choice(list(ENGINES)), default="echo", show_default=True)
@click.option("-c", "--config", default="local", show_default=True, help="For --engine model.")
@click.option("--seed", default=1, show_default=True, help="Of the moments.")
@click.option("--keep", type=Path, help="Leave sources, outputs and logs in this folder.")
@click.option("--append", is_flag=True, help="Add the JSON line to benchmarks/results.jsonl.")
def main(runs: int, engine: str, config: str, seed: int, keep: Path | None, append: bool) -> None:
    """Kill `pagemill run` with SIGKILL at random moments; run it again; nothing may be amiss.

    The moments lie between the start of the work and its expected end. Only the main process
    is killed: its children have to notice. After each kill the same command runs to its end;
    then there must be one row a page, the same as of a run that nobody disturbed; rows that
    were committed or staged before the kill must not have been read again; `pagemill check`
    must pass; and no file or process may be left that does not belong there.

    Exit code 1 if anything was amiss.

    \b
      python benchmarks/kills.py                          20 runs, some minutes
      python benchmarks/kills.py --engine model --runs 5  with the default model
    """
    print("measured on", machine(), flush=True)
    folder = keep or Path(tempfile.mkdtemp(prefix="pagemill-kills-"))
    fresh_environment(folder / "prefect")
    options = (*("-c", ECHO if engine == "echo" else config), *as_options(ENGINES[engine]))
    small = {"scale": 1, "lines": 4} if engine == "model" else {}
    source = make_documents(folder / "source", **small)
    undisturbed = finish(source, folder / "undisturbed", options)
    seconds = seconds_of_work(folder / "undisturbed", undisturbed)
    print(f"{len(undisturbed.rows)} rows in {seconds:.1f} s of work when undisturbed", flush=True)
    choose, outcomes = random.Random(seed), []
    for number in range(runs):
        out = folder / f"out-{number}"
        moment = choose.uniform(0, seconds)
        outcomes.append(kill_once(source, out, options, moment, undisturbed, engine == "echo"))
        verdict = outcomes[-1].faults or ["fine"]
        print(f"{number + 1}/{runs} killed after {moment:.2f} s:", *verdict, flush=True)
    show(outcomes)
    failed = sum(bool(outcome.faults) for outcome in outcomes)
    result = {"engine": engine, "runs": runs, "failed": failed, "rows": len(undisturbed.rows)}
    emit("kills", {**result, "seed": seed, "each": list(map(asdict, outcomes))}, append)
    if not keep:
        shutil.rmtree(folder)
    raise SystemExit(bool(failed))


def finish(source: Path, out: Path, options: tuple[str, ...]) -> Snapshot:
    """Run to the end; what is there then."""
    with Run(source, out, options, out.with_suffix(".logs")) as run:
        code = run.wait(HOUR)
        if code not in FINISHED:
            raise click.ClickException(f"exit code {code}:\n{run.stderr}")
    return look(out)


def seconds_of_work(out: Path, done: Snapshot) -> float:
    """From the start of the work to the last row."""
    (recipe,) = out.glob("recipe=*/recipe.json")
    return max(mark(row)[1].timestamp() for row in done.rows.values()) - recipe.stat().st_mtime


def kill_once(
    source: Path,
    out: Path,
    options: tuple[str, ...],
    moment: float,
    undisturbed: Snapshot,
    texts: bool,
) -> Outcome:
    """Kill a run so long after its work began, then let it finish."""
    with Run(source, out, options, out.with_suffix(".killed")) as run:
        run.wait_for("recipe=*/recipe.json")
        time.sleep(moment)
        was_running = run.kill()
        children = len(run.children)
        try:
            alone, orphans = run.wait_until_alone(10), []
        except TimeoutError as error:
            alone, orphans = float("inf"), [str(error)]
    killed = look(out)
    began = time.monotonic()
    done = finish(source, out, options)
    again = time.monotonic() - began
    found = orphans + faults(killed, done, undisturbed, texts)
    check = pagemill("check", str(out), "--source", str(source), *options)
    checked = subprocess.run(check, capture_output=True, text=True)
    found += [f"check: {checked.stdout}{checked.stderr}"] if checked.returncode else []
    common = done.rows.keys() & undisturbed.rows.keys()
    other = sum(said(done.rows[key]) != said(undisturbed.rows[key]) for key in common)
    return Outcome(
        moment=round(moment, 2),
        killed=was_running,
        rows=len(killed.rows),
        staged=len(killed.staged),
        temporary=len(killed.temporary),
        children=children,
        alone=round(alone, 2),
        again=round(again, 1),
        leftover=len(done.staged),
        other_texts=other,
        faults=found,
    )


def show(outcomes: list[Outcome]) -> None:
    """A line for each kill."""
    print()
    print_table(
        (
            *(
                "after, s",
                "killed",
                "rows",
                "staged",
                "temporary files",
                "children",
                "gone after, s",
            ),
            *("run again, s", "staged left", "other texts", "amiss"),
        ),
        [(*list(vars(outcome).values())[:-1], len(outcome.faults) or "") for outcome in outcomes],
    )


if __name__ == "__main__":
    main()
