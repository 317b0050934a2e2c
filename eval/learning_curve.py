"""What more annotated articles would bring: F1 of checkpoints against the number of articles that each was trained on.

    python -m eval.learning_curve runs/n200-s1 runs/n200-s2 runs/n800-s1 … --data data/annotations --data news.jsonl --out DIR

Train the checkpoints with ``data.articles=N`` and several seeds each. ``learning_curve.md``, ``.json`` and ``.png`` hold strict F1 per label and
together: the mean over the checkpoints of a size, and the least and the most.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from casualty_ner.checkpoint import load_description
from casualty_ner.cli import run_command
from casualty_ner.dataset import load_articles, split_file
from casualty_ner.documents import Article
from casualty_ner.encoders import sha256
from casualty_ner.errors import ConfigError
from casualty_ner.labels import LABELS
from casualty_ner.scoring import micro, strict_counts
from eval.markdown import escape, table, write_both
from eval.plots import learning_curve, save
from eval.predictions import open_checkpoint

SCHEMA_VERSION = 1
_NAMES = (*LABELS, "micro")

Scores = dict[str, float]


def measure(checkpoint: str, data: Mapping[str, Sequence[Article]], device: str = "auto") -> dict[str, Scores]:
    """Strict F1 of a checkpoint on each set of articles: for each label, and ``micro``."""
    system = open_checkpoint(checkpoint, device)
    scores = {}
    for name, articles in data.items():
        counts = strict_counts((article.spans, (one.span for one in found)) for article, found in system.pairs(articles))
        scores[name] = {**{label: counts[label].f1 for label in LABELS}, "micro": micro(counts).f1}
    return scores


def training_articles(checkpoint: str) -> int:
    """How many articles a checkpoint was trained on.

    Raises:
        CheckpointError: It cannot be read.
        ConfigError: It does not say.
    """
    try:
        return int(load_description(checkpoint).metadata["training"]["articles"])
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"{checkpoint}: does not say how many articles it was trained on; train it with training.train"
        ) from None


def summarise(measured: Sequence[tuple[int, Mapping[str, Scores]]]) -> dict[str, Any]:
    """For each set of articles the points of its curve: the F1 values of the checkpoints of each size, smallest first."""
    sizes: dict[int, list[Mapping[str, Scores]]] = defaultdict(list)
    for articles, scores in measured:
        sizes[articles].append(scores)
    names = list(measured[0][1])
    return {
        name: [
            {"articles": size, "f1": {one: [run[name][one] for run in sizes[size]] for one in _NAMES}} for size in sorted(sizes)
        ]
        for name in names
    }


def to_markdown(curve: Mapping[str, Any]) -> str:
    """The curve as tables."""
    parts = ["# Learning curve", "Strict F1: mean over checkpoints (least to most)."]
    for name, points in curve["curves"].items():
        rows = [
            [f"{point['articles']:,}", f"{len(point['f1']['micro'])}", *(_spread(point["f1"][one]) for one in _NAMES)]
            for point in points
        ]
        parts += [f"## {escape(name)}", table(["articles", "checkpoints", *_NAMES], rows)]
    return "\n\n".join(parts) + "\n"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.learning_curve``."""
    parser = argparse.ArgumentParser(prog="eval.learning_curve", description="F1 against the number of training articles.")
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folders that training wrote")
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        help="a JSONL file, or a corpus folder, whose validation and test split are taken; repeatable",
    )
    parser.add_argument("--out", required=True, type=Path, help="the folder for learning_curve.md, .json and .png")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    files: dict[str, Path] = {}
    for data in options.data:
        for split in ("validation", "test") if Path(data).is_dir() else (None,):
            file = split_file(data, split)
            files[split or file.stem] = file
    articles = {name: load_articles(file) for name, file in files.items()}
    sizes = [training_articles(one) for one in options.checkpoints]  # before anything long begins
    measured = [(size, measure(one, articles, options.device)) for size, one in zip(sizes, options.checkpoints, strict=True)]
    curve = {
        "schema_version": SCHEMA_VERSION,
        "checkpoints": options.checkpoints,
        "data": {name: {"file": file.name, "sha256": sha256(file)} for name, file in files.items()},
        "curves": summarise(measured),
    }
    text = to_markdown(curve)
    write_both(options.out, "learning_curve", curve, text)
    save(learning_curve(curve["curves"]), options.out / "learning_curve.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
