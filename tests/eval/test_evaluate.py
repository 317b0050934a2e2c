from __future__ import annotations

import json
from pathlib import Path

import evaluate
import numpy as np
import pytest

from casualty_ner.dataset import load_articles
from casualty_ner.documents import Article, Entity, Span
from casualty_ner.errors import RecordError
from casualty_ner.labels import LABELS, TAGS, may_follow
from casualty_ner.records import read_records, write_records
from casualty_ner.scoring import micro, strict_counts
from eval.evaluate import METRIC, main, score
from eval.predictions import read_predictions


def entity(span: Span, text: str) -> Entity:
    return Entity(span.start, span.end, span.label, text[span.start : span.end], 1.0)


def test_the_annotations_themselves_score_one(corpus: Path, tmp_path: Path) -> None:
    file = corpus / "test.jsonl"
    write_records(tmp_path / "gold.jsonl", ({"id": record["id"], "spans": record["spans"]} for _, record in read_records(file)))
    assert (
        main(
            [
                "--predictions",
                str(tmp_path / "gold.jsonl"),
                "--data",
                str(corpus),
                "--split",
                "test",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["strict"]["micro"]["f1"] == report["seqeval"]["micro"]["f1"] == 1.0
    assert report["strict"]["labels"]["ACTOR"]["f1"] == 1.0
    assert report["data"]["articles"] == len(load_articles(file))


def test_a_checkpoint_is_scored_on_a_single_file(
    checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--data", str(corpus / "test.jsonl"), "--out", str(tmp_path), "--device", "cpu"]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["strict"] == json.loads((checkpoint / "report" / "test" / "report.json").read_text())["strict"]
    assert set(report["strict"]["labels"]) == set(LABELS)
    predictions = list(read_records(tmp_path / "predictions.jsonl"))
    assert [record["id"] for _, record in predictions] == [article.id for article in load_articles(corpus / "test.jsonl")]
    table = (tmp_path / "report.md").read_text()
    assert table in capsys.readouterr().out
    assert f"| micro | {report['strict']['micro']['precision']:.4f} |" in table


def random_tags(generator: np.random.Generator, length: int) -> list[str]:
    tags: list[str] = []
    for _ in range(length):
        choices = [tag for tag in TAGS if may_follow(tags[-1] if tags else None, tag)]
        tags.append(str(generator.choice(choices)))
    return tags


def spans_of(tags: list[str]) -> list[Span]:
    """Word k of the text stands at 2k:2k+1."""
    spans: list[Span] = []
    for index, tag in enumerate(tags):
        if tag.startswith("B-"):
            spans.append(Span(2 * index, 2 * index + 1, tag[2:]))
        elif tag.startswith("I-"):
            spans[-1] = Span(spans[-1].start, 2 * index + 1, tag[2:])
    return spans


def test_strict_spans_and_seqeval_agree_on_random_legal_sequences() -> None:
    generator = np.random.default_rng(0)
    references = [random_tags(generator, int(generator.integers(1, 12))) for _ in range(400)]
    predictions = [tags if generator.random() < 0.4 else random_tags(generator, len(tags)) for tags in references]
    counts = strict_counts(zip(map(spans_of, references), map(spans_of, predictions), strict=True))
    seqeval = evaluate.load(str(METRIC)).compute(predictions=predictions, references=references)
    assert seqeval["micro"]["f1"] == pytest.approx(micro(counts).f1)
    for label in LABELS:
        assert seqeval["labels"][label]["precision"] == pytest.approx(counts[label].precision)
        assert seqeval["labels"][label]["recall"] == pytest.approx(counts[label].recall)
        assert seqeval["labels"][label]["annotated"] == counts[label].annotated


def test_spans_that_split_a_word_are_shown_where_seqeval_cannot_see_them() -> None:
    article = Article("a", "Gunmen struck.", (Span(0, 6, "ACTOR"),))
    result = score([article], {"a": [entity(Span(0, 3, "ACTOR"), article.text)]})
    assert result["strict"]["micro"]["f1"] == 0.0
    assert result["seqeval"]["micro"]["f1"] == 1.0
    assert result["seqeval"]["moved"] == 1


def test_nothing_annotated_and_nothing_predicted_is_zero() -> None:
    result = score([Article("a", "Rain.", ())], {"a": []})
    assert result["strict"]["micro"]["f1"] == result["seqeval"]["micro"]["f1"] == 0.0
    assert result["strict"]["micro"]["annotated"] == 0


ARTICLES = [Article("a", "Ten died.", ()), Article("b", "Rain.", ())]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": "c", "entities": []}], r"p\.jsonl:1 \(id 'c'\): the annotated articles have no such id"),
        ([{"id": "a", "entities": []}, {"id": "a", "entities": []}], r"p\.jsonl:2 \(id 'a'\): the id was given before"),
        ([{"id": "a", "entities": []}], r"p\.jsonl: 1 articles have no line, 'b' first"),
        ([{"id": "a", "entities": [{"start": 0, "end": 99, "label": "COUNT"}]}], "do not lie within the text"),
        ([{"id": "a", "entities": [{"start": 0, "end": 3, "label": "PER"}]}], "unknown label 'PER'"),
        ([{"id": "a"}], '"spans" must be a list'),
    ],
)
def test_unusable_predictions(tmp_path: Path, lines: list[dict[str, object]], message: str) -> None:
    write_records(tmp_path / "p.jsonl", lines)
    with pytest.raises(RecordError, match=message):
        read_predictions(tmp_path / "p.jsonl", ARTICLES)


def test_bad_input_is_one_message_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--checkpoint", "/none", "--data", str(tmp_path / "no.jsonl"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_starter_model_task_reads_real_news(real_news: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert main(["--checkpoint", str(checkpoint), "--data", str(real_news), "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["data"]["articles"] == 212
