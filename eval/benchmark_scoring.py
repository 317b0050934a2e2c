"""How long it takes and how much memory to score a large set of predictions.

    python -m eval.benchmark_scoring [--articles 100000] [--spans 10]

writes synthetic articles and predictions into a temporary folder and runs ``eval.evaluate`` on them in a process of its own, first
on a tenth of the articles, then on all, so that growth shows. The time is that of the whole command, reading and writing included.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from casualty_ner.cli import run_command
from casualty_ner.errors import OutputError
from casualty_ner.labels import LABELS
from casualty_ner.records import write_records

_WORDS = (
    "Gunmen",
    "killed",
    "at",
    "least",
    "36",
    "soldiers",
    "near",
    "the",
    "border",
    "police",
    "said",
    "on",
    "Tuesday",
    "twelve",
)
_GENRES = ("wire", "radio", "statement", "digest")
_REGIONS = ("Sahel", "Middle East", "South Asia")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of the command."""

    articles: int
    annotated: int
    predicted: int
    seconds: float
    peak_megabytes: float


def synthetic(articles: int, spans: int, seed: int = 0) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Articles of about nine words a span, and predictions of which one in ten is missed, misplaced, mislabelled or made up."""
    generator = np.random.default_rng(seed)
    for number in range(articles):
        words = [_WORDS[index] for index in generator.integers(0, len(_WORDS), 9 * spans + 20)]
        ends = np.cumsum([len(word) + 1 for word in words]).tolist()
        starts = [0, *ends[:-1]]
        at = np.sort(generator.choice(len(words) // 4, spans, replace=False)) * 4
        wrong = generator.random(spans)
        scores = np.round(1 - generator.random(spans) ** 4 / 2, 4).tolist()
        annotated, predicted = [], []
        for word, chance, score in zip(at.tolist(), wrong.tolist(), scores, strict=True):
            label = LABELS[word // 4 % len(LABELS)]
            span = {"start": starts[word], "end": ends[word + 1] - 1, "label": label}
            if chance < 0.99:
                annotated.append(span)
            if chance < 0.93:
                predicted.append({**span, "score": score})
            elif chance < 0.95:
                predicted.append({**span, "end": ends[word] - 1, "score": score})
            elif chance < 0.97 or chance >= 0.99:
                predicted.append({**span, "label": LABELS[0], "score": score})
        name, text = f"article-{number}", " ".join(words)
        fields = {"genre": _GENRES[number % len(_GENRES)], "region": _REGIONS[number % len(_REGIONS)]}
        yield {"id": name, "text": text, "spans": annotated, **fields}, {"id": name, "entities": predicted}


def measure(articles: int, spans: int) -> Measurement:
    """Score one synthetic set in a process of its own."""
    counts = {"annotated": 0, "predicted": 0}
    with tempfile.TemporaryDirectory(prefix="casualty-ner-") as folder:
        data, predictions = Path(folder, "data.jsonl"), Path(folder, "predictions.jsonl")

        def predicted() -> Iterator[dict[str, Any]]:
            for _, record in synthetic(articles, spans):
                counts["predicted"] += len(record["entities"])
                yield record

        def annotated() -> Iterator[dict[str, Any]]:
            for record, _ in synthetic(articles, spans):
                counts["annotated"] += len(record["spans"])
                yield record

        write_records(data, annotated())
        write_records(predictions, predicted())
        command = [
            sys.executable,
            "-m",
            "eval.evaluate",
            "--predictions",
            str(predictions),
            "--data",
            str(data),
            "--out",
            f"{folder}/out",
        ]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 (our own command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        raise OutputError(
            f"scoring {articles} articles failed with exit code {os.waitstatus_to_exitcode(status)}; see the message above"
        )
    return Measurement(articles, counts["annotated"], counts["predicted"], seconds, _megabytes(usage))


def _megabytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.benchmark_scoring``."""
    parser = argparse.ArgumentParser(prog="eval.benchmark_scoring", description="Time and peak memory of scoring a large set.")
    parser.add_argument("--articles", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--spans", type=int, default=10, help="of an article, about (default: %(default)s)")
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    print("| articles | annotated | predicted | seconds | peak MB |\n| --: | --: | --: | --: | --: |")
    for articles in (max(options.articles // 10, 1), options.articles):
        one = measure(articles, options.spans)
        print(
            f"| {one.articles:,} | {one.annotated:,} | {one.predicted:,} | {one.seconds:.1f} | {one.peak_megabytes:,.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
