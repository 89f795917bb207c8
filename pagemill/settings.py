"""Settings: what a run does, typed and checked; `pagemill.config` reads them from a file.

An option exists because two real runs need different values. Once they are checked the rest of
the code trusts what it gets.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from pagemill.errors import ErrorKind
from pagemill.status import Status


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _in_utc(value: datetime | None) -> datetime | None:
    return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Renderer(StrEnum):
    """Which library draws PDF pages: pdfium first and poppler second, or one alone."""

    AUTO = "auto"
    PDFIUM = "pdfium"
    POPPLER = "poppler"


class Runner(StrEnum):
    """Where engines live: in this process, in a child for each GPU, on a Ray cluster."""

    THREAD = "thread"
    PROCESS = "process"
    RAY = "ray"


class WhenBusy(StrEnum):
    """What a run does when another one works on the same recipe."""

    WAIT = "wait"
    STOP = "stop"
    SHARE = "share"


class Model(_Part):
    """The model that reads, and how it is loaded."""

    name: str = Field(description="the loader, one of `create_vlm_loader`'s names")
    id: str = Field(description="hub id, or a folder: ./, ../ (from the config file) or /")
    revision: str | None = Field(None, description="hub commit; pin it for reproducible runs")
    framework: Literal["transformers", "vllm", "sglang", "openai", "echo"] = "transformers"
    quantization: Literal["none", "4bit", "8bit", "awq"] = "none"
    device: str = "cuda"
    max_memory_gb: int | None = Field(None, ge=1)
    trust_remote_code: bool = Field(False, description="run code that the checkpoint brings along")
    batch_size: int = Field(
        8, ge=1, le=65_536, description="requests that the engine reads at once"
    )
    confidence: bool = Field(
        True, description="ask how sure it was; false for an endpoint that takes no logprobs"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="passed to the framework as they are"
    )


class Output(_Part):
    """One thing asked of every page; its name is a column."""

    prompt: str = Field(min_length=1)
    max_new_tokens: int = Field(1024, ge=1, le=1_000_000)
    temperature: float = Field(0.0, ge=0)


class Render(_Part):
    """How a page becomes pixels. All of it is part of the recipe."""

    renderer: Renderer = Renderer.AUTO
    max_pixels: int = Field(
        1_310_720, ge=784, le=100_000_000, description="of a page as the model gets it"
    )
    max_dpi: int = Field(
        200, ge=36, le=4800, description="small PDF pages are not enlarged beyond this"
    )
    multiple_of: int = Field(28, ge=1, description="sides are multiples of this (patch × merge)")
    blank_ink: float = Field(
        2e-5, ge=0, lt=1, description="a page with less ink than this share of pixels is blank"
    )
    text_layer: Literal["never", "fallback", "prefer"] = Field(
        "fallback",
        description="a PDF's own text: where the model fails, or instead of it where it is sound",
    )
    layer_sample: int = Field(
        1, ge=0, description="with prefer: pages of a document that the model reads as well first"
    )
    deskew: bool = Field(False, description="turn scans by up to 5 degrees until lines are level")
    turned: bool = Field(
        False, description="where the model loops or is unsure, show it the page turned as well"
    )
    animation: Literal["first", "all"] = Field(
        "first", description="frames of an animation that are pages"
    )


class Limits(_Part):
    """Bounds on what one document may cost. Beyond them: a row that says which, not a crash."""

    max_file_mb: int = Field(2048, ge=1, description="of a file")
    max_pages: int = Field(10_000, ge=1, description="further pages are rows `skipped`")
    max_declared_pages: int = Field(100_000, ge=1, description="more: one row `failed`")
    max_image_pixels: int = Field(250_000_000, ge=1, description="of a decoded image")
    max_decoded_mb: int = Field(
        65_536, ge=1, description="of all frames of an image file; further ones fail"
    )
    seconds_per_page: float = Field(30, gt=0, description="to draw a page, for each renderer")
    seconds_per_document: float = Field(1800, gt=0, description="to draw all of its pages")
    read_seconds: float = Field(
        1800, gt=0, description="for the model to read a page, once it has begun"
    )
    shard_seconds: float | None = Field(
        None,
        gt=0,
        description="for a shard, once the model is loaded; the rest fails until the next run",
    )
    memory_mb: int = Field(
        1536,
        ge=256,
        le=16_777_216,
        description="address space of a render process: all decoded at one time",
    )
    stack_mb: int = Field(
        8, ge=1, le=16_777_216, description="of a render process: what is nested deeper dies"
    )


class Redo(_Part):
    """Committed pages that count as missing: those of which all that is given here is true."""

    status: list[Status] = []
    error_kind: list[ErrorKind] = []
    confidence_below: float | None = Field(
        None, gt=0, le=1, description="mean probability of a token, of any output"
    )
    before: datetime | None = Field(None, description="rows made before this time (UTC)")

    _utc = field_validator("before")(_in_utc)

    def __bool__(self) -> bool:
        return self != Redo()


class Select(_Part):
    """What is in scope: objects of the source, and which committed pages to read again.

    Objects out of scope are only counted. What the storage does not tell (a size, a time)
    excludes nothing.
    """

    include: list[str] = Field(["*"], description="globs on the path below SOURCE")
    exclude: list[str] = Field([], description="globs on the path below SOURCE")
    foreign: Literal["by_name", "skipped", "failed"] = Field(
        "by_name",
        description="status of what is no document; by_name: failed if it is called one (lie.pdf)",
    )
    modified_since: datetime | None = Field(None, description="UTC, as 2026-01-31 or with a time")
    modified_until: datetime | None = Field(None, description="UTC; that instant excluded")
    min_bytes: int | None = Field(None, ge=0, description="of a document, at least")
    max_bytes: int | None = Field(None, ge=0, description="of a document, at most")
    partition: str | None = Field(
        None, description="i/n: the i-th of n shares, by a hash of the uri, for n hosts"
    )
    sample: int | None = Field(None, ge=1, description="so many documents, always the same ones")
    pages: str | None = Field(None, description="first-last, such as 1-3 or 5-, of each document")
    made_by: str | None = Field(None, description="only documents that this recipe of OUT holds")
    not_made_by: str | None = Field(None, description="only those that it does not hold")
    new: bool = Field(True, description="false: read only what `redo` names")
    redo: Redo = Redo()

    _utc = field_validator("modified_since", "modified_until")(_in_utc)

    @field_validator("partition")
    @classmethod
    def _is_a_share(cls, value: str | None) -> str | None:
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", value or "1/1")
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"{value!r}: write i/n with i from 1 to n, such as 2/8")
        return value

    @field_validator("pages", mode="before")
    @classmethod
    def _is_a_range(cls, value: str | int | None) -> str | None:
        if value is None:
            return None
        match = re.fullmatch(r"([0-9]{1,6})(-([0-9]{1,6})?)?", str(value))
        if not match or not 1 <= int(match[1]) <= int(match[3] or match[1]):
            raise ValueError(f"{value!r}: write first-last, such as 1-3, 7 or 5-")
        return str(value)

    @model_validator(mode="after")
    def _bounds_agree(self) -> Select:
        since, until = self.modified_since, self.modified_until
        if since and until and since >= until:
            raise ValueError("select.modified_since is not before select.modified_until")
        if None not in (self.min_bytes, self.max_bytes) and self.min_bytes > self.max_bytes:  # type: ignore[operator]
            raise ValueError("select.min_bytes is above select.max_bytes")
        if not self.new and not self.redo:
            raise ValueError("select.new is false and select.redo names nothing: nothing to do")
        return self

    def share(self) -> tuple[int, int]:
        """`partition` as numbers: the i-th of n."""
        number, _, count = (self.partition or "1/1").partition("/")
        return int(number), int(count)

    def page_range(self, last: int) -> range:
        """The page numbers in scope, up to `last`."""
        first, dash, end = (self.pages or "1-").partition("-")
        return range(int(first), min(int(end or last) if dash else int(first), last) + 1)


class Work(_Part):
    """How the job is cut and fed."""

    shard_documents: int = Field(64, ge=1, description="documents of a shard, at most")
    shard_mb: int = Field(256, ge=1, description="bytes of a shard's documents, about")
    part_pages: int = Field(512, ge=1, description="rows of a part before it is committed")
    shards_in_flight: int = Field(
        2,
        ge=1,
        le=1_000,
        description="drawn at once by each worker; more while its engine has too little",
    )
    gpu_hour_price: float | None = Field(
        None, ge=0, description="in your money; plans and balance sheets then say what it comes to"
    )
    runner: Runner = Field(Runner.THREAD, description="where the workers are")
    workers: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="of process and ray; by default as many as the GPUs have room for, else one",
    )
    gpus_per_worker: int | None = Field(
        None, ge=1, description="by default as many as model.options split it over, else one"
    )
    workers_per_gpu: int = Field(
        1, ge=1, le=16, description="for models so small that one engine leaves the GPU idle"
    )
    ray_address: str | None = Field(None, description="host:port; by default RAY_ADDRESS or here")
    when_busy: WhenBusy = Field(
        WhenBusy.WAIT, description="when another run works on the same recipe"
    )


class StorageOptions(_Part):
    """How to reach object storage. Keys come from the environment or a profile, never from here."""

    endpoint_url: str | None = Field(None, description="of an S3 service that is not AWS's")
    region: str | None = None
    profile: str | None = Field(None, description="whose keys to take from ~/.aws")
    anonymous: bool = Field(False, description="send no keys: for public buckets")
    requester_pays: bool = Field(False, description="read buckets that charge the reader")


_SPLIT = {
    "vllm": ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
    "sglang": ("tp_size", "pp_size", "dp_size"),
}
"""Options of a framework that split a model over GPUs; their product is how many."""


def _gpus_split_over(model: Model) -> int:
    return math.prod(model.options.get(o, 1) for o in _SPLIT.get(model.framework, ()))


Secret = Annotated[str, StringConstraints(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+)$")]
"""Where a secret is: never the secret itself."""


class Settings(_Part):
    """One run's settings. See `configs/` for ready ones, one for each real use."""

    model: Model
    outputs: dict[str, Output]
    render: Render = Render()
    limits: Limits = Limits()
    select: Select = Select()
    work: Work = Work()
    storage: StorageOptions = StorageOptions()
    source_storage: StorageOptions | None = Field(
        None, description="how to reach SOURCE, where that is not how to reach OUT"
    )
    passwords: dict[str, Secret] = Field(
        default_factory=dict,
        description="glob on a PDF's uri: where its password is, env:NAME or file:/path",
    )

    @property
    def at_source(self) -> StorageOptions:
        """How to reach SOURCE."""
        return self.source_storage or self.storage

    @property
    def gpus_per_worker(self) -> int:
        """GPUs that an engine takes."""
        return self.work.gpus_per_worker or _gpus_split_over(self.model)

    @field_validator("outputs")
    @classmethod
    def _names_are_columns(cls, outputs: dict[str, Output]) -> dict[str, Output]:
        from pagemill.schema import RESERVED  # the schema imports pyarrow; settings need not

        if not outputs:
            raise ValueError("name at least one output, such as text")
        for name in outputs:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
                raise ValueError(f"output {name!r}: use a lower-case word (letters, digits, _)")
            if name in RESERVED:
                raise ValueError(
                    f"output {name!r}: that column exists already, choose another name"
                )
        return outputs

    @model_validator(mode="after")
    def _limits_agree(self) -> Settings:
        if self.limits.max_pages > self.limits.max_declared_pages:
            raise ValueError("limits.max_pages is above limits.max_declared_pages")
        return self

    @model_validator(mode="after")
    def _gpus_agree(self) -> Settings:
        split, given = _SPLIT.get(self.model.framework, ()), self.work.gpus_per_worker
        for option in split:
            number = self.model.options.get(option, 1)
            if type(number) is not int or number < 1:
                raise ValueError(f"model.options.{option}: {number!r} is no number of GPUs")
        if split and given and given != _gpus_split_over(self.model):
            raise ValueError(
                f"work.gpus_per_worker: {given}, but the model is split over "
                f"{_gpus_split_over(self.model)}: say model.options.{split[0]}: {given}"
            )
        return self

    @model_validator(mode="after")
    def _gpus_are_shared(self) -> Settings:
        said = f"work.workers_per_gpu: {self.work.workers_per_gpu}"
        if self.work.workers_per_gpu == 1:
            return self
        if self.work.runner != Runner.PROCESS:
            raise ValueError(f"{said} of them need work.runner: process")
        if self.gpus_per_worker > 1:
            raise ValueError(f"{said}, but a worker takes {self.gpus_per_worker} GPUs")
        if self.model.framework == "sglang":
            raise ValueError(f"{said}: SGLang does not share a GPU; use model.framework: vllm")
        if self.model.framework == "vllm" and self.model.max_memory_gb is None:
            raise ValueError(
                f"{said}: say model.max_memory_gb, what each may take of the GPU's memory; left "
                "alone, vLLM takes nearly all of it"
            )
        return self
