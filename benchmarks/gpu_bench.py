"""What the parts of `gpu.py` share: one model, one engine, pages that are drawn once."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import ECHO, emit, say
from benchmarks.pages import TEXT, Reader, draw_all, write_documents

if TYPE_CHECKING:
    from PIL.Image import Image

    from loaders.engine import Completion, Engine
    from pagemill.settings import Settings

WARM_TOKENS = 8


def make_bench(
    folder: Path,
    framework: str,
    pages: int,
    chosen: tuple[str, ...],
    label: str,
    append: bool,
    **asked: Any,
) -> Bench:
    """The benchmark that the options ask for."""
    from pagemill.config import parse_overrides

    reader = Reader(**asked)
    text = {"prompt": TEXT, "max_new_tokens": reader.tokens, "temperature": reader.temperature}
    overrides: dict[str, Any] = {
        "outputs": {"text": text},
        "model.batch_size": reader.batch_size,
        "work.shard_documents": 2 if reader.small else 32,
        "render.max_pixels": reader.max_pixels,
    }
    if framework != "echo":
        dummy = {"load_format": "dummy"} if reader.shapes else {}
        arguments = {"max_model_len": 8192, **dummy} if framework == "vllm" else {}
        overrides |= {
            "model.id": str(reader.checkpoint(folder)),
            "model.framework": framework,
            "model.device": reader.device,
            "model.options": arguments,
        }
    config = ECHO if framework == "echo" else "qwen25vl-7b-bf16"
    about = {"label": label, "model": reader.model, "set": list(chosen), "tokens": reader.tokens}
    overrides |= parse_overrides(chosen)
    return Bench(folder, config, overrides, pages, reader.documents, about, append)


@dataclass
class Bench:
    """What the parts share: one model, one engine, pages that are drawn once."""

    folder: Path
    config: str
    overrides: dict[str, Any]
    pages: int
    documents: Path | None
    about: dict[str, Any]
    append: bool
    broken: bool = False  # the model cannot be loaded: no need to try again
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def isolated(self, what: str) -> Iterator[None]:
        """What fails here is told, and the rest goes on; the exit code says it at the end."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed.append(what)
            why = f"{type(error).__name__}: {error}"
            print(json.dumps({"failed": what, "why": why}), flush=True)

    @cached_property
    def settings(self) -> Settings:
        """As the flow will make them of config and overrides."""
        from pagemill.config import load_settings

        return load_settings(self.config, self.overrides)

    @cached_property
    def source(self) -> Path:
        """The documents."""
        folder = write_documents(self.folder / "source", self.pages, self.documents)
        say(f"written: {self.pages} pages of PDF")
        return folder

    @cached_property
    def images(self) -> list[Image]:
        """All pages."""
        drawn = draw_all(self.source, self.settings)
        say(f"drawn: {len(drawn)} pages that are not blank")
        return drawn

    @cached_property
    def engine(self) -> Engine:
        """The resident engine, warm. The pages are drawn while it is loaded."""
        from loaders.resident import resident

        drawing = threading.Thread(target=lambda: self.images, name="drawing")
        drawing.start()
        self.broken = True
        say("loading the model")
        engine = resident(self.settings.model)
        self.broken = False
        say(f"loaded {engine.version} in {engine.load_seconds:.1f} s")
        drawing.join()
        few = self.images[: 2 * engine.capacity]
        say(f"warming up: one page, then {len(few)}, {WARM_TOKENS} tokens each")
        for images in (few[:1], few):
            lap = self.ask(engine, images, {TEXT: WARM_TOKENS})
            said = ", ".join(f"{at:.1f} s" for at in (lap["first"], lap["half"], lap["seconds"]))
            say(f"warm-up of {len(images)}: the first, half and all answers after {said}")
        return engine

    def ask(
        self, engine: Engine, images: Sequence[Image], prompts: dict[str, int]
    ) -> dict[str, Any]:
        """Every request of every page at once, then wait for all.

        ``first`` and ``half``: when that many answers were there, in seconds.
        """
        from loaders.engine import Request

        model, heat = self.settings.model, self.settings.outputs["text"].temperature
        began = time.perf_counter()
        futures = [
            engine.submit(Request((image,), prompt, tokens, heat, "", model.confidence))
            for image in images
            for prompt, tokens in prompts.items()
        ]
        ends = [time.perf_counter() - began for _ in as_completed(futures)]
        done = [future.result() for future in futures]
        seconds = round(time.perf_counter() - began, 3)
        at = {"first": round(ends[0], 3), "half": round(ends[len(done) // 2], 3)}
        return {"seconds": seconds, **at, **_said(done)}

    def report(self, part: str, result: dict[str, Any]) -> None:
        """Print a part's JSON line, and keep it if asked."""
        settings = self.settings.model
        about = {
            **self.about,
            "framework": settings.framework,
            "quantization": settings.quantization,
            "batch_size": settings.batch_size,
            "confidence": settings.confidence,
        }
        emit(f"gpu/{part}", {**about, **result}, self.append)


def _said(completions: Sequence[Completion]) -> dict[str, Any]:
    return {
        "prompt_tokens": sum(c.prompt_tokens for c in completions),
        "output_tokens": sum(c.completion_tokens for c in completions),
        "finish": dict(Counter(c.finish_reason for c in completions)),
    }
