from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from casualty_ner.dataset import split_files
from casualty_ner.documents import Article, Span
from casualty_ner.records import write_records
from casualty_ner.validation import ERROR, WARNING, Finding, Totals, check, sentence_end_inside, shingles, tables
from tests.tiny import texts


def findings(folder: Path, **files: list[dict[str, object]]) -> list[Finding]:
    for name, records in files.items():
        write_records(folder / f"{name}.jsonl", records)
    return list(check(split_files(folder), Totals()))


def record(name: str, text: str, *spans: tuple[int, int, str]) -> dict[str, object]:
    return {"id": name, "text": text, "spans": [{"start": start, "end": end, "label": label} for start, end, label in spans]}


def test_a_clean_corpus_has_no_finding(tmp_path: Path) -> None:
    first, second = texts(2)
    assert findings(tmp_path, train=[record("a", first)], test=[record("b", second)]) == []


def test_every_problem_of_every_record_is_listed(tmp_path: Path) -> None:
    bad = record("a", "Ten died.", (0, 4, "COUNT"), (4, 8, "HARM"))
    found = findings(tmp_path, train=[bad, record("b", "x", (0, 9, "COUNT"))])
    assert [(finding.line, finding.record_id, finding.severity) for finding in found] == [
        (1, "a", ERROR),
        (1, "a", ERROR),
        (2, "b", ERROR),
    ]
    assert str(found[0]).startswith(f"{tmp_path / 'train.jsonl'}:1: error (id 'a'): span 0: 0:4 has a blank edge")


def test_a_corrupt_line_is_a_finding_and_the_rest_is_checked(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"id"\n{"id": "b", "text": "", "spans": []}\n')
    found = list(check(split_files(tmp_path), Totals()))
    assert [finding.line for finding in found] == [1, 2]
    assert "not valid JSON" in found[0].problem


def test_an_id_is_used_once_in_all_files(tmp_path: Path) -> None:
    first, second, third = texts(3)
    found = findings(tmp_path, train=[record("a", first), record("ä", second)], test=[record("a", third)])
    assert [(finding.line, finding.problem) for finding in found] == [
        (1, f"the id is taken by {tmp_path / 'train.jsonl'}:1; give each article its own")
    ]


@pytest.mark.parametrize(("kept", "expected"), [(1.0, True), (0.9, True), (0.0, False)])
def test_near_duplicates_are_errors_across_splits_and_warnings_within(tmp_path: Path, kept: float, expected: bool) -> None:
    original = max(texts(40), key=len).split()
    chance = random.Random(3)
    changed = " ".join(word if chance.random() < kept else f"w{chance.random()}" for word in original)
    if kept == 0.9:  # one stretch replaced, as an editor would
        changed = " ".join([*original[: len(original) * 7 // 10], *texts(3)[2].split()[:20]])
    across = findings(tmp_path, train=[record("a", " ".join(original))], test=[record("b", changed)])
    assert [finding.severity for finding in across] == ([ERROR] if expected else [])
    (tmp_path / "test.jsonl").unlink()
    within = findings(tmp_path, train=[record("a", " ".join(original)), record("b", changed)])
    assert [finding.severity for finding in within] == ([WARNING] if expected else [])
    if expected:
        assert "(id 'a')" in across[0].problem
        assert across[0].record_id == "b"


def test_a_mass_of_equal_texts_is_reported_once_each(tmp_path: Path) -> None:
    text = texts(1)[0]
    found = findings(tmp_path, train=[record(str(number), text) for number in range(200)])
    assert len(found) == 199


def test_shingles_of_short_and_empty_texts() -> None:
    assert len(shingles("")) == 0
    assert len(shingles("Ten died")) == 1
    assert np.array_equal(shingles("Ten DIED."), shingles("ten died"))


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("Gen. Adama Traore", None),
        ("U.S. Army", None),
        ("Israeli General (res.) Uzi Har-Paz", None),
        ("Reuters", None),
        ("police. Ten", WARNING),
        ("dead.” The army", WARNING),
        ("the Joint Task\nForce", None),
        ("police\n\nTen", ERROR),
    ],
)
def test_sentence_ends_inside_a_span(text: str, severity: str | None) -> None:
    assert sentence_end_inside(f"x {text} y", Span(2, 2 + len(text), "SOURCE")) == severity


def test_tables_count_what_is_there() -> None:
    totals = Totals()
    totals.add("train", Article("a", "Ten died.", (Span(0, 3, "COUNT"),), {"genre": "wire"}))
    totals.add("test", Article("b", "Nothing.", ()))
    shown = tables(totals)
    assert "| articles | 1 | 1 | 2 |" in shown
    assert "| … without a span | 0 | 1 | 1 |" in shown
    assert "| COUNT | 1 | 0 | 1 |" in shown
    assert "| wire | 1 | 0 | 1 |" in shown
    assert "| (none) | 0 | 1 | 1 |" in shown
    assert "genre (articles)" in shown
    assert "region" not in shown  # which no article states
