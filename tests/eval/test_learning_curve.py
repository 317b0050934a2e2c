from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval.learning_curve import main, summarise


def scores(value: float) -> dict[str, float]:
    return {"ACTOR": 0.1, "COUNT": 0.2, "CASUALTY_TYPE": 0.3, "SOURCE": 0.4, "micro": value}


def test_checkpoints_of_a_size_stand_together_smallest_first() -> None:
    curves = summarise([(800, {"test": scores(0.9)}), (200, {"test": scores(0.6)}), (200, {"test": scores(0.7)})])
    assert [(point["articles"], point["f1"]["micro"]) for point in curves["test"]] == [(200, [0.6, 0.7]), (800, [0.9])]
    assert curves["test"][0]["f1"]["SOURCE"] == [0.4, 0.4]


def test_the_command_measures_each_checkpoint_on_each_set(
    checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smaller = tmp_path / "smaller"
    shutil.copytree(checkpoint, smaller)
    facts = json.loads((smaller / "casualty_ner.json").read_text())
    size = facts["training"]["articles"]
    facts["training"]["articles"] = size // 2
    (smaller / "casualty_ner.json").write_text(json.dumps(facts))
    out = tmp_path / "out"
    arguments = [str(checkpoint), str(smaller), "--data", str(corpus), "--out", str(out), "--device", "cpu"]
    assert main([*arguments, "--data", str(corpus / "test.jsonl")]) == 0
    curves = json.loads((out / "learning_curve.json").read_text())["curves"]
    assert [point["articles"] for point in curves["test"]] == [size // 2, size]
    reported = json.loads((checkpoint / "report" / "validation" / "report.json").read_text())["strict"]
    assert curves["validation"][0]["f1"] == {
        **{label: [pytest.approx(one["f1"])] for label, one in reported["labels"].items()},
        "micro": [pytest.approx(reported["micro"]["f1"])],
    }
    assert (out / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "learning_curve.md").read_text().rstrip() == capsys.readouterr().out.rstrip()


def test_a_checkpoint_that_does_not_say_its_size_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    (other / "casualty_ner.json").write_text('{"format_version": 1, "window": {"size": 64, "overlap": 16}}')
    assert main([str(other), "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    (other_data := tmp_path / "a.jsonl").write_text('{"id": "a", "text": "x", "spans": []}\n')
    assert main([str(other), "--data", str(other_data), "--out", str(tmp_path / "out")]) == 2
    assert "does not say how many articles" in capsys.readouterr().err
