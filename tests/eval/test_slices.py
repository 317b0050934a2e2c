from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from casualty_ner.documents import Article, Span
from casualty_ner.windows import Windower
from eval import slices
from eval.slices import MOST_VALUES, OTHERS, SPAN_SLICES, WINDOW_VALUES, article_slices, borders, field_value, window_value
from tests.eval.cases import article, entities
from tests.eval.test_evaluate import report_of


def values(report: dict[str, Any], name: str) -> dict[str, tuple[float, int, int]]:
    return {
        one["value"]: (one["micro"]["f1"], one["micro"]["annotated"], one["micro"]["predicted"])
        for one in report["slices"][name]["values"]
    }


def test_slices_of_articles_have_their_own_figures_and_support() -> None:
    report = report_of(
        (article("A0:4 N5:9", "a", genre="wire"), entities("A0:4 N5:9")),
        (article("A0:4", "b", genre="radio", text="ONE TWO"), entities("S0:4 S5:9")),
        (article("A0:4", "c", genre="radio", text="one two"), entities("A0:4")),
        (article("", "d", text="123 45"), []),
    )
    assert values(report, "genre") == {"wire": (1.0, 2, 2), "radio": (0.4, 2, 3), "(no value)": (0.0, 0, 0)}
    wire = report["slices"]["genre"]["values"][[one["value"] for one in report["slices"]["genre"]["values"]].index("radio")]
    assert (wire["articles"], wire["labels"]["SOURCE"]["predicted"], wire["labels"]["ACTOR"]["f1"]) == (
        2,
        2,
        pytest.approx(2 / 3),
    )
    low, high = wire["micro"]["interval"]["f1"]
    assert (low, high) == (0.0, 1.0)
    assert "1 of 4 articles have no genre: they stand under a value of their own." in report["notes"]
    assert list(values(report, "annotated spans")) == ["0", "1–5"]
    assert set(values(report, "letter case")) == {"lower case", "capitals", "no cased letter"}
    assert values(report, "words") == {"0–49": (2 * 3 / 9, 4, 5)}
    assert "region" not in report["slices"]


def test_slices_of_spans_take_each_span_by_its_own_place() -> None:
    text = "Gunmen killed 12 at UN base near the border, police said later."
    one = Article("a", text, (Span(0, 6, "ACTOR"), Span(14, 16, "COUNT"), Span(45, 51, "SOURCE")), {})
    report = report_of((one, entities("A0:6 A20:22 S45:51", of=text)))
    assert values(report, "position in the article") == {
        "first quarter": (2 / 3, 2, 1),
        "second quarter": (0.0, 0, 1),
        "third quarter": (1.0, 1, 1),
    }
    assert values(report, "letter case of the span") == {
        "some capitals": (1.0, 1, 1),
        "no cased letter": (0.0, 1, 0),
        "capitals": (0.0, 0, 1),
        "lower case": (1.0, 1, 1),
    }


def test_the_spans_of_each_slice_add_up_to_all() -> None:
    report = report_of(
        *((article("A0:4 N5:9 S40:50", str(n), period=n % 3, text="x" * (51 + n)), entities("A0:4 S41:50")) for n in range(9)),
        fields=("period",),
    )
    for name, part in report["slices"].items():
        for what in ("annotated", "predicted", "correct"):
            assert sum(one["micro"][what] for one in part["values"]) == report["strict"]["micro"][what], name


def test_rare_values_are_counted_together_and_said_to_be() -> None:
    names = [f"place {n % 40}" for n in range(40)] + ["place 0"] * 5
    report = report_of(*((article("A0:4", str(n), region=name), entities("A0:4")) for n, name in enumerate(names)))
    found = report["slices"]["region"]["values"]
    assert len(found) == MOST_VALUES
    assert (found[0]["value"], found[0]["articles"]) == ("place 0", 6)
    assert (found[-1]["value"], found[-1]["articles"]) == (OTHERS, 11)
    assert f"Slice region: rare values are counted together as {OTHERS}." in report["notes"]


def test_any_value_of_a_field_has_a_name() -> None:
    shown = [field_value(value) for value in (None, "", "wire", 3, True, ["a", "é"], {"b": 1})]
    assert shown == ["(no value)", "(no value)", "wire", "3", "true", '["a", "é"]', '{"b": 1}']


@pytest.mark.parametrize(
    ("start", "end", "value"),
    [
        (0, 5, 1),
        (60, 70, 2),
        (95, 105, 3),
        (100, 105, 2),
        (90, 100, 2),
        (149, 152, 2),
        (151, 155, 1),
        (170, 180, 2),
        (300, 310, 1),
    ],
)
def test_where_a_span_lies_towards_the_borders(start: int, end: int, value: int) -> None:
    assert window_value([100, 220], Span(start, end, "ACTOR")) == WINDOW_VALUES[value]
    assert window_value([], Span(start, end, "ACTOR")) == WINDOW_VALUES[0]


def test_borders_are_where_the_windows_hand_over(tiny: Callable[[str], Path]) -> None:
    windower = Windower(AutoTokenizer.from_pretrained(tiny("bert")), 16, 4)
    text = "Gunmen killed twelve people near the border on Tuesday. " * 8
    found = borders(windower, text)
    tokens = windower.tokenize([text])[0]
    assert len(found) == len(windower.windows(tokens)) - 1 > 3
    assert found == sorted(found) and all(text[at].strip() and 0 < at < len(text) for at in found)
    assert borders(windower, "Rain.") == []


def test_every_order_names_a_slice() -> None:
    assert set(slices.ORDERS) <= {*article_slices(), *SPAN_SLICES, slices.WINDOW_SLICE}
