from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casualty_ner.dataset import (
    SPLITS,
    assign_splits,
    load_articles,
    problems,
    read_articles,
    split_file,
    split_files,
    to_article,
)
from casualty_ner.documents import Article, Span
from casualty_ner.errors import OutputError, RecordError
from casualty_ner.records import dump_line, open_output, read_records, write_records

GOOD = {"id": "a", "text": "Ten soldiers were killed.", "spans": [{"start": 0, "end": 3, "label": "COUNT"}], "genre": "wire"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "a"', r"f\.jsonl:2: not valid JSON: .* at column \d+"),
        (b"[1]", r"f\.jsonl:2: expected a JSON object, got list"),
        (b'{"id": "\xff"}', r"f\.jsonl:2: invalid UTF-8: byte 0xff at byte offset 8"),
        (b"[" * 100_000, r"f\.jsonl:2: JSON nested too deeply"),
    ],
)
def test_a_bad_line_is_named_after_the_good_ones_were_read(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    records = read_records(path)
    assert next(records) == (1, GOOD)
    with pytest.raises(RecordError, match=message):
        next(records)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="is empty"):
        list(read_records(path))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file"):
        list(read_records(tmp_path / "none.jsonl"))
    with pytest.raises(RecordError, match="is a directory"):
        list(read_records(tmp_path))
    with pytest.raises(RecordError, match=r"holds none of train\.jsonl"):
        split_files(tmp_path)


def test_blank_lines_and_a_byte_order_mark_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n\n")
    assert [line for line, _ in read_records(path)] == [1]


@given(st.dictionaries(st.text(), st.text()))
def test_what_is_written_can_be_encoded_and_read_back(record: dict[str, str]) -> None:
    assert json.loads(dump_line(record).encode("utf-8")) == record


def test_lone_surrogates_are_written_as_escapes() -> None:
    assert json.loads(dump_line({"text": "é\ud800"}).encode("utf-8")) == {"text": "é\ud800"}


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"), open_output(tmp_path):
        pass
    with pytest.raises(OutputError, match="cannot be written"), open_output("/proc/none/out.jsonl"):
        pass
    if sys.platform == "linux":
        with pytest.raises(OutputError, match="writing failed: No space left"), open_output("/dev/full") as stream:
            stream.write("x")


def test_a_failed_rewrite_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    write_records(path, [GOOD])
    with pytest.raises(ZeroDivisionError):
        write_records(path, (1 / 0 for _ in range(1)))
    assert [record for _, record in read_records(path)] == [GOOD]


def change(**values: object) -> dict[str, object]:
    return {**GOOD, **values}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (change(id=""), '"id" must be a non-empty string'),
        (change(id=7), '"id" must be a non-empty string'),
        (change(text=None), '"text" must be a non-empty string'),
        (change(spans=None), '"spans" must be a list'),
        (change(spans=["x"]), "span 0: must be an object"),
        (change(spans=[{"start": 0, "end": 3.0, "label": "COUNT"}]), "whole numbers, got 0 and 3.0"),
        (change(spans=[{"start": False, "end": 3, "label": "COUNT"}]), "whole numbers"),
        (change(spans=[{"start": 0, "end": 99, "label": "COUNT"}]), "offsets 0:99 do not lie within the text of 25 characters"),
        (change(spans=[{"start": 3, "end": 3, "label": "COUNT"}]), "offsets 3:3"),
        (change(spans=[{"start": -3, "end": 3, "label": "COUNT"}]), "offsets -3:3"),
        (change(spans=[{"start": 0, "end": 3, "label": "NUMBER"}]), "unknown label 'NUMBER' on 'Ten'"),
        (change(spans=[{"start": 0, "end": 4, "label": "COUNT"}]), "has a blank edge: 'Ten '"),
        (
            change(spans=[{"start": 0, "end": 12, "label": "ACTOR"}, {"start": 4, "end": 12, "label": "ACTOR"}]),
            "ACTOR 0:12 'Ten soldiers' overlaps ACTOR 4:12 'soldiers'",
        ),
    ],
)
def test_every_rule_has_its_message(record: dict[str, object], message: str) -> None:
    assert problems(GOOD) == []
    assert any(message in problem for problem in problems(record)), problems(record)


def test_reading_stops_at_the_first_unusable_record_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(change(id="b", text="")) + "\n")
    articles = read_articles(path)
    assert next(articles) == Article("a", GOOD["text"], (Span(0, 3, "COUNT"),), {"genre": "wire"})
    with pytest.raises(RecordError, match=r"f\.jsonl:2 \(id 'b'\): \"text\""):
        next(articles)


def test_an_article_goes_back_to_the_record_it_came_from() -> None:
    assert to_article(GOOD).to_dict() == GOOD


def test_ids_are_unique(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text((json.dumps(GOOD) + "\n") * 2)
    with pytest.raises(RecordError, match="id 'a' occurs 2 times"):
        load_articles(path)


def test_split_file(corpus: Path) -> None:
    assert split_file(corpus, "test").name == "test.jsonl"
    assert split_file(corpus / "train.jsonl", None).name == "train.jsonl"
    with pytest.raises(RecordError, match="has no split 'dev'; it has train, validation, test"):
        split_file(corpus, "dev")


def articles(count: int, genre: str, start: int = 0) -> list[Article]:
    return [Article(f"{genre}-{number}", "x", (), {"genre": genre}) for number in range(start, start + count)]


def test_splits_keep_their_shares_in_every_genre() -> None:
    split = assign_splits({}, articles(100, "wire") + articles(30, "radio") + articles(1, "sport"))
    by_genre = {
        name: [sum(article.fields["genre"] == name for article in split[part]) for part in SPLITS]
        for name in ("wire", "radio", "sport")
    }
    assert by_genre == {"wire": [80, 10, 10], "radio": [24, 3, 3], "sport": [1, 0, 0]}


@given(st.permutations(range(20)))
def test_the_split_does_not_depend_on_the_order(order: list[int]) -> None:
    new = articles(20, "wire")
    assert assign_splits({}, [new[index] for index in order]) == assign_splits({}, new)


def test_added_articles_move_none_that_was_there() -> None:
    first = assign_splits({}, articles(40, "wire"))
    second = assign_splits(first, articles(60, "wire", start=40))
    counts = [len(first[split]) + len(second[split]) for split in SPLITS]
    assert counts == [80, 10, 10]
    assert not {article.id for split in first.values() for article in split} & {
        article.id for split in second.values() for article in split
    }
