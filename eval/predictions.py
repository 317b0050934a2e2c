"""Predicted spans of a set of articles: from a checkpoint, or from a file that any other system wrote."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casualty_ner.dataset import problems
from casualty_ner.documents import Article, Entity
from casualty_ner.errors import RecordError
from casualty_ner.extractor import Extractor
from eval.formats import Record, read_format, renamed, spans_of_rows

if TYPE_CHECKING:
    from casualty_ner.calibration import Calibration
    from casualty_ner.windows import Windower

Pair = tuple[Article, list[Entity]]

NO_SCORE = math.nan
"""The score of a span whose system gives none."""

PREDICTIONS_FILE = "predictions.jsonl"


def predict(extractor: Extractor, articles: Iterable[Article]) -> Iterator[Pair]:
    """Each article with the extractor's entities, as a stream."""
    articles, for_extraction = tee(articles)
    return zip(articles, extractor.stream(article.text for article in for_extraction), strict=True)


@dataclass(slots=True)
class PredictionFile:
    """Spans that another system predicted, in any of the forms of `eval.formats`.

    Args:
        path: The file.
        format: One of `eval.formats.FORMATS`.
        labels: Our label for a label of the system; an empty one leaves its spans out.

    Attributes:
        left_out: How many spans `labels` left out so far.
    """

    path: str | Path
    format: str = "auto"
    labels: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0

    def pairs(self, articles: Iterable[Article]) -> Iterator[Pair]:
        """Each article with its predicted entities, in the order of the articles.

        A record belongs to the article with its id; a record without an id to the article with its text; one with neither
        to the article at its place. Records in another order than the articles wait in memory for theirs.

        Raises:
            RecordError: A record is broken, belongs to no article or to one that has another, a span does not lie within its
                text, overlaps another or has another label, or an article has no record (one without predictions needs an empty list).
        """
        records = self._keyed()
        waiting: dict[tuple[str, Any], Record] = {}
        remaining = enumerate(articles)
        for place, article in remaining:
            keys = [("id", article.id), ("text", article.text), ("place", place)]
            while not any(key in waiting for key in keys):
                following = next(records, None)
                if following is None:
                    raise self._unmatched(waiting, [(place, article), *remaining])
                key, record = following
                if key in waiting:
                    problem = "a record without an id has the same text; give each record the id of its article"
                    raise RecordError(self.path, record.line, problem)
                waiting[key] = record
            record = waiting.pop(next(key for key in keys if key in waiting))
            yield article, self._entities(record, article)
        unclaimed = next(iter(waiting.values()), None) or next((record for _, record in records), None)
        if unclaimed is not None:
            raise self._unknown(unclaimed)

    def _keyed(self) -> Iterator[tuple[tuple[str, Any], Record]]:
        given: set[str] = set()
        for place, record in enumerate(read_format(self.path, self.format)):
            if record.id is None:
                yield ("place", place) if record.text is None else ("text", record.text), record
                continue
            if record.id in given:
                raise RecordError(self.path, record.line, "the id was given before; merge the records", record.id)
            given.add(record.id)
            yield ("id", record.id), record

    def _unmatched(self, waiting: Mapping[tuple[str, Any], Record], rest: Sequence[tuple[int, Article]]) -> RecordError:
        """The file has ended before the articles: either a record's id is wrong, or articles have none."""
        wanted = {key for place, article in rest for key in (("id", article.id), ("text", article.text), ("place", place))}
        for key, record in waiting.items():
            if key not in wanted:
                return self._unknown(record)
        missing = [
            article.id
            for place, article in rest
            if not any(key in waiting for key in (("id", article.id), ("text", article.text), ("place", place)))
        ]
        return RecordError(
            self.path,
            None,
            f"{len(missing)} articles have no record, {missing[0]!r} first; give an empty list for no prediction",
        )

    def _unknown(self, record: Record) -> RecordError:
        if record.id is not None:
            problem = "the annotated articles have no such id; predict on the data that is scored"
        elif record.text is not None:
            problem = "no annotated article has this text, and there is no id; give each record the id of its article"
        else:
            problem = (
                "there are more records than annotated articles, and this one has no id; give each record the id of its article"
            )
        return RecordError(self.path, record.line, problem, record.id)

    def _entities(self, record: Record, article: Article) -> list[Entity]:
        spans = record.spans if record.rows is None else spans_of_rows(self.path, article, record.rows)
        spans, left_out = renamed(spans, self.labels)
        self.left_out += left_out
        found = problems({"id": article.id, "text": article.text, "spans": spans})
        if found:
            hint = "; map its labels with --map" if "unknown label" in found[0] else ""
            raise RecordError(self.path, record.line, found[0] + hint, article.id)
        entities = [self._entity(span, article, record.line) for span in spans]
        return sorted(entities, key=lambda entity: entity.start)

    def _entity(self, span: Mapping[str, Any], article: Article, line: int) -> Entity:
        start, end, score = span["start"], span["end"], span.get("score")
        if score is None:
            score = NO_SCORE
        elif isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
            problem = f"score {score!r} of {start}:{end} is not between 0 and 1; give a probability or none"
            raise RecordError(self.path, line, problem, article.id)
        return Entity(start, end, span["label"], article.text[start:end], float(score))


def to_record(article: Article, entities: Sequence[Entity]) -> dict[str, Any]:
    """What ``predictions.jsonl`` holds of an article; a missing score is left out."""
    spans = [entity.to_dict() for entity in entities]
    for span in spans:
        if math.isnan(span["score"]):
            del span["score"]
    return {"id": article.id, "entities": spans}


@dataclass(frozen=True, slots=True)
class System:
    """What predicts: a checkpoint, the report of one, or a prediction file.

    Attributes:
        name: As given.
        source: Where the spans come from; an extractor gives all, those below its thresholds included.
        windower: Of the checkpoint.
        calibration: Of the checkpoint.
    """

    name: str
    source: Extractor | PredictionFile
    windower: Windower | None = None
    calibration: Calibration | None = None

    @property
    def notes(self) -> list[str]:
        """What a reader must know about the predictions, once they have passed."""
        if isinstance(self.source, PredictionFile) and self.source.left_out:
            return [f"{self.source.left_out:,} predicted spans were left out: their labels map to nothing."]
        return []

    def proposals(self, articles: Iterable[Article]) -> Iterator[tuple[Article, list[Entity], list[Entity]]]:
        """Each article with what the system finds in it, and with what it leaves out because of its thresholds."""
        pairs = self.source.pairs(articles) if isinstance(self.source, PredictionFile) else predict(self.source, articles)
        for article, entities in pairs:
            sides: tuple[list[Entity], list[Entity]] = [], []
            for entity in entities:
                below = self.calibration is not None and not self.calibration.reaches(entity)
                sides[below].append(entity)
            yield article, *sides

    def pairs(self, articles: Iterable[Article]) -> Iterator[Pair]:
        """Each article with what the system finds in it."""
        return ((article, kept) for article, kept, _ in self.proposals(articles))


def open_system(name: str, device: str = "auto") -> System:
    """What a name on the command line means: a report's folder, a prediction file, or else a checkpoint (folder or hub id).

    Raises:
        CheckpointError: It is a checkpoint that cannot be used.
    """
    path = Path(name)
    if (path / PREDICTIONS_FILE).is_file():
        return System(name, PredictionFile(path / PREDICTIONS_FILE))
    if path.is_file():
        return System(name, PredictionFile(path))
    return open_checkpoint(name, device)


def open_checkpoint(name: str, device: str = "auto", runtime: str = "torch", precision: str = "float32") -> System:
    """A checkpoint, ready to predict; by default as the reference that figures are reported with, torch in float32."""
    extractor = Extractor.from_pretrained(name, device=device, runtime=runtime, precision=precision, thresholds=False)
    return System(name, extractor, extractor.windower, extractor.calibration)
