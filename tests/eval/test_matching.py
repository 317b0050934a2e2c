from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from casualty_ner.documents import Span
from casualty_ner.labels import LABELS
from eval.matching import match
from eval.report import build_report
from eval.tally import Tally
from tests.eval.cases import article, entities, spans


def credit(annotated: str, predicted: str) -> dict[str, float]:
    tally = Tally()
    tally.add(article(annotated), entities(predicted))
    report = build_report(tally, system="s", data={}, seqeval=None, resamples=1)
    return {scheme: report[scheme]["micro"]["correct"] for scheme in ("strict", "exact", "partial", "type")}


@pytest.mark.parametrize(
    ("annotated", "predicted", "strict", "exact", "partial", "type"),
    [
        ("A0:9", "A0:9", 1, 1, 1, 1),
        ("A0:9", "S0:9", 0, 1, 1, 0),  # only the label is wrong
        ("A0:9", "A0:5", 0, 0, 0.5, 1),  # only a boundary is wrong
        ("A0:9", "S0:5", 0, 0, 0.5, 0),  # both
        ("A0:9", "A9:12", 0, 0, 0, 0),  # neighbours do not overlap
        ("A0:9", "", 0, 0, 0, 0),
        ("", "A0:9", 0, 0, 0, 0),
        ("", "", 0, 0, 0, 0),
        # One predicted span answers one annotated span only.
        ("A0:4 A5:9", "A0:9", 0, 0, 0.5, 1),
        ("A0:9", "A0:4 A5:9", 0, 0, 0.5, 1),
        # A greedy scorer gives the prediction over both to the first annotated span, and calls the perfect one spurious.
        ("A0:4 A5:9", "A3:6 A6:9", 0, 0, 1, 2),
        ("A0:4 N5:9 S10:14", "N3:6 S8:11", 0, 0, 1, 2),
        # The chain that only an optimal matching pairs completely.
        ("A0:4 A5:9 A10:14", "A3:6 A8:11 A13:20", 0, 0, 1.5, 3),
        # The label decides for `type` and not for `partial`.
        ("A0:4 S5:9", "S3:6", 0, 0, 0.5, 1),
    ],
)
def test_hand_worked_schemes(annotated: str, predicted: str, strict: float, exact: float, partial: float, type: float) -> None:
    assert credit(annotated, predicted) == {"strict": strict, "exact": exact, "partial": partial, "type": type}


def test_a_perfect_prediction_beside_a_long_one_stays_perfect() -> None:
    matching = match(spans("A0:4 A5:9"), entities("A5:9"))
    assert (matching.equal, matching.paired) == ([(1, 0)], [])


def test_figures_of_a_label_where_the_scheme_ignores_labels() -> None:
    tally = Tally()
    tally.add(article("A0:4 A5:9 N10:12"), entities("A0:4 S5:9 N10:12"))
    report = build_report(tally, system="s", data={}, seqeval=None, resamples=1)
    actor, source, count = (report["exact"]["labels"][label] for label in ("ACTOR", "SOURCE", "COUNT"))
    assert (actor["recall"], actor["precision"]) == (1.0, 1.0)  # both annotated ones found; the one predicted is right
    assert (source["recall"], source["precision"], source["annotated"]) == (0.0, 1.0, 0)
    assert (count["f1"], report["exact"]["micro"]["f1"]) == (1.0, 1.0)
    strict = report["strict"]
    assert (strict["labels"]["ACTOR"]["precision"], strict["labels"]["ACTOR"]["recall"]) == (1.0, 0.5)
    assert strict["labels"]["ACTOR"]["f1"] == pytest.approx(2 / 3)
    assert strict["macro"]["f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)  # CASUALTY_TYPE occurs nowhere
    assert strict["micro"]["f1"] == pytest.approx(2 / 3)


def flat(generator: np.random.Generator, length: int = 24) -> list[Span]:
    cuts = sorted(generator.choice(length, size=2 * int(generator.integers(0, 5)), replace=False).tolist())
    return [Span(start, end, str(generator.choice(LABELS[:2]))) for start, end in zip(cuts[::2], cuts[1::2], strict=True)]


def best_by_trial(annotated: list[Span], predicted: list[Span], same_label: bool) -> tuple[int, int]:
    """The most pairs, and of these the most with the same label, over all one-to-one matchings."""
    best = (0, 0)
    shorter, longer, swapped = (annotated, predicted, False) if len(annotated) <= len(predicted) else (predicted, annotated, True)
    for size in range(len(shorter) + 1):
        for some in combinations(shorter, size):
            for others in permutations(longer, size):
                pairs = [(b, a) if swapped else (a, b) for a, b in zip(some, others, strict=True)]
                equal = [a.label == b.label for a, b in pairs]
                if all(a.start < b.end and b.start < a.end for a, b in pairs) and (not same_label or all(equal)):
                    best = max(best, (size, sum(equal)))
    return best


def test_the_matching_is_optimal() -> None:
    generator = np.random.default_rng(1)
    for _ in range(400):
        annotated, predicted = flat(generator), flat(generator)
        matching = match(annotated, predicted)
        equal = [annotated[one].label == predicted[other].label for one, other in matching.equal]
        paired = [annotated[one].label == predicted[other].label for one, other in matching.paired]
        assert (len(equal) + len(paired), sum(equal) + sum(paired)) == best_by_trial(annotated, predicted, same_label=False)
        assert sum(equal) + len(matching.typed) == best_by_trial(annotated, predicted, same_label=True)[0]
        for pairs in (matching.equal + matching.paired, matching.typed):
            assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)


def test_a_long_chain_takes_one_pass() -> None:
    annotated = [Span(2 * index, 2 * index + 2, "ACTOR") for index in range(50_000)]
    predicted = [Span(2 * index + 1, 2 * index + 3, "ACTOR") for index in range(50_000)]
    matching = match(annotated, predicted)
    assert len(matching.paired) == len(matching.typed) == 50_000
    assert len(match(annotated, [Span(0, 100_000, "ACTOR")]).paired) == 1
