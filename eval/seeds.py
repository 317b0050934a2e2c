"""A summary over several checkpoints of one recipe, trained with different seeds: mean and spread of every F1.

    python -m eval.seeds runs/seed1 runs/seed2 runs/seed3 --data data/annotations --split test --out DIR

One checkpoint's interval says how far its figure would move with other articles; the spread over seeds says how far it would move
with another run of the same training. Both are needed to say that a recipe is better.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from casualty_ner.cli import run_command
from casualty_ner.documents import Article
from casualty_ner.errors import ConfigError
from casualty_ner.labels import LABELS
from eval.arguments import add_articles, read_articles
from eval.markdown import escape, table, write_both
from eval.matching import SCHEMES
from eval.predictions import System, open_system
from eval.report import build_report
from eval.tally import Tally

SCHEMA_VERSION = 1
_NAMES = (*LABELS, "micro", "macro")


def summarise(systems: Iterable[System], articles: Sequence[Article]) -> dict[str, Any]:
    """For each scheme, label, micro and macro average the F1 of each system, their mean, standard deviation (of a sample), least and most."""
    reports = []
    for system in systems:
        tally = Tally(fields=())
        for article, predicted in system.pairs(articles):
            tally.add(article, predicted)
        reports.append(build_report(tally, system=system.name, data={}, seqeval=None, resamples=1))
    summary: dict[str, Any] = {}
    for scheme in SCHEMES:
        summary[scheme] = {}
        for name in _NAMES:
            entries = [report[scheme] if name in {"micro", "macro"} else report[scheme]["labels"] for report in reports]
            values = [entry[name]["f1"] for entry in entries]
            spread = {"mean": mean(values), "sd": stdev(values), "least": min(values), "most": max(values)}
            summary[scheme][name] = {"f1": values, **spread}
    return summary


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The summary as Markdown."""
    systems, data = summary["systems"], summary["data"]
    strict = summary["strict"]
    rows = [[name, *(_spread(summary[scheme][name]) for scheme in SCHEMES)] for name in _NAMES]
    each = [[escape(name), *(f"{strict[label]['f1'][place]:.4f}" for label in _NAMES)] for place, name in enumerate(systems)]
    parts = [
        f"# {len(systems)} checkpoints on {escape(data['file'])}",
        f"{data['articles']:,} articles, SHA-256 {data['sha256'][:16]}…. F1: mean ± standard deviation over checkpoints (least to most).",
        table(["F1", *SCHEMES], rows),
        "## Strict F1 of each",
        table(["checkpoint", *_NAMES], each),
    ]
    return "\n\n".join(parts) + "\n"


def _spread(one: Mapping[str, float]) -> str:
    return f"{one['mean']:.4f} ± {one['sd']:.4f} ({one['least']:.4f} to {one['most']:.4f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.seeds``."""
    parser = argparse.ArgumentParser(prog="eval.seeds", description="Mean and spread of F1 over several checkpoints.")
    parser.add_argument("systems", nargs="+", metavar="SYSTEM", help="checkpoints, folders with a report, or prediction files")
    add_articles(parser, "seeds.md and seeds.json")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if len(options.systems) < 2:
        raise ConfigError("a spread needs two checkpoints or more; use eval.evaluate for one")
    articles, data = read_articles(options)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "systems": options.systems,
        "data": data,
        **summarise((open_system(name, options.device) for name in options.systems), articles),
    }
    text = to_markdown(summary)
    write_both(options.out, "seeds", summary, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
