from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from casualty_ner import Extractor
from casualty_ner.dataset import load_articles
from casualty_ner.documents import Article
from casualty_ner.labels import LABELS
from casualty_ner.records import read_records, write_records
from casualty_ner.scoring import macro_f1, micro, strict_counts
from eval.evaluate import label_map, main, slice_fields, unique_articles
from eval.matching import SCHEMES
from eval.report import build_report
from eval.tally import Tally
from tests.conftest import ROOT
from tests.eval.cases import article, entities, unscored

FILES = ["f1.png", "confusion.png", "errors.png", "slices.png", "report.html", "report.json", "report.md", "predictions.jsonl"]


def report_of(*cases: Sequence[Any], stored_thresholds: Mapping[str, float] | None = None, **options: Any) -> dict[str, Any]:
    """The report on cases of an article, what is predicted, and perhaps what is below the thresholds."""
    tally = Tally(**options)
    for case in cases:
        tally.add(*case)
    data = {"file": "f", "sha256": "0" * 64}
    return build_report(tally, system="s", data=data, seqeval=None, stored_thresholds=stored_thresholds, resamples=50)


def run(corpus: Path, out: Path, *arguments: str) -> dict[str, Any]:
    assert main(["--data", str(corpus), "--out", str(out), "--resamples", "50", *arguments]) == 0
    return json.loads((out / "report.json").read_text())


def test_the_annotations_themselves_score_one(corpus: Path, tmp_path: Path) -> None:
    file = corpus / "test.jsonl"
    write_records(tmp_path / "gold.jsonl", ({"id": record["id"], "spans": record["spans"]} for _, record in read_records(file)))
    report = run(corpus, tmp_path / "out", "--predictions", str(tmp_path / "gold.jsonl"), "--split", "test")
    assert report["seqeval"]["micro"]["f1"] == 1.0
    for scheme in SCHEMES:
        assert report[scheme]["micro"]["f1"] == report[scheme]["labels"]["ACTOR"]["f1"] == 1.0
        assert report[scheme]["micro"]["interval"]["f1"] == [1.0, 1.0]
    assert report["data"]["articles"] == len(load_articles(file))
    assert all(error["count"] == 0 for error in report["errors"].values())
    assert report["calibration"] is report["thresholds"] is None
    assert any("have no score" in note for note in report["notes"])
    assert all((tmp_path / "out" / name).stat().st_size for name in FILES)
    assert not (tmp_path / "out" / "calibration.png").exists()


def test_a_checkpoint_is_scored_on_a_single_file(
    checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--data", str(corpus / "test.jsonl"), "--out", str(tmp_path), "--device", "cpu"]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["strict"] == json.loads((checkpoint / "report" / "test" / "report.json").read_text())["strict"]
    articles = load_articles(corpus / "test.jsonl")
    predictions = [record for _, record in read_records(tmp_path / "predictions.jsonl")]
    assert [record["id"] for record in predictions] == [one.id for one in articles]
    assert all(0 <= entity["score"] <= 1 for record in predictions for entity in record["entities"])
    text = (tmp_path / "report.md").read_text()
    printed = capsys.readouterr().out
    assert text.startswith(printed[: printed.index("\n\nreport:")].rstrip())
    assert f"| micro | {report['strict']['micro']['precision']:.4f} |" in printed
    assert all((tmp_path / name).stat().st_size for name in [*FILES, "calibration.png", "thresholds.png"])
    assert {"genre", "window border"} <= report["slices"].keys()  # the model's window is 64 tokens, so articles have borders
    assert len(report["slices"]["window border"]["values"]) > 1
    # What was written can be scored again, and gives the same.
    again = run(corpus, tmp_path / "again", "--predictions", str(tmp_path / "predictions.jsonl"), "--resamples", "1000")
    assert {scheme: again[scheme] for scheme in SCHEMES} == {scheme: report[scheme] for scheme in SCHEMES}
    assert again["stored_thresholds"] is None  # a file says nothing of them
    everything = Extractor.from_pretrained(checkpoint, device="cpu", runtime="torch", precision="float32", thresholds=False)
    proposed = sum(len(entities) for entities in everything.extract([one.text for one in articles]))
    assert report["without_thresholds"]["micro"]["predicted"] == proposed >= report["strict"]["micro"]["predicted"]
    assert "What the thresholds do that the checkpoint holds" in text
    assert "What the thresholds do that the checkpoint holds" in (tmp_path / "report.html").read_text()


def test_the_strict_figures_are_those_of_the_counts() -> None:
    pairs = [
        (article("A0:4 N5:9 S20:30", "a"), entities("A0:4 N5:8 S20:30 S40:50")),
        (article("A0:4 A5:9", "b"), entities("S0:4")),
        (article("", "c"), []),
    ]
    counts = strict_counts((one.spans, [entity.span for entity in predicted]) for one, predicted in pairs)
    report = report_of(*pairs)
    for label in LABELS:
        for name, value in counts[label].to_dict().items():
            assert report["strict"]["labels"][label][name] == pytest.approx(value)
    assert report["strict"]["micro"]["f1"] == pytest.approx(micro(counts).f1)
    assert report["strict"]["macro"]["f1"] == pytest.approx(macro_f1(counts))
    assert report["data"]["annotated"] == 5 and report["data"]["predicted"] == 5


def test_confusion_holds_every_span_once() -> None:
    report = report_of(
        (article("A0:4 N5:9 S20:30 T40:45"), entities("A0:4 A5:8 S21:30 S60:70 S72:75")),
    )
    # Rows and columns: ACTOR, COUNT, CASUALTY_TYPE, SOURCE, spurious or missed.
    assert report["confusion"]["counts"] == [
        [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 2, 0],
    ]
    assert report["confusion"]["annotated"][-1] == "spurious" and report["confusion"]["predicted"][-1] == "missed"


def test_errors_have_counts_and_examples_in_context() -> None:
    text = "Before. " * 30 + "Gunmen killed twelve people." + " After." * 30
    start = text.index("Gunmen")
    one = Article("a", text, article(f"A{start}:{start + 6}").spans, {})
    error = report_of((one, entities(f"A{start}:{start + 13}", of=text)))["errors"]["too long"]
    assert (error["count"], error["labels"]["ACTOR"]["count"], error["labels"]["COUNT"]["count"]) == (1, 1, 0)
    assert error["interval"] == [1.0, 1.0]
    (example,) = error["examples"]
    assert example["context"] == text[start - 80 : start + 13 + 80] and example["offset"] == start - 80
    assert example["annotated"] == [{"start": start, "end": start + 6, "label": "ACTOR"}]


def test_a_report_of_nothing_divides_by_nothing() -> None:
    report = report_of((article(""), []))
    for scheme in SCHEMES:
        assert report[scheme]["micro"]["f1"] == report[scheme]["macro"]["f1"] == 0.0
        assert report[scheme]["micro"]["interval"] == {"precision": None, "recall": None, "f1": None}
    assert report["calibration"]["micro"]["expected_calibration_error"] == 0.0
    assert sum("neither annotated nor predicted" in note for note in report["notes"]) == len(LABELS)
    assert any("too few for the intervals" in note for note in report["notes"])


def test_labels_without_predictions_or_annotations_are_named() -> None:
    report = report_of((article("A0:4"), entities("S5:9")))
    assert "ACTOR is not predicted: its precision and F1 are 0 by convention." in report["notes"]
    assert "SOURCE is not annotated: its recall and F1 are 0 by convention." in report["notes"]


def test_scores_that_are_missing_are_said_to_be() -> None:
    report = report_of((article("A0:4 S5:9"), entities("A0:4") + unscored("S5:9")))
    assert report["calibration"] is report["thresholds"] is None
    assert any(note.startswith("1 predicted spans have no score") for note in report["notes"])


def test_bad_input_is_one_message_and_exit_code_2(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--checkpoint", "/none", "--data", str(tmp_path / "no.jsonl"), "--out", str(tmp_path)]) == 2
    (tmp_path / "empty.jsonl").write_text("\n")
    assert main(["--predictions", "p", "--data", str(tmp_path / "empty.jsonl"), "--out", str(tmp_path)]) == 2
    write_records(tmp_path / "twice.jsonl", [article("", "a").to_dict(), article("", "a").to_dict()])
    write_records(tmp_path / "p.jsonl", [{"id": "a", "entities": []}])
    options = [
        "--predictions",
        str(tmp_path / "p.jsonl"),
        "--data",
        str(tmp_path / "twice.jsonl"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(options) == 2
    assert main([*options, "--map", "PER=PERSON"]) == 2
    assert main([*options, "--slice", "words"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line[:7] for line in lines] == ["error: "] * 5
    assert "is empty" in lines[1] and "occurs twice" in lines[2] and "THEIRS=OURS" in lines[3] and "rename the field" in lines[4]
    assert not (tmp_path / "out" / "report.json").exists()


def test_arguments() -> None:
    assert label_map(["person=ACTOR", "a=b=COUNT", "date="]) == {"person": "ACTOR", "a=b": "COUNT", "date": ""}
    assert slice_fields(["period", "genre"]) == ["genre", "region", "period"]


def test_articles_stream(corpus: Path) -> None:
    stream = unique_articles(corpus / "test.jsonl")
    assert next(stream) == load_articles(corpus / "test.jsonl")[0]


def test_real_news_has_no_genre_and_says_so(real_news: Path, checkpoint: Path, tmp_path: Path) -> None:
    report = run(real_news, tmp_path, "--checkpoint", str(checkpoint), "--slice", "source")
    assert report["data"]["articles"] == 212
    assert "No slice by genre: no article has such a field." in report["notes"]
    assert "genre" not in report["slices"] and len(report["slices"]["source"]["values"]) == 2


def test_the_schema_is_documented() -> None:
    report = report_of((article("A0:4", genre="wire"), entities("A0:4 S5:9", 0.5)))
    text = (ROOT / "docs" / "report-schema.md").read_text(encoding="utf-8")
    assert f"schema version {report['schema_version']}" in text
    parts = [report, report["bootstrap"], report["strict"]["micro"], report["confusion"], report["calibration"]["micro"]]
    parts += [report["calibration"]["micro"]["bins"][0], report["thresholds"]["micro"], report["thresholds"]["micro"]["best"]]
    parts += [report["errors"], report["errors"]["spurious"], report["errors"]["spurious"]["examples"][0]]
    parts += [report["slices"], report["slices"]["genre"], report["slices"]["genre"]["values"][0]]
    assert [key for part in parts for key in part if f"`{key}`" not in text] == []
