"""Commands that look, and change nothing: plan, status, check, show."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import click

from flows.command import ledgers, options, settings
from pagemill.printable import printable

if TYPE_CHECKING:
    from pagemill.settings import Settings


@click.command()
@click.argument("source")
@click.argument("out")
@click.option("--count/--no-count", default=True, help="Open new documents to count their pages.")
@options
def plan(
    source: str, out: str, count: bool, config: str, overrides: tuple[str, ...], as_json: bool
) -> int:
    """Show what `run` would do, and why not the rest. Nothing is written.

    Pages are counted by opening up to 200 of the documents; beyond that they are estimated.
    Time and GPU hours are estimated from the last run of the same recipe; the price too, where
    work.gpu_hour_price is set. See `pagemill run --help` for what can be selected.
    """
    return show_plan(source, out, settings(config, overrides), count, as_json)


@click.command()
@click.argument("out")
@options
def status(out: str, config: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Show what OUT holds: documents and rows by recipe and status, and its last run."""
    from flows.terminal import print_facts
    from tasks.check import summary

    facts = [summary(ledger) for ledger in ledgers(out, config, overrides)]
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return 0
    for recipe in facts:
        print_facts(recipe)
    return 0


@click.command()
@click.argument("out")
@click.option("--source", help="Also prove that every object of SOURCE has rows here.")
@click.option("--repair", "mend", is_flag=True, help="First remove what cannot be trusted.")
@options
def check(
    out: str, source: str | None, mend: bool, config: str, overrides: tuple[str, ...], as_json: bool
) -> int:
    """Prove that OUT holds one row per page: none missing, none twice, nothing unreadable.

    Exit code 1 if it does not; the documents concerned are listed. Only with --repair is
    anything changed: parts that are not readable are set aside (in removed/, beside pages/), of
    rows that are there twice the later ones stay, and documents that still do not add up lose
    their rows. The next run reads again what is missing then.
    """
    from tasks.check import check_ledger, check_source
    from tasks.job import open_job
    from tasks.repair import repair

    for ledger in ledgers(out, config, overrides) if mend else ():
        for line in repair(ledger):
            click.echo(printable(line), err=as_json)
    results = [check_ledger(ledger) for ledger in ledgers(out, config, overrides)]
    if source is not None:
        results.append(check_source(open_job(source, out, settings(config, overrides))))
    problems = [problem for result in results for problem in result.problems]
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
        return 1 if problems else 0
    for result in results:
        click.echo(result.headline)
    for problem in problems:
        click.echo(f"  {printable(problem)}")
    return 1 if problems else 0


@click.command()
@click.argument("out")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1), help="Rows to show, at most."
)
@options
def show(out: str, limit: int, config: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Show rows of OUT: file, page, status, first words of every output; and where they lie."""
    from flows.terminal import print_table
    from tasks.check import sample

    for ledger in ledgers(out, config, overrides):
        rows = sample(ledger, limit)
        if as_json:
            click.echo(json.dumps(rows, indent=2, default=str, ensure_ascii=False))
            continue
        if rows:
            print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
        click.echo(f"Parquet: {ledger.storage.url}/{ledger.folder}/pages/*.parquet")
    return 0


def show_plan(source: str | None, out: str, chosen: Settings, count: bool, as_json: bool) -> int:
    """Print what a run with these settings would do."""
    from flows.terminal import print_facts, print_table
    from tasks.estimate import estimate
    from tasks.job import open_job
    from tasks.plan import plan_job

    job = open_job(source, out, chosen)
    ledger = job.open_ledger()
    planned = plan_job(job, ledger)
    facts = {"recipe": job.recipe.name, **planned.summary()}
    if count and planned.shards:
        facts |= estimate(planned, job.settings, ledger)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return 0
    if count and planned.shards:
        seconds = facts.pop("seconds")
        unknown = "unknown: no run of this recipe yet"
        facts |= {"pages": f"{facts['pages']}, {facts.pop('pages_are')}"}
        facts |= {"time": unknown if seconds is None else f"about {timedelta(seconds=seconds)}"}
    print_facts(facts)
    if not planned.shards:
        click.echo("nothing new: nothing to do")
    rows = [(i.source.uri, i.reason, _which(i.pages)) for i in islice(planned.items, 20)]
    if rows:
        print_table(("document", "why", "pages"), rows)
    more = planned.todo - len(rows)
    if more > 0:
        click.echo(f"… and {more} more documents")
    return 0


def _which(pages: tuple[int, ...] | None) -> str:
    if pages is None:
        return "all"
    return ", ".join(map(str, pages[:8])) + (" …" if len(pages) > 8 else "")
