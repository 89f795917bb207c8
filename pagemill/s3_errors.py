"""What goes wrong with S3, in words: one line that says what, where, why and what to do."""

from __future__ import annotations

import os
import re
from typing import Any

from pagemill.errors import PagemillError, StorageError, UsageError

_REFUSED = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "InvalidSecurity",
    "TokenRefreshRequired",
    "AuthFailure",
}
_DENIED = {"403", "AccessDenied", "Forbidden", "AllAccessDisabled", "AccountProblem"}
_MISSING = {"404", "NotFound", "NoSuchKey"}
_REGION = {
    "301",
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
_BUSY = {
    *("429", "500", "502", "503", "504", "SlowDown", "ServiceUnavailable", "InternalError"),
    *(
        "RequestTimeout",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "RequestLimitExceeded",
    ),
}
_SECRETS = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"),
    *("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"),
)
_PASSING = {"Busy", "Broken", "Unreachable"}


class S3Error(StorageError):
    """An S3 call that failed.

    Attributes
    ----------
    code : str
        S3's own error code, but with one name where it has several: ``NoSuchKey``,
        ``NoSuchBucket``, ``AccessDenied``, ``Refused`` (the keys), ``PreconditionFailed``,
        ``Unreachable``, ``TimedOut``, ``Broken`` (an answer cut midway), ``Busy``, ``Changed``
        (the object, while it was read).
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code

    @property
    def passes(self) -> bool:
        """Whether another try may succeed."""
        return self.code in _PASSING


def scrub(text: str) -> str:
    """`text` on one line, without passwords in URLs and without this process's keys."""
    text = re.sub(r"//[^/@\s]+@", "//***@", " ".join(text.split()))
    for name in _SECRETS:
        secret = os.environ.get(name, "")
        if len(secret) >= 8:  # a server on the desk takes "test", which other words hold, too
            text = text.replace(secret, "***")
    return text


def explain(error: Exception, doing: str, endpoint: str, seconds: float) -> PagemillError:
    """The error in words; one that is not about storage comes back as it is, to be raised."""
    from botocore import exceptions as boto  # type: ignore[import-untyped]

    if isinstance(error, PagemillError):
        return error
    if isinstance(error, boto.ProfileNotFound):
        return UsageError(f"storage.profile: {error}: see ~/.aws/credentials for the names")
    if isinstance(error, boto.ParamValidationError):
        return UsageError(f"{doing}: {scrub(str(error))}: check the name of the bucket")
    if isinstance(error, ValueError) and "Invalid endpoint" in str(error):
        return UsageError(f"storage.endpoint_url: {error}: write it as http://host:port")
    code, detail = _code(error)
    cause, remedy = {
        "AccessDenied": ("access denied", "give these keys the right to it, or use others"),
        "Refused": ("the keys are refused", "check AWS_ACCESS_KEY_ID and so on, or the profile"),
        "NoCredentials": (
            "no keys",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, storage.profile, or "
            "storage.anonymous=true for a public bucket",
        ),
        "NoSuchBucket": ("no such bucket", "check its name, or create it"),
        "NoSuchKey": ("no such object", "check the name"),
        "InvalidObjectState": ("archived", "restore the object first"),
        "RequestTimeTooSkewed": ("this machine's clock is wrong", "set it"),
        "Region": ("the bucket is in another region", "set storage.region"),
        "Unreachable": (f"cannot reach {endpoint}", "check storage.endpoint_url and the network"),
        "TimedOut": (f"no answer in {seconds:.0f} s", "run again: what is committed stays"),
        "Busy": ("the server fails", "run again later: what is committed stays"),
        "Broken": ("the connection broke midway", "run again: what is committed stays"),
        "PreconditionFailed": ("somebody else wrote it first", "look again"),
    }.get(code, ("refused", "see the server's log"))
    # The client's text names the request's URL, which may be long; the code says as much.
    return S3Error(scrub(f"{doing}: {cause}{f' ({detail})' if detail else ''}: {remedy}"), code)


def may_pass(error: Exception) -> bool:
    """Whether a client's or server's error is one after which another try may succeed."""
    return _code(error)[0] in _PASSING


def _code(error: Exception) -> tuple[str, str]:
    """One of `S3Error.code`'s names, and the server's or client's own words."""
    from aiohttp import ClientError as HttpError
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if response:
        return _server_code(response)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return "NoCredentials", ""
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError):
        return "NoCredentials", type(error).__name__
    cut = boto.ResponseStreamingError | boto.IncompleteReadError | ResponseParserError | HttpError
    if isinstance(error, cut):
        return "Broken", type(error).__name__
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError | ConnectionError):
        return "Unreachable", type(error).__name__
    if isinstance(error, TimeoutError):  # asyncio's and fsspec's are kinds of it
        return "TimedOut", ""
    if isinstance(error, OSError | boto.BotoCoreError):
        return "Unknown", f"{type(error).__name__}: {error}"
    raise error


def _server_code(response: Any) -> tuple[str, str]:
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    known = (
        ("Refused", _REFUSED),
        ("AccessDenied", _DENIED),
        ("NoSuchKey", _MISSING),
        ("Region", _REGION),
        ("Busy", _BUSY),
        ("PreconditionFailed", {"412", "PreconditionFailed"}),
    )
    name = next((name for name, codes in known if code in codes), code)
    if name == code and isinstance(status, int) and status >= 500:
        name = "Busy"
    return name, code if name != "NoSuchBucket" else ""
