"""A server in a process group of its own, which ends when the process that started it does.

    server = Server([sys.executable, "-m", "some.server"], "http://127.0.0.1:30000/health", log)
    server.wait()
    server.stop()

Run as a module, this file is the keeper between the two: it starts the command, and ends it with
all its children when it is told to, or when its own parent is gone, however that went. (A signal
on the parent's death would not do: it comes when the *thread* that started the child ends.)
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import FrameType

from loaders.errors import LoadError

LOOK_EVERY = 0.2
GRACE = 10.0
"""Seconds between the request to end and the end."""


class Server:
    """A running server.

    Parameters
    ----------
    command : list of str
    health : str
        A URL that answers 200 once it can be used.
    log : Path
        Where its output goes.
    """

    def __init__(self, command: list[str], health: str, log: Path) -> None:
        self.health, self.log = health, log
        keeper = [sys.executable, str(Path(__file__).resolve()), str(os.getpid()), *command]
        with log.open("wb") as output:
            self._keeper = subprocess.Popen(
                keeper,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the parent, which then stops it
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._keeper.poll() is None

    def wait(self, seconds: float) -> None:
        """Until it can be used.

        Raises
        ------
        LoadError
            It ended, or took longer than `seconds`; the message ends with its last words.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.running:
                code = self._keeper.returncode
                raise LoadError(f"the server ended with code {code}: {self.last_words()}")
            if _answers(self.health):
                return
            time.sleep(LOOK_EVERY)
        raise LoadError(f"the server was not ready after {seconds:g} s: {self.last_words()}")

    def last_words(self, limit: int = 300) -> str:
        """The end of its log, on one line."""
        text = " ".join(self.log.read_text(errors="replace").split())
        return text[-limit:] or "it said nothing"

    def stop(self) -> None:
        """End it and its children. Twice is fine."""
        self._keeper.terminate()
        self._keeper.wait()


OWNER = "PAGEMILL_ENGINE_OWNER"
"""Environment variable: the process that loads a model, for the processes of its framework."""


def end_with_owner() -> None:
    """Kill this process, and the one that started it, as soon as who loads the model is gone."""
    owner, above = int(os.environ.get(OWNER, os.getpid())), os.getppid()
    if owner == os.getpid() or not hasattr(os, "pidfd_open"):
        return

    def wait() -> None:
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            select.select([os.pidfd_open(owner)], [], [])
        if above not in (owner, 1):
            with contextlib.suppress(ProcessLookupError):
                os.kill(above, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="owner", daemon=True).start()


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _answers(url: str) -> bool:
    # No proxy: it is on this host, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:  # refused, or an error status
        return False


def keep(parent: int, command: list[str]) -> int:
    """Run `command` until it ends, until SIGTERM, or until `parent` is no longer the parent."""
    told: list[int] = []

    def tell(number: int, _: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    server = subprocess.Popen(command, start_new_session=True)
    while server.poll() is None and not told and os.getppid() == parent:
        time.sleep(LOOK_EVERY)
    return _end(server)


def _end(server: subprocess.Popen[bytes]) -> int:
    """End the server's whole group: politely, then for certain."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    return server.wait()


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), sys.argv[2:]))
