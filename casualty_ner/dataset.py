"""Annotation files to articles: reading, the rules that every record must keep, and the split of a corpus.

A corpus is a folder with one JSONL file per split (what ``datasets.load_dataset(folder)`` reads too) or a single JSONL file,
one article a line: ``{"id", "text", "spans": [{"start", "end", "label"}], …}``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from casualty_ner.documents import Article, Span
from casualty_ner.errors import RecordError
from casualty_ner.labels import LABELS
from casualty_ner.records import read_records

SPLITS = ("train", "validation", "test")
SPLIT_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def split_files(path: str | Path) -> dict[str, Path]:
    """The files of a corpus by split name; a single file is one split named after it.

    Raises:
        RecordError: Nothing is there, or the folder has no split file.
    """
    root = Path(path)
    if not root.is_dir():
        return {root.stem: root}
    files = {split: root / f"{split}.jsonl" for split in SPLITS if (root / f"{split}.jsonl").is_file()}
    if not files:
        raise RecordError(
            root, None, f"holds none of {', '.join(f'{split}.jsonl' for split in SPLITS)}; give a corpus folder or a JSONL file"
        )
    return files


def split_file(path: str | Path, split: str | None) -> Path:
    """The one file that `split` of a corpus means; a single file needs no split.

    Raises:
        RecordError: The corpus has no such split, or a folder was given without a split.
    """
    root = Path(path)
    if root.is_file():
        return root
    files = split_files(root)
    if split not in files:
        raise RecordError(root, None, f"has no split {split!r}; it has {', '.join(files)}")
    return files[split]


def read_articles(path: str | Path) -> Iterator[Article]:
    """Stream the articles of a JSONL file.

    Raises:
        RecordError: A line breaks a rule of `problems`; articles before it have been yielded.
    """
    for line, record in read_records(path):
        found = problems(record)
        if found:
            raise RecordError(path, line, found[0], record_id(record))
        yield to_article(record)


def load_articles(path: str | Path) -> list[Article]:
    """All articles of a file; their ids are unique.

    Raises:
        RecordError: A line breaks a rule, or an id occurs twice.
    """
    articles = list(read_articles(path))
    for name, times in Counter(article.id for article in articles).items():
        if times > 1:
            raise RecordError(path, None, f"id {name!r} occurs {times} times; give each article its own")
    return articles


def record_id(record: Mapping[str, Any]) -> str | None:
    """The record's id if it has a usable one."""
    value = record.get("id")
    return value if isinstance(value, str) and value else None


def to_article(record: Mapping[str, Any]) -> Article:
    """A record without `problems` as an article, its spans in order."""
    spans = sorted(Span(span["start"], span["end"], span["label"]) for span in record["spans"])
    fields = {key: value for key, value in record.items() if key not in {"id", "text", "spans"}}
    return Article(record["id"], record["text"], tuple(spans), fields)


def problems(record: Mapping[str, Any]) -> list[str]:
    """What makes a record unusable: each problem says what is wrong and what to do."""
    found = []
    if record_id(record) is None:
        found.append('"id" must be a non-empty string; give the article one')
    text, spans = record.get("text"), record.get("spans")
    if not isinstance(text, str) or not text:
        return [*found, '"text" must be a non-empty string; give the article\'s text']
    if not isinstance(spans, list):
        return [*found, '"spans" must be a list (an empty one if nothing is annotated)']
    usable = []
    for index, span in enumerate(spans):
        problem = _span_problem(span, text)
        if problem:
            found.append(f"span {index}: {problem}")
        else:
            usable.append(Span(span["start"], span["end"], span["label"]))
    usable.sort()
    for first, second in pairwise(usable):
        if second.start < first.end:
            found.append(f"{_show(first, text)} overlaps {_show(second, text)}; spans are flat, keep one")
    return found


def _span_problem(span: Any, text: str) -> str | None:
    if not isinstance(span, dict):
        return "must be an object with start, end and label"
    start, end, label = span.get("start"), span.get("end"), span.get("label")
    if type(start) is not int or type(end) is not int:
        return f"start and end must be whole numbers, got {start!r} and {end!r}"
    if not 0 <= start < end <= len(text):
        return (
            f"offsets {start}:{end} do not lie within the text of {len(text)} characters; count code points from 0, end exclusive"
        )
    if label not in LABELS:
        return f"unknown label {label!r} on {text[start:end]!r}; use one of {', '.join(LABELS)}"
    if text[start].isspace() or text[end - 1].isspace():
        return f"{start}:{end} has a blank edge: {text[start:end]!r}; move the offsets to the words"
    return None


def _show(span: Span, text: str) -> str:
    return f"{span.label} {span.start}:{span.end} {text[span.start : span.end]!r}"


def rank(article: Article) -> bytes:
    """Its place in an order of articles that is as good as chance, and the same everywhere: a hash of its id."""
    return hashlib.sha256(article.id.encode()).digest()


def assign_splits(placed: Mapping[str, Iterable[Article]], new: Iterable[Article]) -> dict[str, list[Article]]:
    """Split new articles so that every genre keeps the shares of `SPLIT_SHARES`.

    Articles that have a split keep it. The others come, within their genre, in the order of a hash of their id, each to the
    split that is furthest below its share; so the result depends neither on the order of the input nor on chance.

    Args:
        placed: The articles that each split holds already.
        new: The articles to add.

    Returns:
        For each split the articles to add, in the order of their ids.
    """
    held: dict[Any, Counter[str]] = {}
    for split, articles in placed.items():
        for article in articles:
            held.setdefault(article.fields.get("genre"), Counter())[split] += 1
    added: dict[str, list[Article]] = {split: [] for split in SPLITS}
    for article in sorted(new, key=rank):
        counts = held.setdefault(article.fields.get("genre"), Counter())
        after = counts.total() + 1
        split = max(SPLITS, key=lambda split: SPLIT_SHARES[split] * after - counts[split])
        counts[split] += 1
        added[split].append(article)
    return {split: sorted(articles, key=lambda article: article.id) for split, articles in added.items()}
