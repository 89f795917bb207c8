"""The Prefect API that a run talks to: the configured one, or one of its own.

Prefect's own ephemeral server is started anew by every child process, drops events at exit and
outlives a killed parent. So where no API is configured, one server is started here, shared by
all children, drained before it is stopped, and dies with this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import IO

from loaders.server import free_port
from pagemill.errors import OrchestratorError

START_SECONDS = 120
DRAIN_SECONDS = 10
_EMBEDDED = "PAGEMILL_EMBEDDED_API"  # children of this process see it, too

_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # The console alone: logs still reach the UI, and errors the user as one line of our own.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
_SERVER = {
    **_QUIET,
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


def quiet() -> None:
    """Keep Prefect's chatter out of a terminal, unless its settings ask for it.

    Call before prefect is first imported: it reads its settings once.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", "Failed to create the Prefect home")  # we say so ourselves


@contextlib.contextmanager
def prefect_api() -> Iterator[str]:
    """The URL of the Prefect API for the runs inside the block.

    Raises
    ------
    OrchestratorError
        The configured API does not answer, or the embedded one did not start.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        temporary_settings,
    )

    _keep_proxies_out_of_this_host()
    configured = PREFECT_API_URL.value()
    if configured:
        _prove_reachable(configured)
        yield configured
        return
    if not os.access(PREFECT_HOME.value(), os.W_OK):
        raise OrchestratorError(
            f"{PREFECT_HOME.value()}: Prefect cannot keep its history there: set PREFECT_HOME to "
            "a folder that can be written"
        )
    with _server() as url:
        # The heartbeat serves automations of a lasting server; here it would cost a second.
        settings = {PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with temporary_settings(settings), _environment(**{"PREFECT_API_URL": url, _EMBEDDED: url}):
            try:
                yield url
            finally:
                _send_logs()


def _keep_proxies_out_of_this_host() -> None:
    """Proxies of the environment cannot know what listens on this host's loopback."""
    import httpx

    for name in ("no_proxy", "NO_PROXY"):
        others = [os.environ[name]] if os.environ.get(name) else []
        os.environ[name] = ",".join([*others, "127.0.0.1", "localhost"])
    try:
        httpx.Client().close()
    except (ImportError, ValueError) as error:
        raise OrchestratorError(f"a proxy of the environment cannot be used: {error}") from None


def _prove_reachable(url: str) -> None:
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=20)
    except httpx.HTTPError as error:
        raise OrchestratorError(
            f"the Prefect API at {url} does not answer ({type(error).__name__}): start it, or "
            "unset PREFECT_API_URL and a run starts its own"
        ) from None


def wait_until_recorded(flow_run_id: str, task_runs: int) -> None:
    """Wait until an embedded API has the end of every task run of a flow run.

    They reach it in the background, and a server stopped too early forgets the last ones. A
    lasting server needs no waiting. Gives up in silence after `DRAIN_SECONDS`: this is history,
    not the ledger.
    """
    url = os.environ.get(_EMBEDDED)
    if not url:
        return
    import httpx

    ended = {
        "flow_runs": {"id": {"any_": [flow_run_id]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
    }
    deadline = time.monotonic() + DRAIN_SECONDS
    with contextlib.suppress(httpx.HTTPError):
        while time.monotonic() < deadline:
            if httpx.post(f"{url}/task_runs/count", json=ended).json() >= task_runs:
                return
            time.sleep(0.1)


def _send_logs() -> None:
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=5)


@contextlib.contextmanager
def _server() -> Iterator[str]:
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error"),
    ]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command,
            env={**os.environ, **_SERVER},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the run, which still has states to report
            preexec_fn=_die_with_parent,
        )
        try:
            url = f"http://127.0.0.1:{port}/api"
            _wait_for(url, server, log)
            yield url
        except BaseException:
            server.kill()  # a run that is stopped ends now; its history is not the ledger
            raise
        finally:
            server.terminate()
            try:
                server.wait(timeout=5)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    import httpx

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    log.seek(0)
    said = log.read()[-2000:].decode(errors="replace").strip().splitlines()
    words = said or [
        "no output: is the temporary folder or PREFECT_HOME full, or has a newer Prefect used it? "
        "Set PREFECT_HOME to another folder"
    ]
    raise OrchestratorError(
        f"the embedded Prefect API did not start ({words[-1]}): start one with `prefect server "
        "start` and set PREFECT_API_URL, or look at `pagemill doctor`"
    )


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere `finally` has to do
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
