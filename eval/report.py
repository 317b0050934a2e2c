"""The figures of a report, from the counts: the content of ``report.json`` (see ``docs/report-schema.md``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casualty_ner.labels import LABELS
from eval import calibration
from eval.bootstrap import FEW_ARTICLES, LEVEL, RESAMPLES, SEED, interval, mean_known, ratio, with_intervals
from eval.errors import KINDS, Error
from eval.matching import SCHEMES
from eval.slices import ORDERS, OTHERS, WINDOW_SLICE
from eval.tally import Example, Tally, Totals

SCHEMA_VERSION = 2
CONTEXT = 80
"""Characters shown on either side of an example."""

Values = NDArray[np.float64]


def build_report(
    tally: Tally,
    *,
    system: str,
    data: Mapping[str, Any],
    seqeval: Mapping[str, Any] | None,
    notes: Sequence[str] = (),
    stored_thresholds: Mapping[str, float] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """All figures of a report.

    Args:
        tally: The counts.
        system: What was scored.
        data: The file that it was scored on: ``file``, ``sha256``.
        seqeval: The scores of seqeval, or ``None`` if it was left out.
        notes: What a reader must know about the predictions.
        stored_thresholds: What the checkpoint cuts each label's scores at.
        resamples: How many the intervals rest on.
    """
    totals = tally.totals(resamples)
    scored = not tally.unscored
    return {
        "schema_version": SCHEMA_VERSION,
        "system": system,
        "data": {
            **data,
            "articles": tally.articles,
            "words": tally.words,
            "annotated": int(sum(totals("annotated", label)[0] for label in LABELS)),
            "predicted": int(sum(totals("predicted", label)[0] for label in LABELS)),
        },
        "bootstrap": {"resamples": resamples, "level": LEVEL, "unit": "article", "seed": SEED},
        "notes": [*notes, *_notes(tally, totals, seqeval)],
        **{scheme: _scheme(totals, scheme) for scheme in SCHEMES},
        "seqeval": seqeval,
        "confusion": _confusion(totals),
        "errors": {kind: _errors(tally, totals, kind) for kind in KINDS},
        "calibration": calibration.calibration(totals) if scored else None,
        "thresholds": calibration.thresholds(totals) if scored else None,
        "stored_thresholds": stored_thresholds,
        "without_thresholds": _without_thresholds(totals) if stored_thresholds else None,
        "slices": {
            name: _slice(totals, name) for name in tally.slice_names if name not in tally.fields or tally.field_counts[name]
        },
    }


def _notes(tally: Tally, totals: Totals, seqeval: Mapping[str, Any] | None) -> list[str]:
    notes = []
    if tally.articles < FEW_ARTICLES:
        notes.append(f"{tally.articles} articles are too few for the intervals to say much.")
    for label in LABELS:
        annotated, predicted = totals("annotated", label)[0], totals("predicted", label)[0]
        if not annotated and not predicted:
            notes.append(
                f"{label} is neither annotated nor predicted: its ratios are 0 by convention and the macro average leaves it out."
            )
        elif not annotated:
            notes.append(f"{label} is not annotated: its recall and F1 are 0 by convention.")
        elif not predicted:
            notes.append(f"{label} is not predicted: its precision and F1 are 0 by convention.")
    for name in tally.fields:
        held = tally.field_counts[name]
        if not held:
            notes.append(f"No slice by {name}: no article has such a field.")
        elif held < tally.articles:
            notes.append(
                f"{tally.articles - held:,} of {tally.articles:,} articles have no {name}: they stand under a value of their own."
            )
    for name in tally.slice_names:
        if OTHERS in totals.articles.get(name, ()):
            notes.append(f"Slice {name}: rare values are counted together as {OTHERS}.")
    if tally.windower is None:
        notes.append(f"No slice by {WINDOW_SLICE}: the windows of this system are not known.")
    if tally.unscored:
        notes.append(f"{tally.unscored:,} predicted spans have no score: calibration and thresholds are left out.")
    if seqeval is None:
        notes.append("seqeval was left out: there are more articles than it is run on unless asked for.")
    elif seqeval["moved"]:
        notes.append(f"{seqeval['moved']:,} spans do not begin and end with a word; seqeval, which tags words, saw them widened.")
    return notes


def _scheme(totals: Totals, scheme: str) -> dict[str, Any]:
    labels = {label: _label_counts(totals, scheme, label) for label in LABELS}
    micro = _together(labels)
    ratios = {label: _ratios(**one) for label, one in labels.items()}
    seen = [label for label, one in labels.items() if one["annotated"][0] or one["predicted"][0]]
    macro = {
        name: mean_known([_zero_if_seen(ratios[label][name], labels[label]) for label in seen])
        if seen
        else np.full(len(micro["found"]), np.nan)
        for name in ("precision", "recall", "f1")
    }
    return {
        "micro": _with_counts(_ratios(**micro), micro),
        "macro": with_intervals(macro, {}),
        "labels": {label: _with_counts(ratios[label], labels[label]) for label in LABELS},
    }


def _label_counts(totals: Totals, scheme: str, label: str) -> dict[str, Values]:
    """The credit of a label's annotated spans (found) and of its predicted ones (right), and how many of each there are.

    The two differ where a scheme ignores labels: the annotated span of a pair may have another label than the predicted one.
    """
    found = right = totals("correct", label)
    if scheme == "type":
        found = right = found + totals("typed", label)
    if scheme in {"exact", "partial"}:
        found = found + sum(totals("relabelled", label, other) for other in LABELS)
        right = right + sum(totals("relabelled", other, label) for other in LABELS)
    if scheme == "partial":
        found = found + 0.5 * sum(totals("overlapping", label, other) for other in LABELS)
        right = right + 0.5 * sum(totals("overlapping", other, label) for other in LABELS)
    return {"found": found, "right": right, "annotated": totals("annotated", label), "predicted": totals("predicted", label)}


def _ratios(found: Values, right: Values, annotated: Values, predicted: Values) -> dict[str, Values]:
    """F1 is the harmonic mean of precision and recall, in the form that needs no case for 0; NaN if there is no span at all."""
    both = right * annotated + found * predicted
    f1 = ratio(2 * found * right, both)
    f1[(both == 0) & (annotated + predicted > 0)] = 0.0
    return {"precision": ratio(right, predicted), "recall": ratio(found, annotated), "f1": f1}


def _zero_if_seen(values: Values, counts: Mapping[str, Values]) -> Values:
    return np.where(np.isnan(values) & (counts["annotated"] + counts["predicted"] > 0), 0.0, values)


def _with_counts(ratios: dict[str, Values], counts: Mapping[str, Values]) -> dict[str, Any]:
    shown = {"correct": counts["found"], "predicted": counts["predicted"], "annotated": counts["annotated"]}
    if counts["found"][0] != counts["right"][0]:
        shown["correct_predicted"] = counts["right"]
    return with_intervals(ratios, shown)


def _confusion(totals: Totals) -> dict[str, Any]:
    """Rows: the annotated label, last what is not annotated. Columns: the predicted label, last what is not predicted."""
    size = len(LABELS)
    cells = np.zeros((size + 1, size + 1, len(totals.values)))
    for row, annotated in enumerate(LABELS):
        for column, predicted in enumerate(LABELS):
            cells[row, column] = totals("relabelled", annotated, predicted) + totals("overlapping", annotated, predicted)
        cells[row, row] += totals("correct", annotated)
        cells[row, size] = totals("annotated", annotated) - cells[row, :size].sum(axis=0)
    for column, predicted in enumerate(LABELS):
        cells[size, column] = totals("predicted", predicted) - cells[:size, column].sum(axis=0)
    return {
        "annotated": [*LABELS, "spurious"],
        "predicted": [*LABELS, "missed"],
        "counts": cells[:, :, 0].astype(int).tolist(),
        "interval": [[interval(cell[1:]) for cell in row] for row in cells],
    }


def _errors(tally: Tally, totals: Totals, kind: str) -> dict[str, Any]:
    labels = {label: totals("error", kind, label) for label in LABELS}
    together = np.sum(list(labels.values()), axis=0)
    return {
        "count": int(together[0]),
        "interval": interval(together[1:]),
        "labels": {label: {"count": int(values[0]), "interval": interval(values[1:])} for label, values in labels.items()},
        "examples": [_example(example) for example in tally.examples_of(kind)],
    }


def _example(example: Example) -> dict[str, Any]:
    """The error with the text around it; offsets stay those of the article, `offset` is that of the context."""
    error = example.error
    first, last = max(error.start - CONTEXT, 0), min(error.end + CONTEXT, len(example.text))
    return {"article": example.article, "offset": first, "context": example.text[first:last], **error_spans(error)}


def error_spans(error: Error) -> dict[str, Any]:
    return {
        "annotated": [span.to_dict() for span in error.annotated],
        "predicted": [entity.span.to_dict() for entity in error.predicted],
    }


def _slice(totals: Totals, name: str) -> dict[str, Any]:
    articles = totals.articles.get(name)
    values: list[dict[str, Any]] = []
    for value in totals.slice_values(name):
        counts = {label: _slice_counts(totals, name, value, label) for label in LABELS}
        values.append({"value": value, **({} if articles is None else {"articles": articles[value]}), **_strict(counts)})
    order = ORDERS.get(name)
    if order:
        values.sort(key=lambda entry: order.index(entry["value"]))
    else:
        values.sort(key=lambda entry: (entry["value"] == OTHERS, -entry["micro"]["annotated"], entry["value"]))
    return {"of": "spans" if articles is None else "articles", "values": values}


def _slice_counts(totals: Totals, name: str, value: str, label: str) -> dict[str, Values]:
    correct, annotated, predicted = (totals(name, value, what, label) for what in ("correct", "annotated", "predicted"))
    return {"found": correct, "right": correct, "annotated": annotated, "predicted": predicted}


def _without_thresholds(totals: Totals) -> dict[str, Any]:
    """All that the system proposed, whatever its score."""
    counts = {}
    for label in LABELS:
        predicted, right = calibration.proposed(totals, label)
        counts[label] = {"found": right, "right": right, "annotated": totals("annotated", label), "predicted": predicted}
    return _strict(counts)


def _strict(counts: Mapping[str, Mapping[str, Values]]) -> dict[str, Any]:
    """The figures of each label, and of all together, from their counts."""
    micro = _together(counts)
    return {
        "micro": _with_counts(_ratios(**micro), micro),
        "labels": {label: _with_counts(_ratios(**one), one) for label, one in counts.items()},
    }


def _together(counts: Mapping[str, Mapping[str, Values]]) -> dict[str, Values]:
    return {key: np.sum([one[key] for one in counts.values()], axis=0) for key in ("found", "right", "annotated", "predicted")}
