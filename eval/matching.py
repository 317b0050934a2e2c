"""Which predicted span answers which annotated one: an optimal one-to-one matching, and the four schemes read from it.

The schemes are those of SemEval-2013 task 9.1 (Segura-Bedmar et al. 2013), after MUC-5 (Chinchor and Sundheim 1993):

- *strict*: label and both boundaries are right;
- *exact*: both boundaries are right, whatever the label;
- *partial*: the spans overlap, whatever the label; half a credit unless both boundaries are right;
- *type*: the label is right and the spans overlap.

Each scheme gets the one-to-one matching that gives it the most credit. That is easy here because spans are flat. Two spans
with the same boundaries overlap nothing else, so they belong together under any scheme. Of the rest, listed in reading order,
two overlapping pairs never cross, so an optimal matching is a choice of pairs from a sorted list, found by dynamic programming
in one pass (weighted interval scheduling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from casualty_ner.documents import Entity, Span

SCHEMES = ("strict", "exact", "partial", "type")

Pair = tuple[int, int]
"""The index of an annotated span and of a predicted one."""

_FIRST, _SECOND = 1 << 80, 1 << 40  # weights that no sum of the next lower ones reaches


@dataclass(frozen=True, slots=True)
class Matching:
    """The matched spans of one article.

    Attributes:
        equal: Pairs with the same boundaries.
        edges: All overlapping pairs of the other spans, in reading order.
        paired: Of `edges` an optimal matching: as many pairs as possible, of these as many with the same label as possible,
            of these the most characters in common.
        typed: Of `edges` with the same label an optimal matching, in the same sense.
    """

    equal: list[Pair]
    edges: list[Pair]
    paired: list[Pair]
    typed: list[Pair]


def match(annotated: Sequence[Span], predicted: Sequence[Span | Entity]) -> Matching:
    """Match an article's spans; both sequences are sorted and without overlaps among themselves."""
    places = {(span.start, span.end): index for index, span in enumerate(annotated)}
    equal: list[Pair] = []
    others: list[int] = []
    for index, found in enumerate(predicted):
        same = places.pop((found.start, found.end), None)
        if same is None:
            others.append(index)
        else:
            equal.append((same, index))
    if not places or not others:
        return Matching(equal, [], [], [])
    edges = _overlaps(annotated, list(places.values()), predicted, others)
    return Matching(equal, edges, pair_up(annotated, predicted, edges), _pair_same_label(annotated, predicted, edges))


def pair_up(annotated: Sequence[Span], predicted: Sequence[Span | Entity], edges: Sequence[Pair]) -> list[Pair]:
    """The optimal matching among overlapping pairs in reading order (see `Matching.paired`)."""
    if len(edges) < 2:
        return list(edges)
    weights = []
    for one, other in edges:
        same = annotated[one].label == predicted[other].label
        weights.append(_FIRST + same * _SECOND + _shared(annotated[one], predicted[other]))
    return _heaviest(edges, weights)


def _pair_same_label(annotated: Sequence[Span], predicted: Sequence[Span | Entity], edges: Sequence[Pair]) -> list[Pair]:
    same = [edge for edge in edges if annotated[edge[0]].label == predicted[edge[1]].label]
    if len(same) < 2:
        return same
    return _heaviest(same, [_FIRST + _shared(annotated[one], predicted[other]) for one, other in same])


def _overlaps(
    annotated: Sequence[Span], these: Sequence[int], predicted: Sequence[Span | Entity], those: Sequence[int]
) -> list[Pair]:
    edges = []
    left = right = 0
    while left < len(these) and right < len(those):
        one, other = annotated[these[left]], predicted[those[right]]
        if one.start < other.end and other.start < one.end:
            edges.append((these[left], those[right]))
        if one.end <= other.end:
            left += 1
        else:
            right += 1
    return edges


def _shared(one: Span, other: Span | Entity) -> int:
    return min(one.end, other.end) - max(one.start, other.start)


def _heaviest(edges: Sequence[Pair], weights: Sequence[int]) -> list[Pair]:
    """The heaviest subset of sorted, non-crossing pairs in which no span occurs twice.

    The pairs that share a span with a pair and come before it are the ones right before it, so the best choice up to a pair
    is either the best up to its neighbour, or the pair with the best choice before those.
    """
    best = [0]
    before = []
    first_left = first_right = 0
    for index, (left, right) in enumerate(edges):
        if index and left != edges[index - 1][0]:
            first_left = index
        if index and right != edges[index - 1][1]:
            first_right = index
        before.append(min(first_left, first_right))
        best.append(max(best[index], best[before[index]] + weights[index]))
    chosen = [False] * len(edges)
    at = len(edges)
    while at:
        if best[at] == best[at - 1]:
            at -= 1
        else:
            chosen[at - 1] = True
            at = before[at - 1]
    return list(compress(edges, chosen))
