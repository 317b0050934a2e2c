"""Whether a score means what it says, and where to cut.

A span's score is the system's estimate that label and both boundaries are right, so it is compared with strict correctness.
Scores are counted in `SCORE_BINS` bins of equal width; the reliability diagram joins them to ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casualty_ner.labels import LABELS
from eval.bootstrap import figure, interval, ratio, with_intervals
from eval.tally import SCORE_BINS, Totals

RELIABILITY_BINS = 10


def calibration(totals: Totals) -> dict[str, Any]:
    """Reliability diagram and expected calibration error (Naeini et al. 2015; ten bins of equal width), per label and together.

    The expected calibration error is the mean distance between a bin's mean score and its share of right spans, weighted by the
    spans in it.
    """
    return {
        "micro": _reliability(totals, LABELS),
        "labels": {label: _reliability(totals, [label]) for label in LABELS},
    }


def thresholds(totals: Totals) -> dict[str, Any]:
    """Precision, recall and F1 of what scores at least a threshold, per label and together.

    What the thresholds of the checkpoint leave out takes part, so that the whole curve is there.
    """
    return {
        "thresholds": [index / SCORE_BINS for index in range(SCORE_BINS)],
        "micro": _curve(totals, LABELS),
        "labels": {label: _curve(totals, [label]) for label in LABELS},
    }


def proposed(totals: Totals, label: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How many spans the system proposed, whatever their score, and how many of them are right, each of shape ``[1 + resamples]``."""
    spans, right = (_bins(totals, what, [label]).sum(axis=0) for what in ("score", "score correct"))
    return spans, right


def _bins(totals: Totals, what: str, labels: Sequence[str]) -> NDArray[np.float64]:
    """Shape ``[score bins, 1 + resamples]``."""
    return np.stack([sum(totals(what, label, index) for label in labels) for index in range(SCORE_BINS)])


def _reliability(totals: Totals, labels: Sequence[str]) -> dict[str, Any]:
    shape = (RELIABILITY_BINS, SCORE_BINS // RELIABILITY_BINS, -1)
    spans, right, scores = (
        _bins(totals, what, labels).reshape(shape).sum(axis=1) for what in ("score", "score correct", "score sum")
    )
    mean, share = ratio(scores, spans), ratio(right, spans)
    gaps = np.nansum(np.abs(mean - share) * spans, axis=0)
    error = ratio(gaps, spans.sum(axis=0))
    figures = {
        "expected_calibration_error": error,
        "mean_score": ratio(scores.sum(axis=0), spans.sum(axis=0)),
        "share_right": ratio(right.sum(axis=0), spans.sum(axis=0)),
    }
    return {
        **with_intervals(figures, {}),
        "bins": [
            {
                "from": index / RELIABILITY_BINS,
                "to": (index + 1) / RELIABILITY_BINS,
                "spans": int(spans[index, 0]),
                "right": int(right[index, 0]),
                "mean_score": figure(mean[index]) if spans[index, 0] else None,
                "share_right": figure(share[index]) if spans[index, 0] else None,
                "interval": interval(share[index, 1:]) if spans[index, 0] else None,
            }
            for index in range(RELIABILITY_BINS)
        ],
    }


def _curve(totals: Totals, labels: Sequence[str]) -> dict[str, Any]:
    annotated = sum(totals("annotated", label) for label in labels)
    predicted, right = (_from_above(_bins(totals, what, labels)) for what in ("score", "score correct"))
    precision = ratio(right, predicted)
    recall = ratio(right, np.broadcast_to(annotated, right.shape))
    f1 = ratio(2 * right, predicted + annotated)
    best = int(np.argmax(np.nan_to_num(f1[:, 0])))
    curves = {"precision": precision, "recall": recall, "f1": f1}
    return {
        **{name: [None if np.isnan(row[0]) else float(row[0]) for row in curve] for name, curve in curves.items()},
        "interval": {name: [interval(row[1:]) for row in curve] for name, curve in curves.items()},
        "best": {"threshold": best / SCORE_BINS, "f1": figure(f1[best]), "interval": interval(f1[best, 1:])},
    }


def _from_above(bins: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cumsum(bins[::-1], axis=0)[::-1]
