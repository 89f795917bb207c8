"""The filter of system calls, tried from within a process that is under it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this machine"
)

TRIED = {
    "a connection": "socket.create_connection(('127.0.0.1', 9))",
    "a local socket": "socket.socketpair()",
    "a file written": "open(path, 'w')",
    "a file appended to": "open(path, 'ab')",
    "a file made without a name": "os.open('.', os.O_TMPFILE | os.O_RDWR)",
    "a file removed": "os.unlink(path)",
    "a file renamed": "os.rename(path, path + '2')",
    "a link": "os.symlink('/', path + '3')",
    "a folder": "os.mkdir(path + '4')",
    "a mode": "os.chmod(path, 0o777)",
    "a file shortened": "os.truncate(path, 0)",
    "a fork": "os.fork()",
    "a program": "os.execv('/bin/true', ['true'])",
    "a signal to the parent": "os.kill(os.getppid(), 15)",
    "a traced parent": "check(libc.ptrace(16, os.getppid(), 0, 0))",
    "a new name space": "check(libc.unshare(0x10000000))",
}
START = """
import ctypes, os, socket, subprocess, sys, threading
from tasks.seccomp import refuse_calls
path = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
def check(code):
    if code < 0: raise OSError(ctypes.get_errno(), 'refused')
libc.prctl(38, 1, 0, 0, 0)
assert refuse_calls({alone})
"""


def tried(
    code: str, path: Path, may_start_processes: bool = False
) -> subprocess.CompletedProcess[str]:
    start = START.format(alone=may_start_processes)
    command = [sys.executable, "-c", start + code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("attempt", TRIED.values(), ids=TRIED.keys())
def test_it_is_refused(attempt: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    code = f"try: {attempt}\nexcept PermissionError: print('refused')\nelse: print('done')"
    done = tried(code, path)
    assert done.stdout == "refused\n", done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_text() == "kept"


def test_reading_threads_and_dying_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("read")
    thread = "t = threading.Thread(target=lambda: print(open(path).read())); t.start(); t.join()"
    done = tried(f"{thread}; sys.stdout.flush(); os.abort()", path)
    assert done.stdout == "read\n" and done.returncode == -6


def test_with_leave_to_start_programs_these_are_under_it_too(tmp_path: Path) -> None:
    code = (
        "inner = 'import socket; socket.socket()'\n"
        "done = subprocess.run([sys.executable, '-c', inner], capture_output=True, text=True)\n"
        "print('PermissionError' in done.stderr)"
    )
    done = tried(code, tmp_path / "file", may_start_processes=True)
    assert done.stdout == "True\n", done.stderr
