"""Scores a checkpoint, or another system's predictions, against annotated articles.

    python -m eval.evaluate --checkpoint runs/minilm --data data/annotations --split test --out DIR

writes ``report.html``, ``report.md``, ``report.json``, the plots as PNG, and ``predictions.jsonl`` into DIR and prints the summary.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from casualty_ner.cli import run_command
from casualty_ner.dataset import read_articles, split_file
from casualty_ner.documents import Article
from casualty_ner.encoders import sha256
from casualty_ner.errors import ConfigError, OutputError, RecordError
from casualty_ner.labels import LABELS
from casualty_ner.records import write_records
from eval import page, plots
from eval.arguments import add_articles
from eval.bootstrap import RESAMPLES
from eval.formats import FORMATS
from eval.markdown import summary, to_markdown
from eval.predictions import PREDICTIONS_FILE, PredictionFile, System, open_checkpoint, to_record
from eval.report import build_report
from eval.slices import FIELDS, SPAN_SLICES, WINDOW_SLICE, article_slices
from eval.tally import Tally
from eval.word_tags import WordTags

SEQEVAL_ARTICLES = 2_000
"""seqeval takes seconds and memory for every thousand articles; beyond this many it is left out unless asked for."""


def evaluate(
    system: System,
    articles: Iterable[Article],
    *,
    data: Path,
    out: Path,
    fields: Sequence[str] = FIELDS,
    resamples: int = RESAMPLES,
    seqeval_articles: int | None = SEQEVAL_ARTICLES,
) -> dict[str, Any]:
    """Score a system and write its report. Articles pass through; memory does not grow with their texts.

    Args:
        system: What predicts.
        articles: The annotated articles, each id once.
        data: The file that they come from.
        out: The folder for the report.
        fields: Fields of the annotation file to slice by.
        resamples: How many the intervals rest on.
        seqeval_articles: With more articles than this seqeval is left out; ``None`` for any number.

    Returns:
        The content of ``report.json``.

    Raises:
        RecordError: An article or a prediction cannot be used.
        OutputError: The folder cannot be written to.
    """
    tally = Tally(fields, system.windower)
    tags = WordTags(seqeval_articles)

    def scored() -> Iterator[dict[str, Any]]:
        for article, entities, below in tqdm(system.proposals(articles), unit=" articles", delay=2, disable=None):
            tally.add(article, entities, below)
            tags.add(article, entities)
            yield to_record(article, entities)

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(out, error) from None
    write_records(out / PREDICTIONS_FILE, scored())
    report = build_report(
        tally,
        system=system.name,
        data={"file": data.name, "sha256": sha256(data)},
        seqeval=tags.scores(),
        notes=system.notes,
        stored_thresholds=system.calibration.thresholds if system.calibration else None,
        resamples=resamples,
    )
    try:
        _write(out, report, tally)
    except OSError as error:
        raise _not_writable(out, error) from None
    return report


def _write(out: Path, report: Mapping[str, Any], tally: Tally) -> None:
    pictures = plots.draw(report)
    for name in plots.TITLES:
        (out / f"{name}.png").unlink(missing_ok=True)  # of an earlier report, which may have had scores
    for name, figure in pictures.items():
        plots.save(figure, out / f"{name}.png")
    (out / "report.md").write_text(to_markdown(report), encoding="utf-8")
    (out / "report.html").write_text(page.to_html(report, tally, pictures), encoding="utf-8")
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _not_writable(out: Path, error: OSError) -> OutputError:
    return OutputError(f"{out}: cannot be written: {error.strerror}; choose another --out")


def unique_articles(path: Path) -> Iterator[Article]:
    """Stream the articles of a file.

    Raises:
        RecordError: An article breaks a rule, or its id was there before.
    """
    seen: set[str] = set()
    for article in read_articles(path):
        if article.id in seen:
            raise RecordError(path, None, f"id {article.id!r} occurs twice; give each article its own")
        seen.add(article.id)
        yield article


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.evaluate``."""
    parser = argparse.ArgumentParser(prog="eval.evaluate", description="Score predicted against annotated spans.")
    system = parser.add_mutually_exclusive_group(required=True)
    system.add_argument("--checkpoint", help="a folder that training wrote, or a hub id")
    system.add_argument("--predictions", metavar="FILE", help="another system's spans: JSON Lines, JSON, or CoNLL columns")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="of the predictions (default: by the file's ending)")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="THEIRS=OURS",
        help=f"a label of the predictions as one of {', '.join(LABELS)}; THEIRS= leaves its spans out; repeatable",
    )
    add_articles(parser, "the report")
    parser.add_argument(
        "--slice",
        action="append",
        default=[],
        metavar="FIELD",
        help=f"also slice by this field of the annotation file; repeatable ({', '.join(FIELDS)} always)",
    )
    parser.add_argument("--resamples", type=_positive, default=RESAMPLES, help="of the bootstrap (default: %(default)s)")
    parser.add_argument(
        "--seqeval", action="store_true", help=f"run seqeval also on more than {SEQEVAL_ARTICLES:,} articles (slow, takes memory)"
    )
    parser.add_argument("--runtime", default="torch", help="the engine; auto for an export (default: %(default)s)")
    parser.add_argument(
        "--precision", default=None, help="what it computes in (default: float32 in torch, else the engine's own)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    fields = slice_fields(options.slice)
    data = split_file(options.data, options.split or "test")
    if options.checkpoint:
        precision = options.precision or ("float32" if options.runtime == "torch" else "auto")
        system = open_checkpoint(options.checkpoint, options.device, options.runtime, precision)
    else:
        system = System(options.predictions, PredictionFile(options.predictions, options.format, label_map(options.map)))
    report = evaluate(
        system,
        unique_articles(data),
        data=data,
        out=options.out,
        fields=fields,
        resamples=options.resamples,
        seqeval_articles=None if options.seqeval else SEQEVAL_ARTICLES,
    )
    print(summary(report))
    print(f"report: {options.out / 'report.html'}")
    return 0


def slice_fields(asked: Sequence[str]) -> list[str]:
    """The fields to slice by, those asked for after the usual ones.

    Raises:
        ConfigError: A field has the name of a slice that every report has.
    """
    taken = {*article_slices(()), *SPAN_SLICES, WINDOW_SLICE}
    for name in asked:
        if name in taken:
            raise ConfigError(f"--slice {name}: every report has a slice of this name; rename the field")
    return list(dict.fromkeys([*FIELDS, *asked]))


def label_map(pairs: Sequence[str]) -> dict[str, str]:
    """``THEIRS=OURS`` arguments as a mapping.

    Raises:
        ConfigError: One is no such pair, or names a label that we do not have.
    """
    names = {}
    for pair in pairs:
        theirs, equals, ours = pair.rpartition("=")
        if not equals or not theirs or (ours and ours not in LABELS):
            raise ConfigError(f"--map {pair}: expected THEIRS=OURS with OURS one of {', '.join(LABELS)} or nothing")
        names[theirs] = ours
    return names


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    sys.exit(main())
