from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer

from casualty_ner.documents import Span
from casualty_ner.errors import CheckpointError
from casualty_ner.labels import TAG_IDS, TAGS
from casualty_ner.windows import IGNORED, Windower, align, plan_windows
from casualty_ner.words import word_bounds
from tests.tiny import FAMILIES, texts

TEXT = "At least 1,500 people were killed, Colombia's National Police said. Déjà vu — “36” hurt."


@pytest.fixture(params=FAMILIES)
def windower(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Windower:
    return Windower(AutoTokenizer.from_pretrained(tiny(request.param)), size=32, overlap=8)


@given(st.integers(1, 500), st.integers(2, 60), st.data())
def test_windows_cover_and_own_every_token_once(tokens: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    windows = plan_windows(tokens, size, overlap)
    assert [position for window in windows for position in range(window.own_start, window.own_stop)] == list(range(tokens))
    for window in windows:
        assert window.start <= window.own_start < window.own_stop <= window.stop
        assert window.stop - window.start == windows[0].stop <= min(size, tokens)
    for first, second in itertools.pairwise(windows):
        assert first.stop - second.start >= overlap


@pytest.mark.parametrize(("tokens", "lengths"), [(254, [254]), (255, [160, 160]), (444, [254, 254]), (445, [191, 191, 191])])
def test_windows_are_equally_long_and_as_few_as_will_do(tokens: int, lengths: list[int]) -> None:
    assert [window.stop - window.start for window in plan_windows(tokens, 254, 64)] == lengths


def test_a_shared_token_belongs_to_the_window_where_it_is_most_central() -> None:
    first, second = plan_windows(18, 12, 6)
    assert (first.start, first.stop, second.start, second.stop) == (0, 12, 6, 18)
    assert (first.own_stop, second.own_start) == (9, 9)


def test_every_token_lies_in_the_unit_it_is_tied_to(windower: Windower) -> None:
    (tokens,) = windower.tokenize([TEXT])
    assert len(tokens) == len(tokens.units)
    covered = tokens.units[tokens.units >= 0]
    assert np.array_equal(np.unique(covered), np.arange(len(tokens.bounds)))
    assert (np.diff(covered) >= 0).all()
    words = word_bounds(TEXT)  # a unit may be several words glued by one token, such as "'s"
    assert set(tokens.bounds[:, 0]) <= set(words[:, 0])
    assert set(tokens.bounds[:, 1]) <= set(words[:, 1])


def test_tags_of_a_text(windower: Windower) -> None:
    spans = [
        Span(TEXT.index(text), TEXT.index(text) + len(text), label)
        for text, label in (
            ("At least 1,500", "COUNT"),
            ("killed", "CASUALTY_TYPE"),
            ("Colombia's National Police", "SOURCE"),
            ("36", "COUNT"),
        )
    ]
    (tokens,) = windower.tokenize([TEXT])
    alignment = align(tokens, spans)
    assert alignment.moved == alignment.lost == ()
    assert _read_back(tokens, alignment.tags) == spans


def _read_back(tokens: object, tags: np.ndarray) -> list[Span]:
    """The spans that token tags stand for."""
    spans: list[Span] = []
    for unit, tag in zip(tokens.units, tags, strict=True):
        name = TAGS[tag]
        start, end = tokens.bounds[unit].tolist()
        if name.startswith("B-"):
            spans.append(Span(start, end, name[2:]))
        elif name.startswith("I-"):
            spans[-1] = Span(spans[-1].start, end, name[2:])
    return spans


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.data())
def test_spans_of_whole_words_survive_the_way_to_tags_and_back(windower: Windower, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([*texts(20), TEXT]))
    (tokens,) = windower.tokenize([text])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(tokens.bounds)), max_size=12)))
    spans = [
        Span(int(tokens.bounds[first, 0]), int(tokens.bounds[stop - 1, 1]), data.draw(st.sampled_from(["ACTOR", "COUNT"])))
        for first, stop in zip(cuts[::2], cuts[1::2], strict=False)
    ]
    alignment = align(tokens, spans)
    assert not alignment.moved
    assert not alignment.lost
    assert _read_back(tokens, alignment.tags) == spans


def test_a_span_inside_a_word_is_reported_and_widened(windower: Windower) -> None:
    inside = Span(TEXT.index("illed"), TEXT.index("illed") + 5, "CASUALTY_TYPE")
    (tokens,) = windower.tokenize([TEXT])
    alignment = align(tokens, [inside])
    assert alignment.moved == (inside,)
    assert _read_back(tokens, alignment.tags) == [Span(inside.start - 1, inside.end, "CASUALTY_TYPE")]


def test_a_span_without_a_token_is_reported() -> None:
    (tokens,) = _tokenize_nothing()
    alignment = align(tokens, [Span(0, 1, "COUNT")])
    assert alignment.lost == (Span(0, 1, "COUNT"),)


def _tokenize_nothing() -> list:
    from casualty_ner.windows import Tokens

    empty = np.zeros(0, dtype=np.int64)
    return [Tokens(empty, empty, empty.reshape(0, 2))]


def test_tokens_do_not_depend_on_the_company(windower: Windower) -> None:
    some = texts(12)
    together = windower.tokenize(some)
    for text, tokens in zip(some, together, strict=True):
        (alone,) = windower.tokenize([text])
        assert np.array_equal(alone.ids, tokens.ids)
        assert np.array_equal(alone.units, tokens.units)
        assert np.array_equal(alone.bounds, tokens.bounds)


def test_a_long_text_is_tokenised_in_blocks_as_in_one(windower: Windower, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(texts(30))
    (blocks,) = windower.tokenize([text])
    monkeypatch.setattr("casualty_ner.windows._BLOCK_CHARS", 10**9)
    (whole,) = windower.tokenize([text])
    assert len(text) > 20_000
    assert np.array_equal(blocks.ids, whole.ids)
    assert np.array_equal(blocks.bounds[blocks.units], whole.bounds[whole.units])


def test_special_tokens_stand_around_a_window_and_carry_no_tag(windower: Windower) -> None:
    (tokens,) = windower.tokenize([TEXT])
    alignment = align(tokens, [])
    for window in windower.windows(tokens):
        ids, tags = windower.model_input(tokens, window), windower.model_tags(alignment, window)
        assert len(ids) == len(tags) <= 32
        assert (ids[0], ids[-1]) == (windower.tokenizer.cls_token_id, windower.tokenizer.sep_token_id)
        assert tags.tolist() == [IGNORED, *[TAG_IDS["O"]] * (len(ids) - 2), IGNORED]


def test_lone_surrogates_and_controls_keep_their_place(windower: Windower) -> None:
    text = "\ud800 12 killed \x00\u200b said \udfff"
    (tokens,) = windower.tokenize([text])
    assert "killed" in [text[start:end] for start, end in tokens.bounds]


def test_sizes_that_do_not_fit(tiny: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny("bert"))
    with pytest.raises(CheckpointError, match="cannot overlap its neighbour by 30"):
        Windower(tokenizer, size=32, overlap=30)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    slow = type("SlowTokenizer", (), {"is_fast": False})()
    with pytest.raises(CheckpointError, match="gives no character offsets"):
        Windower(slow, size=32, overlap=8)
    assert BertTokenizer.is_fast  # transformers 5 has one tokenizer class per model, the fast one
