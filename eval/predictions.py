"""Predicted spans of a set of articles: from a checkpoint, or from a file that any other system wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from casualty_ner.dataset import problems
from casualty_ner.documents import Article, Entity
from casualty_ner.errors import RecordError
from casualty_ner.extractor import Extractor
from casualty_ner.records import read_records


def predict(extractor: Extractor, articles: Sequence[Article]) -> dict[str, list[Entity]]:
    """The extractor's entities of every article by id."""
    found = extractor.stream(article.text for article in articles)
    return {article.id: entities for article, entities in zip(articles, found, strict=True)}


def read_predictions(path: str | Path, articles: Sequence[Article]) -> dict[str, list[Entity]]:
    """Read spans that another system predicted: JSONL, ``{"id", "entities": [{"start", "end", "label"}]}`` a line.

    ``spans`` may stand for ``entities``, and an entity may carry a ``score`` (else 1).

    Raises:
        RecordError: A line is broken, its id is unknown or was given before, a span does not lie within its text, overlaps
            another or has another label, or an article has no line (one without predictions needs an empty list).
    """
    texts = {article.id: article.text for article in articles}
    predictions: dict[str, list[Entity]] = {}
    for line, record in read_records(path):
        name = record.get("id")
        if not isinstance(name, str) or name not in texts:
            raise RecordError(path, line, "the annotated articles have no such id; predict on the data that is scored", str(name))
        if name in predictions:
            raise RecordError(path, line, "the id was given before; merge the lines", name)
        spans = record.get("entities", record.get("spans"))
        found = problems({"id": name, "text": texts[name], "spans": spans})
        if found:
            raise RecordError(path, line, found[0], name)
        predictions[name] = sorted(_entities(spans, texts[name]), key=lambda entity: entity.start)
    missing = [name for name in texts if name not in predictions]
    if missing:
        raise RecordError(
            path, None, f"{len(missing)} articles have no line, {missing[0]!r} first; give an empty list for no prediction"
        )
    return predictions


def _entities(spans: Any, text: str) -> Iterator[Entity]:
    for span in spans:
        yield Entity(span["start"], span["end"], span["label"], text[span["start"] : span["end"]], float(span.get("score", 1.0)))
