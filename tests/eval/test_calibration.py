from __future__ import annotations

import pytest

from tests.eval.cases import article, entities
from tests.eval.test_evaluate import report_of


def test_hand_worked_calibration() -> None:
    """Four spans score 0.85, three of them right: the bin is 0.1 off; one scores 0.25 and is wrong: 0.25 off."""
    report = report_of(
        (article("A0:4 N5:9 T10:14"), entities("A0:4 N5:9 T10:14 S15:19", 0.85) + entities("S20:24", 0.25)),
    )
    micro = report["calibration"]["micro"]
    assert micro["expected_calibration_error"] == pytest.approx((4 * 0.1 + 1 * 0.25) / 5)
    assert (micro["mean_score"], micro["share_right"]) == (pytest.approx(0.73), pytest.approx(0.6))
    (low,), (high,) = ([one for one in micro["bins"] if one["from"] == start] for start in (0.2, 0.8))
    assert (low["spans"], low["right"], low["mean_score"], low["share_right"]) == (1, 0, pytest.approx(0.25), 0.0)
    assert (high["spans"], high["right"], high["share_right"]) == (4, 3, 0.75)
    assert sum(one["spans"] for one in micro["bins"]) == 5
    assert report["calibration"]["labels"]["SOURCE"]["share_right"] == 0.0


def test_certain_and_right_is_calibrated() -> None:
    report = report_of((article("A0:4"), entities("A0:4", 1.0)))
    assert report["calibration"]["micro"]["expected_calibration_error"] == 0.0
    assert report["calibration"]["micro"]["bins"][-1]["spans"] == 1


def test_hand_worked_thresholds() -> None:
    predicted = entities("A0:4", 0.9) + entities("A5:9", 0.6) + entities("A20:24", 0.3)
    report = report_of((article("A0:4 A5:9 A30:34"), predicted))
    curves = report["thresholds"]
    actor = curves["labels"]["ACTOR"]

    def at(threshold: float) -> tuple[float | None, float, float]:
        place = curves["thresholds"].index(threshold)
        return actor["precision"][place], actor["recall"][place], actor["f1"][place]

    assert at(0.0) == at(0.3) == (2 / 3, 2 / 3, 2 / 3)
    assert at(0.31) == (1.0, 2 / 3, pytest.approx(0.8))
    assert at(0.9) == (1.0, 1 / 3, 0.5)
    assert at(0.95) == (None, 0.0, 0.0)
    assert actor["best"]["threshold"] == 0.31 and actor["best"]["f1"] == pytest.approx(0.8)
    assert curves["micro"]["f1"][0] == report["strict"]["micro"]["f1"]
    assert len(actor["interval"]["f1"]) == len(curves["thresholds"]) == 100


@pytest.mark.parametrize("percent", [0, 1, 28, 29, 57, 58, 99])
def test_a_score_counts_at_its_own_threshold(percent: int) -> None:
    report = report_of((article("A0:4"), entities("A0:4", percent / 100)))
    recall = report["thresholds"]["micro"]["recall"]
    assert recall == [1.0] * (percent + 1) + [0.0] * (99 - percent)


def test_hand_worked_thresholds_of_the_checkpoint() -> None:
    """What is below them counts in the curves and in the figures without them, and nowhere else."""
    stored = {"ACTOR": 0.6, "COUNT": 0.41, "CASUALTY_TYPE": 0.0, "SOURCE": 0.99}
    kept = entities("A0:4", 0.9) + entities("A5:9", 0.6) + entities("N30:34", 0.5)
    below = entities("A20:24", 0.3) + entities("N40:44", 0.4)
    report = report_of((article("A0:4 A5:9 N40:44"), kept, below), stored_thresholds=stored)
    without = report["without_thresholds"]
    assert report["stored_thresholds"] == stored
    assert (report["strict"]["labels"]["ACTOR"]["f1"], without["labels"]["ACTOR"]["f1"]) == (1.0, pytest.approx(0.8))
    assert (report["strict"]["labels"]["COUNT"]["f1"], without["labels"]["COUNT"]["f1"]) == (0.0, pytest.approx(2 / 3))
    assert (report["strict"]["micro"]["predicted"], without["micro"]["predicted"]) == (3, 5)
    assert (without["micro"]["correct"], without["micro"]["annotated"]) == (3, 3)
    assert report["thresholds"]["micro"]["f1"][0] == without["micro"]["f1"]
    assert sum(one["spans"] for one in report["calibration"]["micro"]["bins"]) == 5
    assert sum(report["confusion"]["counts"][-1]) == 1


def test_without_thresholds_there_is_nothing_to_say_of_them() -> None:
    report = report_of((article("A0:4"), entities("A0:4", 0.5)))
    assert report["stored_thresholds"] is report["without_thresholds"] is None
