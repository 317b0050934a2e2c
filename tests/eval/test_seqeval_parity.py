"""seqeval and the strict scheme must agree wherever every span begins and ends with a word: both then compare sets of (label, first
word, last word), and legal IOB2 tags write such a set down without loss. They may differ only on spans that split a word, which
tags cannot express; those are counted as ``moved``."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from casualty_ner.documents import Article, Entity, Span
from casualty_ner.labels import LABELS, TAGS, may_follow
from eval.report import build_report
from eval.tally import Tally
from eval.word_tags import WordTags
from tests.eval.cases import article, entities

FOLLOWERS = {previous: [tag for tag in TAGS if may_follow(previous, tag)] for previous in (None, *TAGS)}


def random_tags(generator: random.Random, length: int) -> list[str]:
    tags: list[str] = []
    for _ in range(length):
        tags.append(generator.choice(FOLLOWERS[tags[-1] if tags else None]))
    return tags


def spans_of(tags: list[str]) -> list[Span]:
    """Word k of the text stands at 3k:3k+2."""
    spans: list[Span] = []
    for index, tag in enumerate(tags):
        if tag.startswith("B-"):
            spans.append(Span(3 * index, 3 * index + 2, tag[2:]))
        elif tag.startswith("I-"):
            spans[-1] = Span(spans[-1].start, 3 * index + 2, tag[2:])
    return spans


def test_they_agree_on_ten_thousand_random_sequences() -> None:
    generator = random.Random(0)
    tally, words = Tally(fields=()), WordTags(limit=None)
    for number in range(10_000):
        annotated = random_tags(generator, generator.randint(1, 12))
        predicted = annotated if generator.random() < 0.4 else random_tags(generator, len(annotated))
        one = Article(str(number), " ".join(["ab"] * len(annotated)), tuple(spans_of(annotated)))
        found = [Entity(span.start, span.end, span.label, "", 1.0) for span in spans_of(predicted)]
        tally.add(one, found)
        words.add(one, found)
    seqeval = words.scores()
    assert seqeval is not None and seqeval["moved"] == 0
    strict = build_report(tally, system="s", data={}, seqeval=seqeval, resamples=1)["strict"]
    assert strict["micro"]["annotated"] > 20_000 and 0.3 < strict["micro"]["f1"] < 0.9
    pairs = [("micro", strict["micro"], seqeval["micro"]), ("macro", strict["macro"], seqeval["macro"])]
    pairs += [(label, strict["labels"][label], seqeval["labels"][label]) for label in LABELS]
    for name, ours, theirs in pairs:
        for figure in ("precision", "recall", "f1"):
            assert ours[figure] == pytest.approx(theirs[figure], abs=1e-12), (name, figure)
        assert name == "macro" or ours["annotated"] == theirs["annotated"]


def both(one: Article, predicted: list[Entity]) -> tuple[float, float, int]:
    tally, words = Tally(fields=()), WordTags(limit=None)
    tally.add(one, predicted)
    words.add(one, predicted)
    seqeval = words.scores()
    assert seqeval is not None
    report = build_report(tally, system="s", data={}, seqeval=seqeval, resamples=1)
    assert any("do not begin and end with a word" in note for note in report["notes"]) == bool(seqeval["moved"])
    return report["strict"]["micro"]["f1"], seqeval["micro"]["f1"], seqeval["moved"]


def test_a_span_that_splits_a_word_is_shown_where_seqeval_cannot_see_it() -> None:
    assert both(article("A0:6", text="Gunmen struck."), entities("A0:3")) == (0.0, 1.0, 1)


def test_nothing_annotated_and_nothing_predicted_is_zero_in_both() -> None:
    assert both(article("", text="Rain."), []) == (0.0, 0.0, 0)


def test_a_label_of_its_own_counts_in_both_macro_averages(tmp_path: Path) -> None:
    assert both(article("A0:6", text="Gunmen struck."), entities("A0:6 S7:13")) == pytest.approx((2 / 3, 2 / 3, 0))


def test_seqeval_is_left_out_of_what_is_too_large_for_it() -> None:
    words = WordTags(limit=2)
    for number in range(3):
        words.add(article("", str(number), text="Rain."), [])
    assert words.scores() is None
