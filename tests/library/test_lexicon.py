from __future__ import annotations

import copy
import itertools
import json
import pickle
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from transformers import AutoTokenizer

from casualty_ner import lexicon
from casualty_ner.windows import Tokens, Windower
from tests.tiny import CORPUS, FAMILIES, texts

NASTY = [
    *" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2003\u2028\u3000",
    *"\u0301\u0308\u093f\u0e33\u200b\u200c\u200d\u00ad\ufe0f\u20e3\x00\ufffd\ud800\udfff\u0600\u0d4e",
    *"aAzSsé1२ıİß.,:'’-_()©死ก가\u1100क\u094d👩👧🏽🇫🇷",
    *("\r\n", " \u0301", "👩\u200d👧", "[SEP]", "[MASK]", "[mask", "'s", "U.S.", "1,500", "sol\u00addier", "killed", "w" * 200),
]


@pytest.fixture(scope="module")
def tokenizer(tiny: Callable[[str], Path]) -> object:
    return AutoTokenizer.from_pretrained(tiny("bert"))


@pytest.fixture
def windower(tokenizer: object) -> Windower:
    return Windower(tokenizer, size=32, overlap=8)


@pytest.fixture(scope="module")
def expected(tokenizer: object) -> Callable[[Sequence[str]], list[Tokens]]:
    """The long way: each text by itself, and whole."""
    long = Windower(tokenizer, size=32, overlap=8)
    long._separable = False
    return lambda some: [long.tokenize([text])[0] for text in some]


def same(found: Sequence[Tokens], expected: Sequence[Tokens]) -> bool:
    """To the last bit, and as arrays of the same kind."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("ids", "units", "bounds"):
            array, as_expected = getattr(one, name), getattr(other, name)
            assert array.dtype == as_expected.dtype
            assert array.shape == as_expected.shape
            if not np.array_equal(array, as_expected):
                return False
    return True


def refuse(*_: object) -> None:
    raise AssertionError("tokenised what is known")


def test_the_corpus(windower: Windower, expected: Callable[[Sequence[str]], list[Tokens]]) -> None:
    for split in ("train", "validation", "test"):
        with open(CORPUS / f"{split}.jsonl", encoding="utf-8") as stream:
            some = [json.loads(line)["text"] for line in stream]
        assert same(windower.tokenize(some), expected(some))


def test_any_text_whatever_came_before(tokenizer: object, expected: Callable[[Sequence[str]], list[Tokens]]) -> None:
    windower = Windower(tokenizer, size=32, overlap=8)

    @settings(deadline=None, max_examples=400)
    @given(st.lists(st.lists(st.sampled_from(NASTY), max_size=20).map("".join), max_size=5))
    def check(some: list[str]) -> None:
        assert same(windower.tokenize(some), expected(some))

    check()


@pytest.mark.parametrize("joint", [*" \n\x0b\x0c\x85\xa0\u3000\u200b"])
def test_a_text_of_several_blocks(windower: Windower, expected: Callable[[Sequence[str]], list[Tokens]], joint: str) -> None:
    text = f"killed{joint}hurt".join(map(str, range(3000)))
    assert same(windower.tokenize([text[:999], "", text]), expected([text[:999], "", text]))


def test_tokens_that_cover_no_word(tiny: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny("bert"))
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(clean_text=False)
    windower, long = (Windower(tokenizer, size=32, overlap=8) for _ in range(2))
    long._separable = False
    some = ["Ten \x1c died.", "\x1c\x1d Two\x1fmen"]
    first, second = windower.tokenize(some)
    assert (first.units < 0).any()
    assert same([first, second], long.tokenize(some))


def test_neither_order_nor_company_counts(windower: Windower, expected: Callable[[Sequence[str]], list[Tokens]]) -> None:
    some = [*texts(12), "", " ", "\n\n", "…"]
    tokens = expected(some)
    assert same(windower.tokenize(some), tokens)
    windower.forget()
    assert same(windower.tokenize(some[::-1]), tokens[::-1])
    windower.forget()
    assert same([windower.tokenize([text])[0] for text in some], tokens)
    assert windower.tokenize([]) == []


def test_no_piece_is_tokenised_twice_until_all_is_forgotten(windower: Windower, monkeypatch: pytest.MonkeyPatch) -> None:
    first = windower.tokenize(["Ten men died.", "Two men\tdied. "])
    with monkeypatch.context() as patch:
        patch.setattr(windower, "_encode", refuse)
        assert same(windower.tokenize(["Ten men died.", "Two men\tdied. "]), first)
        windower.tokenize(["Two  men\r\ndied. Ten died."])
        with pytest.raises(AssertionError, match="tokenised what is known"):
            windower.tokenize(["Two women died."])
        windower.forget()
        with pytest.raises(AssertionError, match="tokenised what is known"):
            windower.tokenize(["Ten men died."])
    assert same(windower.tokenize(["Ten men died.", "Two men\tdied. "]), first)  # what failed left nothing behind


def test_a_full_lexicon_makes_room(
    windower: Windower, expected: Callable[[Sequence[str]], list[Tokens]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexicon, "_MOST_CHARACTERS", 2000)
    some, held = texts(40), []
    for text, tokens in zip(some, expected(some), strict=True):
        assert same(windower.tokenize([text]), [tokens])
        held.append(windower._lexicon.characters)
    assert any(later < earlier for earlier, later in itertools.pairwise(held))
    assert max(held) <= 2000 + max(map(len, some)) + 1


def test_threads_learn_and_forget_together(
    windower: Windower, expected: Callable[[Sequence[str]], list[Tokens]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexicon, "_MOST_CHARACTERS", 5000)
    some = texts(60)
    tokens = expected(some)

    def read(shift: int) -> bool:
        order = [(number * 7 + shift) % len(some) for number in range(len(some))]
        return all(same(windower.tokenize([some[number]]), [tokens[number]]) for number in order)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(8)))
    finally:
        sys.setswitchinterval(before)


def test_copies_remember_nothing_and_find_the_same(windower: Windower) -> None:
    first = windower.tokenize(texts(5))
    for other in (pickle.loads(pickle.dumps(windower)), copy.deepcopy(windower)):
        assert other._lexicon.characters == 0
        assert same(other.tokenize(texts(5)), first)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_berts_tokenizer_goes_by_pieces(tiny: Callable[[str], Path], family: str) -> None:
    windower = Windower(AutoTokenizer.from_pretrained(tiny(family)), size=32, overlap=8)
    windower.tokenize(texts(2))
    assert (windower._lexicon.characters > 0) == (family == "bert")


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("<x>", lstrip=True, normalized=False),
        AddedToken("<x>", rstrip=True, normalized=False),
        AddedToken("new york", normalized=False),
        AddedToken("<x>", normalized=True),
    ],
)
def test_a_token_that_may_reach_over_a_blank_rules_pieces_out(tiny: Callable[[str], Path], token: AddedToken) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny("bert"))
    assert lexicon.separable(tokenizer)
    tokenizer.add_tokens([token])
    assert not lexicon.separable(tokenizer)
    (tokens,) = Windower(tokenizer, size=32, overlap=8).tokenize([f"In  {token.content}  ten"])
    assert tokenizer.convert_tokens_to_ids(token.content) in tokens.ids


def test_another_normalizer_rules_pieces_out(tiny: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny("bert"))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("died. Ten", "died.Ten")
    assert not lexicon.separable(tokenizer)
