from __future__ import annotations

from casualty_ner.documents import Span
from casualty_ner.scoring import Counts, macro_f1, micro, strict_counts


def test_hand_worked_article() -> None:
    annotated = [Span(0, 5, "ACTOR"), Span(6, 9, "COUNT"), Span(10, 14, "SOURCE")]
    predicted = [Span(0, 5, "ACTOR"), Span(6, 8, "COUNT"), Span(10, 14, "ACTOR")]
    counts = strict_counts([(annotated, predicted)])
    assert counts["ACTOR"] == Counts(correct=1, predicted=2, annotated=1)
    assert counts["COUNT"] == Counts(correct=0, predicted=1, annotated=1)
    assert counts["SOURCE"] == Counts(correct=0, predicted=0, annotated=1)
    assert counts["CASUALTY_TYPE"] == Counts()
    assert micro(counts) == Counts(correct=1, predicted=3, annotated=3)
    assert (counts["ACTOR"].precision, counts["ACTOR"].recall, counts["ACTOR"].f1) == (0.5, 1.0, 2 / 3)
    assert macro_f1(counts) == (2 / 3 + 0 + 0) / 3


def test_a_span_counts_in_its_own_article_only() -> None:
    span = Span(0, 1, "COUNT")
    assert micro(strict_counts([([span], []), ([], [span])])) == Counts(0, 1, 1)


def test_nothing_to_count_is_zero_and_shown() -> None:
    assert (Counts().precision, Counts().recall, Counts().f1) == (0.0, 0.0, 0.0)
    assert macro_f1(strict_counts([([], [])])) == 0.0
