"""The ``casualty-ner`` command: thin commands over the library's plain functions.

Exit codes: 0 done, 2 bad input (with one message on standard error), 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from casualty_ner import __version__, html
from casualty_ner.dataset import SPLITS, assign_splits, load_articles, split_files
from casualty_ner.documents import Entity
from casualty_ner.errors import CasualtyNerError, RecordError
from casualty_ner.export import MAX_LOSS, export
from casualty_ner.extractor import Extractor
from casualty_ner.inputs import FORMATS, read_texts
from casualty_ner.records import dump_line, open_output, write_records
from casualty_ner.runtimes import EXPORTABLE, PRECISIONS, choose
from casualty_ner.tuning import calibrate, tuning_file
from casualty_ner.validation import ERROR, Totals, check, tables

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
_PRECISION_HELP = "what it computes in (default: float16 on a GPU, bfloat16 where the processor has units for it, else float32)"


def run_command(command: Callable[[], int]) -> int:
    """Run a command so that what a user can mend is one message and an exit code, not a traceback."""
    try:
        return command()
    except CasualtyNerError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; what was written is kept", file=sys.stderr)
        return EXIT_INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``casualty-ner``."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return run_command(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="casualty-ner", description="Casualty entities in news text.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--verbose", action="store_true", help="log what is loaded and from where")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    extract = commands.add_parser("extract", help="find the entities in texts")
    extract.add_argument(
        "inputs", nargs="+", metavar="FILE", help=".jsonl (id and text a line) or text files; - is standard input"
    )
    extract.add_argument(
        "--checkpoint", default="runs/minilm", help="a folder that training wrote, or a hub id (default: %(default)s)"
    )
    extract.add_argument("--output", metavar="FILE", help="where to write (default: standard output)")
    extract.add_argument("--format", choices=("jsonl", "html"), default="jsonl", help="what to write (default: %(default)s)")
    extract.add_argument("--input-format", choices=FORMATS, default="auto", help="what the inputs are (default: by their ending)")
    extract.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: %(default)s)")
    _add_engine(extract)
    extract.add_argument(
        "--no-thresholds",
        action="store_false",
        dest="thresholds",
        help="keep the entities, too, that score less than what validation showed to be best for their label",
    )
    extract.add_argument(
        "--skip-bad", action="store_true", help="go on after an unusable input or line; each is listed on standard error"
    )
    extract.set_defaults(run=_extract)

    exporter = commands.add_parser("export", help="make a checkpoint ready for another engine, if it finds the same there")
    exporter.add_argument(
        "--checkpoint", default="runs/minilm", help="a folder that training wrote, or a hub id (default: %(default)s)"
    )
    exporter.add_argument("--runtime", choices=EXPORTABLE, default="openvino", help="the engine (default: %(default)s)")
    exporter.add_argument("--precision", choices=_PRECISIONS, default="auto", help=_PRECISION_HELP)
    exporter.add_argument(
        "--data",
        default="data/annotations",
        help="annotated articles to measure F1 on: a corpus folder or a JSONL file (default: %(default)s)",
    )
    exporter.add_argument("--split", default="validation", help="the split of a corpus folder (default: %(default)s)")
    exporter.add_argument(
        "--max-loss",
        type=float,
        default=MAX_LOSS,
        metavar="F1",
        help="write nothing if more strict F1 than this is lost (default: %(default)s)",
    )
    exporter.add_argument("--out", type=Path, help="the folder to write (default: the checkpoint's, -RUNTIME-PRECISION appended)")
    exporter.set_defaults(run=_export)

    calibrator = commands.add_parser("calibrate", help="measure how this machine runs a checkpoint best, and remember it")
    calibrator.add_argument("--checkpoint", default="runs/minilm", help="a checkpoint or an export (default: %(default)s)")
    calibrator.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: %(default)s)")
    _add_engine(calibrator)
    calibrator.set_defaults(run=_calibrate)

    checker = commands.add_parser("check", help="validate a corpus and count what is in it")
    checker.add_argument("path", help="a corpus folder or a JSONL file")
    checker.set_defaults(run=_check)

    add = commands.add_parser("add", help="add annotated articles to a corpus, each to a split that it never leaves")
    add.add_argument("file", help="a JSONL file of new articles")
    add.add_argument("--corpus", required=True, help="the corpus folder")
    add.set_defaults(run=_add)
    return parser


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runtime", choices=("auto", *PRECISIONS), default="auto", help="the engine (default: the fastest here)")
    parser.add_argument("--precision", choices=_PRECISIONS, default="auto", help=_PRECISION_HELP)


def _load(options: argparse.Namespace, thresholds: bool = True) -> Extractor:
    return Extractor.from_pretrained(
        options.checkpoint,
        device=options.device,
        runtime=options.runtime,
        precision=options.precision,
        thresholds=thresholds,
    )


def _extract(options: argparse.Namespace) -> int:
    extractor = _load(options, options.thresholds)
    skipped: list[RecordError] = []
    fatal: list[RecordError] = []

    def skip(error: RecordError) -> None:
        skipped.append(error)
        print(f"skipped: {error}", file=sys.stderr)

    def texts() -> Iterator[tuple[str, str]]:
        # The stream reads ahead: what came before a bad line is extracted and written before the error is raised.
        try:
            yield from read_texts(options.inputs, options.input_format, skip if options.skip_bad else None)
        except RecordError as error:
            fatal.append(error)

    inputs, for_extraction = tee(texts())
    found = extractor.stream(text for _, text in for_extraction)
    results = ((name, text, next(found)) for name, text in inputs)
    write = {"jsonl": _write_jsonl, "html": _write_html}[options.format]
    with open_output(options.output) as stream:
        write(stream, tqdm(results, unit=" texts", delay=2, disable=None))
    if fatal:
        raise fatal[0]
    if skipped:
        print(f"{len(skipped)} skipped", file=sys.stderr)
    return EXIT_BAD_INPUT if skipped else 0


def _write_jsonl(stream: TextIO, results: Iterable[tuple[str, str, list[Entity]]]) -> None:
    for name, _, entities in results:
        stream.write(dump_line({"id": name, "entities": [entity.to_dict() for entity in entities]}))


def _write_html(stream: TextIO, results: Iterable[tuple[str, str, list[Entity]]]) -> None:
    stream.write(html.HEAD)
    for name, text, entities in results:
        stream.write(html.section(name, text, entities))
    stream.write(html.TAIL)


def _export(options: argparse.Namespace) -> int:
    runtime, precision = choose(options.runtime, options.precision, on_cpu=True)
    checkpoint = options.checkpoint.rstrip("/")
    out = options.out or Path(f"{checkpoint}-{runtime}-{precision}")
    record = export(
        checkpoint=checkpoint,
        runtime=runtime,
        precision=precision,
        data=options.data,
        split=options.split,
        out=out,
        max_loss=options.max_loss,
    )
    guard = record["guard"]
    print(
        f"{out}: strict F1 {guard['f1_export']:.4f}, the original's {guard['f1_original']:.4f}; "
        f"{guard['agreement']:.2%} of the entities are the same ({guard['articles']} articles, {guard['data']})"
    )
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    extractor = _load(options)
    best = calibrate(extractor)
    print(
        f"{extractor.runtime.name}: {best.workers} batches at once of {best.batch_tokens} tokens, "
        f"{best.tokens_per_second:,.0f} tokens/s; remembered in {tuning_file()}"
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    totals, findings = Totals(), {"error": 0, "warning": 0}
    for finding in check(split_files(options.path), totals):
        findings[finding.severity] += 1
        print(finding)
    print(f"{tables(totals)}\n{findings['error']} errors, {findings['warning']} warnings")
    return EXIT_BAD_INPUT if findings[ERROR] else 0


def _add(options: argparse.Namespace) -> int:
    corpus = Path(options.corpus)
    held = {split: load_articles(corpus / f"{split}.jsonl") if (corpus / f"{split}.jsonl").exists() else [] for split in SPLITS}
    taken = {article.id: split for split, articles in held.items() for article in articles}
    new = load_articles(options.file)
    for article in new:
        if article.id in taken:
            raise RecordError(
                options.file, None, f"id {article.id!r} is in the corpus already ({taken[article.id]}); give it another"
            )
    for split, added in assign_splits(held, new).items():
        if added:
            write_records(corpus / f"{split}.jsonl", (article.to_dict() for article in [*held[split], *added]))
        print(f"{split}: {len(added)} added, {len(held[split]) + len(added)} in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
