"""SeaweedFS, a real S3 server from a wheel, on the loopback: for tests and benchmarks.

    with serving() as server:
        Storage(f"s3://{server.bucket()}/out", server.options)

It checks keys, does multipart and honours If-Match and If-None-Match.
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
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from pagemill.settings import StorageOptions

ADMIN = ("pagemilladmin", "pagemilladminsecret0123456789")
READER = ("pagemillreader", "pagemillreadersecret9876543210")
READER_BUCKET = "reader-bucket"
PUBLIC_BUCKET = "public-bucket"


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

    def put_multipart(self, bucket: str, key: str, parts: list[bytes]) -> str:
        """Write an object in parts (of 5 MiB at least, but for the last); return its etag."""
        from pagemill.urls import filesystem

        call = filesystem(f"s3://{bucket}", self.options)[0].call_s3
        at = {"Bucket": bucket, "Key": key}
        at["UploadId"] = call("create_multipart_upload", **at)["UploadId"]
        done = [
            {"PartNumber": n, "ETag": call("upload_part", PartNumber=n, Body=part, **at)["ETag"]}
            for n, part in enumerate(parts, start=1)
        ]
        done = call("complete_multipart_upload", MultipartUpload={"Parts": done}, **at)
        return str(done["ETag"]).strip('"')

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


def _identities() -> list[dict[str, object]]:
    read = [f"Read:{READER_BUCKET}/open/*", f"List:{READER_BUCKET}"]
    public = [f"Read:{PUBLIC_BUCKET}", f"List:{PUBLIC_BUCKET}"]
    return [
        _identity("admin", ADMIN, ["Admin"]),
        _identity("reader", READER, read),
        {"name": "anonymous", "actions": public},
    ]


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


@contextlib.contextmanager
def serving() -> Iterator[S3Server]:
    """A running server; its admin keys are in the environment meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="pagemill-s3-"))
    (folder / "s3.json").write_text(json.dumps({"identities": _identities()}))
    ports = free_ports(8)
    server = S3Server(f"http://127.0.0.1:{ports[6]}", folder)
    log = folder / "weed.log"
    keys = {
        "AWS_ACCESS_KEY_ID": ADMIN[0],
        "AWS_SECRET_ACCESS_KEY": ADMIN[1],
        "AWS_SHARED_CREDENTIALS_FILE": str(_write_profiles(folder)),
        "AWS_CONFIG_FILE": str(folder / "no-config"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with mock.patch.dict(os.environ, keys), log.open("wb") as stderr:
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
