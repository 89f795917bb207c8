"""The deployments, on a real Prefect server and a real process worker, as an operator uses them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import yaml
from helpers import make_pdf
from prefect_site import PROJECT, Site, site, wait_for
from seaweed import ADMIN, S3Server

from pagemill.config import CONFIGS, load_settings
from pagemill.ledger import Ledger
from pagemill.settings import Runner, StorageOptions, WhenBusy
from pagemill.storage import Storage
from tasks.check import check_ledger
from tasks.job import open_job

ECHO = {
    "model.framework": "echo",
    "model.name": "echo",
    "model.id": "echo",
    "model.options": {},
    "render.max_pixels": 20_000,
    "work.shard_documents": 3,
}
PREFECT_YAML = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = (
    "ingest/nightly",
    "ingest/on-demand",
    "backfill/backfill",
    "retry-failed/retry-failed",
)


class Place:
    """A source and an output in a bucket of their own."""

    def __init__(self, s3: S3Server, folder: Path) -> None:
        self.s3, self.bucket, self.folder = s3, s3.bucket(), folder
        self.source, self.out = f"s3://{self.bucket}/in", f"s3://{self.bucket}/out"
        self.overrides = {**ECHO, "storage.endpoint_url": s3.endpoint_url}

    def put(self, name: str, data: bytes | None = None) -> None:
        if data is None:
            data = make_pdf(self.folder / "a.pdf", 2, words=name).read_bytes()
        self.s3.put(self.bucket, f"in/{name}", data)

    def form(self, **more: Any) -> dict[str, Any]:
        overrides = {**self.overrides, **more.pop("overrides", {})}
        return {"source": self.source, "out": self.out, "overrides": overrides, **more}

    def again(self, **more: Any) -> dict[str, Any]:
        return {name: value for name, value in self.form(**more).items() if name != "source"}

    def ledger(self, **overrides: Any) -> Ledger:
        settings = load_settings("local", {**self.overrides, **overrides})
        ledger = open_job(self.source, self.out, settings).open_ledger()
        ledger.refresh()
        return ledger

    def recipes(self) -> set[str]:
        listed = Storage(self.out, StorageOptions(endpoint_url=self.s3.endpoint_url)).list("")
        return {entry.path.split("/")[0] for entry in listed}


@pytest.fixture(scope="module")
def prefect(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The keys to the storage are in the worker's environment, as everywhere."""
    with site(
        tmp_path_factory.mktemp("site"),
        PAGEMILL_SOURCE="s3://the-source/in",
        PAGEMILL_OUT="s3://the-output/out",
    ) as started:
        yield started


@pytest.fixture
def place(s3: S3Server, tmp_path: Path) -> Place:
    place = Place(s3, tmp_path)
    for number in range(6):
        place.put(f"{number}.pdf")
    place.put("empty.pdf", b"")
    return place


def test_each_deployment_is_there_with_what_an_operator_needs_to_know(prefect: Site) -> None:
    for name in DEPLOYMENTS:
        found = prefect.deployment(name)
        assert len(found["description"]) > 100
        assert "pagemill" in found["tags"]
        assert found["work_pool_name"] == "gpu"
        assert found["global_concurrency_limit"]["limit"] == 1
        assert found["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        assert found["enforce_parameter_schema"]
        assert found["parameters"]["out"] == "s3://the-output/out"
        fields = found["parameter_openapi_schema"]["properties"]
        for field, facts in fields.items():
            assert len(facts.get("description", "")) > 10, (name, field)
            assert "default" in facts or field in ("source", "out")
        assert fields["config"]["enum"] == sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    (schedule,) = prefect.deployment("ingest/nightly")["schedules"]
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    assert schedule["schedule"]["timezone"] == "Europe/Berlin"
    assert schedule["slug"] == "nightly"


def test_runs_by_form_and_by_schedule(
    prefect: Site, place: Place, s3: S3Server, tmp_path: Path
) -> None:
    nightly = Place(s3, tmp_path)
    nightly.put("only.pdf")
    _schedule_once(prefect, nightly)
    run = prefect.start("ingest/on-demand", **place.form())
    state = prefect.until(run, "COMPLETED")
    assert "7 documents, 13 pages" in state["message"]
    assert "13 of 13 rows: balanced" in state["message"]
    assert prefect.get(f"flow_runs/{run}")["name"].startswith("in 20")
    _tells_its_story(prefect, place, run)
    by_schedule = wait_for(lambda: _scheduled(prefect), of="the scheduled run")
    state = prefect.until(by_schedule, "COMPLETED")
    assert "1 documents, 2 pages" in state["message"]
    assert check_ledger(nightly.ledger()).problems == []
    _no_secret(prefect)


def _schedule_once(prefect: Site, place: Place) -> None:
    """Every hour, for the first time in a few seconds; with the parameters of the schedule."""
    deployment = prefect.deployment("ingest/nightly")
    soon = (datetime.now(UTC) + timedelta(seconds=8)).isoformat()
    schedule = {
        "schedule": {"interval": 3600, "anchor_date": soon, "timezone": "UTC"},
        "active": True,
        "parameters": place.form(),
        "slug": "soon",
    }
    url = f"{prefect.api}/deployments/{deployment['id']}/schedules"
    httpx.post(url, json=[schedule], timeout=30).raise_for_status()


def _scheduled(prefect: Site) -> str | None:
    deployment = prefect.deployment("ingest/nightly")["id"]
    body = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
    due = [r for r in prefect.post("flow_runs/filter", body) if r["state_type"] != "SCHEDULED"]
    return str(due[0]["id"]) if due else None


def _tells_its_story(prefect: Site, place: Place, run: str) -> None:
    artifacts = {k.removeprefix("pagemill-"): a for k, a in prefect.artifacts(run).items()}
    assert set(artifacts) == {"report", "shards", "output", "progress-this-process"}
    assert float(artifacts["progress-this-process"]["data"]) == 100
    assert len(json.loads(artifacts["shards"]["data"])) == 3
    assert f"{place.out}/recipe=" in artifacts["output"]["data"]
    assert "pages per second" in artifacts["report"]["data"]
    for line in ("shard 1: ", "shard 2: ", "shard 3: ", "loaded echo", "13 of 13 rows"):
        wait_for(lambda line=line: line in prefect.logs(run), of=f"{line!r} in the run's log")
    tasks = prefect.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert {task["name"] for task in tasks} == {"shard-1", "shard-2", "shard-3"}


def _no_secret(prefect: Site) -> None:
    """The keys are in the worker's environment, and in nothing that Prefect keeps or says."""
    kept = sorted(prefect.folder.rglob("*"))
    assert prefect.database in kept
    for path in kept:
        if path.is_file():
            assert ADMIN[1].encode() not in path.read_bytes(), path


def test_a_backfill_begins_with_a_dry_run_and_makes_its_own_recipe(
    prefect: Site, place: Place
) -> None:
    other = {"outputs.text.prompt": "Say it in other words."}
    form = place.form(select={"include": ["[012].pdf"], "exclude": []}, overrides=other)
    dry = prefect.start("backfill/backfill", **form)
    message = prefect.until(dry, "COMPLETED")["message"]
    assert message.startswith("dry run: 1 shards, 6 pages of 3 documents")
    assert "pagemill-estimate" in prefect.artifacts(dry)
    assert place.recipes() == set()
    run = prefect.start("backfill/backfill", **form, dry_run=False)
    assert "6 of 6 rows: balanced" in prefect.until(run, "COMPLETED")["message"]
    assert place.recipes() == {place.ledger(**other).folder}
    assert place.recipes() != {place.ledger().folder}


def test_retry_failed_reads_what_failed_and_nothing_else(prefect: Site, place: Place) -> None:
    place.put("locked.pdf", (PROJECT / "samples" / "encrypted.pdf").read_bytes())
    run = prefect.start("ingest/on-demand", **place.form())
    assert "2 failed" in prefect.until(run, "COMPLETED")["message"]
    place.put("new.pdf")
    again = prefect.start("retry-failed/retry-failed", **place.again(error_kind=["encrypted"]))
    message = prefect.until(again, "COMPLETED")["message"]
    assert message.startswith("1 documents, 1 pages"), message
    assert check_ledger(place.ledger()).problems == []


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ingest/on-demand", {"config": "no-such-config"}),
        ("ingest/on-demand", {"how": {"runner": "fibre"}}),
        ("ingest/on-demand", {"how": {"workers": -1}}),
        ("retry-failed/retry-failed", {"error_kind": ["tired"]}),
    ],
)
def test_the_form_refuses_what_it_can_see(
    prefect: Site, place: Place, name: str, wrong: dict[str, Any]
) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        form = place.again if name.startswith("retry") else place.form
        prefect.start(name, **form(**wrong))
    assert refused.value.response.status_code == 409
    assert next(iter(wrong)) in refused.value.response.text or "enum" in refused.value.response.text


def test_fields_that_do_not_go_together_are_named_at_the_start_of_the_run(
    prefect: Site, place: Place
) -> None:
    wrong = {
        "checkpoint: name the checkpoint": ("ingest/on-demand", {"how": {"model": "gemma3"}}),
        "workers: 3 workers need runner": ("ingest/on-demand", {"how": {"workers": 3}}),
        "modified_since is not before": (
            "backfill/backfill",
            {"select": {"modified_since": "2026-02-01", "modified_until": "2026-01-01"}},
        ),
    }
    runs = {
        words: prefect.start(name, **place.form(**fields))
        for words, (name, fields) in wrong.items()
    }
    for words, run in runs.items():
        assert words in prefect.until(run, "FAILED")["message"]
    assert place.recipes() == set()


def test_a_failure_says_what_to_do(prefect: Site, place: Place) -> None:
    form = place.form(out="s3://no-such-bucket-here/out")
    message = prefect.until(prefect.start("ingest/on-demand", **form), "FAILED")["message"]
    assert "no-such-bucket-here" in message
    assert re.search(r"create it|check|name", message)


def test_cancelling_stops_within_seconds_and_leaves_the_output_whole(
    prefect: Site, place: Place
) -> None:
    slow = {"model.options": {"delay": 1.0}, "model.batch_size": 1, "work.part_pages": 2}
    run = prefect.start("ingest/on-demand", **place.form(overrides=slow))
    prefect.until(run, "RUNNING")
    wait_for(lambda: any("/pages/" in e for e in _objects(place)), of="the first rows")
    prefect.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": False})
    prefect.until(run, "CANCELLED", seconds=60)
    ledger = place.ledger(**slow)
    assert 0 < rows(ledger) < 13
    assert check_ledger(ledger).problems == []
    assert not any("/leases/" in e for e in _objects(place))
    again = prefect.start("ingest/on-demand", **place.form())
    assert "13 of 13 rows: balanced" in prefect.until(again, "COMPLETED")["message"]


def rows(ledger: Ledger) -> int:
    """Committed rows."""
    return sum(found.rows for uri in ledger.documents() if (found := ledger.get(uri)))


def _objects(place: Place) -> list[str]:
    storage = Storage(place.out, StorageOptions(endpoint_url=place.s3.endpoint_url))
    return [entry.path for entry in storage.list("")]


# -- without a server ----------------------------------------------------------------------


def test_the_forms_lists_are_those_of_the_settings() -> None:
    from flows.form import AS_CONFIGURED, How
    from loaders.families import FAMILIES
    from pagemill.settings import Model

    def offered(field: str) -> list[str]:
        return [
            name for name in get_args(How.model_fields[field].annotation) if name != AS_CONFIGURED
        ]

    assert offered("runner") == [runner.value for runner in Runner]
    assert offered("when_busy") == [choice.value for choice in WhenBusy]
    assert offered("quantization") == list(get_args(Model.model_fields["quantization"].annotation))
    assert all(
        any(name in family.names for family in FAMILIES.values()) for name in offered("model")
    )
    assert len(offered("model")) == len(FAMILIES)


def test_the_units_of_deploy_are_valid_and_name_what_exists() -> None:
    compose = yaml.safe_load((PROJECT / "deploy/compose.yaml").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"database", "server", "worker"}
    for name, service in compose["services"].items():
        assert "image" in service or (PROJECT / "deploy" / service["build"]["context"]).is_dir()
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in compose["services"][needed], name
    assert (PROJECT / compose["services"]["worker"]["build"]["dockerfile"]).is_file()
    assert "postgresql+asyncpg://" in str(compose["services"]["server"]["environment"])
    assert all(
        str(port).startswith("127.0.0.1:") for port in compose["services"]["server"]["ports"]
    )
    version = re.search(r"^prefect==(.+)$", (PROJECT / "constraints/cpu.txt").read_text(), re.M)
    assert version
    assert compose["services"]["server"]["image"].startswith(f"prefecthq/prefect:{version[1]}-")

    import configparser

    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(PROJECT / "deploy/pagemill-worker.service")
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    pool = PREFECT_YAML["deployments"][0]["work_pool"]["name"]
    assert f"--pool {pool}" in unit["Service"]["ExecStart"]
    assert f"--pool {pool}" in compose["services"]["worker"]["command"]
    assert unit["Service"]["Restart"] == "always"
    for line in (PROJECT / "deploy/worker.env.example").read_text().splitlines():
        assert re.match(r"#|[A-Z_]+=", line), line
