"""JSON Lines in and out: one record a line, read and written as a stream, every bad line named."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from casualty_ner.errors import OutputError, RecordError

STDIN = "-"
_BOM = b"\xef\xbb\xbf"


@contextmanager
def open_input(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file, or standard input for ``-``, for reading bytes.

    Raises:
        RecordError: The file is missing, a directory, or not readable.
    """
    if str(path) == STDIN:
        yield sys.stdin.buffer
        return
    try:
        stream = open(path, "rb")
    except FileNotFoundError:
        raise RecordError(path, None, "no such file; check the path") from None
    except IsADirectoryError:
        raise RecordError(path, None, "is a directory; name a file in it") from None
    except OSError as error:
        raise RecordError(path, None, f"cannot be read: {error.strerror}") from None
    with stream:
        yield stream


def input_name(path: str | Path) -> str:
    """How a message names this input."""
    return "<stdin>" if str(path) == STDIN else str(path)


def decode(data: bytes, path: str, line: int | None) -> str:
    """UTF-8 to text.

    Raises:
        RecordError: Not UTF-8; the message gives the byte offset within the line (or file).
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"invalid UTF-8: byte 0x{data[error.start]:02x} at byte offset {error.start}; convert the file to UTF-8"
        raise RecordError(path, line, problem) from None


def parse_record(data: bytes, path: str, line: int) -> dict[str, Any]:
    """One line to a JSON object.

    Raises:
        RecordError: Invalid UTF-8, invalid JSON, or JSON that is not an object.
    """
    try:
        value = json.loads(decode(data, path, line))
    except json.JSONDecodeError as error:
        raise RecordError(path, line, f"not valid JSON: {error.msg} at column {error.colno}; mend or remove the line") from None
    except RecursionError:
        raise RecordError(path, line, "JSON nested too deeply; mend or remove the line") from None
    if not isinstance(value, dict):
        raise RecordError(path, line, f"expected a JSON object, got {type(value).__name__}; write one object a line")
    return value


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield ``(line number, bytes)`` of every line that is not blank.

    Raises:
        RecordError: The file cannot be read or holds no line at all.
    """
    empty = True
    with open_input(path) as stream:
        for number, data in enumerate(stream, 1):
            if number == 1 and data.startswith(_BOM):
                data = data[len(_BOM) :]
            if data.strip():
                empty = False
                yield number, data
    if empty:
        raise RecordError(input_name(path), None, "is empty; expected one JSON object a line")


def read_records(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)`` for every line of a JSONL file; the first bad line raises `RecordError`."""
    name = input_name(path)
    for number, data in read_lines(path):
        yield number, parse_record(data, name, number)


def dump_line(record: Mapping[str, Any]) -> str:
    """A record as one JSON line. Lone surrogates, which UTF-8 cannot carry, stay as escapes."""
    line = json.dumps(record, ensure_ascii=False)
    if not line.isascii():
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            line = json.dumps(record)
    return line + "\n"


@contextmanager
def open_output(path: str | Path | None) -> Iterator[TextIO]:
    """Open a file for writing text (standard output for ``None`` or ``-``). What was written stays when an error follows.

    Raises:
        OutputError: The place cannot be written to, at opening or later (disk full, closed pipe).
    """
    if path is None or str(path) == STDIN:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (head, less) has what it wanted. Python would complain again when it closes stdout at exit.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another --output") from None
    try:
        with stream:
            yield stream
    except OSError as error:
        raise OutputError(f"{path}: writing failed: {error.strerror}; what was written before is kept") from None


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSONL file so that a reader sees the old file or the new one, never a half."""
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    with open_output(partial) as stream:
        stream.writelines(map(dump_line, records))
    partial.replace(target)
