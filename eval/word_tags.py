"""seqeval's view of the same spans: strict IOB2 over the words of each article."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from casualty_ner.documents import Article, Entity, Span
from casualty_ner.labels import TAGS
from casualty_ner.windows import Tokens, align
from casualty_ner.words import word_bounds

METRIC = Path(__file__).resolve().parent / "metrics" / "casualty_seqeval"


class WordTags:
    """Gathers word tags of articles for seqeval.

    Spans that do not begin and end with a word are widened to one and counted as ``moved``; on all others seqeval's strict mode and
    our strict scheme must agree.

    Args:
        limit: With more articles than this seqeval is left out, for it takes a string a word; ``None`` for any number.
    """

    def __init__(self, limit: int | None):
        self._limit = limit
        self._references: list[list[str]] = []
        self._predictions: list[list[str]] = []
        self._moved = 0
        self._over = limit == 0

    def add(self, article: Article, predicted: Sequence[Entity]) -> None:
        if self._over:
            return
        if len(self._references) == self._limit:
            self._over = True
            self._references, self._predictions = [], []
            return
        bounds = word_bounds(article.text)
        words = Tokens(np.zeros(len(bounds), dtype=np.int64), np.arange(len(bounds)), bounds)
        self._references.append(self._tags(words, article.spans))
        self._predictions.append(self._tags(words, [entity.span for entity in predicted]))

    def scores(self) -> dict[str, Any] | None:
        """seqeval's scores, or ``None`` if there were too many articles."""
        if self._over:
            return None
        import datasets
        import evaluate

        datasets.disable_progress_bars()
        metric = evaluate.load(str(METRIC), keep_in_memory=True)
        return {**metric.compute(predictions=self._predictions, references=self._references), "moved": self._moved}

    def _tags(self, words: Tokens, spans: Sequence[Span]) -> list[str]:
        alignment = align(words, spans)
        self._moved += len(alignment.moved) + len(alignment.lost)
        return [TAGS[tag] for tag in alignment.tags]
