"""Command-line arguments that several commands share, and what they mean."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from casualty_ner.dataset import load_articles, split_file
from casualty_ner.documents import Article
from casualty_ner.encoders import sha256


def add_articles(parser: argparse.ArgumentParser, written: str) -> None:
    """``--data``, ``--split``, ``--out`` and ``--device`` of a command that measures on one set of articles and writes `written`."""
    parser.add_argument("--data", required=True, help="a corpus folder or a JSONL file")
    parser.add_argument("--split", help="the split of a corpus folder (default: test)")
    parser.add_argument("--out", required=True, type=Path, help=f"the folder for {written}")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: %(default)s)")


def read_articles(options: argparse.Namespace) -> tuple[list[Article], dict[str, Any]]:
    """The articles that `add_articles` asked for, and what a report says of them: ``file``, ``sha256``, ``articles``.

    Raises:
        RecordError: They cannot be read.
    """
    file = split_file(options.data, options.split or "test")
    articles = load_articles(file)
    return articles, {"file": file.name, "sha256": sha256(file), "articles": len(articles)}
