"""The one family of errors that a user can act on: each message says what is wrong, where, and what to do next."""

from __future__ import annotations

from pathlib import Path


class CasualtyNerError(Exception):
    """Base of all errors raised for bad input. Commands print it as one message and exit with code 2."""


class ConfigError(CasualtyNerError):
    """A training config that cannot be used: names the file and the key."""


class CheckpointError(CasualtyNerError):
    """A model or encoder that is missing, unreachable or not made for the four labels."""


class UnsupportedError(CheckpointError):
    """A runtime that this machine or this model cannot use, though another may."""


class OutputError(CasualtyNerError):
    """A place that cannot be written to."""


class RecordError(CasualtyNerError):
    """A record that cannot be used.

    Args:
        path: The file (``"<stdin>"`` for standard input).
        line: The line, counted from 1; ``None`` when the file as a whole is meant.
        problem: What is wrong and what to do.
        record_id: The record's id where it is known.
    """

    def __init__(self, path: str | Path, line: int | None, problem: str, record_id: str | None = None):
        self.path, self.line, self.problem, self.record_id = str(path), line, problem, record_id
        where = self.path if line is None else f"{self.path}:{line}"
        super().__init__(f"{where}: {problem}" if record_id is None else f"{where} (id {record_id!r}): {problem}")


def first_line(error: Exception) -> str:
    """What an error of a Python library says; the lines after it are hints and tracebacks."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def last_line(error: Exception) -> str:
    """What an error of a C++ library says: such libraries put their source locations on the lines before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
