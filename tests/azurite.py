"""Azurite, Microsoft's emulator of Azure's blob storage, on the loopback: for tests.

    with serving() as service:       # a BlobServiceClient
        service.create_container("scans")

It is an npm package (``npm install -g azurite``; 370 packages, so nothing here installs it): it is
run where ``azurite-blob`` is on the PATH, or where ``AZURITE`` names it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING
from unittest import mock

from tests.seaweed import die_with_parent, free_ports

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient

PROGRAM = shutil.which(os.environ.get("AZURITE", "azurite-blob"))
KEY = "cGFnZW1pbGw="


def connection(port: int, key: str = KEY) -> str:
    """The connection string of an account on the loopback."""
    return (
        f"DefaultEndpointsProtocol=http;AccountName=pagemill;AccountKey={key};"
        f"BlobEndpoint=http://127.0.0.1:{port}/pagemill;"
    )


@contextlib.contextmanager
def serving() -> Iterator[BlobServiceClient]:
    """A running emulator; its connection string is in the environment meanwhile."""
    from azure.storage.blob import BlobServiceClient

    assert PROGRAM
    (port,) = free_ports(1)
    options = ["--inMemoryPersistence", "--disableTelemetry", "--silent", "--skipApiVersionCheck"]
    accounts = {"AZURITE_ACCOUNTS": f"pagemill:{KEY}"}
    keys = {"AZURE_STORAGE_CONNECTION_STRING": connection(port)}
    with tempfile.TemporaryFile() as log, mock.patch.dict(os.environ, keys):
        process = subprocess.Popen(
            [PROGRAM, *options, "--blobPort", str(port)],
            env={**os.environ, **accounts},
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
        )
        try:
            _wait_until_ready(process, port)
            yield BlobServiceClient.from_connection_string(connection(port))
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError("Azurite did not start")
