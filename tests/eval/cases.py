"""Short ways to write articles and predictions down in tests."""

from __future__ import annotations

import math

from casualty_ner.documents import Article, Entity, Span

NAMES = {"A": "ACTOR", "N": "COUNT", "T": "CASUALTY_TYPE", "S": "SOURCE"}


def span(text: str) -> Span:
    """``"A0:5"`` is an ACTOR at 0:5."""
    start, end = text[1:].split(":")
    return Span(int(start), int(end), NAMES[text[0]])


def spans(text: str) -> tuple[Span, ...]:
    """``"A0:5 N6:8"``"""
    return tuple(map(span, text.split()))


def entities(text: str, score: float = 1.0, of: str = "") -> list[Entity]:
    """As `spans`, predicted; `of` is the article's text."""
    return [Entity(one.start, one.end, one.label, of[one.start : one.end], score) for one in spans(text)]


def unscored(text: str) -> list[Entity]:
    return entities(text, math.nan)


def article(annotated: str, name: str = "a", text: str = "x" * 100, **fields: object) -> Article:
    return Article(name, text, spans(annotated), fields)
