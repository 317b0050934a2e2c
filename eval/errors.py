"""What goes wrong: every annotated or predicted span that is not strictly right takes part in exactly one error.

The kinds, in the order in which they are looked for:

- *wrong label*: a predicted span answers an annotated one but has another label, whatever its boundaries;
- *split*: two or more predicted spans of the right label lie on one annotated span;
- *merged*: one predicted span lies on two or more annotated spans of its label;
- *too long*, *too short*, *shifted*: the label is right; the prediction holds the annotated span and more, only a part of it,
  or reaches too far at one end and not far enough at the other;
- *missed*, *spurious*: an annotated span without an answer, a predicted one that answers none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from casualty_ner.documents import Entity, Span
from eval.matching import Matching, Pair, pair_up

KINDS = ("wrong label", "too long", "too short", "shifted", "split", "merged", "missed", "spurious")

MEANINGS = {
    "wrong label": "answers an annotated span, with another label",
    "too long": "right label; holds the annotated span and more",
    "too short": "right label; only a part of the annotated span",
    "shifted": "right label; too far at one end, not far enough at the other",
    "split": "several predictions of the right label on one annotated span",
    "merged": "one prediction on several annotated spans of its label",
    "missed": "annotated, and nothing predicted for it",
    "spurious": "predicted, and nothing annotated for it",
}


@dataclass(frozen=True, slots=True)
class Error:
    """One thing that went wrong; its label is the annotated one, or the predicted one if nothing is annotated."""

    kind: str
    annotated: tuple[Span, ...]
    predicted: tuple[Entity, ...]

    @property
    def label(self) -> str:
        return self.annotated[0].label if self.annotated else self.predicted[0].label

    @property
    def start(self) -> int:
        return min(span.start for span in self._spans())

    @property
    def end(self) -> int:
        return max(span.end for span in self._spans())

    def _spans(self) -> list[Span | Entity]:
        return [*self.annotated, *self.predicted]


def find_errors(annotated: Sequence[Span], predicted: Sequence[Entity], matching: Matching) -> list[Error]:
    """The errors of one article in order of position."""
    errors = [
        Error("wrong label", (annotated[one],), (predicted[other],))
        for one, other in matching.equal
        if annotated[one].label != predicted[other].label
    ]
    matched = len(matching.equal)
    if matched == len(annotated) == len(predicted):
        return sorted(errors, key=_start)
    open_left = set(range(len(annotated))) - {one for one, _ in matching.equal}
    open_right = set(range(len(predicted))) - {other for _, other in matching.equal}
    same_label = [edge for edge in matching.edges if annotated[edge[0]].label == predicted[edge[1]].label]
    for one, others in _several(same_label, 0):
        parts = [other for other in others if other in open_right]
        if len(parts) > 1:
            errors.append(Error("split", (annotated[one],), tuple(predicted[other] for other in parts)))
            open_left.discard(one)
            open_right.difference_update(parts)
    for other, ones in _several(same_label, 1):
        parts = [one for one in ones if one in open_left]
        if other in open_right and len(parts) > 1:
            errors.append(Error("merged", tuple(annotated[one] for one in parts), (predicted[other],)))
            open_right.discard(other)
            open_left.difference_update(parts)
    edges = [edge for edge in matching.edges if edge[0] in open_left and edge[1] in open_right]
    for one, other in pair_up(annotated, predicted, edges):
        errors.append(Error(_boundary_kind(annotated[one], predicted[other]), (annotated[one],), (predicted[other],)))
        open_left.discard(one)
        open_right.discard(other)
    errors += [Error("missed", (annotated[one],), ()) for one in open_left]
    errors += [Error("spurious", (), (predicted[other],)) for other in open_right]
    return sorted(errors, key=_start)


def _start(error: Error) -> tuple[int, int]:
    return error.start, error.end


def _several(edges: Sequence[Pair], side: int) -> Iterator[tuple[int, list[int]]]:
    """Each span of a side that overlaps more than one of the other side, with those."""
    partners: dict[int, list[int]] = defaultdict(list)
    for edge in edges:
        partners[edge[side]].append(edge[1 - side])
    return ((span, others) for span, others in partners.items() if len(others) > 1)


def _boundary_kind(annotated: Span, predicted: Entity) -> str:
    if annotated.label != predicted.label:
        return "wrong label"
    if predicted.start <= annotated.start and predicted.end >= annotated.end:
        return "too long"
    if predicted.start >= annotated.start and predicted.end <= annotated.end:
        return "too short"
    return "shifted"
