"""Other systems' predictions as records: JSON Lines, JSON lists, CoNLL columns.

Dictionaries may be of our own form, of spaCy (``Doc.to_json()``, or its training form ``{"entities": [[start, end, label]]}``), of
GLiNER (``{"start", "end", "text", "label", "score"}``) or of the transformers pipeline (``entity_group``). Which form is meant
is read from the keys. Every error names the file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casualty_ner.documents import Article
from casualty_ner.errors import RecordError
from casualty_ner.records import decode, open_input, read_lines, read_records

FORMATS = ("auto", "jsonl", "json", "conll")

_SPANS = ("entities", "spans", "ents")
_LABEL = ("label", "entity_group", "type", "label_")
_START, _END = ("start", "start_char"), ("end", "end_char")
_SCORE = ("score", "confidence", "probability")

_GOES_ON, _LAST, _SINGLE = {"I", "E", "L"}, {"E", "L"}, {"S", "U"}
_PREFIXES = {"B", *_GOES_ON, *_SINGLE}
_DOCUMENT = "-DOCSTART-"
_COMMENTS = ("# id =", "# newdoc id =", "# doc_id =")


@dataclass(frozen=True, slots=True)
class Record:
    """What a system predicted for one text.

    Attributes:
        line: Where the record stands; for a JSON list its place in the list, from 1.
        id: The article's id, or ``None``.
        text: The article's text if the record holds it; an id may be missing then.
        spans: ``{"start", "end", "label"[, "score"]}`` each; or rows of a token and its tag, with the line of each.
    """

    line: int
    id: str | None
    text: str | None
    spans: Any = None
    rows: Sequence[tuple[int, str, str]] | None = None


def read_format(path: str | Path, format: str = "auto") -> Iterator[Record]:
    """The records of a prediction file.

    Args:
        path: The file.
        format: One of `FORMATS`; ``auto`` goes by the ending (.json, .conll, .iob, .iob2, .bio, .tsv; else JSON Lines).

    Raises:
        RecordError: The file or a record cannot be read.
    """
    if format == "auto":
        ending = Path(path).suffix.lower()
        columns = {".conll", ".iob", ".iob2", ".bio", ".tsv"}
        format = "json" if ending == ".json" else "conll" if ending in columns else "jsonl"
    return {"jsonl": _json_lines, "json": _json_list, "conll": _conll}[format](path)


def _json_lines(path: str | Path) -> Iterator[Record]:
    for line, record in read_records(path):
        yield _from_dictionary(record, line)


def _json_list(path: str | Path) -> Iterator[Record]:
    with open_input(path) as stream:
        data = decode(stream.read(), str(path), None)
    try:
        value = json.loads(data)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordError(path, None, f"not valid JSON: {error}; mend the file") from None
    if isinstance(value, dict):  # by id
        value = [{"id": name, **(spans if isinstance(spans, dict) else {"entities": spans})} for name, spans in value.items()]
    if not isinstance(value, list):
        raise RecordError(path, None, f"expected a list of records or an object of them by id, got {type(value).__name__}")
    for place, record in enumerate(value, 1):
        if not isinstance(record, (dict, list)):
            raise RecordError(path, place, f"expected an object or a list of spans, got {type(record).__name__}")
        yield _from_dictionary({"entities": record} if _is_spans(record) else record, place)


def _is_spans(record: Any) -> bool:
    """GLiNER's batch output holds a bare list of spans for each text."""
    return isinstance(record, list) and all(isinstance(span, dict) for span in record)


def _from_dictionary(record: Any, place: int) -> Record:
    if isinstance(record, list):  # spaCy's training form: [text, {"entities": [...]}]
        text, annotations = [*record, None, None][:2]
        record = {"text": text, **(annotations if isinstance(annotations, dict) else {})}
    name, text = record.get("id"), record.get("text")
    spans = next((record[key] for key in _SPANS if key in record), None)
    if isinstance(spans, list):
        spans = [_plain(span) for span in spans]
    return Record(place, name if isinstance(name, str) else None, text if isinstance(text, str) else None, spans)


def _plain(span: Any) -> Any:
    """A span under the names of our own form; one that is none stays what it is, for the error to name."""
    if isinstance(span, (list, tuple)) and len(span) in {3, 4}:
        return dict(zip(("start", "end", "label", "score"), span, strict=False))
    if not isinstance(span, dict):
        return span
    names = {"start": _START, "end": _END, "label": _LABEL, "score": _SCORE}
    return {name: span[key] for name, keys in names.items() for key in [next((key for key in keys if key in span), None)] if key}


def _conll(path: str | Path) -> Iterator[Record]:
    """A token and, in the last column, its tag on a line.

    Documents begin with a comment ``# id = NAME``, or with ``-DOCSTART-`` and then stand in the order of the articles. Columns are
    parted by tabs if there is one, else by blanks. Blank lines part sentences and end an entity.
    """
    name: str | None = None
    begin = 0
    rows: list[tuple[int, str, str]] = []
    for line, data in _lines_with_blank(path):
        text = decode(data, str(path), line).rstrip("\r\n")
        comment = next((start for start in _COMMENTS if text.startswith(start)), None)
        if comment or text.startswith(_DOCUMENT):
            if begin:
                yield Record(begin, name, None, rows=rows)
            name, begin, rows = (text[len(comment) :].strip() if comment else None), line, []
        elif not text.strip():
            rows.append((line, "", "O"))
        else:
            columns = text.split("\t") if "\t" in text else text.split()
            if text.startswith("#") and not _is_tag(columns[-1]):
                continue  # another comment
            if len(columns) < 2:
                raise RecordError(path, line, f"expected a token and its tag, got {text!r}; part them by a tab")
            if not begin:
                raise RecordError(
                    path,
                    line,
                    f"a token before any document; begin each with '# id = ID', or with {_DOCUMENT} in the order of the articles",
                )
            rows.append((line, columns[0], columns[-1]))
    if begin:
        yield Record(begin, name, None, rows=rows)


def _lines_with_blank(path: str | Path) -> Iterator[tuple[int, bytes]]:
    next(read_lines(path))  # an empty file is an error that names it
    with open_input(path) as stream:
        for line, data in enumerate(stream, 1):
            yield line, data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data


def spans_of_rows(path: str | Path, article: Article, rows: Sequence[tuple[int, str, str]]) -> list[dict[str, Any]]:
    """The spans of tagged tokens, their offsets found by looking the tokens up in the article's text one after the other.

    Tags of IOB2 and of BIOES or BILOU are read; an inside tag that continues nothing opens a span, as in conlleval.

    Raises:
        RecordError: A token does not come next in the text, or a tag is none.
    """
    spans: list[dict[str, Any]] = []
    at, open_label = 0, None
    for line, token, tag in rows:
        if not token:
            open_label = None
            continue
        start = article.text.find(token, at)
        if start < 0 or article.text[at:start].strip():
            here = article.text[at : at + 40]
            raise RecordError(
                path,
                line,
                f"token {token!r} does not come next in the text, which goes on {here!r}; predict on the unchanged text",
                article.id,
            )
        at = start + len(token)
        if not _is_tag(tag):
            raise RecordError(path, line, f"{tag!r} is no tag; expected O, B-LABEL or I-LABEL", article.id)
        prefix, _, label = tag.partition("-")
        if tag == "O":
            open_label = None
        elif prefix in _GOES_ON and open_label == label:
            spans[-1]["end"] = at
        else:
            spans.append({"start": start, "end": at, "label": label})
        if tag != "O":
            open_label = None if prefix in _SINGLE | _LAST else label
    if article.text[at:].strip():
        raise RecordError(
            path,
            rows[-1][0] if rows else None,
            f"the tokens end before the text, which goes on {article.text[at : at + 40]!r}; predict on whole articles",
            article.id,
        )
    return spans


def _is_tag(tag: str) -> bool:
    prefix, _, label = tag.partition("-")
    return tag == "O" or (prefix in _PREFIXES and label != "")


def renamed(spans: Any, names: Mapping[str, str]) -> tuple[Any, int]:
    """Spans under other labels, and how many were left out because their label maps to nothing."""
    if not names or not isinstance(spans, list):
        return spans, 0
    kept, left_out = [], 0
    for span in spans:
        label = span.get("label") if isinstance(span, dict) else None
        if isinstance(label, str) and label in names:
            if not names[label]:
                left_out += 1
                continue
            span = {**span, "label": names[label]}
        kept.append(span)
    return kept, left_out
