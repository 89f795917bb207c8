"""What the benchmarks count and compare: a mistake here would make a wrong number."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import pytest

from benchmarks import (
    common,
    corpus,
    fuzz,
    gpu_ways,
    orchestration,
    pages,
    reading,
    scaling,
    summary,
)
from benchmarks.gpu_tables import mean_rate
from benchmarks.load import Load

PROJECT = Path(__file__).resolve().parents[1]
SAMPLES = PROJECT / "samples"
SCRIPTS = sorted(
    path.stem
    for path in (PROJECT / "benchmarks").glob("*.py")
    if "import click" in (text := path.read_text(encoding="utf-8")) and "__main__" in text
)


# -- what is counted -----------------------------------------------------------------------


def test_a_page_counts_in_a_rate_if_the_model_has_read_it() -> None:
    rows = Counter(ok=5, fallback=2, partial=1, blank=7, failed=3, skipped=90)
    assert scaling.pages_read(rows) == 8


def test_a_mean_rate_is_all_pages_over_all_seconds() -> None:
    laps = [{"side": "files", "pages_per_second": rate} for rate in (10.0, 5.0)]
    laps.append({"side": "engine", "pages_per_second": 99.0})
    assert mean_rate(laps, "files") == pytest.approx(200 / (100 / 10 + 100 / 5))
    assert mean_rate(laps, "s3") == 0


def test_a_plain_way_counts_the_pages_that_it_reads() -> None:
    read: list[int] = []

    def generate(images: list[Any]) -> int:
        read.append(len(images))
        return 10 * len(images)

    files = [SAMPLES / "paper.pdf", SAMPLES / "table.pdf"]
    loop = gpu_ways._read([[file] for file in files], 50_176, generate)
    at_once = gpu_ways._read([files], 50_176, generate)
    assert read == [2, 1, 3]
    assert [(lap["pages"], lap["output_tokens"]) for lap in (loop, at_once)] == [(3, 30)] * 2
    assert loop["drawing_seconds"] <= loop["seconds"]


def test_documents_that_do_not_open_are_not_measured() -> None:
    assert [path.name for path in pages.choose(SAMPLES)] == [
        "paper.pdf",
        "scanned.pdf",
        "table.pdf",
    ]


def test_what_a_shard_costs_leaves_out_what_the_start_costs() -> None:
    start = {"flow": (5.0, 3.0), "plain": (2.0, 2.0)}
    many = {"flow": (17.0, 9.0), "plain": (4.0, 3.0)}
    assert orchestration.costs(start, many, shards=101) == {
        "start_added_seconds": 3.0,
        "start_added_cpu_seconds": 1.0,
        "ms_per_shard": 100.0,
        "cpu_ms_per_shard": 50.0,
    }


def test_the_cpu_time_of_short_lived_render_processes_is_counted() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    parent = (
        "import subprocess, sys\n"
        f"for _ in range(4): subprocess.run([sys.executable, '-S', '-c', {burn!r}])\n"
        "print('done', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", parent, "tasks.render_child"]
    pipe = subprocess.PIPE
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        with Load() as load:
            assert server.stdout and server.stdout.readline() == "done\n"
        seconds = time.perf_counter() - began
        server.communicate()
    assert load.report()["cores"]["render"] * seconds >= 0.95 * 4 * 0.2 - 0.01 * seconds


# -- what is scored ------------------------------------------------------------------------


def write_scores(path: Path, rows: list[dict[str, Any]]) -> Path:
    same = {"text_layer": "digital", "lang": "en", "produced": True}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", *same, "cer", "bow_f1"])
        writer.writeheader()
        writer.writerows({**same, **row} for row in rows)
    return path


def test_a_document_that_was_not_read_counts_as_all_wrong(tmp_path: Path) -> None:
    scores = write_scores(
        tmp_path / "scores.csv",
        [
            {"path": "docs/a.pdf", "cer": 0.0, "bow_f1": 1.0},
            {"path": "docs/b.pdf", "cer": 3.0, "bow_f1": 0.5},
            {"path": "docs/c.pdf", "cer": 1.0, "bow_f1": 0.0, "produced": False},
            {"path": "docs/known-in-part.pdf"},
        ],
    )
    order = {"docs/a.pdf": 0.0, "docs/b.pdf": 1.5, "docs/c.pdf": 0.2}
    group = reading.by_group(scores, order)["digital, English"]
    rates = {"cer_median": 1.0, "cer_mean": 0.6667, "cer_order": 0.4}
    assert group == {"documents": 4, **rates, "word_f1": 0.5}
    assert reading.by_group(scores, order, only="a.pdf")["all"]["cer_mean"] == 0


def test_a_table_read_by_rows_costs_order_where_its_truth_goes_by_columns(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(
        "def norm(text): return text\n"
        "def measure(true, read): return {'cer': sum(map(str.__ne__, true, read)) / len(true)}\n"
    )
    names = ("path", "gt", "gt_kind", "ignore")
    manifest = [("docs/a.pdf", "a.txt", "human", "page [0-9]"), ("docs/b.pdf", "", "tests", "")]
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *manifest])
    (tmp_path / "a.txt").write_text("a b 1 2")
    page = {"uri": "a.pdf", "page": 1, "text": "A 1 b 2 page 9"}  # and a letter is wrong
    (tmp_path / "texts.jsonl").write_text(json.dumps(page))
    costs = reading.order_costs(tmp_path, tmp_path / "texts.jsonl")
    assert costs == {"docs/a.pdf": 2 / 7}


def test_a_document_is_read_if_one_of_its_pages_was() -> None:
    page = {"page_number": 1, "page_count": 2, "error_kind": None, "text": "a"}
    rows = [
        {**page, "source_uri": "read", "status": "failed", "error_kind": "time_out", "text": None},
        {**page, "source_uri": "read", "status": "partial", "page_number": 2},
        {**page, "source_uri": "not", "status": "skipped", "error_kind": "too_large"},
    ]
    found = {row["uri"]: (row["status"], row["error_kind"]) for row in corpus.outcomes(rows)}
    assert found == {"read": ("ok", "time_out"), "not": ("error", "too_large")}
    assert [(row["uri"], row["page"]) for row in corpus.texts(rows)] == [("read", 2)]


def test_a_damaged_file_without_rows_or_reason_is_amiss() -> None:
    row = {"source_uri": "a", "status": "failed", "error_kind": "corrupt", "render_seconds": 0.1}
    amiss: list[str] = []
    found = fuzz.look([{**row, "error_message": "why"}], 1, amiss)
    assert (found["documents"], amiss) == ({"corrupt": 1}, [])
    fuzz.look([{**row, "error_message": "", "render_seconds": 31.0}], 2, amiss)
    assert amiss == [
        "1 documents have rows, of 2",
        "1 failures do not say why",
        "a page took 31 s",
    ]


# -- results and README --------------------------------------------------------------------


def test_a_result_is_appended_as_one_line_that_names_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results.jsonl")
    common.emit("a", {"pages": 1}, append=False)
    assert not common.RESULTS.exists()
    common.emit("a", {"pages": 2}, append=True)
    common.emit("b", {"pages": 3}, append=True)
    lines = [json.loads(line) for line in common.RESULTS.read_text().splitlines()]
    assert [(line["benchmark"], line["pages"]) for line in lines] == [("a", 2), ("b", 3)]
    assert lines[0]["machine"].keys() >= {"cpu", "cores", "load_before", "load", "python"}


def test_the_table_is_of_the_latest_results() -> None:
    text = summary.README.read_text(encoding="utf-8")
    assert "share of the bare engine's pages/s" in text
    assert summary.with_table(text) == text, "run: python benchmarks/summary.py"


def test_the_table_says_what_is_not_measured_and_what_is_not_met() -> None:
    machine = {"cores": 2, "load": 3.2}
    old = {"benchmark": "kills", "engine": "echo", "flow": False, "runs": 9, "failed": 0}
    new = {**old, "runs": 100, "failed": 2}
    table = summary.make_table([{**line, "machine": machine} for line in (old, new)])
    rows = [[cell.strip() for cell in line.split("|")[2:6]] for line in table.splitlines()]
    assert ["0 of 100", "2 of 100", "**no**", "2 cores, load 3"] in rows
    assert ["≥ 95 %", "not measured", "", ""] in rows


def _shown() -> list[tuple[str, str]]:
    """Every command that README, table and help show: the script and its arguments."""
    readme = summary.README.read_text(encoding="utf-8")
    found = re.findall(r"`(\w+)\.py( [^`]*)?`", readme)
    for script in SCRIPTS:
        words = (PROJECT / "benchmarks" / f"{script}.py").read_text(encoding="utf-8")
        words = words.replace("\\\\\n", " ")
        found += re.findall(r"^ +python benchmarks/(\w+)\.py(.*?)(?:  .*)?$", words, re.M)
    return sorted({(script, arguments.strip()) for script, arguments in found})


@pytest.mark.parametrize(("script", "arguments"), _shown(), ids=" ".join)
def test_a_command_that_is_shown_can_be_given(script: str, arguments: str) -> None:
    if script not in SCRIPTS:
        assert (PROJECT / "benchmarks" / f"{script}.py").exists() or script == "score"
        return
    command: click.Command = importlib.import_module(f"benchmarks.{script}").main
    words = shlex.split(arguments.replace("PAGES", "samples"))
    if not words:
        return
    if isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(script, words)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_it_takes_and_needs(script: str) -> None:
    main = importlib.import_module(f"benchmarks.{script}").main
    for command in main.commands.values() if isinstance(main, click.Group) else [main]:
        assert "Takes " in (command.help or "") and "Needs " in (command.help or "")


def test_every_script_is_in_the_readme() -> None:
    readme = summary.README.read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f"| `{name}.py" not in readme] == []
