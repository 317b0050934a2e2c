"""Predicted against annotated character spans: strict counts, and the metrics that follow from them.

A predicted span is correct if start, end and label equal those of an annotated span. Precision, recall and F1 are derived from
counts. Where a ratio has nothing to count (no prediction, no annotation) it is 0, as in seqeval; the counts show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from casualty_ner.documents import Span
from casualty_ner.labels import LABELS


@dataclass(frozen=True, slots=True)
class Counts:
    """How many spans were predicted, annotated, and both."""

    correct: int = 0
    predicted: int = 0
    annotated: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.correct + other.correct, self.predicted + other.predicted, self.annotated + other.annotated)

    @property
    def precision(self) -> float:
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.correct / self.annotated if self.annotated else 0.0

    @property
    def f1(self) -> float:
        total = self.predicted + self.annotated
        return 2 * self.correct / total if total else 0.0

    def to_dict(self) -> dict[str, float | int]:
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "correct": self.correct,
            "predicted": self.predicted,
            "annotated": self.annotated,
        }


def strict_counts(pairs: Iterable[tuple[Iterable[Span], Iterable[Span]]]) -> dict[str, Counts]:
    """Counts per label over ``(annotated, predicted)`` spans of each article; every label is there."""
    totals = {label: Counts() for label in LABELS}
    for annotated, predicted in pairs:
        gold, found = set(annotated), set(predicted)
        for spans, counts in ((gold & found, Counts(correct=1)), (found, Counts(predicted=1)), (gold, Counts(annotated=1))):
            for span in spans:
                totals[span.label] += counts
    return totals


def micro(counts: Mapping[str, Counts]) -> Counts:
    """All labels' counts together; its F1 is the micro average."""
    return sum(counts.values(), Counts())


def macro_f1(counts: Mapping[str, Counts]) -> float:
    """The mean of the labels' F1 over the labels that were annotated or predicted at all; 0 if none was."""
    seen = [one.f1 for one in counts.values() if one.predicted or one.annotated]
    return sum(seen) / len(seen) if seen else 0.0
