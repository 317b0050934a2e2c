"""Parts of the data that are scored by themselves: slices of the articles, and slices of the spans.

An article belongs to one value of an article slice, an annotated or predicted span to one value of a span slice. A strictly right
prediction has the boundaries of the annotated span, so both lie in the same slice, and precision and recall mean what they say.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from casualty_ner.documents import Article, Entity, Span

if TYPE_CHECKING:
    from casualty_ner.windows import Windower

FIELDS = ("genre", "region")
"""Fields of the annotation file that are sliced unless others are asked for."""

NO_VALUE = "(no value)"
OTHERS = "(others)"
MOST_VALUES = 30
"""A field's rarer values are counted together as `OTHERS`."""

NEAR_BORDER = 50
"""A span within this many characters of a border between windows counts as lying at it."""

_LENGTHS = (50, 100, 200, 400)
_SPANS = (1, 6, 11, 21)

ArticleSlice = Callable[[Article], str]
SpanSlice = Callable[[Article, Span | Entity], str]


def article_slices(fields: Sequence[str] = FIELDS) -> dict[str, ArticleSlice]:
    """The slices of articles by name: the fields, then what follows from the article itself."""
    return {
        **{name: _field(name) for name in fields},
        "words": _length,
        "annotated spans": _span_count,
        "letter case": _text_case,
    }


_QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")

SPAN_SLICES: dict[str, SpanSlice] = {
    "position in the article": lambda article, span: _QUARTERS[min(4 * span.start // len(article.text), 3)],
    "letter case of the span": lambda article, span: _case(article.text[span.start : span.end]),
}

WINDOW_SLICE = "window border"
WINDOW_VALUES = ("the only window", "inside a window", f"within {NEAR_BORDER} characters of a border", "across a border")

ORDERS: dict[str, tuple[str, ...]] = {
    "words": (*(f"{low}–{high - 1}" for low, high in pairwise((0, *_LENGTHS))), f"{_LENGTHS[-1]} or more"),
    "annotated spans": ("0", *(f"{low}–{high - 1}" for low, high in pairwise(_SPANS)), f"{_SPANS[-1]} or more"),
    "position in the article": _QUARTERS,
    WINDOW_SLICE: WINDOW_VALUES,
}
"""The order of values that have one; others come by size."""


def borders(windower: Windower, text: str) -> list[int]:
    """The character offsets at which one window of the model hands over to the next."""
    tokens = windower.tokenize([text])[0]
    offsets = []
    for window in windower.windows(tokens)[1:]:
        units = tokens.units[window.own_start :]
        covering = units[units >= 0]
        if len(covering):
            offsets.append(int(tokens.bounds[covering[0], 0]))
    return offsets


def window_value(offsets: Sequence[int], span: Span | Entity) -> str:
    """Where a span lies towards the borders between windows, given their sorted offsets."""
    if not offsets:
        return WINDOW_VALUES[0]
    after = bisect_right(offsets, span.start)
    if after < len(offsets) and offsets[after] < span.end:
        return WINDOW_VALUES[3]
    gaps = [span.start - offset for offset in offsets[max(after - 1, 0) : after]]
    gaps += [offset - span.end for offset in offsets[after : after + 1]]
    return WINDOW_VALUES[2] if min(gaps) <= NEAR_BORDER else WINDOW_VALUES[1]


def _field(name: str) -> ArticleSlice:
    def value(article: Article) -> str:
        return field_value(article.fields.get(name))

    return value


def field_value(value: Any) -> str:
    """A field's value as a slice's name."""
    if value is None or value == "":
        return NO_VALUE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _length(article: Article) -> str:
    return ORDERS["words"][bisect_right(_LENGTHS, len(article.text.split()))]


def _span_count(article: Article) -> str:
    return ORDERS["annotated spans"][bisect_right(_SPANS, len(article.spans))]


def _text_case(article: Article) -> str:
    """Headlines and acronyms do not make an article one of capitals: nine letters of ten decide."""
    text = article.text
    capitals, small = sum(map(str.isupper, text)), sum(map(str.islower, text))
    if not capitals:
        return "lower case" if small else "no cased letter"
    return "capitals" if capitals > 9 * small else "mixed"


def _case(text: str) -> str:
    if text.islower():
        return "lower case"
    if text.isupper():
        return "capitals"
    return "some capitals" if any(map(str.isupper, text)) else "no cased letter"
