"""Strict seqeval scores of tag sequences, as a metric that ``evaluate.load`` finds by its path, so without a hub."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

_DESCRIPTION = (
    "Entity precision, recall and F1 of IOB2 tag sequences by seqeval in strict mode: label and both boundaries must match."
)
_CITATION = """\
@misc{seqeval,
  title  = {{seqeval}: A Python framework for sequence labeling evaluation},
  author = {Hiroki Nakayama},
  year   = {2018},
}
"""
_INPUTS = """\
Args:
    predictions: A list of tag sequences, one a text, such as [["B-COUNT", "I-COUNT", "O"]].
    references: The annotated tag sequences, of the same lengths.
Returns:
    {"micro": {...}, "macro": {...}, "labels": {label: {"precision", "recall", "f1", "annotated"}}}
"""


class CasualtySeqeval(evaluate.Metric):
    """seqeval with ``mode="strict"`` and ``scheme=IOB2``; a ratio with nothing to count is 0."""

    def _info(self) -> evaluate.MetricInfo:
        sequences = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": sequences, "references": sequences}),
        )

    def _compute(self, *, predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
        if not any(tag != "O" for sequence in [*predictions, *references] for tag in sequence):
            nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "annotated": 0}
            return {"micro": nothing, "macro": nothing, "labels": {}}
        report = classification_report(references, predictions, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
        scores = {name: _renamed(values) for name, values in report.items()}
        averages = {name: scores.pop(f"{name} avg") for name in ("micro", "macro")}
        scores.pop("weighted avg")
        return {**averages, "labels": scores}


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "precision": float(values["precision"]),
        "recall": float(values["recall"]),
        "f1": float(values["f1-score"]),
        "annotated": int(values["support"]),
    }
