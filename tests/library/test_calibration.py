from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casualty_ner.calibration import THRESHOLDS, Calibration, Scale, fit
from casualty_ner.documents import Entity, Span
from casualty_ner.labels import LABELS

Pair = tuple[list[Span], list[Entity]]


def pairs(label: str, scores: list[float], right: list[bool], missed: int = 0) -> Iterator[Pair]:
    """One span an article, right or not, and articles in which a span is missed."""
    for score, is_right in zip(scores, right, strict=True):
        yield [Span(0, 4 if is_right else 3, label)], [Entity(0, 4, label, "text", score)]
    for _ in range(missed):
        yield [Span(0, 4, label)], []


def calibrated(calibration: Calibration, label: str, *scores: float) -> list[float]:
    return calibration.apply(np.array(scores), np.full(len(scores), LABELS.index(label)))[0].tolist()


def test_overconfident_scores_become_the_share_that_is_right() -> None:
    chance = np.random.default_rng(5)
    truth = chance.uniform(0.05, 0.98, 20_000)
    odds = np.log(truth / (1 - truth))
    told = 1 / (1 + np.exp(-(2.5 * odds + 0.7)))  # what an over-confident model says
    calibration = fit(pairs("ACTOR", told.tolist(), (chance.random(len(truth)) < truth).tolist()))
    scale = calibration.scales["ACTOR"]
    assert scale.slope == pytest.approx(1 / 2.5, abs=0.02)
    assert scale.intercept == pytest.approx(-0.7 / 2.5, abs=0.05)
    assert np.abs(np.array(calibrated(calibration, "ACTOR", *told)) - truth).max() < 0.02


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40))
def test_a_scale_is_monotone_and_bounded_whatever_it_was_fitted_to(seen: list[tuple[float, bool]]) -> None:
    calibration = fit(pairs("COUNT", [score for score, _ in seen], [right for _, right in seen]))
    values = calibrated(calibration, "COUNT", *np.linspace(0, 1, 30))
    assert all(0 <= low <= high <= 1 for low, high in pairwise(values))
    assert calibration.scales["COUNT"].threshold in THRESHOLDS


def test_nothing_seen_changes_nothing_and_cuts_nothing() -> None:
    scores, kept = fit([]).apply(np.full(len(LABELS), 0.3), np.arange(len(LABELS)))
    assert scores.tolist() == pytest.approx([0.3] * len(LABELS))
    assert kept.all()


def test_scores_that_tell_nothing_stay() -> None:
    """The worse the score, the more often right: no map that keeps the order can mend that."""
    scale = fit(pairs("SOURCE", [0.1] * 50 + [0.9] * 50, [True] * 50 + [False] * 50)).scales["SOURCE"]
    assert (scale.slope, scale.intercept) == (1.0, 0.0)


def test_the_threshold_is_where_f1_is_highest() -> None:
    """Of ten each at four scores 9, 8, 2 and 1 are right, and 40 annotated: F1 is 34/60 without the lower twenty, 38/70 with ten of them."""
    scores = [score for score in (0.95, 0.8, 0.3, 0.1) for _ in range(10)]
    right = [place < count for count in (9, 8, 2, 1) for place in range(10)]
    calibration = fit(pairs("CASUALTY_TYPE", scores, right))
    low, high = calibrated(calibration, "CASUALTY_TYPE", 0.3, 0.8)
    assert low < calibration.scales["CASUALTY_TYPE"].threshold <= high


def test_a_cut_leaves_out_what_its_label_does_not_reach() -> None:
    calibration = Calibration({label: Scale(threshold=0.5 if label == "ACTOR" else 0.0) for label in LABELS})
    scores, labels = np.array([0.4, 0.6, 0.4]), np.array([LABELS.index(label) for label in ("ACTOR", "ACTOR", "COUNT")])
    assert calibration.apply(scores, labels)[1].tolist() == [False, True, True]
    assert calibration.uncut().apply(scores, labels)[1].all()
    assert [calibration.reaches(Entity(0, 1, "ACTOR", "a", score)) for score in (0.4, 0.6)] == [False, True]


def test_json_and_back() -> None:
    calibration = fit(pairs("ACTOR", [0.2, 0.9], [False, True], missed=1))
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
