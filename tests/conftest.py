"""Shared fixtures: a real S3 server, what goes wrong before it, and small helpers."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from loaders.echo import EchoEngine
from loaders.engine import Request
from pagemill.settings import Settings
from tests.fault_proxy import FaultProxy
from tests.seaweed import PUBLIC_BUCKET, READER_BUCKET, S3Server, serving


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indexes are kept in a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _unfreeze() -> Iterator[None]:
    """In the end the garbage collector sees everything again."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _freeze() -> None:
    """What is imported and kept by now is out of the garbage collector's sight.

    With all of torch, Prefect and Ray in it, every collection would take a second, and to unload a
    model takes several.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """Ctrl-C works here, and in what is started from here, also where a shell has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """A function that makes ``prefect/`` in a folder for PREFECT_HOME.

    Its database is there already, since Prefect takes three seconds to make one.
    """
    made = tmp_path_factory.mktemp("home") / "prefect"
    code = "from flows.prefect_api import prefect_api, quiet\nquiet()\nwith prefect_api(): pass"
    environment = {**os.environ, "PREFECT_HOME": str(made), "PREFECT_API_URL": ""}
    project = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=project, env=environment, check=True)
    return lambda folder: str(shutil.copytree(made, folder / "prefect"))


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server on the loopback; its admin keys are in the environment meanwhile."""
    with serving() as server:
        yield server


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every request that reaches the engine."""
    requests: list[Request] = []
    submit = EchoEngine.submit

    def record(self: EchoEngine, request: Request) -> Any:
        requests.append(request)
        return submit(self, request)

    monkeypatch.setattr(EchoEngine, "submit", record)
    return requests


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one core: in models so small, threads wait for each other more than they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again without waiting, and give up what is silent for a second."""
    monkeypatch.setattr("pagemill.s3.pause", lambda _: 0.0)
    monkeypatch.setattr("tasks.fetch.pause", lambda _: 0.0)
    monkeypatch.setattr("tasks.list_other.pause", lambda _: 0.0)

    async def no_sleep(_: float) -> None:
        await asyncio.sleep(0)

    # s3fs sleeps for 0.1 s even where it does not try again.
    others = SimpleNamespace(**{**vars(asyncio), "sleep": no_sleep})
    monkeypatch.setattr("s3fs.core.asyncio", others)


@pytest.fixture
def unprivileged() -> Iterator[Callable[[], None]]:
    """A function that drops root's rights until the test ends, so that permissions count."""
    was = os.geteuid()
    yield lambda: os.seteuid(65534) if was == 0 else None
    os.seteuid(was)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that other users may enter (pytest's own is closed to them)."""
    folder = Path(tempfile.mkdtemp(prefix="pagemill-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    """What stands before the S3 server and makes it fail, when told to."""
    with FaultProxy(s3.endpoint_url) as running:
        yield running


@pytest.fixture(scope="session")
def public_bucket(s3: S3Server) -> str:
    """The bucket that anybody may list and read, without keys."""
    return s3.bucket(PUBLIC_BUCKET)


@pytest.fixture(scope="session")
def reader_bucket(s3: S3Server) -> str:
    """The bucket in which the profile `reader` may list all, but read only below ``open/``."""
    return s3.bucket(READER_BUCKET)


def settings_for(**parts: Any) -> Settings:
    """Settings with these parts, given as models or as plain data, and a model of no account."""
    plain = {name: p.model_dump() if isinstance(p, BaseModel) else p for name, p in parts.items()}
    base = {
        "model": {"name": "qwen25vl", "id": "echo", "framework": "echo"},
        "outputs": {"text": {"prompt": "Read."}},
    }
    return Settings.model_validate({**base, **plain})


class WebServer:
    """A web server on the loopback: what was given to `serve`, or the status in the path."""

    def __init__(self) -> None:
        self._data, self._version = b"bytes", 1
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                status = int(self.path[-3:]) if self.path[-3:].isdigit() else 200
                self.send_response(status)
                self.send_header("Content-Length", str(len(outer._data)))
                self.send_header("ETag", f'"tag-{outer._version}"')
                self.send_header("Last-Modified", "Tue, 02 Jan 2024 03:04:05 GMT")
                self.end_headers()

            def do_GET(self) -> None:
                self.do_HEAD()
                self.wfile.write(outer._data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def serve(self, data: bytes) -> str:
        """Give these bytes under every path from now on, with a new etag; returns a URL."""
        self._version += data != self._data
        self._data = data
        return f"{self.url}/a.pdf"


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server."""
    running = WebServer()
    threading.Thread(target=running.server.serve_forever, args=(0.02,), daemon=True).start()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a family's name to the folder of its tiny checkpoint (`tests.tiny`)."""
    from tests.tiny import build

    root = tmp_path_factory.mktemp("tiny")

    def folder(family: str) -> Path:
        done = root / family
        return done if done.exists() else build(family, done)

    return folder
