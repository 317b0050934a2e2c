"""Token scores to entities.

The tags are the most probable legal IOB2 sequence over the text's units (words), so an entity never splits a word or a
number and never begins inside another. Viterbi is exact here and mostly free: emissions are independent and transitions
only allowed or forbidden, so where the best tag of every unit already makes a legal sequence, that is the optimum; only the
stretches around a forbidden transition are searched.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from casualty_ner.documents import Entity
from casualty_ner.labels import ALLOWED, ALLOWED_FIRST, BEGIN_IDS, INSIDE_IDS, LABELS, OUTSIDE_ID, TAGS
from casualty_ner.windows import Tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casualty_ner.calibration import Calibration

_BEGIN, _INSIDE = np.array(BEGIN_IDS), np.array(INSIDE_IDS)
_FORBIDDEN = np.where(np.array(ALLOWED), 0.0, -np.inf)
_FORBIDDEN_FIRST = np.where(np.array(ALLOWED_FIRST), 0.0, -np.inf)
_IS_ALLOWED = np.array(ALLOWED)
_OPENS_ANYWHERE = np.array(ALLOWED_FIRST)
_CERTAINLY_OUTSIDE = np.where(np.arange(len(TAGS)) == OUTSIDE_ID, 0.0, -np.inf)
_LABEL_OF_BEGIN = dict(zip(BEGIN_IDS, LABELS, strict=True))


def log_softmax(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Natural-log probabilities over the last axis."""
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def unit_scores(logits: NDArray[np.floating], tokens: Tokens) -> NDArray[np.float64]:
    """Log-probability of each tag for each unit.

    A unit is tagged as a whole: O throughout, I throughout, or B on its first token and I on the others. Each of these
    gets the mean of its tokens' log-probabilities, so that a long word counts as much as a short one, normalised over the
    tags.

    Args:
        logits: Shape ``[tokens, tags]``, class order of `casualty_ner.labels.TAGS`.
        tokens: The text's tokens.

    Returns:
        Shape ``[units, tags]``.
    """
    if not len(tokens.bounds):
        return np.zeros((0, len(TAGS)))
    covered = tokens.units >= 0
    log_probabilities = log_softmax(logits[covered])
    first = np.searchsorted(tokens.units[covered], np.arange(len(tokens.bounds)))
    total = np.add.reduceat(log_probabilities, first, axis=0)
    total[:, _BEGIN] = total[:, _INSIDE] - log_probabilities[np.ix_(first, _INSIDE)] + log_probabilities[np.ix_(first, _BEGIN)]
    lengths = np.diff(np.append(first, covered.sum()))
    return log_softmax(total / lengths[:, None])


def best_tags(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The legal tag sequence with the highest total score, shape ``[units]``, for scores of shape ``[units, tags]``.

    The sequence is parted before every unit whose best tag is legal after anything. A part without a forbidden transition
    keeps its best tags; another is searched with its beginning left free. No legal sequence scores higher than the parts'
    optima together, so where they join legally they are the answer; where not, the part is searched together with the one before.
    """
    tags = scores.argmax(axis=1)
    if not len(tags):
        return tags
    illegal = np.append(not _OPENS_ANYWHERE[tags[0]], ~_IS_ALLOWED[tags[:-1], tags[1:]]).nonzero()[0]
    cuts = np.union1d(_OPENS_ANYWHERE[tags].nonzero()[0], [0, len(tags)]).tolist()
    done = 0
    for at in illegal.tolist():
        if at < done:
            continue
        part = bisect_right(cuts, at) - 1
        done = cuts[part + 1]
        while True:
            begin = cuts[part]
            tags[begin:done] = viterbi(scores[begin:done], free_start=begin > 0)
            if begin == 0 or _IS_ALLOWED[tags[begin - 1], tags[begin]]:
                break
            del cuts[part]  # from now on the two are one part
            part -= 1
    return tags


def viterbi(scores: NDArray[np.float64], free_start: bool = False) -> NDArray[np.int64]:
    """The best legal sequence by dynamic programming over all units (Viterbi 1967), shape ``[units]``.

    With `free_start` the first unit may have any tag, as in the middle of a text.
    """
    best = scores[0] if free_start else scores[0] + _FORBIDDEN_FIRST
    came_from = np.zeros(scores.shape, dtype=np.int64)
    for index in range(1, len(scores)):
        paths = best[:, None] + _FORBIDDEN
        came_from[index] = paths.argmax(axis=0)
        best = paths.max(axis=0) + scores[index]
    tags = np.zeros(len(scores), dtype=np.int64)
    tags[-1] = best.argmax()
    for index in range(len(scores) - 1, 0, -1):
        tags[index - 1] = came_from[index, tags[index]]
    return tags


def entities(
    texts: Sequence[str], tokens: Sequence[Tokens], logits: NDArray[np.floating], calibration: Calibration | None = None
) -> list[list[Entity]]:
    """The entities of each text, in order of position; what is found in a text does not depend on the others.

    The texts are decoded as one sequence, with a unit after each that is certainly O, so that nothing reaches across.

    An entity's score is the probability of exactly this span with exactly this label, the units taken as independent:
    that its first unit is B, its others are I, and the unit after it is not I; calibrated, where a calibration is given.

    Args:
        texts: The unchanged texts.
        tokens: Their tokens.
        logits: Merged over the windows, the texts one after the other, shape ``[tokens of all texts, tags]``.
        calibration: Maps the scores, and leaves out what does not reach its thresholds.
    """
    found: list[list[Entity]] = [[] for _ in texts]
    if not texts:
        return found
    joined, owners = _join(tokens)
    stops_of_texts = np.cumsum([len(one.bounds) for one in tokens])
    scores = np.insert(unit_scores(logits, joined), stops_of_texts, _CERTAINLY_OUTSIDE, axis=0)
    bounds = np.insert(joined.bounds, stops_of_texts, -1, axis=0)
    owners = np.insert(owners, stops_of_texts, -1)
    tags = best_tags(scores)
    starts = np.isin(tags, _BEGIN).nonzero()[0]
    if not len(starts):
        return found
    closing = _OPENS_ANYWHERE[tags].nonzero()[0]
    stops = closing[np.searchsorted(closing, starts, side="right")]
    own = scores[np.arange(len(tags)), tags]
    log_scores = np.add.reduceat(own, np.stack([starts, stops], axis=1).ravel())[::2]
    goes_on = np.exp(scores[stops, tags[starts] + 1])
    values = np.exp(log_scores + np.log1p(-np.minimum(goes_on, 1 - 1e-12)))
    if calibration is not None:
        values, kept = calibration.apply(values, (tags[starts] - BEGIN_IDS[0]) // 2)
        starts, stops, values = starts[kept], stops[kept], values[kept]
    rows = zip(
        owners[starts].tolist(),
        bounds[starts, 0].tolist(),
        bounds[stops - 1, 1].tolist(),
        tags[starts].tolist(),
        values.tolist(),
        strict=True,
    )
    for owner, start, end, tag, value in rows:
        found[owner].append(Entity(start, end, _LABEL_OF_BEGIN[tag], texts[owner][start:end], value))
    return found


def _join(tokens: Sequence[Tokens]) -> tuple[Tokens, NDArray[np.int64]]:
    """Tokens of several texts as those of one, and the text that each unit is of."""
    counts = [len(one.bounds) for one in tokens]
    before = np.cumsum([0, *counts[:-1]])
    units = [np.where(one.units >= 0, one.units + shift, -1) for one, shift in zip(tokens, before, strict=True)]
    joined = Tokens(
        np.concatenate([one.ids for one in tokens]), np.concatenate(units), np.concatenate([one.bounds for one in tokens])
    )
    return joined, np.repeat(np.arange(len(tokens)), counts)


assert OUTSIDE_ID == 0 and all(inside == begin + 1 for begin, inside in zip(BEGIN_IDS, INSIDE_IDS, strict=True))
assert all(begin == BEGIN_IDS[0] + 2 * place for place, begin in enumerate(BEGIN_IDS))
