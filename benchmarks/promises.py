"""What pagemill promises, and how the latest lines of results.jsonl speak of it.

`benchmarks.summary` makes the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_tables import mean_rate

SHAPES = ("documents", "long")
Line = dict[str, Any]
Pick = Callable[[Sequence[Line]], Any]
Told = tuple[str, bool | None]
"""What was measured, and whether that meets the target; None where none was set."""


@dataclass(frozen=True)
class Row:
    """A promise.

    Attributes
    ----------
    what, target : str
    picks : tuple of callable
        Each finds a line in all results, or some; None or nothing where there is none yet.
    tell : callable
        Of what was found.
    command : str
    headline : bool
        It is one of the few in the project's README.
    """

    what: str
    target: str
    picks: tuple[Pick, ...]
    tell: Callable[..., Told]
    command: str
    headline: bool = False


def last(benchmark: str, **having: Any) -> Pick:
    """The latest line of a benchmark with these values."""
    return lambda lines: next(
        (found for found in reversed(every(benchmark, **having)(lines))), None
    )


def every(benchmark: str, **having: Any) -> Callable[[Sequence[Line]], list[Line]]:
    """All lines of a benchmark with these values."""
    wanted = {"benchmark": benchmark, **having}
    return lambda lines: [
        line for line in lines if all(line.get(key) == value for key, value in wanted.items())
    ]


def _compared(lines: Sequence[Line]) -> Line | None:
    """The latest of `scaling.py` that was not cut off after its first rate, nor asked for one."""
    compared = [line for line in every("scaling")(lines) if "of_linear" in line]
    return compared[-1] if compared else None


# -- what is told of the lines -------------------------------------------------------------


def _none_of(line: Line) -> Told:
    return f"{line['failed']} of {line['runs']}", not line["failed"]


def _outcomes(line: Line) -> Told:
    found = line["pagemill"]["outcomes"]
    return f"{found['as_expected']} of {found['files']}", found["as_expected"] == found["files"]


def _fuzz(lines: list[Line]) -> Told:
    amiss, files = sum(len(line["amiss"]) for line in lines), sum(line["files"] for line in lines)
    return f"{amiss} of {files:,}", not amiss


def _gpu_ratio(line: Line, side: str = "files") -> Told:
    rates = [mean_rate(line["laps"], lap) for lap in (side, "engine")]
    ratio = rates[0] / rates[1] if all(rates) else 0.0
    return f"{ratio:.1%}, {rates[0]:.1f} of {rates[1]:.1f} pages/s", ratio >= 0.95


def _gpu_not_full(line: Line) -> Told:
    shares = [lap["hungry"] for lap in line["laps"] if lap["side"] == "files"]
    return " / ".join(f"{share:.1%}" for share in shares), max(shares) <= 0.03


def _not_full(line: Line) -> Told:
    shares = [line[shape]["hungry_share"] for shape in ("long", "short")]
    return " / ".join(f"{share:.1%}" for share in shares), max(shares) <= 0.03


def _sandbox(line: Line) -> Told:
    shapes = (line["text, one document"], line["300-dpi scans, one document"])
    more = [
        s["pdfium, sandboxed"]["ms_per_page"] / s["the same, unboxed"]["ms_per_page"] - 1
        for s in shapes
    ]
    return " / ".join(f"{share:.0%}" for share in more), max(more) <= 0.3


def _growth(line: Line) -> Told:
    peaks = {shape: (line[f"{shape}_500"]["run"], line[f"{shape}_5000"]["run"]) for shape in SHAPES}
    told = " / ".join(f"{few:.0f} to {many:.0f} MB" for few, many in peaks.values())
    return told, all(many <= 1.1 * few for few, many in peaks.values())


def _million(line: Line) -> Told:
    cold = line["cold"]
    return f"{cold['seconds']} s, {cold['peak_mb']} MB", cold["seconds"] < 60 and cold[
        "peak_mb"
    ] < 1024


def _nothing_new(line: Line) -> Told:
    run = line["nothing new"]
    return f"{run['seconds']} s, {run['total']} requests", None


def _start(line: Line) -> Told:
    seconds = line["start_added_seconds"]
    return f"{seconds} s; a shard {line['ms_per_shard']} ms", seconds < 3


def _english(line: Line) -> Told:
    group = line["groups"]["digital, English"]
    text = f"{group['cer_median']:.1%}, {group['cer_mean']:.1%}, {group['word_f1']:.3f}"
    met = (group["cer_median"] <= 0.015, group["cer_mean"] <= 0.05, group["word_f1"] >= 0.97)
    return text, all(met)


def _latin(line: Line) -> Told:
    rate = line["groups"]["digital, other Latin"]["word_f1"]
    return f"{rate:.3f}", rate >= 0.93


def _scans(line: Line) -> Told:
    ours, theirs = (line[reader]["scans"]["cer_mean"] for reader in ("groups", "tesseract"))
    return f"{ours:.1%}, tesseract {theirs:.1%}", ours <= theirs


def _kinds(line: Line) -> Told:
    right, charts = line["kind_right"], line["photographs_called_charts"]
    return f"{right} of {line['pictures']}, {charts}", right >= 18 and not charts


def _capped(line: Line) -> Told:
    read = line["reading"]
    return f"{read['cut_off']} of {read['pages']}", not read["cut_off"]


def _seconds(line: Line) -> Told:
    read = line["reading"]
    seconds, tokens = (read[key] / read["pages"] for key in ("seconds", "output_tokens"))
    return f"{seconds:.1f} s a page of {tokens:.0f} tokens", seconds <= 4


def _four_bits(plain: Line, rounded: Line) -> Told:
    cost = rounded["groups"]["all"]["cer_mean"] - plain["groups"]["all"]["cer_mean"]
    return f"{100 * cost:.1f} points", cost <= 0.01


READING = last("reading", quantization="none")
OVER = last("gpu/engine", model="7b", pages=512)
ROWS = {
    "Every page accounted for": (
        Row(
            "151 real and hostile files: outcome as expected",
            "all",
            (last("corpus"),),
            _outcomes,
            "corpus.py",
            headline=True,
        ),
        Row(
            "damaged files: crashes, hangs, missing rows, leftovers",
            "0 of 2,000",
            (every("fuzz"),),
            _fuzz,
            "fuzz.py",
            headline=True,
        ),
        Row(
            "runs killed at random and resumed: anything amiss",
            "0 of 100",
            (last("kills", engine="echo", flow=False),),
            _none_of,
            "kills.py",
            headline=True,
        ),
        Row(
            "runs on S3 that fails on one request in ten: anything amiss",
            "0 of 100",
            (last("faults", engine="echo"),),
            _none_of,
            "faults.py",
        ),
        Row(
            "S3 to vLLM in 4bit to S3: balanced, checked, one load",
            "yes",
            (last("gpu/mission", model="trained"),),
            lambda line: ("yes" if line["ok"] else "no", line["ok"]),
            "gpu.py mission",
        ),
    ),
    "The engine never waits": (
        Row(
            "the pipeline's share of the bare engine's pages/s, 7B shapes on vLLM",
            "≥ 95 %",
            (OVER,),
            _gpu_ratio,
            "gpu.py engine",
            headline=True,
        ),
        Row(
            "time that the engine was not full meanwhile, a lap each",
            "≤ 3 %",
            (OVER,),
            _gpu_not_full,
            "gpu.py engine",
        ),
        Row(
            "the same share from S3, 128 pages",
            "",
            (last("gpu/engine", model="7b", label="s3"),),
            lambda line: (_gpu_ratio(line, "s3")[0], None),
            "gpu.py engine --laps engine,s3",
        ),
        Row(
            "the same, default model on vLLM",
            "",
            (last("gpu/engine", label="trained"),),
            lambda line: (_gpu_ratio(line)[0], None),
            "gpu.py engine --model trained",
        ),
        Row(
            "the same, default model on 2 cores",
            "",
            (last("pipeline/ratio"),),
            lambda line: (f"{line['ratio']:.1%}", None),
            "pipeline.py ratio",
        ),
        Row(
            "time that the engine is not full: one long document / many short",
            "≤ 3 %",
            (last("feeding", workers=1, draw=0.0),),
            _not_full,
            "feeding.py",
        ),
        Row(
            "the same of two engines",
            "≤ 3 %",
            (last("feeding", workers=2, draw=0.0),),
            _not_full,
            "feeding.py --workers 2 --capacity 16",
        ),
        Row(
            "text and caption in one visit, against two passes",
            "≥ 1.5 ×",
            (last("gpu/visit", model="7b"),),
            lambda line: (f"{line['visit_over_passes']:.2f} ×", line["visit_over_passes"] >= 1.5),
            "gpu.py visit",
        ),
        Row(
            "two workers: share of twice the rate of one",
            "near 100 %",
            (_compared,),
            lambda line: (f"{line['of_linear']:.1%}, {line['framework']}", None),
            "scaling.py",
        ),
        Row(
            "transformers engine against a plain `generate` loop: tokens of a CPU second",
            "",
            (last("decode"),),
            lambda line: (f"{line['batch_8']['for_each_cpu_second']} ×", None),
            "decode.py --batch 8",
        ),
    ),
    "It costs little and stays small": (
        Row(
            "CPU time that the sandbox adds to drawing: text / scans",
            "≤ 30 %",
            (last("render"),),
            _sandbox,
            "render.py",
            headline=True,
        ),
        Row(
            "what Prefect adds to the start of a run",
            "< 3 s",
            (last("orchestration"),),
            _start,
            "orchestration.py",
        ),
        Row(
            "planning 1,000,000 objects against 3,000,000 rows",
            "< 60 s, < 1,024 MB",
            (last("planning/million"),),
            _million,
            "planning.py million",
            headline=True,
        ),
        Row(
            "a run with nothing new on 10,000 objects in S3",
            "",
            (last("planning/nothing-new"),),
            _nothing_new,
            "planning.py nothing-new",
        ),
        Row(
            "peak memory of the run, 500 to 5,000 pages: as documents / one document",
            "≤ 1.10 ×",
            (last("pipeline/memory"),),
            _growth,
            "pipeline.py memory",
        ),
        Row(
            "peak memory, 5,000 pages against 500, on a GPU",
            "≤ 1.10 ×",
            (last("gpu/memory"),),
            lambda line: (f"{line['growth']:.2f} ×", line["growth"] <= 1.1),
            "gpu.py memory",
        ),
    ),
    "The default model reads": (
        Row(
            "digital English: CER median, mean, word F1",
            "1.5 %, 5 %, 0.97",
            (READING,),
            _english,
            "reading.py --tesseract",
            headline=True,
        ),
        Row("French, German, Spanish: word F1", "≥ 0.93", (READING,), _latin, "reading.py"),
        Row(
            "scans: mean CER",
            "≤ tesseract's",
            (READING,),
            _scans,
            "reading.py --tesseract",
            headline=True,
        ),
        Row(
            "kind of picture right; photographs called charts",
            "≥ 18, 0",
            (READING,),
            _kinds,
            "reading.py",
        ),
        Row("pages that run to the token cap", "0", (READING,), _capped, "reading.py"),
        Row("how long a page takes on 2 cores", "≤ 4 s", (READING,), _seconds, "reading.py"),
        Row(
            "what 4 bits cost, mean CER of all pages",
            "≤ 1 point",
            (READING, last("reading", quantization="4bit")),
            _four_bits,
            "reading.py --set model.quantization=4bit",
        ),
    ),
}
