"""The fork server, as its owner sees it: a warm, clean process that render children come from.

    child = fork_child((requests, frames, document, memory))
    ...
    child.end()                                  # killed, reaped, gone

It has imported what draws and has never seen a document. Each document gets a fork of it, so a
child costs some milliseconds instead of a Python start, and no document can touch the next one.
See `tasks.render_child` for the other side. There is one server in a process, started when first
needed; it dies with its owner, and its children with it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from pagemill.errors import PagemillError

COMMAND = [sys.executable, "-s", "-m", "tasks.render_child"]
_PROJECT = Path(__file__).resolve().parents[1]
_SECONDS = 120.0
"""Patience with a server on an overloaded machine; no document is read by it."""
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")


class ForkedChild:
    """A child of the server: killable, and not reaped before `end`, so its number stays its own."""

    def __init__(self, server: _Server, pid: int) -> None:
        self.pid = pid
        self._server = server
        self._pidfd = os.pidfd_open(pid)

    def cause(self, seconds: float) -> tuple[int, int] | None:
        """Its ``si_code`` and ``si_status`` if it ends within that time.

        Nobody knows them where the server was killed: then so was it.
        """
        if not self._ended(seconds):
            return None
        return self._server.look(self.pid) or (os.CLD_KILLED, signal.SIGKILL)

    def end(self) -> None:
        """Kill it and all that it started."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._ended(10):
            self._server.reap(self.pid)
        os.close(self._pidfd)

    def _ended(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(1000 * seconds))


def fork_child(descriptors: Sequence[int]) -> ForkedChild:
    """A new render child that has got these descriptors: requests, frames, document, memory.

    Raises
    ------
    PagemillError
        No server can be started.
    """
    global _current
    with _lock:
        if _current and _current.owner == os.getpid():
            with suppress(OSError, EOFError):  # it may have been killed meanwhile
                return _current.fork(descriptors)
            _current.close()
        _current = _Server(COMMAND)
        try:
            return _current.fork(descriptors)
        except (OSError, EOFError) as error:
            raise PagemillError(f"the render process cannot be started: {error}") from error


def server_pid() -> int | None:
    """The server of this process, if one runs."""
    return _current.pid if _current and _current.owner == os.getpid() else None


class _Server:
    def __init__(self, command: Sequence[str]) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_SECONDS)
        self._errors = os.memfd_create("stderr")
        started: Future[int] = Future()
        # The server dies with the thread that starts it: one that lives as long as the process.
        self._keeper = threading.Thread(
            target=_keep, args=(command, theirs, self._errors, started), daemon=True
        )
        self._keeper.start()
        try:
            self.pid = started.result()
            self._answer()
        except (OSError, EOFError) as error:
            why = self._last_error() or error
            self.close()
            raise PagemillError(f"the render process cannot start: {why}") from error

    def fork(self, descriptors: Sequence[int]) -> ForkedChild:
        """A new child."""
        with self._lock:
            socket.send_fds(self._control, [b'["fork"]'], descriptors)
            return ForkedChild(self, int(self._answer()))

    def look(self, pid: int) -> tuple[int, int] | None:
        """How a child has ended; it stays a zombie."""
        return self._ask("look", pid)

    def reap(self, pid: int) -> None:
        """Let an ended child go."""
        self._ask("reap", pid)

    def close(self) -> None:
        """End it. Its children die with it."""
        self._control.close()
        self._keeper.join(10)
        os.close(self._errors)

    def _ask(self, what: str, pid: int) -> tuple[int, int] | None:
        with self._lock, suppress(OSError, EOFError):  # then its children are dead as well
            self._control.send(json.dumps([what, pid]).encode())
            if answer := self._answer():
                return int(answer[0]), int(answer[1])
        return None

    def _answer(self) -> Any:
        message = self._control.recv(256)
        if not message:
            raise EOFError("the fork server has ended")
        return json.loads(message)

    def _last_error(self) -> str:
        lines = os.pread(self._errors, 1 << 16, 0).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


_current: _Server | None = None
_lock = threading.Lock()


def _keep(
    command: Sequence[str], control: socket.socket, errors: int, started: Future[int]
) -> None:
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    try:
        with control:
            process = subprocess.Popen(
                [*command, str(control.fileno())],
                cwd=_PROJECT,
                env=environment | {"LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(control.fileno(),),
                start_new_session=True,
            )
    except OSError as error:
        started.set_exception(error)
        return
    started.set_result(process.pid)
    process.wait()
