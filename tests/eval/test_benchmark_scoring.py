from __future__ import annotations

import pytest

from casualty_ner.dataset import problems
from eval.benchmark_scoring import main, synthetic


def test_the_synthetic_data_are_valid_and_go_wrong_in_several_ways() -> None:
    missed = spurious = spans = 0
    for record, prediction in synthetic(300, 10):
        assert problems(record) == problems({**record, "spans": prediction["entities"]}) == []
        annotated = {(one["start"], one["end"], one["label"]) for one in record["spans"]}
        predicted = {(one["start"], one["end"], one["label"]) for one in prediction["entities"]}
        spans += len(annotated)
        missed += len(annotated - predicted)
        spurious += len(predicted - annotated)
    assert 2_900 < spans < 3_000 and 0.02 < missed / spans < 0.12 and 0.01 < spurious / spans < 0.12


def test_the_command_measures_time_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--articles", "40", "--spans", "5"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["4", "40"]
    assert all(float(row[3]) > 0 and float(row[4].replace(",", "")) > 20 for row in rows)
