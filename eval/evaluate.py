"""Scores a checkpoint, or another system's predictions, against annotated articles.

    python -m eval.evaluate --checkpoint runs/minilm --data data/annotations --split test --out DIR

writes ``report.json``, ``report.md`` and ``predictions.jsonl`` into DIR and prints the table.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from casualty_ner.cli import run_command
from casualty_ner.dataset import load_articles, split_file
from casualty_ner.documents import Article, Entity, Span
from casualty_ner.encoders import sha256
from casualty_ner.errors import OutputError
from casualty_ner.extractor import Extractor
from casualty_ner.labels import LABELS, TAGS
from casualty_ner.records import write_records
from casualty_ner.scoring import macro_f1, micro, strict_counts
from casualty_ner.windows import Tokens, align
from casualty_ner.words import word_bounds
from eval.predictions import predict, read_predictions

SCHEMA_VERSION = 1
METRIC = Path(__file__).resolve().parent / "metrics" / "casualty_seqeval"


def score(articles: Sequence[Article], predictions: Mapping[str, Sequence[Entity]]) -> dict[str, Any]:
    """Strict character-span scores of whole articles, and seqeval's on their words beside them."""
    predicted = {article.id: [entity.span for entity in predictions[article.id]] for article in articles}
    counts = strict_counts((article.spans, predicted[article.id]) for article in articles)
    strict = {
        "micro": micro(counts).to_dict(),
        "macro": {"f1": macro_f1(counts)},
        "labels": {label: counts[label].to_dict() for label in LABELS},
    }
    return {"strict": strict, "seqeval": _seqeval(articles, predicted)}


def _seqeval(articles: Sequence[Article], predicted: Mapping[str, Sequence[Span]]) -> dict[str, Any]:
    """seqeval over word tags. Spans that do not begin and end with a word are widened to one and counted as ``moved``."""
    import datasets
    import evaluate

    references: list[list[str]] = []
    tagged: list[list[str]] = []
    moved = 0
    for article in articles:
        bounds = word_bounds(article.text)
        words = Tokens(np.zeros(len(bounds), dtype=np.int64), np.arange(len(bounds)), bounds)
        for spans, sequences in ((article.spans, references), (predicted[article.id], tagged)):
            alignment = align(words, spans)
            moved += len(alignment.moved) + len(alignment.lost)
            sequences.append([TAGS[tag] for tag in alignment.tags])
    datasets.disable_progress_bars()
    metric = evaluate.load(str(METRIC), keep_in_memory=True)
    return {**metric.compute(predictions=tagged, references=references), "moved": moved}


def build_report(
    articles: Sequence[Article], predictions: Mapping[str, Sequence[Entity]], data: Path, system: str
) -> dict[str, Any]:
    """The scores with what they are of; the content of ``report.json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "system": system,
        "data": {
            "file": data.name,
            "sha256": sha256(data),
            "articles": len(articles),
            "words": sum(len(article.text.split()) for article in articles),
        },
        **score(articles, predictions),
    }


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown tables."""
    strict, seqeval, data = report["strict"], report["seqeval"], report["data"]
    lines = [
        f"# {report['system']} on {data['file']}",
        "",
        f"{data['articles']:,} articles, {data['words']:,} words, SHA-256 {data['sha256'][:16]}….",
        "",
        "Strict: a predicted span counts if label and both character offsets equal an annotated one's.",
        "",
        "| label | precision | recall | F1 | annotated | predicted | seqeval F1 |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    rows = [(label, strict["labels"][label], seqeval["labels"].get(label, {"f1": 0.0})) for label in LABELS]
    for name, row, other in [*rows, ("micro", strict["micro"], seqeval["micro"])]:
        lines.append(
            f"| {name} | {row['precision']:.4f} | {row['recall']:.4f} | {row['f1']:.4f} | {row['annotated']:,} | {row['predicted']:,} | {other['f1']:.4f} |"
        )
    lines.append(f"| macro | | | {strict['macro']['f1']:.4f} | | | {seqeval['macro']['f1']:.4f} |")
    if seqeval["moved"]:
        lines += ["", f"{seqeval['moved']} spans do not begin and end with a word; seqeval, which tags words, saw them widened."]
    return "\n".join(lines) + "\n"


def write_report(out: Path, report: Mapping[str, Any], predictions: Mapping[str, Sequence[Entity]]) -> None:
    """Write the three files.

    Raises:
        OutputError: The folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_records(
            out / "predictions.jsonl",
            ({"id": name, "entities": [entity.to_dict() for entity in entities]} for name, entities in predictions.items()),
        )
        (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (out / "report.md").write_text(to_markdown(report), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}; choose another --out") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.evaluate``."""
    parser = argparse.ArgumentParser(prog="eval.evaluate", description="Score predicted against annotated spans.")
    system = parser.add_mutually_exclusive_group(required=True)
    system.add_argument("--checkpoint", help="a folder that training wrote, or a hub id")
    system.add_argument(
        "--predictions", metavar="FILE", help="another system's spans: {id, entities: [{start, end, label}]} a line"
    )
    parser.add_argument("--data", required=True, help="a corpus folder or a JSONL file")
    parser.add_argument("--split", help="the split of a corpus folder (default: test)")
    parser.add_argument("--out", required=True, type=Path, help="the folder for the report")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: %(default)s)")
    parser.add_argument("--runtime", default="torch", help="the engine; auto for an export (default: %(default)s)")
    parser.add_argument(
        "--precision", default=None, help="what it computes in (default: float32 in torch, else the engine's own)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    data = split_file(options.data, options.split or "test")
    articles = load_articles(data)
    if options.checkpoint:
        precision = options.precision or ("float32" if options.runtime == "torch" else "auto")
        extractor = Extractor.from_pretrained(
            options.checkpoint, device=options.device, runtime=options.runtime, precision=precision
        )
        predictions = predict(extractor, articles)
    else:
        predictions = read_predictions(options.predictions, articles)
    report = build_report(articles, predictions, data, options.checkpoint or options.predictions)
    write_report(options.out, report, predictions)
    print(to_markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
