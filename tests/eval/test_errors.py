from __future__ import annotations

import numpy as np
import pytest

from casualty_ner.documents import Entity
from eval.errors import KINDS, MEANINGS, find_errors
from eval.matching import match
from tests.eval.cases import entities, spans
from tests.eval.test_matching import flat


def kinds(annotated: str, predicted: str) -> list[tuple[str, str]]:
    gold, found = spans(annotated), entities(predicted)
    return [(error.kind, error.label) for error in find_errors(gold, found, match(gold, found))]


@pytest.mark.parametrize(
    ("annotated", "predicted", "expected"),
    [
        ("A0:9", "A0:9", []),
        ("A0:9", "S0:9", [("wrong label", "ACTOR")]),
        ("A0:9", "S0:5", [("wrong label", "ACTOR")]),
        ("A2:9", "A0:9", [("too long", "ACTOR")]),
        ("A0:9", "A2:8", [("too short", "ACTOR")]),
        ("A0:9", "A2:12", [("shifted", "ACTOR")]),
        ("A0:9", "A0:4 A5:9", [("split", "ACTOR")]),
        ("A0:4 A5:9", "A0:9", [("merged", "ACTOR")]),
        ("A0:9", "", [("missed", "ACTOR")]),
        ("", "S0:9", [("spurious", "SOURCE")]),
        # A number taken out of a phrase does not split it: what is left of the label is too short.
        ("A0:9", "N0:2 A3:9", [("spurious", "COUNT"), ("too short", "ACTOR")]),
        ("A0:4 N5:9 T20:25", "A0:4 T20:22", [("missed", "COUNT"), ("too short", "CASUALTY_TYPE")]),
        # Each span takes part in one error: the first prediction merges two, the last annotated span is split over two others.
        ("A0:4 A5:9 A12:20", "A0:6 A13:15 A16:18", [("merged", "ACTOR"), ("split", "ACTOR")]),
    ],
)
def test_hand_worked_kinds(annotated: str, predicted: str, expected: list[tuple[str, str]]) -> None:
    assert kinds(annotated, predicted) == expected


def test_every_wrong_span_takes_part_in_one_error_and_no_right_one_in_any() -> None:
    generator = np.random.default_rng(2)
    seen = set()
    for _ in range(2_000):
        annotated, predicted = flat(generator), [Entity(one.start, one.end, one.label, "", 1.0) for one in flat(generator)]
        errors = find_errors(annotated, predicted, match(annotated, predicted))
        right = set(annotated) & {one.span for one in predicted}
        assert sorted(one for error in errors for one in error.annotated) == sorted(set(annotated) - right)
        assert sorted(one.span for error in errors for one in error.predicted) == sorted({one.span for one in predicted} - right)
        assert [error.start for error in errors] == sorted(error.start for error in errors)
        seen |= {error.kind for error in errors}
    assert seen == set(KINDS) == set(MEANINGS)
