"""Articles, annotated spans and extracted entities.

Offsets are half-open code-point offsets into the unchanged text, as Python slices it: ``text[start:end]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A labelled stretch of a text."""

    start: int
    end: int
    label: str

    def to_dict(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end, "label": self.label}


@dataclass(frozen=True, slots=True)
class Entity:
    """A span that a model found; ``score`` is its estimate that label and both boundaries are right (0 to 1)."""

    start: int
    end: int
    label: str
    text: str
    score: float

    @property
    def span(self) -> Span:
        return Span(self.start, self.end, self.label)

    def to_dict(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end, "label": self.label, "text": self.text, "score": self.score}


@dataclass(frozen=True, slots=True)
class Article:
    """An annotated text. ``fields`` holds what else the record says (genre, region, …)."""

    id: str
    text: str
    spans: tuple[Span, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "text": self.text, "spans": [span.to_dict() for span in self.spans], **self.fields}
