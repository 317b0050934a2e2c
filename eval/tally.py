"""Counts of everything that a report shows, gathered article by article.

Articles pass through; what stays of each is a few dozen small numbers in a sparse matrix ``[articles, columns]``, a bounded
number of examples, and the articles for the error browser. Figures and their intervals are functions of the column totals.
"""

from __future__ import annotations

import heapq
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from casualty_ner.documents import Article, Entity
from casualty_ner.labels import LABELS
from eval.bootstrap import RESAMPLES, resampled_totals
from eval.errors import Error, find_errors
from eval.matching import Matching, match
from eval.slices import (
    FIELDS,
    MOST_VALUES,
    OTHERS,
    SPAN_SLICES,
    WINDOW_SLICE,
    article_slices,
    borders,
    window_value,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from casualty_ner.windows import Windower

Column = tuple[Any, ...]
SCORE_BINS = 100
EXAMPLES = 5
"""Shown of each kind of error in the tables; the browser shows all of its articles."""

SHOWN_ARTICLES = 1_000
SHOWN_CHARACTERS = 4_000_000
"""The browser holds the articles with the most errors, up to these; a report says how many it left out."""

BASE = ("annotated", "predicted", "correct")


@dataclass(frozen=True, slots=True)
class Shown:
    """An article of the error browser."""

    article: Article
    predicted: Sequence[Entity]
    errors: Sequence[Error]
    slices: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """An error with the article that it is in."""

    article: str
    text: str
    error: Error


class Tally:
    """Counts over articles.

    Args:
        fields: The fields of the annotation file to slice by.
        windower: The model's windows, for the slice by window border; ``None`` leaves that out.

    Attributes:
        words: In all articles.
        unscored: Predicted spans without a score.
        field_counts: For each field how many articles have it.
    """

    def __init__(self, fields: Sequence[str] = FIELDS, windower: Windower | None = None):
        self.fields, self.windower = fields, windower
        self.words = self.unscored = 0
        self.field_counts: Counter[str] = Counter()
        self._columns: dict[Column, int] = {}
        self._indices, self._values, self._ends = array("i"), array("f"), array("q", [0])
        self._slices = article_slices(fields)
        self._slice_values: dict[str, dict[str, int]] = {name: {} for name in self._slices}
        self._slice_codes = {name: array("i") for name in self._slices}
        self._examples: dict[str, list[tuple[int, int, int, Example]]] = {}
        self._shown: list[tuple[int, int, Shown]] = []
        self._shown_characters = 0

    @property
    def articles(self) -> int:
        return len(self._ends) - 1

    @property
    def slice_names(self) -> list[str]:
        return [*self._slices, *SPAN_SLICES, *([WINDOW_SLICE] if self.windower else [])]

    def add(self, article: Article, predicted: Sequence[Entity], below: Sequence[Entity] = ()) -> None:
        """Count one article; both its spans and the predicted ones are sorted and flat.

        Args:
            article: The annotated article.
            predicted: What the system finds in it.
            below: What it would find too, were it not for the thresholds of its scores; counted in calibration and
                threshold curves alone.
        """
        matching = match(article.spans, predicted)
        errors = find_errors(article.spans, predicted, matching)
        cells: dict[Column, float] = defaultdict(int)
        self._count_spans(cells, article, predicted, matching)
        self._count_scores(cells, article, [*predicted, *below])
        for error in errors:
            cells["error", error.kind, error.label] += 1
            self._keep_example(article, error)
        self._append(cells)
        self.words += len(article.text.split())
        self.field_counts.update(name for name in self.fields if article.fields.get(name) not in (None, ""))
        values = {name: value(article) for name, value in self._slices.items()}
        for name, value in values.items():
            codes = self._slice_values[name]
            self._slice_codes[name].append(codes.setdefault(value, len(codes)))
        self._keep_shown(Shown(article, predicted, errors, values))

    def _count_spans(self, cells: dict[Column, float], article: Article, predicted: Sequence[Entity], matching: Matching) -> None:
        annotated = article.spans
        right = set()
        for one, other in matching.equal:
            label, found = annotated[one].label, predicted[other].label
            if label == found:
                right.add(other)
                cells["correct", label] += 1
            else:
                cells["relabelled", label, found] += 1
        for one, other in matching.paired:
            cells["overlapping", annotated[one].label, predicted[other].label] += 1
        for one, _ in matching.typed:
            cells["typed", annotated[one].label] += 1
        slicers = dict(SPAN_SLICES)
        if self.windower:
            offsets = borders(self.windower, article.text)
            slicers[WINDOW_SLICE] = lambda _, span: window_value(offsets, span)
        for span in annotated:
            cells["annotated", span.label] += 1
            for name, value in slicers.items():
                cells[name, value(article, span), "annotated", span.label] += 1
        for index, entity in enumerate(predicted):
            label, correct = entity.label, index in right
            cells["predicted", label] += 1
            for name, value in slicers.items():
                where = value(article, entity)
                cells[name, where, "predicted", label] += 1
                if correct:
                    cells[name, where, "correct", label] += 1

    def _count_scores(self, cells: dict[Column, float], article: Article, proposed: Sequence[Entity]) -> None:
        annotated = set(article.spans)
        for entity in proposed:
            label = entity.label
            if entity.score != entity.score:  # NaN: the system gives none
                self.unscored += 1
                continue
            score = min(int(entity.score * SCORE_BINS + 1e-9), SCORE_BINS - 1)  # 0.29 * 100 is a little less than 29
            cells["score", label, score] += 1
            cells["score sum", label, score] += entity.score
            if entity.span in annotated:
                cells["score correct", label, score] += 1

    def _append(self, cells: Mapping[Column, float]) -> None:
        columns = self._columns
        for column, value in cells.items():
            self._indices.append(columns.setdefault(column, len(columns)))
            self._values.append(value)
        self._ends.append(len(self._indices))

    def _keep_example(self, article: Article, error: Error) -> None:
        """Keep the examples with the smallest hashes: a fair sample, and the same in any order of the articles."""
        kept = self._examples.setdefault(error.kind, [])
        rank = -zlib.crc32(f"{article.id}:{error.start}:{error.kind}".encode("utf-8", "replace"))
        if len(kept) < EXAMPLES or rank > kept[0][0]:
            entry = (rank, -self.articles, -error.start, Example(article.id, article.text, error))
            if len(kept) < EXAMPLES:
                heapq.heappush(kept, entry)
            else:
                heapq.heapreplace(kept, entry)

    def _keep_shown(self, shown: Shown) -> None:
        size = len(shown.article.text)
        if size > SHOWN_CHARACTERS:
            return
        heapq.heappush(self._shown, (len(shown.errors), -self.articles, shown))
        self._shown_characters += size
        while len(self._shown) > SHOWN_ARTICLES or self._shown_characters > SHOWN_CHARACTERS:
            self._shown_characters -= len(heapq.heappop(self._shown)[2].article.text)

    def shown(self) -> list[Shown]:
        """The articles of the error browser, most errors first."""
        return [one for _, _, one in sorted(self._shown, key=lambda entry: entry[:2], reverse=True)]

    def examples_of(self, kind: str) -> list[Example]:
        """Up to `EXAMPLES` errors of a kind."""
        return [entry[-1] for entry in sorted(self._examples.get(kind, []), key=lambda entry: entry[:3], reverse=True)]

    def matrix(self) -> csr_array:
        """The counts gathered so far, shape ``[articles, columns]``."""
        from scipy.sparse import csr_array

        parts = (
            np.frombuffer(self._values, dtype=np.float32),
            np.frombuffer(self._indices, dtype=np.int32),
            np.frombuffer(self._ends, dtype=np.int64),
        )
        return csr_array(parts, shape=(self.articles, len(self._columns)))

    def dense(self, columns: Sequence[Column]) -> NDArray[np.float64]:
        """The counts of some columns for each article, shape ``[articles, columns]``."""
        known = [column for column in columns if column in self._columns]
        result = np.zeros((self.articles, len(columns)))
        places = [columns.index(column) for column in known]
        result[:, places] = _columns_of(self.matrix(), [self._columns[column] for column in known]).toarray()
        return result

    def totals(self, resamples: int = RESAMPLES) -> Totals:
        """The totals of every column, of the slices of articles too, over the data and over resamples of its articles."""
        matrix, columns = self.matrix(), dict(self._columns)
        base = [(what, label) for label in LABELS for what in BASE if (what, label) in columns]
        strict = _columns_of(matrix, [columns[column] for column in base])
        parts, articles = [matrix], {}
        for name in self._slices:
            values, codes = self._common_values(name)
            articles[name] = dict(zip(values, np.bincount(codes, minlength=len(values)).tolist(), strict=True))
            parts.append(_per_value(strict, codes, len(values)))
            for value in values:
                for what, label in base:
                    columns[name, value, what, label] = len(columns)
        return Totals(columns, resampled_totals(parts, resamples), articles)

    def _common_values(self, name: str) -> tuple[list[str], NDArray[np.int32]]:
        """The values of a slice, rare ones of a large set as one, and for each article the index of its value."""
        values = list(self._slice_values[name])
        codes = np.frombuffer(self._slice_codes[name], dtype=np.int32)
        if len(values) <= MOST_VALUES:
            return values, codes
        order = np.argsort(-np.bincount(codes, minlength=len(values)), kind="stable")
        kept = [int(index) for index in order[: MOST_VALUES - 1]]
        renamed = np.full(len(values), len(kept), dtype=np.int32)
        renamed[kept] = np.arange(len(kept))
        return [*(values[index] for index in kept), OTHERS], renamed[codes]


def _columns_of(counts: csr_array, columns: Sequence[int]) -> csr_array:
    """Some columns of a matrix; without the transposed copy of the whole that SciPy would make."""
    from scipy.sparse import csr_array

    place = np.full(counts.shape[1], -1, dtype=np.int32)
    place[columns] = np.arange(len(columns))
    indices = place[counts.indices]
    kept = indices >= 0
    ends = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
    return csr_array((counts.data[kept], indices[kept], ends), shape=(counts.shape[0], len(columns)))


def _per_value(counts: csr_array, codes: NDArray[np.int32], values: int) -> csr_array:
    """Spread the columns of each article to those of its slice value, shape ``[articles, values * columns]``."""
    from scipy.sparse import csr_array

    articles, width = counts.shape
    shift = np.repeat(codes * width, np.diff(counts.indptr))
    return csr_array((counts.data, counts.indices + shift, counts.indptr), shape=(articles, values * width))


@dataclass(frozen=True, slots=True)
class Totals:
    """Column totals of the data and of its resamples.

    Attributes:
        columns: Where each column stands.
        values: Shape ``[1 + resamples, columns]``, row 0 the data themselves.
        articles: For each slice of articles how many each value holds.
    """

    columns: Mapping[Column, int]
    values: NDArray[np.float64]
    articles: Mapping[str, Mapping[str, int]]

    def __call__(self, *column: Any) -> NDArray[np.float64]:
        """One column's totals, shape ``[1 + resamples]``; zeros if nothing was ever counted in it."""
        place = self.columns.get(column)
        return self.values[:, place] if place is not None else np.zeros(len(self.values))

    def slice_values(self, name: str) -> list[str]:
        """The values of a slice of spans or articles that anything was counted for."""
        known = dict.fromkeys(column[1] for column in self.columns if len(column) == 4 and column[0] == name)
        return list(self.articles.get(name, known))
