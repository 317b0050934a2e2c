from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casualty_ner.labels import ALLOWED, LABELS, TAG_IDS, TAGS, may_follow, tag_order
from casualty_ner.words import word_bounds


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in word_bounds(text)]


def test_tags_are_iob2_of_the_four_labels() -> None:
    assert LABELS == ("ACTOR", "COUNT", "CASUALTY_TYPE", "SOURCE")
    assert len(TAGS) == 9
    assert TAGS[0] == "O"


def test_only_i_after_its_own_label_is_restricted() -> None:
    assert may_follow("B-COUNT", "I-COUNT")
    assert may_follow("I-COUNT", "I-COUNT")
    assert not may_follow("O", "I-COUNT")
    assert not may_follow("B-ACTOR", "I-COUNT")
    assert not may_follow(None, "I-COUNT")
    assert may_follow("I-ACTOR", "B-COUNT")
    assert sum(map(sum, ALLOWED)) == 9 * 5 + 4 * 2
    assert not ALLOWED[TAG_IDS["O"]][TAG_IDS["I-SOURCE"]]


def test_tag_order_finds_each_tag_or_refuses() -> None:
    shuffled = list(reversed(TAGS))
    assert [shuffled[index] for index in tag_order(shuffled) or []] == list(TAGS)
    assert tag_order([*TAGS[:-1], "I-PERSON"]) is None
    assert tag_order(TAGS[:-1]) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("killed 1,500 people.", ["killed", "1,500", "people", "."]),
        ("the 1,500th at 10:30", ["the", "1,500th", "at", "10:30"]),
        ("In 2019,12 died", ["In", "2019,12", "died"]),
        ("Colombia's police", ["Colombia", "'", "s", "police"]),
        ("COLOMBIA’S POLICE", ["COLOMBIA", "’", "S", "POLICE"]),
        ("N'Djamena isn’t", ["N'Djamena", "isn’t"]),
        ("U.S.-led A.B.C no. B.C.s", ["U.S.", "-", "led", "A", ".", "B", ".", "C", "no", ".", "B", ".", "C", ".", "s"]),
        ("'tis 'quoted'", ["'", "tis", "'", "quoted", "'"]),
        ("60-year-old U.N. (JTF)", ["60", "-", "year", "-", "old", "U.N.", "(", "JTF", ")"]),
        ("हिन्दी cafe\u0301 naïve", ["हिन्दी", "cafe\u0301", "naïve"]),
        ("soft\u00adhyphen zero\u200bwidth", ["soft\u00adhyphen", "zero\u200bwidth"]),
        ("end\u200b next", ["end", "\u200b", "next"]),
        ("死者3人", ["死", "者", "3", "人"]),
        ("👩‍👩‍👧 1️⃣", ["👩‍👩‍👧", "1️⃣"]),
        ("\u0600 12 \u0600١٢", ["\u0600", "12", "\u0600", "١٢"]),
        ("  \n\t ", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(alphabet=st.sampled_from("abAB1 ,.:'s-_\n(")))
def test_the_ascii_rule_is_the_general_rule(text: str) -> None:
    general = word_bounds(text + " é")[:-1]
    assert np.array_equal(word_bounds(text), general)


@given(
    st.lists(st.text(alphabet=st.sampled_from("aS1é死ก\u0600\u0301\u200d👩🇫.,'’\xa0\x85")), max_size=5),
    st.sampled_from(" \t\n\r"),
)
def test_words_do_not_depend_on_what_lies_beyond_a_blank(parts: list[str], blank: str) -> None:
    assert words(blank.join(parts)) == [word for part in parts for word in words(part)]


@given(st.text())
def test_words_are_ordered_and_leave_out_only_blanks(text: str) -> None:
    bounds = word_bounds(text)
    flat = bounds.ravel().tolist()
    assert flat == sorted(flat)
    assert all(start < end for start, end in bounds)
    covered = np.zeros(len(text), dtype=bool)
    for start, end in bounds:
        covered[start:end] = True
    assert [character.isspace() for character in text] == (~covered).tolist()
