"""A Prefect site on the loopback, as an operator has it: server, work pool, worker, deployments."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from seaweed import die_with_parent, free_ports

PROJECT = Path(__file__).resolve().parents[1]
PREFECT = str(Path(sys.executable).with_name("prefect"))
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def wait_for(what: Callable[[], Any], seconds: float = 120, of: str = "") -> Any:
    """Ask until the answer is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if answer := what():
                return answer
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s: {of or what}")


class Site:
    """A Prefect server with a database of its own, and a process worker."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.database = folder / "prefect.db"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
        self.environment = {
            **kept,
            "PREFECT_HOME": str(folder),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.database}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PYTHONPATH": str(PROJECT),
            **environment,
        }
        self.server: subprocess.Popen[bytes] | None = None
        self.worker: subprocess.Popen[bytes] | None = None

    # -- processes -------------------------------------------------------------------------

    def start_server(self) -> None:
        """Start it, or start it again on the same database."""
        words = ("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        self.server = self._start("server", *words)
        wait_for(lambda: httpx.get(f"{self.api}/health").status_code == 200, of="the server")

    def start_worker(self) -> None:
        """Start it, and wait until the server has heard of it."""
        name = f"worker-{time.monotonic_ns()}"
        words = ("worker", "start", "--pool", "gpu", "--name", name)
        self.worker = self._start("worker", *words)
        path = "work_pools/gpu/workers/filter"
        wait_for(lambda: any(w["name"] == name for w in self.post(path)), of="the worker")

    def prefect(self, *words: str) -> str:
        """Run `prefect` with these words; gives what it says."""
        done = subprocess.run(
            [PREFECT, "--no-prompt", *words],
            env=self.environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def stop(self) -> None:
        """End both, and what they have started."""
        for process in (self.worker, self.server):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [PREFECT, "--no-prompt", *words],
                env=self.environment,
                cwd=PROJECT,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    # -- the API, as the UI uses it --------------------------------------------------------

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask("POST", path, json=body or {}).json()

    def get(self, path: str) -> Any:
        return self._ask("GET", path).json()

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        while True:
            answer = httpx.request(method, f"{self.api}/{path}", timeout=60, **more)
            if answer.status_code != 503:  # SQLite is busy; Prefect's own client asks again, too
                return answer.raise_for_status()
            time.sleep(0.5)

    def deployment(self, name: str) -> dict[str, Any]:
        found = self.get(f"deployments/name/{name}")
        assert isinstance(found, dict)
        return found

    def start(self, name: str, **parameters: Any) -> str:
        """Fill in a deployment's form and submit it; gives the flow run's id."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        run = self.post(f"deployments/{self.deployment(name)['id']}/create_flow_run", body)
        return str(run["id"])

    def state(self, run: str) -> dict[str, Any]:
        found = self.get(f"flow_runs/{run}")["state"]
        assert isinstance(found, dict)
        return found

    def until(self, run: str, *types: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until a run is in one of these states, or has ended where none is named."""
        wanted = types or ENDED

        def reached() -> Any:
            state = self.state(run)
            assert state["type"] in wanted or state["type"] not in ENDED, state
            return state if state["type"] in wanted else None

        found = wait_for(reached, seconds, of=f"{run}: {wanted}")
        assert isinstance(found, dict)
        return found

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """A run's artifacts by key."""
        mine = {"flow_runs": {"id": {"any_": [run]}}}
        return {a["key"]: a for a in self.post("artifacts/filter", mine)}

    def logs(self, run: str) -> str:
        """A run's log, as the UI shows it."""
        found = self.post("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return "\n".join(entry["message"] for entry in found)


@contextlib.contextmanager
def site(folder: Path, **environment: str) -> Iterator[Site]:
    """A site with everything deployed from prefect.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    started = Site(folder, **environment)
    try:
        started.start_server()
        started.prefect("work-pool", "create", "gpu", "--type", "process")
        started.prefect("deploy", "--all")
        started.start_worker()
        yield started
    except BaseException:
        for name in ("server", "worker"):
            with contextlib.suppress(OSError):
                print(f"--- {name}\n{started.log(name)[-4000:]}")
        raise
    finally:
        started.stop()
