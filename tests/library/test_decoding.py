from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from casualty_ner.decoding import best_tags, entities, log_softmax, unit_scores, viterbi
from casualty_ner.labels import TAG_IDS, TAGS, may_follow
from casualty_ner.windows import Tokens

scores_of = st.integers(1, 30).flatmap(lambda units: arrays(np.float64, (units, 9), elements=st.floats(-5, 0, width=16)))


def legal(tags: tuple[int, ...]) -> bool:
    return all(may_follow(None if at == 0 else TAGS[tags[at - 1]], TAGS[tag]) for at, tag in enumerate(tags))


def total(scores: np.ndarray, tags: np.ndarray) -> float:
    return float(scores[np.arange(len(tags)), tags].sum())


def tokens_of(text: str, pieces: list[list[int]]) -> Tokens:
    """Tokens for space-separated words, `pieces[w]` token ids for word w."""
    starts = np.cumsum([0, *(len(word) + 1 for word in text.split(" "))])
    bounds = np.array([(start, start + len(word)) for start, word in zip(starts, text.split(" "), strict=False)])
    units = np.repeat(np.arange(len(pieces)), [len(ids) for ids in pieces])
    return Tokens(np.array(list(itertools.chain.from_iterable(pieces))), units, bounds)


@given(arrays(np.float64, (3, 9), elements=st.floats(-5, 0, width=16)))
def test_viterbi_finds_the_best_of_all_legal_sequences(scores: np.ndarray) -> None:
    best = max(total(scores, np.array(tags)) for tags in itertools.product(range(9), repeat=3) if legal(tags))
    assert legal(tuple(viterbi(scores)))
    assert np.isclose(total(scores, viterbi(scores)), best)


@given(scores_of)
def test_searching_only_around_forbidden_transitions_is_exact(scores: np.ndarray) -> None:
    tags = best_tags(scores)
    assert legal(tuple(tags))
    assert np.isclose(total(scores, tags), total(scores, viterbi(scores)))


@pytest.mark.parametrize("seed", range(120))
def test_long_random_sequences_too(seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(200, 9))
    tags = best_tags(scores)
    assert legal(tuple(tags))
    assert np.isclose(total(scores, tags), total(scores, viterbi(scores)))


def test_no_unit_no_tag() -> None:
    assert best_tags(np.zeros((0, 9))).tolist() == []


def test_a_unit_is_tagged_as_a_whole() -> None:
    tokens = tokens_of("Traore said", [[1, 2], [3]])
    logits = np.full((3, 9), -4.0)
    logits[0, TAG_IDS["B-ACTOR"]] = 4
    logits[1, TAG_IDS["B-ACTOR"]] = 3  # a second piece cannot begin an entity of its own
    logits[1, TAG_IDS["I-ACTOR"]] = 2
    logits[2, TAG_IDS["O"]] = 4
    ((entity,),) = entities(["Traore said"], [tokens], logits)
    assert (entity.start, entity.end, entity.label, entity.text) == (0, 6, "ACTOR", "Traore")


def test_unit_scores_are_log_probabilities_and_do_not_favour_long_words() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 9))
    one = unit_scores(logits, tokens_of("x", [[1]]))
    assert np.allclose(np.exp(one).sum(axis=1), 1)
    assert np.allclose(one, log_softmax(logits))
    several = np.repeat(logits, 3, axis=0)
    long = unit_scores(several, tokens_of("xxx", [[1, 2, 3]]))
    outside, inside = TAG_IDS["O"], TAG_IDS["I-COUNT"]
    assert np.isclose(long[0, inside] - long[0, outside], one[0, inside] - one[0, outside])


def test_the_score_is_the_probability_of_exactly_this_span() -> None:
    text, tokens = "at least 36 dead", tokens_of("at least 36 dead", [[1], [2], [3], [4]])
    probabilities = np.full((4, 9), 0.01)
    probabilities[0, TAG_IDS["B-COUNT"]] = 0.92
    probabilities[1, TAG_IDS["I-COUNT"]] = 0.92
    probabilities[2, TAG_IDS["I-COUNT"]] = 0.92
    probabilities[3, TAG_IDS["I-COUNT"]] = 0.30
    probabilities[3, TAG_IDS["O"]] = 0.63
    ((entity,),) = entities([text], [tokens], np.log(probabilities))
    assert entity.text == "at least 36"
    assert np.isclose(entity.score, 0.92**3 * 0.70)
    assert type(entity.score) is float
    assert type(entity.start) is int


def test_adjacent_entities_stay_apart() -> None:
    tokens = tokens_of("women children", [[1], [2]])
    logits = np.zeros((2, 9))
    logits[:, TAG_IDS["B-ACTOR"]] = 5
    assert [entity.text for entity in entities(["women children"], [tokens], logits)[0]] == ["women", "children"]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_texts_decoded_together_are_what_each_is_alone(lengths: list[int], seed: int) -> None:
    chance = np.random.default_rng(seed)
    words = [" ".join(["word"] * length) for length in lengths]
    tokens = [tokens_of(text, [[1]] * length) if length else nothing() for text, length in zip(words, lengths, strict=True)]
    logits = [chance.normal(size=(length, 9)) * 3 for length in lengths]
    together = entities(words, tokens, np.concatenate(logits))
    assert together == [entities([text], [own], one)[0] for text, own, one in zip(words, tokens, logits, strict=True)]


def nothing() -> Tokens:
    empty = np.zeros(0, dtype=np.int64)
    return Tokens(empty, empty, empty.reshape(0, 2))
