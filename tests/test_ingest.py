"""The flow and the command line, as a user meets them: on a real Prefect API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from helpers import make_image, make_pdf, make_pdfs, name, table, write_config

from pagemill.errors import StorageError, UsageError

PAGEMILL = Path(sys.executable).with_name("pagemill")


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, prefect_home: Callable[[Path], str]
) -> Iterator[str]:
    """An embedded Prefect API with a database of its own, and this process's settings on it.

    The environment names a proxy that nobody may ask for what is on this host.
    """
    home = prefect_home(tmp_path_factory.mktemp("api"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", home)
        patch.setenv("http_proxy", "http://127.0.0.1:9")
        patch.setenv("no_proxy", "")
        patch.setenv("NO_PROXY", "elsewhere.example")
        from flows.prefect_api import prefect_api, quiet

        quiet()
        with prefect_api() as url:
            yield url


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = make_pdfs(tmp_path / "in", 6, 2)
    make_image(folder / "picture.png")
    (folder / "empty.pdf").write_bytes(b"")
    return folder


def post(api: str, path: str, body: dict[str, Any] | None = None) -> Any:
    return httpx.post(f"{api}/{path}", json=body or {}).raise_for_status().json()


def test_the_flow_reads_everything_and_returns_its_balance(
    api: str, source: Path, tmp_path: Path
) -> None:
    from flows.ingest import ingest

    balance: Any = ingest(str(source), str(tmp_path / "out"), str(write_config(tmp_path)))
    assert balance["balanced"]
    assert balance["pages"]["read"] == {"ok": 13, "failed": 1}
    assert len(table(tmp_path / "out")) == 14


def test_prefect_has_readable_names_states_and_artifacts(
    api: str, source: Path, tmp_path: Path
) -> None:
    from flows.ingest import ingest

    ingest(str(source), str(tmp_path / "out"), str(write_config(tmp_path)))
    flow_run = post(api, "flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    assert flow_run["name"].startswith("in 20")
    assert flow_run["state"]["type"] == "COMPLETED"
    assert "14 of 14 rows: balanced" in flow_run["state"]["message"]
    mine = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}}
    tasks = post(api, "task_runs/filter", mine)
    assert {task["name"] for task in tasks} == {"shard-1", "shard-2"}
    artifacts = {a["key"]: a for a in post(api, "artifacts/filter", mine)}
    assert {key.removeprefix("pagemill-") for key in artifacts} == {
        *("report", "output", "shards", "progress-this-process")
    }
    progress = artifacts["pagemill-progress-this-process"]
    assert float(progress["data"]) == 100
    assert "8 of the run's 8 documents, 14 pages, 1 failed" in progress["description"]
    shards = json.loads(artifacts["pagemill-shards"]["data"])
    assert [(row["shard"], row["documents"], row["what"]) for row in shards] == [
        (1, 4, "committed"),
        (2, 4, "committed"),
    ]
    report = artifacts["pagemill-report"]["data"]
    for line in ("| pages expected | 14 |", "| rows | 14 |", "| failed | 1 |"):
        assert line in report
    assert f"file://{tmp_path}/out/recipe=" in artifacts["pagemill-output"]["data"]


def test_a_mistake_in_the_parameters_fails_the_run_with_the_remedy(
    api: str, tmp_path: Path
) -> None:
    from flows.ingest import ingest

    with pytest.raises(UsageError, match="check the path"):
        ingest(str(tmp_path / "nowhere"), str(tmp_path / "out"), str(write_config(tmp_path)))
    with pytest.raises(UsageError, match="did you mean 'max_pages'"):
        config = str(write_config(tmp_path))
        ingest(str(tmp_path), str(tmp_path / "out"), config, overrides={"limits.max_page": 1})
    flow_run = post(api, "flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    assert flow_run["state"]["type"] == "FAILED"
    assert "did you mean" in flow_run["state"]["message"]


def test_a_shard_that_fails_fails_the_run_and_the_next_one_completes_it(
    api: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.ingest import ingest
    from pagemill.ledger import Ledger

    config, out = str(write_config(tmp_path)), tmp_path / "out"
    commit, calls = Ledger.commit, iter(range(100))

    def full_once(self: Ledger, batch: Any) -> int:
        if next(calls) == 0:
            raise StorageError("cannot write: the disk is full: free some space")
        return commit(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", full_once)
        with pytest.raises(StorageError, match="the disk is full"):
            ingest(str(source), str(out), config)
    sheets = [json.loads(p.read_text()) for p in out.glob("recipe=*/runs/*.json")]
    assert [sheet["balanced"] for sheet in sheets] == [False]
    assert "the disk is full" in sheets[0]["failed_shards"][0]
    balance: Any = ingest(str(source), str(out), config)
    assert balance["balanced"]
    assert len(table(out)) == 14


# -- the command line ----------------------------------------------------------------------


def pagemill(*words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PAGEMILL), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **(env or {})},
    )


def test_help_teaches_the_exit_codes_and_every_command_has_an_example_of_itself() -> None:
    shown = pagemill("--help").stdout
    assert "pagemill run scans/ out/" in shown
    assert "finished and balanced, but some pages failed" in shown
    for command in ("run", "plan", "status", "check", "show", "doctor"):
        assert command in shown
        assert pagemill(command, "--help").returncode == 0


def test_run_status_check_and_show(source: Path, tmp_path: Path) -> None:
    config, out = write_config(tmp_path), tmp_path / "out"
    env = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": ""}
    first = pagemill("run", source, out, "-c", config, env=env)
    assert first.returncode == 3, first.stderr
    assert "14 of 14 rows: balanced" in first.stdout
    assert "8/8 documents" in first.stderr
    second = pagemill("run", source, out, "-c", config, "--json", env=env)
    assert second.returncode == 0
    assert json.loads(second.stdout)["documents"]["done"] == 8
    assert "loaded" not in second.stderr
    assert "balanced" in pagemill("check", out, "--source", source, "-c", config).stdout
    (status,) = json.loads(pagemill("status", out, "--json").stdout)
    assert (status["documents"], status["rows"], status["runs"]) == (8, 14, 2)
    shown = pagemill("show", out).stdout
    assert "picture.png" in shown
    assert "[empty] the object has no bytes" in shown
    assert "pages/*.parquet" in shown


def test_plan_writes_nothing_and_counts_pages(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = pagemill("plan", source, out, "-c", write_config(tmp_path), "--json")
    facts = json.loads(done.stdout)
    assert (facts["selected"], facts["new"], facts["pages"]) == (8, 8, 13)
    assert not out.exists()


def test_check_names_what_is_missing(source: Path, tmp_path: Path) -> None:
    from helpers import echo_settings, run

    out, config = tmp_path / "out", write_config(tmp_path)
    run(source, out, echo_settings(tmp_path))
    make_pdf(source / "late.pdf")
    done = pagemill("check", out, "--source", source, "-c", config)
    assert done.returncode == 1
    assert f"file://{source}/late.pdf: no rows" in done.stdout
    (recipe,) = (folder.name.removeprefix("recipe=") for folder in out.glob("recipe=*"))
    assert f"9 documents selected for {recipe}: 1 documents are missing" in done.stdout
    part = next(out.glob("recipe=*/pages/*.parquet"))
    part.write_bytes(part.read_bytes()[:200])
    done = pagemill("check", out)
    assert done.returncode == 1
    assert f"{part.name}: not a readable part" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("run", "SOURCE", "gs://bucket/out"), 2, "the output goes to a local folder or to s3://"),
        (("run", "SOURCE", "OUT", "-c", "nope"), 2, "no config 'nope'"),
        (("run", "SOURCE", "OUT", "--set", "model.framework=tensorflow"), 2, "model.framework"),
        (("run", "SOURCE", "OUT", "--set", "model.id=./nope"), 2, "no such folder"),
        (("run", "SOURCE", "OUT", "--set", "nonsense"), 2, "write key=value"),
        (("plan", "s3://key:secret@bucket/in", "OUT"), 2, "the URL contains keys"),
        (("plan", "NOWHERE", "OUT"), 2, "check the path"),
        (("run", "NOWHERE", "OUT"), 2, "check the path"),
        (("run", "", "OUT"), 2, "a path is empty"),
        (("run", "SOURCE", ""), 2, "a path is empty"),
        (("status", ""), 2, "a path is empty"),
        (("status", "OUT"), 2, "no pagemill output here"),
        (("run", "SOURCE", "OUT"), 6, "the Prefect API at http://127.0.0.1:9/api does not answer"),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code(
    words: tuple[str, ...],
    code: int,
    message: str,
    source: Path,
    tmp_path: Path,
    prefect_home: Callable[[Path], str],
) -> None:
    places = {"SOURCE": source, "OUT": tmp_path / "out", "NOWHERE": tmp_path / "nowhere"}
    dead = "http://127.0.0.1:9/api" if code == 6 or "NOWHERE" in words else ""
    env = {"PREFECT_API_URL": dead, "PREFECT_HOME": prefect_home(tmp_path)}
    done = pagemill(*(places.get(word, word) for word in words), env=env)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ALL_PROXY", "nonsense://proxy", "a proxy of the environment cannot be used"),
        ("PREFECT_HOME", "/proc/nobody", "/proc/nobody: Prefect cannot keep its history there"),
    ],
)
def test_an_environment_that_prefect_cannot_work_in_is_one_line(
    variable: str, value: str, message: str, source: Path, tmp_path: Path
) -> None:
    env = {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "home"), variable: value}
    done = pagemill("run", source, tmp_path / "out", "-c", write_config(tmp_path), env=env)
    assert done.returncode == 6
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_run_leaves_no_process_behind(
    source: Path, tmp_path: Path, prefect_home: Callable[[Path], str]
) -> None:
    env = {"PREFECT_HOME": prefect_home(tmp_path), "PREFECT_API_URL": ""}
    mark = f"PAGEMILL_TEST_MARK={tmp_path.name}"
    env["PAGEMILL_TEST_MARK"] = tmp_path.name
    pagemill("run", source, tmp_path / "out", "-c", write_config(tmp_path), env=env)
    left = [p for p in psutil.process_iter() if mark in _environment(p)]
    assert left == []


def _environment(process: psutil.Process) -> list[str]:
    try:
        return [f"{key}={value}" for key, value in process.environ().items()]
    except psutil.Error:
        return []


def test_names_from_documents_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    from helpers import echo_settings, run

    source = tmp_path / "in"
    source.mkdir()
    make_pdf(source / "evil\x1b[2J\u202e.pdf")
    run(source, tmp_path / "out", echo_settings(tmp_path))
    shown = pagemill("show", tmp_path / "out").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "evil" in shown
    assert name(table(tmp_path / "out")[0]).startswith("evil\x1b")


def test_a_working_directory_that_is_gone_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    vanish = f"cd '{tmp_path}/gone' && rmdir '{tmp_path}/gone' && '{PAGEMILL}' status {tmp_path}"
    done = subprocess.run(["sh", "-c", vanish], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "pagemill: the working directory is gone: change to another one\n"


def test_what_a_terminal_cannot_say_is_escaped(tmp_path: Path) -> None:
    from helpers import echo_settings, run

    make_pdf(tmp_path / "ünï.pdf")
    run(tmp_path / "ünï.pdf", tmp_path / "out", echo_settings(tmp_path))
    done = pagemill("show", tmp_path / "out", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert r"\xfcn\xef.pdf" in done.stdout
