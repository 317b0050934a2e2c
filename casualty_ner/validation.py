"""Checks a corpus as a whole: every finding with file, line, id and what to do, and the counts of what is there.

Files are streamed; what must be remembered of each article (its id, and hashes of its wording) lies in a temporary SQLite
database on disk, so memory stays flat whatever the size of the corpus.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import regex

from casualty_ner.dataset import problems, record_id, to_article
from casualty_ner.documents import Article, Span
from casualty_ner.errors import RecordError
from casualty_ner.records import parse_record, read_lines

if TYPE_CHECKING:
    from numpy.typing import NDArray

ERROR, WARNING = "error", "warning"

NEAR_DUPLICATE = 0.5
"""Two texts of which the shorter shares this part of its five-word runs with the other are near-duplicates."""

_SHINGLE = 5
_BANDS, _ROWS = 24, 2  # two texts that share a third of all their runs meet in a band with probability 0.94


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong (`ERROR`), or deserves a look (`WARNING`)."""

    path: str
    line: int
    record_id: str | None
    severity: str
    problem: str

    def __str__(self) -> str:
        named = "" if self.record_id is None else f" (id {self.record_id!r})"
        return f"{self.path}:{self.line}: {self.severity}{named}: {self.problem}"


KINDS = ("genre", "region", "period", "damage")
"""The fields of an article that say what kind of text it is."""
_NOT_STATED = "(none)"


@dataclass(slots=True)
class Totals:
    """Counts per split, and within it per label and per kind of text (`KINDS`)."""

    articles: Counter[str] = field(default_factory=Counter)
    without_spans: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: dict[str, Counter[tuple[str, str]]] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})

    def add(self, split: str, article: Article) -> None:
        self.articles[split] += 1
        self.without_spans[split] += not article.spans
        self.words[split] += len(article.text.split())
        for span in article.spans:
            self.labels[span.label, split] += 1
        for kind, counts in self.kinds.items():
            counts[str(article.fields.get(kind, _NOT_STATED)), split] += 1


def check(files: dict[str, Path], totals: Totals) -> Iterator[Finding]:
    """Check every article of every split, and the splits against each other; counts go into `totals` on the way.

    Raises:
        RecordError: A file cannot be read at all.
    """
    with _Memory() as memory:
        for split, path in files.items():
            for line, data in read_lines(path):
                yield from _check_line(memory, totals, split, path, line, data)
        for first, second, shared in memory.near_duplicates():
            severity = ERROR if first[0] != second[0] else WARNING
            problem = f"shares {shared:.0%} of its five-word runs with {first[0]}:{first[1]} (id {first[2]!r}); "
            advice = "texts of different splits must differ, remove one" if severity == ERROR else "rewrite or remove one"
            yield Finding(second[0], second[1], second[2], severity, problem + advice)


def sentence_end_inside(text: str, span: Span) -> str | None:
    """Whether a sentence ends inside the span: `ERROR` at a blank line, `WARNING` where a full stop that is not an
    abbreviation's stands before a capital, which names ("Yahoo! News") can have too."""
    inside = text[span.start : span.end]
    if _BLANK_LINE.search(inside):
        return ERROR
    ends = _SENTENCE_END.finditer(inside)
    return WARNING if any(not _ABBREVIATION.search(inside[: end.start() + 1]) for end in ends) else None


_BLANK_LINE = regex.compile(r"\n\s*\n")
_SENTENCE_END = regex.compile(r"[.!?…][\"'”’)\]]*\s+(?=[\"'“‘(\[]?\p{Lu})")
_ABBREVIATION = regex.compile(
    r"(?i)(?:\b(?:\p{L}|mr|mrs|ms|dr|gen|lt|col|maj|capt|cpt|sgt|brig|adm|cmdr|rev|fr|sen|rep|gov|prof|st|ste|sr|jr|insp|supt|const|cpl|"
    r"pte|pvt|no|vs|inc|ltd|co|corp|hon|dep|asst|det|mt|ft|sec|pres|amb|atty|comm|msgr|bros|al|ens|res|ret)|(?:\p{L}\.)+\p{L})\.$"
)


def _check_line(memory: _Memory, totals: Totals, split: str, path: Path, line: int, data: bytes) -> Iterator[Finding]:
    try:
        record = parse_record(data, str(path), line)
    except RecordError as error:
        yield Finding(str(path), line, None, ERROR, error.problem)
        return
    found = problems(record)
    name = record_id(record)
    yield from (Finding(str(path), line, name, ERROR, problem) for problem in found)
    if name is not None and (other := memory.remember_id(name, path, line)):
        yield Finding(str(path), line, name, ERROR, f"the id is taken by {other}; give each article its own")
    if found:
        return
    article = to_article(record)
    totals.add(split, article)
    for span in article.spans:
        if severity := sentence_end_inside(article.text, span):
            shown = f"{span.label} {span.start}:{span.end} {article.text[span.start : span.end]!r}"
            yield Finding(str(path), line, name, severity, f"{shown} runs over a sentence end; split or shorten it")
    memory.remember_wording(article, path, line)


class _Memory:
    """What has been seen, in a database that SQLite keeps in a temporary file of its own and deletes at the end."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID")
        self._database.execute(
            "CREATE TABLE places (number INTEGER PRIMARY KEY, path TEXT, line INTEGER, id TEXT, shingles BLOB)"
        )
        self._database.execute("CREATE TABLE bands (hash INTEGER, number INTEGER)")

    def __enter__(self) -> _Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def remember_id(self, name: str, path: Path, line: int) -> str | None:
        """The place that has this id already, if any."""
        key = name.encode("utf-8", "surrogatepass").hex() if not name.isascii() else name
        row = self._database.execute("SELECT place FROM ids WHERE id = ?", (key,)).fetchone()
        if row is None:
            self._database.execute("INSERT INTO ids VALUES (?, ?)", (key, f"{path}:{line}"))
        return row and row[0]

    def remember_wording(self, article: Article, path: Path, line: int) -> None:
        hashes = shingles(article.text)
        if not len(hashes):
            return
        # Identical bands make candidates; the shingles themselves (a sample, for long texts) settle them.
        sample = hashes[:1000]
        cursor = self._database.execute(
            "INSERT INTO places (path, line, id, shingles) VALUES (?, ?, ?, ?)", (str(path), line, article.id, sample.tobytes())
        )
        rows = [(band, cursor.lastrowid) for band in _band_hashes(hashes)]
        self._database.executemany("INSERT INTO bands VALUES (?, ?)", rows)

    def near_duplicates(self) -> Iterator[tuple[tuple[str, int, str], tuple[str, int, str], float]]:
        self._database.execute("CREATE INDEX by_hash ON bands (hash, number)")
        # A text is compared with its first predecessor in each band, which keeps a mass of equal texts from taking n² time.
        candidates = self._database.execute(
            "SELECT DISTINCT first, number FROM (SELECT number, min(number) OVER (PARTITION BY hash) AS first FROM bands) "
            "WHERE first < number ORDER BY number, first"
        )
        reported = 0
        for first, second in candidates:
            if second == reported:
                continue
            places, samples = zip(*(self._place(number) for number in (first, second)), strict=True)
            shared = len(np.intersect1d(samples[0], samples[1])) / min(len(samples[0]), len(samples[1]))
            if shared >= NEAR_DUPLICATE:
                reported = second
                yield places[0], places[1], shared

    def _place(self, number: int) -> tuple[tuple[str, int, str], NDArray[np.uint64]]:
        *place, sample = self._database.execute(
            "SELECT path, line, id, shingles FROM places WHERE number = ?", (number,)
        ).fetchone()
        return tuple(place), np.frombuffer(sample, dtype=np.uint64)


def shingles(text: str) -> NDArray[np.uint64]:
    """Sorted distinct hashes of the text's five-word runs (of all its words, if it has fewer), letter case left aside."""
    words = np.array([_word_hash(word) for word in regex.findall(r"\w+", text.lower())], dtype=np.uint64)
    if not len(words):
        return words
    width = min(_SHINGLE, len(words))
    runs = np.lib.stride_tricks.sliding_window_view(words, width)
    return np.unique(_mix((runs * _FACTORS[:width]).sum(axis=1, dtype=np.uint64)))


def _word_hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "replace")) + 1


def _band_hashes(hashes: NDArray[np.uint64]) -> list[int]:
    """MinHash (Broder 1997) in bands: texts with many common shingles have some band in common."""
    signature = _mix(hashes ^ _SEEDS[:, None]).min(axis=1).reshape(_BANDS, _ROWS)
    bands = _mix((signature * _FACTORS[:_ROWS]).sum(axis=1, dtype=np.uint64) + np.arange(_BANDS, dtype=np.uint64))
    return (bands >> np.uint64(1)).astype(np.int64).tolist()  # SQLite's integers are signed


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): spreads every input bit over the word."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_FACTORS = _mix(np.arange(1, _SHINGLE + 1, dtype=np.uint64)) | np.uint64(1)
_SEEDS = _mix(np.arange(101, 101 + _BANDS * _ROWS, dtype=np.uint64))


def tables(totals: Totals) -> str:
    """The counts as Markdown tables: per split, and per label and each kind of text that any article states."""
    splits = list(totals.articles)
    overview = [
        ("articles", [totals.articles[split] for split in splits]),
        ("… without a span", [totals.without_spans[split] for split in splits]),
        ("words", [totals.words[split] for split in splits]),
    ]
    parts = [("", overview), ("spans", _by_first(totals.labels, splits))]
    for kind, counts in totals.kinds.items():
        if any(value != _NOT_STATED for value, _ in counts):
            parts.append((f"{kind} (articles)", _by_first(counts, splits)))
    return "\n\n".join(_table(title, splits, rows) for title, rows in parts) + "\n"


def _by_first(counts: Counter[tuple[str, str]], splits: Sequence[str]) -> list[tuple[str, list[int]]]:
    names = sorted({name for name, _ in counts}, key=lambda name: -sum(counts[name, split] for split in splits))
    return [(name, [counts[name, split] for split in splits]) for name in names]


def _table(title: str, splits: Iterable[str], rows: Iterable[tuple[str, list[int]]]) -> str:
    header = [title, *splits, "all"]
    body: list[list[Any]] = [[name, *counts, sum(counts)] for name, counts in rows]
    lines = [header, ["---", *("--:" for _ in header[1:])], *body]
    return "\n".join("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in line) + " |" for line in lines)
