"""A PostgreSQL server of Debian's packages on the loopback, thrown away at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from seaweed import free_ports


def binaries() -> Path | None:
    """Where the server's programs are, if they are installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A server with an empty database; its URL for Prefect."""
    bin_folder = binaries()
    assert bin_folder is not None
    (port,) = free_ports(1)
    user = "postgres" if os.getuid() == 0 else None  # it refuses root; Debian brings this one
    # Under /tmp itself: pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="pagemill-pg-") as folder:
        if user:
            shutil.chown(folder, user)

        def run(program: str, *words: str) -> None:
            command = [bin_folder / program, "-D", f"{folder}/data", *words]
            done = subprocess.run(
                command, user=user, cwd=folder, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done.stdout + done.stderr

        run("initdb", "-U", "prefect", "--auth=trust", "--no-sync", "--encoding=UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -F"
        run("pg_ctl", "start", "-w", "-l", f"{folder}/log", "-o", options)
        try:
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "stop", "-m", "immediate")
