"""What a span's score has to become to be a probability, and how high it must be to be kept; both learnt on validation.

The model's own score (see `casualty_ner.decoding.entities`) is over-confident, as scores of fine-tuned networks are. Platt scaling (Platt
1999) maps it, label by label, to the share of spans with such a score that are right. The map is monotone, so it changes no entity and
no order; only the thresholds leave entities out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from casualty_ner.documents import Entity, Span
from casualty_ner.labels import LABELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

THRESHOLDS = tuple(index / 100 for index in range(100))
"""The thresholds that are tried."""
_PRIOR = 1.0
"""Weight, in spans, of the belief that a score needs no change; what holds where a label has hardly a span."""
_NEARLY = 1e-6


@dataclass(frozen=True, slots=True)
class Scale:
    """A label's map and threshold.

    Attributes:
        slope: Of the map from a score's log-odds to the calibrated log-odds.
        intercept: Of the same map.
        threshold: On the calibrated score; the highest F1 on validation is that of the entities which reach it.
    """

    slope: float = 1.0
    intercept: float = 0.0
    threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """A `Scale` for each label."""

    scales: Mapping[str, Scale]

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, float]]) -> Calibration:
        """Read what `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        return cls({label: Scale(**{name: float(value) for name, value in values[label].items()}) for label in LABELS})

    def to_dict(self) -> dict[str, Any]:
        return {label: asdict(scale) for label, scale in self.scales.items()}

    @property
    def thresholds(self) -> dict[str, float]:
        return {label: scale.threshold for label, scale in self.scales.items()}

    def uncut(self) -> Calibration:
        """The same without thresholds."""
        return Calibration({label: replace(scale, threshold=0.0) for label, scale in self.scales.items()})

    def apply(self, scores: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The calibrated scores of entities, and which of them reach their label's threshold.

        Args:
            scores: As the model gives them, shape ``[entities]``.
            labels: Of each its place in `casualty_ner.labels.LABELS`.
        """
        slopes, intercepts, thresholds = np.array([astuple(self.scales[label]) for label in LABELS]).T
        calibrated = _sigmoid(slopes[labels] * _log_odds(scores) + intercepts[labels])
        return calibrated, calibrated >= thresholds[labels]

    def reaches(self, entity: Entity) -> bool:
        """Whether a calibrated score reaches the threshold of its label."""
        return entity.score >= self.scales[entity.label].threshold


def fit(pairs: Iterable[tuple[Iterable[Span], Iterable[Entity]]]) -> Calibration:
    """Learn scales and thresholds from articles' annotated spans and the entities found in them, scored as the model scores."""
    scores: dict[str, list[float]] = {label: [] for label in LABELS}
    right: dict[str, list[bool]] = {label: [] for label in LABELS}
    annotated = dict.fromkeys(LABELS, 0)
    for spans, entities in pairs:
        gold = set(spans)
        for span in gold:
            annotated[span.label] += 1
        for entity in entities:
            scores[entity.label].append(entity.score)
            right[entity.label].append(entity.span in gold)
    return Calibration({label: _fit_label(scores[label], right[label], annotated[label]) for label in LABELS})


def _fit_label(scores: Sequence[float], right: Sequence[bool], annotated: int) -> Scale:
    raw, correct = np.array(scores, dtype=np.float64), np.array(right, dtype=bool)
    slope, intercept = _platt(_log_odds(raw), correct)
    calibrated = _sigmoid(slope * _log_odds(raw) + intercept)
    f1 = []
    for threshold in THRESHOLDS:
        kept = calibrated >= threshold
        f1.append(2 * (kept & correct).sum() / max(kept.sum() + annotated, 1))
    return Scale(slope, intercept, THRESHOLDS[int(np.argmax(f1))])


def _platt(log_odds: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of the most probable logistic map, by Newton's method; few spans leave it near the identity."""
    inputs = np.stack([log_odds, np.ones_like(log_odds)], axis=1)
    identity = np.array([1.0, 0.0])

    def loss(weights: NDArray[np.float64]) -> float:
        outputs = inputs @ weights
        return float((np.logaddexp(0, outputs) - right * outputs).sum() + _PRIOR / 2 * ((weights - identity) ** 2).sum())

    weights = identity
    for _ in range(100):
        expected = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (expected - right) + _PRIOR * (weights - identity)
        curvature = (inputs * (expected * (1 - expected))[:, None]).T @ inputs + _PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > _NEARLY:
            step = step / 2  # far from the optimum a whole step can overshoot it
        weights = weights - step
        if np.abs(step).max() <= _NEARLY:
            break
    return (float(weights[0]), float(weights[1])) if weights[0] > 0 else (1.0, 0.0)  # scores that tell nothing stay as they are


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -values))


def _log_odds(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    bounded = np.clip(scores, _NEARLY, 1 - _NEARLY)
    return np.log(bounded) - np.log1p(-bounded)
