"""A report as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import regex

from casualty_ner.errors import OutputError
from casualty_ner.labels import LABELS
from eval.errors import KINDS, MEANINGS
from eval.matching import SCHEMES

MEANING_OF_SCHEMES = {
    "strict": "label and both boundaries are right",
    "exact": "both boundaries are right, whatever the label",
    "partial": "the spans overlap, whatever the label; half a credit unless both boundaries are right",
    "type": "the label is right and the spans overlap",
}

NOTHING_TO_COUNT = "A ratio with nothing to count is 0; the numbers of annotated and predicted spans show where. What rests on one article has no interval."

_SPECIAL = regex.compile(r"[\\`*_{}\[\]<>|#]")


def summary(report: Mapping[str, Any]) -> str:
    """What was scored, the strict figures per label, and what must be known about them."""
    strict, seqeval = report["strict"], report["seqeval"]
    rows = []
    for name, row in [*((label, strict["labels"][label]) for label in LABELS), ("micro", strict["micro"])]:
        cells = [name, *(f"{row[key]:.4f}" for key in ("precision", "recall", "f1")), span(row["interval"]["f1"])]
        rows.append([*cells, f"{row['annotated']:,}", f"{row['predicted']:,}", _seqeval_f1(seqeval, name)])
    macro = strict["macro"]
    ratios = [f"{macro[key]:.4f}" for key in ("precision", "recall", "f1")]
    rows.append(["macro", *ratios, span(macro["interval"]["f1"]), "", "", _seqeval_f1(seqeval, "macro")])
    header = ["label", "precision", "recall", "F1", "95 % interval", "annotated", "predicted", "seqeval F1"]
    parts = [
        f"# {escape(report['system'])} on {escape(report['data']['file'])}",
        facts(report),
        "Strict: a predicted span counts if label and both character offsets equal an annotated one's.",
        table(header, rows),
    ]
    if report["notes"]:
        parts.append("\n".join(f"- {escape(note)}" for note in report["notes"]))
    return "\n\n".join(parts) + "\n"


def to_markdown(report: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = [summary(report).rstrip(), *_schemes(report), *_confusion(report["confusion"]), *_errors(report["errors"])]
    parts += [*_calibration(report), *_slices(report["slices"]), *_examples(report["errors"])]
    return "\n\n".join(parts) + "\n"


def facts(report: Mapping[str, Any]) -> str:
    """What the figures rest on, as a sentence."""
    data, bootstrap = report["data"], report["bootstrap"]
    return (
        f"{data['articles']:,} articles, {data['words']:,} words, {data['annotated']:,} annotated and {data['predicted']:,} predicted spans; "
        f"file SHA-256 {data['sha256'][:16]}…. "
        f"Intervals: {100 * bootstrap['level']:.0f} % percentile bootstrap over articles, {bootstrap['resamples']:,} resamples."
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all but the first column aligned to the right."""
    lines = [header, ["---", *("--:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def span(interval: Sequence[float] | None) -> str:
    """An interval as text."""
    return "–" if interval is None else f"{interval[0]:.3f}–{interval[1]:.3f}"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return " ".join(_SPECIAL.sub(lambda match: "\\" + match[0], text.encode("utf-8", "replace").decode("utf-8")).split())


def _seqeval_f1(seqeval: Mapping[str, Any] | None, name: str) -> str:
    if seqeval is None:
        return "–"
    scores = seqeval[name] if name in {"micro", "macro"} else seqeval["labels"].get(name, {"f1": 0.0})
    return f"{scores['f1']:.4f}"


def _schemes(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Four schemes"
    yield "\n".join(f"- **{scheme}**: {meaning}" for scheme, meaning in MEANING_OF_SCHEMES.items())
    rows = []
    for name in (*LABELS, "micro", "macro"):
        figures = [_entry(report[scheme], name) for scheme in SCHEMES]
        rows.append([name, *(f"{one['f1']:.3f} ({span(one['interval']['f1'])})" for one in figures)])
    yield table(["F1", *SCHEMES], rows)


def _entry(scores: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return scores[name] if name in {"micro", "macro"} else scores["labels"][name]


def _confusion(confusion: Mapping[str, Any]) -> Iterator[str]:
    yield "## Confusion"
    yield "Annotated spans (rows) and the predicted spans that answer them, boundaries right or not."
    rows = [[name, *(f"{cell:,}" for cell in row)] for name, row in zip(confusion["annotated"], confusion["counts"], strict=True)]
    rows[-1][-1] = ""
    yield table(["", *confusion["predicted"]], rows)


def _errors(errors: Mapping[str, Any]) -> Iterator[str]:
    yield "## Errors by kind"
    rows = []
    for kind in KINDS:
        one = errors[kind]
        interval = "–" if one["interval"] is None else "{:.0f}–{:.0f}".format(*one["interval"])
        rows.append(
            [kind, f"{one['count']:,}", interval, *(f"{one['labels'][label]['count']:,}" for label in LABELS), MEANINGS[kind]]
        )
    yield table(["kind", "count", "95 % interval", *LABELS, "meaning"], rows)


def _calibration(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Scores"
    if report["calibration"] is None:
        yield "The system gives no scores."
        return
    rows = []
    for name in (*LABELS, "micro"):
        one = _entry(report["calibration"], name)
        best = _entry(report["thresholds"], name)["best"]
        rows.append(
            [
                name,
                f"{one['expected_calibration_error']:.3f} ({span(one['interval']['expected_calibration_error'])})",
                f"{one['mean_score']:.3f}",
                f"{one['share_right']:.3f}",
                f"{best['threshold']:.2f}",
                f"{best['f1']:.3f} ({span(best['interval'])})",
            ]
        )
    yield table(["label", "expected calibration error", "mean score", "share right", "best threshold", "F1 there"], rows)
    yield "The best threshold is chosen on these very articles, so its F1 is an optimistic one."
    if report["stored_thresholds"] is not None:
        yield f"{STORED_THRESHOLDS}:"
        yield table(STORED_HEADER, [[name, *stored_cells(report, name)] for name in (*LABELS, "micro")])


STORED_THRESHOLDS = "What the thresholds do that the checkpoint holds, chosen on its validation split (strict; `thresholds=False` goes without them)"
STORED_HEADER = ["label", "threshold", "left out", "F1", "F1 without", "precision", "without", "recall", "without"]


def stored_cells(report: Mapping[str, Any], name: str) -> list[str]:
    """A label's row in the table of what the checkpoint's thresholds do."""
    cut, uncut = _entry(report["strict"], name), _entry(report["without_thresholds"], name)
    return [
        "" if name == "micro" else f"{report['stored_thresholds'][name]:.2f}",
        f"{uncut['predicted'] - cut['predicted']:,}",
        *(f"{one['f1']:.3f} ({span(one['interval']['f1'])})" for one in (cut, uncut)),
        *(f"{one[key]:.3f}" for key in ("precision", "recall") for one in (cut, uncut)),
    ]


def _slices(slices: Mapping[str, Any]) -> Iterator[str]:
    yield "## Slices (strict micro)"
    yield NOTHING_TO_COUNT
    for name, part in slices.items():
        support = ["articles"] if part["of"] == "articles" else []
        rows = []
        for entry in part["values"]:
            one = entry["micro"]
            ratios = [f"{one[key]:.3f}" for key in ("precision", "recall", "f1")]
            counts = [*(entry[key] for key in support), one["annotated"], one["predicted"]]
            rows.append([escape(entry["value"]), *ratios, span(one["interval"]["f1"]), *(f"{value:,}" for value in counts)])
        yield table([escape(name), "precision", "recall", "F1", "95 % interval", *support, "annotated", "predicted"], rows)


def _examples(errors: Mapping[str, Any]) -> Iterator[str]:
    yield "## Examples\n\nBold: annotated (A) and predicted (P). The error browser of `report.html` shows all."
    for kind in KINDS:
        if errors[kind]["examples"]:
            yield f"### {kind}"
            yield "\n".join(f"- {escape(example['article'])}: {_in_context(example)}" for example in errors[kind]["examples"])


def _in_context(example: Mapping[str, Any]) -> str:
    shown = example["context"]
    spans = [("A", one) for one in example["annotated"]] + [("P", one) for one in example["predicted"]]
    found = [
        f"{letter} **{escape(shown[one['start'] - example['offset'] : one['end'] - example['offset']])}** {escape(one['label'])}"
        for letter, one in spans
    ]
    return f"{'; '.join(found)} in “…{escape(shown)}…”"


def write_both(out: Path, name: str, content: Mapping[str, Any], text: str) -> None:
    """Write figures as ``NAME.json`` and their tables as ``NAME.md``.

    Raises:
        OutputError: The folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (out / f"{name}.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}; choose another --out") from None
