"""Azure's blob storage as a source: the calls of `pagemill.s3` that read, and its error codes.

    azure = Azure(StorageOptions())
    with azure.open("container", "scans/a.pdf") as body:
        body.found, b"".join(body)

Microsoft's own client does it: it lists page by page, takes names as they are, and asks for each
range of a blob under the etag of the first, so that no two versions are mixed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from pagemill.errors import UsageError
from pagemill.s3 import CHUNK, SILENCE, S3Object
from pagemill.s3_errors import S3Error, scrub
from pagemill.settings import StorageOptions

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient

T = TypeVar("T")

TRIES = 6
"""Times that a request is made, before a failure that may pass is final: half a minute in all."""

_ACCOUNT = "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY"
_CODES = {
    "ContainerNotFound": "NoSuchBucket",
    "BlobNotFound": "NoSuchKey",
    "ResourceNotFound": "NoSuchKey",
    "BlobArchived": "InvalidObjectState",
    "BlobBeingRehydrated": "InvalidObjectState",
    "ConditionNotMet": "Changed",
    "AuthenticationFailed": "Refused",
    "NoAuthenticationInformation": "AccessDenied",
    "PublicAccessNotPermitted": "AccessDenied",
}
"""Azure's error codes that S3 knows under another name."""
_WORDS = {
    "AccessDenied": ("access denied", "give this account the right to it, or check its keys"),
    "Refused": ("the keys are refused", f"check {_ACCOUNT}"),
    "NoCredentials": (
        "no keys that can be used",
        f"set {_ACCOUNT}, sign in by `az login`, or give this machine a role; "
        "storage.anonymous=true for a public container",
    ),
    "NoSuchBucket": ("no such container", "check its name"),
    "NoSuchKey": ("no such blob", "check the name"),
    "InvalidObjectState": ("archived", "restore the blob first"),
    "Changed": ("it changes while it is read", "run again"),
    "Unreachable": ("cannot reach the account", f"check {_ACCOUNT}, and the network"),
    "Busy": ("the server fails", "run again later: what is committed stays"),
    "Broken": ("the connection broke midway", "run again: what is committed stays"),
}


class AzureError(S3Error):
    """An Azure call that failed; `code` is S3's name for why."""


class AzureBody:
    """A blob that is being read: iterate over it once.

    Attributes
    ----------
    found : S3Object
        Of exactly the bytes that are read.
    """

    def __init__(self, azure: Azure, container: str, key: str) -> None:
        self._call = partial(azure.run, "read", container, key)
        blob = azure.service.get_blob_client(container, key)
        self._stream = self._call(blob.download_blob)
        self.found = _object(self._stream.properties)

    def __enter__(self) -> AzureBody:
        return self

    def __exit__(self, *_: object) -> None:
        pass  # each range has come whole

    def __iter__(self) -> Iterator[bytes]:
        chunks = self._stream.chunks()
        while chunk := self._call(lambda: next(chunks, b"")):
            yield chunk


class Azure:
    """Calls to one storage account. Thread-safe; make one wherever it is needed, it is cheap.

    The account and its keys come from the environment: ``AZURE_STORAGE_CONNECTION_STRING``, or
    ``AZURE_STORAGE_ACCOUNT`` with ``AZURE_STORAGE_KEY``, ``AZURE_STORAGE_SAS_TOKEN`` or whatever
    azure-identity finds (a machine's role, ``az login``).

    Every method raises `AzureError`, a `StorageError`, in one line.

    Raises
    ------
    UsageError
        No account, a malformed connection string, or azure-storage-blob is not installed.
    """

    scheme = "az"

    def __init__(self, options: StorageOptions) -> None:
        names = ("CONNECTION_STRING", "ACCOUNT", "ACCOUNT_NAME", "KEY", "ACCOUNT_KEY", "SAS_TOKEN")
        string, *rest = (os.environ.get(f"AZURE_STORAGE_{name}") for name in names)
        account, secret = rest[0] or rest[1], rest[2] or rest[3] or rest[4]
        self.service = _service(string, account, secret, options.anonymous)

    def list(self, container: str, prefix: str) -> Iterator[S3Object]:
        """All blobs whose names begin with `prefix`, in their order; folders end with a slash."""
        at = self.service.get_container_client(container)
        blobs = iter(at.list_blobs(name_starts_with=prefix, include=["metadata"]))
        while blob := self.run("list", container, prefix, lambda: next(blobs, None)):
            yield _object(blob)

    def can_list(self, container: str, prefix: str) -> bool:
        """Whether these keys may list here: tells one forbidden blob from a forbidden container."""
        try:
            next(self.list(container, prefix), None)
        except AzureError as error:
            if error.code in ("AccessDenied", "Refused"):
                return False
            raise
        return True

    def head(self, container: str, key: str) -> S3Object | None:
        """The blob, or None where there is none, or only a folder."""
        blob = self.service.get_blob_client(container, key)
        try:
            found = _object(self.run("look at", container, key, blob.get_blob_properties))
        except AzureError as error:
            if error.code in ("NoSuchKey", "NoSuchBucket"):
                return None
            raise
        return None if found.key.endswith("/") else found

    def open(self, container: str, key: str) -> AzureBody:
        """Start to read a blob; use it as a context manager.

        Reading raises code ``Changed`` where the blob becomes another meanwhile.
        """
        return AzureBody(self, container, key)

    def run(self, doing: str, container: str, key: str, call: Callable[[], T]) -> T:
        """What `call` returns; its failures in words."""
        from azure.core.exceptions import AzureError as ClientError

        try:
            return call()
        except ClientError as error:
            raise _explained(error, f"cannot {doing} az://{container}/{key}") from None


def split_azure(url: str) -> tuple[str, str]:
    """Container and name of ``az://container/name``, the name as it is.

    Raises
    ------
    UsageError
        The URL names an account: that comes from the environment, as its keys do.
    """
    container, _, name = re.sub(r"^(az|abfss?)://", "", url).partition("/")
    if not container or "@" in container or "." in container:
        raise UsageError(
            f"{url}: write az://container/name; the account is no part of it: set {_ACCOUNT}"
        )
    return container, name


@lru_cache(8)
def _service(
    string: str | None, account: str | None, secret: str | None, anonymous: bool
) -> BlobServiceClient:
    try:
        from azure.identity import DefaultAzureCredential
        from azure.storage.blob import BlobServiceClient, ExponentialRetry
    except ImportError:
        raise UsageError("az:// needs another package: pip install 'pagemill[az]'") from None
    logging.getLogger("azure").setLevel(logging.CRITICAL)  # what it tries; our line has the outcome
    retry = ExponentialRetry(initial_backoff=0, random_jitter_range=1, retry_total=TRIES - 1)
    retry.increment_base = 2
    how: dict[str, Any] = {
        "retry_policy": retry,
        "connection_timeout": SILENCE,
        "read_timeout": SILENCE,
        "max_single_get_size": CHUNK,
        "max_chunk_get_size": CHUNK,
    }
    if string:
        try:
            service = BlobServiceClient.from_connection_string(string, **how)
        except ValueError:
            raise UsageError("AZURE_STORAGE_CONNECTION_STRING is malformed: copy it anew") from None
        return BlobServiceClient(service.url, **how) if anonymous else service
    if not account:
        raise UsageError(f"az://: no storage account: set {_ACCOUNT}")
    credential: Any = None if anonymous else secret or DefaultAzureCredential()
    if not (anonymous or secret):
        _try_out(credential)
    return BlobServiceClient(f"https://{account}.blob.core.windows.net", credential, **how)


def _try_out(credential: Any) -> None:
    """Get a token once; the storage client would try again for a minute where there is none."""
    from azure.core.exceptions import ClientAuthenticationError

    try:
        credential.get_token("https://storage.azure.com/.default")
    except ClientAuthenticationError as error:
        raise _explained(error, "cannot sign in to Azure") from None


def _object(blob: Any) -> S3Object:
    # Accounts with folders of their own list them as empty blobs.
    metadata = {name.lower(): value for name, value in (blob.metadata or {}).items()}
    is_folder = metadata.get("hdi_isfolder") == "true"
    name = f"{blob.name}/" if is_folder else blob.name
    return S3Object(name, blob.etag.strip('"'), blob.size, blob.last_modified)


def _explained(error: Exception, doing: str) -> AzureError:
    code = _code(error)
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    cause, remedy = _WORDS.get(code, (first_line, "see the account's log"))
    return AzureError(scrub(f"{doing}: {cause}: {remedy}"), code)


def _code(error: Exception) -> str:
    from azure.core import exceptions as azure

    status = getattr(error, "status_code", None)
    code = getattr(error, "error_code", None) or ""
    code = str(getattr(code, "value", code))
    if isinstance(error, azure.ServiceRequestError):
        return "Unreachable"
    if isinstance(error, azure.ClientAuthenticationError) and status is None:
        return "NoCredentials"
    if known := _CODES.get(code):
        return known
    if status in (401, 403):
        return "AccessDenied"
    if status == 404:
        return "NoSuchKey"
    if status == 429 or (status or 0) >= 500:
        return "Busy"
    return code if status else "Broken"
