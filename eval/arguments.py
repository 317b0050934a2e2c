"""Command-line arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_articles(parser: argparse.ArgumentParser, written: str) -> None:
    """``--data``, ``--split``, ``--out`` and ``--device`` of a command that measures on one set of articles and writes `written`."""
    parser.add_argument("--data", required=True, help="a corpus folder or a JSONL file")
    parser.add_argument("--split", help="the split of a corpus folder (default: test)")
    parser.add_argument("--out", required=True, type=Path, help=f"the folder for {written}")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: %(default)s)")
