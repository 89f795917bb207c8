"""A proxy before an S3 server that makes what goes wrong go wrong: seeded, on the loopback.

    with FaultProxy(server.endpoint_url, seed=1, rate=0.1) as proxy:
        out = Storage("s3://bucket/out", proxy.options)
        ...
        proxy.faults    # Counter({'lost': 3, 'slow_down': 2, ...})

With a `rate` every request meets a random fault with that probability. With `proxy.decide` set,
that function says what each request meets: the name of a fault, or None.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pagemill.settings import StorageOptions

ERRORS: dict[str, tuple[int, str]] = {
    "internal": (500, "InternalError"),
    "unavailable": (503, "ServiceUnavailable"),
    "slow_down": (503, "SlowDown"),
    "denied": (403, "AccessDenied"),
    "archived": (403, "InvalidObjectState"),
    "skewed": (403, "RequestTimeTooSkewed"),
}
"""Answers in the server's place."""

PASSING = ("internal", "unavailable", "slow_down", "refused", "lost", "cut", "late", "stale")
"""Faults that a run has to live with.

``refused``: the connection closes and the request never arrived; ``lost``: it was carried out,
and the answer never comes; ``cut``: half an answer comes; ``late``: it takes a while; ``stale``:
a listing is one of before. Besides these there is ``hang``: no answer at all.
"""


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @property
    def lists(self) -> bool:
        """Whether it asks for a listing."""
        return "list-type" in self.query


class FaultProxy:
    """See the module. A context manager.

    Attributes
    ----------
    options : StorageOptions
        Reach the server through it.
    decide : callable
        From a `Request` to the name of a fault, or None.
    before : callable
        Called with each `Request`, before it is met.
    requests : list of Request
    faults : Counter
    outdated : list of Request
        Those that were answered with a listing of before, and not as it was by then.
    """

    def __init__(
        self, endpoint_url: str, seed: int = 0, rate: float = 0, kinds: tuple[str, ...] = PASSING
    ) -> None:
        self._server = urlsplit(endpoint_url).netloc
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._rate, self._kinds = rate, kinds
        self._listings: dict[str, list[bytes]] = defaultdict(list)
        self._closing = threading.Event()
        self.decide: Callable[[Request], str | None] = self._at_random
        self.before: Callable[[Request], None] = lambda _: None
        self.requests: list[Request] = []
        self.faults: Counter[str] = Counter()
        self.outdated: list[Request] = []
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._listener.daemon_threads = True
        url = f"http://127.0.0.1:{self._listener.server_port}"
        self.options = StorageOptions(endpoint_url=url)

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._listener.shutdown()
        self._listener.server_close()

    def strike(self, fault: str, method: str = "", times: int = 1) -> None:
        """Let the next requests (with this HTTP method) meet a fault, and no others."""
        left = [fault] * times
        self.decide = lambda r: left.pop() if left and method in ("", r.method) else None

    def _at_random(self, request: Request) -> str | None:
        kinds = [kind for kind in self._kinds if kind != "stale" or request.lists]
        return self._random.choice(kinds) if self._random.random() < self._rate else None

    def _fault(self, request: Request) -> str | None:
        with self._lock:
            self.requests.append(request)
            fault = self.decide(request)
            self.faults.update([fault] if fault else [])
        return fault

    def _meet(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request, one way or another."""
        url = urlsplit(handler.path)
        query = parse_qs(url.query, keep_blank_values=True)
        request = Request(handler.command, url.path, query, dict(handler.headers.items()))
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.before(request)
        fault = self._fault(request)
        if fault in ERRORS:
            self._refuse(handler, *ERRORS[fault])
            return
        if fault == "hang":
            self._closing.wait(60)
        if fault in ("hang", "refused"):
            self._hang_up(handler)
            return
        if fault == "late":
            self._closing.wait(self._random.uniform(0, 0.3))
        status, headers, answer = self._ask(handler, body)
        if request.lists:
            now, answer = answer, self._listing(handler.path, answer, fault == "stale")
            self.outdated += [request] if answer != now else []
        if fault == "lost":
            self._hang_up(handler)
            return
        self._answer(handler, status, headers, answer, cut=fault == "cut")

    def _ask(
        self, handler: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(self._server, timeout=60)
        with contextlib.closing(connection):
            headers = {k: v for k, v in handler.headers.items() if k.lower() != "expect"}
            connection.request(handler.command, handler.path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()

    def _listing(self, asked: str, now: bytes, stale: bool) -> bytes:
        with self._lock:
            before = self._listings[asked]
            before.append(now)
            return self._random.choice(before[-5:]) if stale else now

    def _answer(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        cut: bool,
    ) -> None:
        handler.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                handler.send_header(name, value)
        size = headers.get("Content-Length", "0") if handler.command == "HEAD" else f"{len(body)}"
        if status != 204:
            handler.send_header("Content-Length", size)
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._hang_up(handler)

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
        data = b"" if handler.command == "HEAD" else body.encode()
        self._answer(handler, status, {"Content-Type": "application/xml"}, data, cut=False)

    def _hang_up(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(OSError):  # the client has hung up
                    proxy._meet(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
