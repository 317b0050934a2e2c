"""Texts to extract from: plain files, JSONL files, or standard input, as one stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from casualty_ner.dataset import record_id
from casualty_ner.errors import RecordError
from casualty_ner.records import STDIN, decode, input_name, open_input, parse_record, read_lines

FORMATS = ("auto", "text", "jsonl")


def read_texts(
    paths: Iterable[str], format: str = "auto", on_bad: Callable[[RecordError], None] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield ``(id, text)`` from each input in order.

    A ``.jsonl`` file holds an object with ``id`` and ``text`` a line; the id may be missing and is then ``file:line``. Any
    other file is one text whose id is its path. Standard input (``-``) is one text unless `format` is ``jsonl``.

    Args:
        paths: Files, or ``-``.
        format: ``auto`` goes by the file's ending, ``text`` and ``jsonl`` override it.
        on_bad: Called for each input or line that cannot be used, which is then left out; without it the first one raises.

    Raises:
        RecordError: An input or a line cannot be used and `on_bad` was not given.
    """
    for path in paths:
        as_lines = format == "jsonl" or (format == "auto" and Path(path).suffix == ".jsonl")
        try:
            yield from _from_lines(path, on_bad) if as_lines else _from_text(path)
        except RecordError as error:
            if on_bad is None:
                raise
            on_bad(error)


def _from_text(path: str) -> Iterator[tuple[str, str]]:
    with open_input(path) as stream:
        text = decode(stream.read(), input_name(path), None)
    if not text.strip():
        raise RecordError(input_name(path), None, "is empty; expected a text")
    yield (STDIN if path == STDIN else path), text


def _from_lines(path: str, on_bad: Callable[[RecordError], None] | None) -> Iterator[tuple[str, str]]:
    name = input_name(path)
    for line, data in read_lines(path):
        try:
            record = parse_record(data, name, line)
            text = record.get("text")
            if not isinstance(text, str):
                raise RecordError(name, line, '"text" must be a string; give each record its text', record_id(record))
        except RecordError as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        yield record_id(record) or f"{name}:{line}", text
