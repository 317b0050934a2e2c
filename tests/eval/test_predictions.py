from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from casualty_ner.documents import Article, Span
from casualty_ner.errors import RecordError
from casualty_ner.records import write_records
from eval.predictions import PredictionFile, open_system, to_record

TEXT = "Gunmen killed twelve police."
ARTICLES = [Article("a", TEXT, ()), Article("b", "Rain.", ()), Article("c", "“Two died,” police said.", ())]
ACTOR, TYPE, COUNT = Span(0, 6, "ACTOR"), Span(7, 13, "CASUALTY_TYPE"), Span(14, 20, "COUNT")
EMPTY = [{"id": "b", "entities": []}, {"id": "c", "entities": []}]


def read(path: Path, *, articles: list[Article] = ARTICLES, **options: Any) -> dict[str, list[Span]]:
    return {article.id: [one.span for one in found] for article, found in PredictionFile(path, **options).pairs(articles)}


def lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


SPAN = {"start": 0, "end": 6, "label": "ACTOR"}


@pytest.mark.parametrize(
    "record",
    [
        {"id": "a", "entities": [SPAN]},
        {"id": "a", "spans": [{**SPAN, "score": 0.9}]},
        {"id": "a", "text": TEXT, "ents": [SPAN], "tokens": []},  # spaCy: Doc.to_json()
        {"text": TEXT, "ents": [SPAN]},  # … which has no id
        {"text": TEXT, "entities": [[0, 6, "ACTOR"]]},  # spaCy: training data
        {"id": "a", "entities": [{**SPAN, "text": "Gunmen", "score": 0.8}]},  # GLiNER
        {
            "id": "a",
            "entities": [{"start": 0, "end": 6, "entity_group": "ACTOR", "word": "gunmen", "score": 0.8}],
        },  # transformers
        {"id": "a", "entities": [{"start_char": 0, "end_char": 6, "label_": "ACTOR"}]},
    ],
)
def test_dictionaries_of_many_tools(tmp_path: Path, record: dict[str, Any]) -> None:
    assert read(lines(tmp_path / "p.jsonl", [record, *EMPTY])) == {"a": [ACTOR], "b": [], "c": []}
    (tmp_path / "p.json").write_text(json.dumps([*EMPTY, record]))
    assert read(tmp_path / "p.json") == {"a": [ACTOR], "b": [], "c": []}


def test_json_lists_without_ids_and_objects_by_id(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([[{**SPAN, "text": "Gunmen", "score": 0.5}], [], []]))  # GLiNER's batch output, in order
    assert read(path)["a"] == [ACTOR]
    path.write_text(
        json.dumps([[TEXT, {"entities": [[0, 6, "ACTOR"]]}], ["Rain.", {"entities": []}], [ARTICLES[2].text, {"entities": []}]])
    )
    assert read(path)["a"] == [ACTOR]
    path.write_text(json.dumps({"c": [], "b": {"spans": []}, "a": [SPAN]}))
    assert read(path)["a"] == [ACTOR]


CONLL = """# id = b
Rain\tO
.\tO

# id = a
Gunmen\tNNS\tB-ACTOR

killed\tVBD\tB-CASUALTY_TYPE
twelve\tCD\tB-COUNT
police\tNNS\tI-COUNT
.\t.\tO
# id = c
“\tO
Two\tO
died\tO
,\tO
”\tO
police\tO
said\tO
.\tO
"""


def test_conll_columns(tmp_path: Path) -> None:
    path = tmp_path / "p.conll"
    path.write_text(CONLL, encoding="utf-8")
    assert read(path) == {"a": [ACTOR, TYPE, Span(14, 27, "COUNT")], "b": [], "c": []}
    parted_by_blanks = "\n".join(line if line.startswith("# id") else line.replace("\t", "  ") for line in CONLL.splitlines())
    path.write_text(parted_by_blanks, encoding="utf-8")
    assert read(path)["a"][2] == Span(14, 27, "COUNT")


def test_conll_in_order_and_other_tag_schemes(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text(
        "-DOCSTART- -X- O O\n\nGunmen S-ACTOR\nkilled I-CASUALTY_TYPE\n\ntwelve B-COUNT\npolice E-COUNT\n. O\n"
        "-DOCSTART- O\nRain O\n. O\n-DOCSTART- O\n“Two I-ACTOR\n\ndied,” I-ACTOR\npolice I-COUNT\nsaid. L-COUNT\n",
        encoding="utf-8",
    )
    found = read(path, format="conll")
    assert found["a"] == [ACTOR, TYPE, Span(14, 27, "COUNT")]
    # A blank line and another label both end an entity; an inside tag that continues none opens one.
    assert found["c"] == [Span(0, 4, "ACTOR"), Span(5, 11, "ACTOR"), Span(12, 24, "COUNT")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Gunmen\tO\n", r"p\.conll:1: a token before any document; begin each with '# id = ID'"),
        ("# id = a\nGunmen\n", r"p\.conll:2: expected a token and its tag"),
        ("# id = a\nGunmen\tPER\n", r"p\.conll:2 \(id 'a'\): 'PER' is no tag"),
        (
            "# id = a\nGunmen\tO\npolice\tO\n",
            r"p\.conll:3 \(id 'a'\): token 'police' does not come next in the text, which goes on ' killed",
        ),
        ("# id = a\nGunmen\tO\n", r"p\.conll:2 \(id 'a'\): the tokens end before the text"),
        ("# id = a\nGunmen\tB-PER\nkilled\tO\ntwelve\tO\npolice.\tO\n", r"unknown label 'PER'.*map its labels with --map"),
        ("", "is empty"),
    ],
)
def test_unusable_columns(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.conll").write_text(text)
    with pytest.raises(RecordError, match=message):
        read(tmp_path / "p.conll", articles=ARTICLES[:1])


def one(*spans: Any) -> list[Any]:
    return [{"id": "a", "entities": list(spans)}, *EMPTY]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"id": "x", "entities": []}], r"p\.jsonl:1 \(id 'x'\): the annotated articles have no such id"),
        ([*one(), {"id": "x", "entities": []}], r"p\.jsonl:4 \(id 'x'\): the annotated articles have no such id"),
        ([{"id": "x", "entities": []}, *one()], r"p\.jsonl:1 \(id 'x'\): the annotated articles have no such id"),
        ([{"id": "a", "entities": []}, {"id": "a", "entities": []}], r"p\.jsonl:2 \(id 'a'\): the id was given before"),
        ([{"id": "a", "entities": []}], r"p\.jsonl: 2 articles have no record, 'b' first; give an empty list"),
        ([{"text": "Snow.", "ents": []}, *EMPTY], r"p\.jsonl:1: no annotated article has this text"),
        ([{"text": TEXT, "ents": []}, {"text": TEXT, "ents": []}, *EMPTY], r"p\.jsonl:2: no annotated article has this text"),
        ([{"text": "Snow.", "ents": []}, {"text": "Snow.", "ents": []}], r"p\.jsonl:2: a record without an id has the same text"),
        ([{"entities": []}] * 4, r"p\.jsonl:4: there are more records than annotated articles"),
        (one({"start": 0, "end": 99, "label": "COUNT"}), "do not lie within the text"),
        (one(SPAN, {"start": 4, "end": 9, "label": "COUNT"}), r"p\.jsonl:1 \(id 'a'\): ACTOR 0:6 'Gunmen' overlaps COUNT 4:9"),
        (
            one({"start": 0, "end": 6, "label": "PER"}),
            r"unknown label 'PER' on 'Gunmen'; use one of .*; map its labels with --map",
        ),
        (one({"start": 0, "end": 7, "label": "ACTOR"}), "blank edge"),
        (one({**SPAN, "score": 7}), r"score 7 of 0:6 is not between 0 and 1"),
        (one({**SPAN, "score": math.nan}), "is not between 0 and 1"),
        (one("Gunmen"), "must be an object with start, end and label"),
        ([{"id": "a"}], '"spans" must be a list'),
    ],
)
def test_unusable_predictions(tmp_path: Path, records: list[Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        read(lines(tmp_path / "p.jsonl", records))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("3", "expected a list of records"), ("[3]", r"p\.json:1: expected an object")]
)
def test_unusable_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(RecordError, match=message):
        read(tmp_path / "p.json")


def test_any_order_and_other_labels(tmp_path: Path) -> None:
    spans = [
        {"start": 14, "end": 20, "label": "number"},
        {"start": 0, "end": 6, "label": "PER"},
        {"start": 21, "end": 27, "label": "MISC"},
    ]
    path = lines(tmp_path / "p.jsonl", [*EMPTY, {"id": "a", "entities": spans}])
    system = open_system(str(path))
    assert isinstance(system.source, PredictionFile)
    system.source.labels = {"number": "COUNT", "PER": "ACTOR", "MISC": ""}
    assert [one.span for one in next(iter(system.pairs(ARTICLES)))[1]] == [ACTOR, COUNT]
    assert system.notes == ["1 predicted spans were left out: their labels map to nothing."]


def test_what_has_no_score_is_written_without_one(tmp_path: Path) -> None:
    write_records(tmp_path / "p.jsonl", one(SPAN, {"start": 7, "end": 13, "label": "CASUALTY_TYPE", "score": 0.5}))
    article, found = next(PredictionFile(tmp_path / "p.jsonl").pairs(ARTICLES))
    assert to_record(article, found)["entities"] == [
        {**SPAN, "text": "Gunmen"},
        {"start": 7, "end": 13, "label": "CASUALTY_TYPE", "text": "killed", "score": 0.5},
    ]
