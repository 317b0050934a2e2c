from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from casualty_ner.documents import Article, Entity
from casualty_ner.records import write_records
from eval import seeds
from eval.compare import compare, holm, main
from tests.eval.cases import article, entities


def test_holm_corrects_step_by_step() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5}) == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def simulated(
    generator: np.random.Generator, count: int, better: float
) -> tuple[list[Article], list[list[Entity]], list[list[Entity]]]:
    """Both systems find each span with chance 0.7, B with `better` on top."""
    articles, first, second = [], [], []
    for number in range(count):
        article_ = article("A0:4 N5:9 T10:14 S15:19", str(number))
        gold = entities("A0:4 N5:9 T10:14 S15:19")
        articles.append(article_)
        first.append([one for one in gold if generator.random() < 0.7])
        second.append([one for one in gold if generator.random() < 0.7 + better])
    return articles, first, second


def test_a_system_that_is_better_is_found_to_be_so() -> None:
    result = compare(*simulated(np.random.default_rng(0), 100, better=0.25))["scores"]
    assert result["micro"]["verdict"] == "B is better"
    assert result["micro"]["p"] < 0.001
    low, high = result["micro"]["interval"]
    assert 0 < low < result["micro"]["difference"] < high
    assert result["micro"]["difference"] == pytest.approx(result["micro"]["f1"][1] - result["micro"]["f1"][0])


def test_chance_is_called_a_difference_about_as_often_as_the_level_says() -> None:
    generator = np.random.default_rng(1)
    p_values = [compare(*simulated(generator, 30, better=0.0))["scores"]["micro"]["p"] for _ in range(40)]
    assert sum(p < 0.05 for p in p_values) <= 6
    assert 0.3 < np.mean(p_values) < 0.7


def test_the_exact_p_value_of_four_articles() -> None:
    """B is right on all of four articles and A on none: of the 16 ways to swap, this one and its mirror are as large."""
    articles = [article("A0:4", str(number)) for number in range(4)]
    result = compare(articles, [[]] * 4, [entities("A0:4")] * 4)["scores"]["micro"]
    assert result["difference"] == 1.0
    assert result["p"] == pytest.approx(2 / 16, abs=0.01)
    assert result["verdict"] == "no difference shown"


def test_a_system_against_itself() -> None:
    articles, first, _ = simulated(np.random.default_rng(2), 10, better=0.0)
    result = compare(articles, first, first)
    assert {(one["difference"], one["p"], one["verdict"]) for one in result["scores"].values()} == {
        (0.0, 1.0, "no difference shown")
    }
    assert result["articles"] == {"for_b": [], "for_a": []}


def test_the_articles_that_decide_it() -> None:
    text = "Gunmen killed police in Gao."
    articles = [article("A0:6 T7:13", str(number), text) for number in range(3)]
    right = entities("A0:6 T7:13", of=text)
    first = [right, entities("A0:6", of=text), right]
    second = [entities("A0:6 S7:13 A14:20", of=text), right, right]
    found = compare(articles, first, second)["articles"]
    (better,), (worse,) = found["for_b"], found["for_a"]
    assert (better["id"], [one["text"] for one in better["right_only_in_b"]], better["right_only_in_a"]) == ("1", ["killed"], [])
    assert (worse["id"], [one["label"] for one in worse["wrong_only_in_b"]]) == ("0", ["SOURCE", "ACTOR"])
    assert worse["weight"] < 0 < better["weight"]


def test_an_article_speaks_for_the_system_that_is_better_on_it() -> None:
    """B is far better on the whole; an article on which it is only a little better still speaks for B."""
    articles = [article("A0:4 N5:9 T10:14", str(number)) for number in range(5)]
    right, almost = entities("A0:4 N5:9 T10:14"), entities("A0:4 N5:9")
    found = compare(articles, [[], [], [], [], almost], [right] * 5)["articles"]
    assert sorted(one["id"] for one in found["for_b"]) == ["0", "1", "2", "3", "4"] and found["for_a"] == []
    assert found["for_b"][-1]["id"] == "4"


def test_the_command_compares_files_reports_and_checkpoints(
    checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = checkpoint / "report" / "test"
    options = ["--data", str(corpus), "--out", str(tmp_path), "--device", "cpu"]
    assert main([str(checkpoint), str(report), *options]) == 0
    comparison = json.loads((tmp_path / "compare.json").read_text())
    assert all(one["difference"] == 0 for one in comparison["scores"].values())
    assert comparison["scores"]["micro"]["f1"][0] == json.loads((report / "report.json").read_text())["strict"]["micro"]["f1"]
    assert (tmp_path / "compare.md").read_text() in capsys.readouterr().out
    assert main([str(checkpoint), str(tmp_path / "none"), *options]) == 2


def test_the_spread_over_seeds(corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    articles = [article("A0:4 A5:9", "a"), article("A0:4 A5:9", "b")]
    write_records(tmp_path / "data.jsonl", (one.to_dict() for one in articles))
    for name, found in (("one", "A0:4"), ("two", "A0:4 A5:9")):
        spans = [one.span.to_dict() for one in entities(found)]
        write_records(tmp_path / f"{name}.jsonl", [{"id": one.id, "entities": spans} for one in articles])
    files = [str(tmp_path / f"{name}.jsonl") for name in ("one", "two")]
    assert seeds.main([*files, "--data", str(tmp_path / "data.jsonl"), "--out", str(tmp_path)]) == 0
    micro = json.loads((tmp_path / "seeds.json").read_text())["strict"]["micro"]
    assert micro["f1"] == pytest.approx([2 / 3, 1.0])
    assert micro["mean"] == pytest.approx(5 / 6) and micro["sd"] == pytest.approx((1 / 3) / 2**0.5)
    assert (tmp_path / "seeds.md").read_text() in capsys.readouterr().out
    assert seeds.main([files[0], "--data", str(tmp_path / "data.jsonl"), "--out", str(tmp_path)]) == 2
