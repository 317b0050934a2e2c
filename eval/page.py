"""A report as one HTML page that works from disk: no server, no outside request, and no way for an article to run script.

Text reaches the page escaped, or as JSON that the script shows through ``textContent``; a content security policy allows the
page's own script by its hash and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casualty_ner.labels import LABELS
from eval import plots
from eval.errors import KINDS, MEANINGS
from eval.markdown import MEANING_OF_SCHEMES, NOTHING_TO_COUNT, STORED_HEADER, STORED_THRESHOLDS, facts, stored_cells
from eval.matching import SCHEMES
from eval.report import error_spans
from eval.tally import Shown, Tally

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HERE = Path(__file__).resolve().parent
_SECTIONS = {
    "summary": "Summary",
    "schemes": "Four schemes",
    "errors": "Errors",
    "scores": "Scores",
    "slices": "Slices",
    "browser": "Error browser",
}

Cell = tuple[str, float | str]
"""What a cell shows, as HTML, and what it sorts by."""


def to_html(report: Mapping[str, Any], tally: Tally, pictures: Mapping[str, Figure]) -> str:
    """The page.

    Args:
        report: The content of ``report.json``.
        tally: Holds the articles of the error browser.
        pictures: From `eval.plots.draw`.
    """
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"{report['system']} on {report['data']['file']}"
    sections = {
        "summary": _summary(report, pictures),
        "schemes": _schemes(report),
        "errors": _errors(report, pictures),
        "scores": _scores(report, pictures),
        "slices": _slices(report, pictures),
        "browser": _browser(report, tally),
    }
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f'<title>{_safe(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n<body>\n',
            f"<header><div>\n<h1>{_safe(title)}</h1>\n<div class=soft>{_safe(facts(report))}</div>\n<nav>",
            *(f'<a href="#{name}">{heading}</a>' for name, heading in _SECTIONS.items()),
            "</nav>\n</div></header>\n<main>\n",
            *(f'<section id="{name}">\n<h2>{_SECTIONS[name]}</h2>\n{body}\n</section>\n' for name, body in sections.items()),
            f'</main>\n<script type="application/json" id="articles">{to_script_json([_article(one, report["slices"]) for one in tally.shown()])}</script>\n',
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def to_script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no character of it can end the element or begin a comment."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _article(shown: Shown, slices: Container[str]) -> dict[str, Any]:
    return {
        "id": shown.article.id,
        "text": shown.article.text,
        "annotated": [[span.start, span.end, span.label] for span in shown.article.spans],
        "predicted": [
            [entity.start, entity.end, entity.label, *([entity.score] if entity.score == entity.score else [])]
            for entity in shown.predicted
        ],
        "errors": [
            {
                "kind": error.kind,
                "label": error.label,
                **{
                    side: [[span["start"], span["end"], span["label"]] for span in spans]
                    for side, spans in error_spans(error).items()
                },
            }
            for error in shown.errors
        ],
        "slices": {name: value for name, value in shown.slices.items() if name in slices},
    }


def _summary(report: Mapping[str, Any], pictures: Mapping[str, Figure]) -> str:
    micro, macro = report["strict"]["micro"], report["strict"]["macro"]
    tiles = [
        ("strict F1, micro", _number(micro["f1"]), _interval(micro["interval"]["f1"])),
        ("precision", _number(micro["precision"]), _interval(micro["interval"]["precision"])),
        ("recall", _number(micro["recall"]), _interval(micro["interval"]["recall"])),
        ("strict F1, macro", _number(macro["f1"]), _interval(macro["interval"]["f1"])),
    ]
    if report["seqeval"] is not None:
        tiles.append(("seqeval F1, micro", _number(report["seqeval"]["micro"]["f1"]), "strict IOB2 over words"))
    shown = "".join(
        f"<div class=tile><span>{name}</span><b>{value}</b><span>{below}</span></div>" for name, value, below in tiles
    )
    notes = "".join(f"<li>{_safe(note)}</li>" for note in report["notes"])
    return f"<div class=tiles>{shown}</div>\n{_scheme_table(report, 'strict')}\n{_picture(pictures, 'f1')}" + (
        f"\n<ul class=notes>{notes}</ul>" if notes else ""
    )


def _schemes(report: Mapping[str, Any]) -> str:
    rest = [scheme for scheme in SCHEMES if scheme != "strict"]
    return (
        "<p>Each scheme takes the one-to-one matching of predicted to annotated spans that gives it the most credit.</p>\n"
        + "\n".join(_scheme_table(report, scheme) for scheme in rest)
    )


def _scheme_table(report: Mapping[str, Any], scheme: str) -> str:
    scores, seqeval = report[scheme], report["seqeval"] if scheme == "strict" else None
    header = ["label", "precision", "recall", "F1", "correct", "annotated", "predicted", *(["seqeval F1"] if seqeval else [])]
    rows = []
    for name in (*LABELS, "micro", "macro"):
        one = scores[name] if name in {"micro", "macro"} else scores["labels"][name]
        row = [_text(name), *(_with_interval(one[key], one["interval"][key]) for key in ("precision", "recall", "f1"))]
        row += [_count(one[key]) if key in one else ("", "") for key in ("correct", "annotated", "predicted")]
        if seqeval:
            other = seqeval[name] if name in {"micro", "macro"} else seqeval["labels"].get(name, {"f1": 0.0})
            row.append((_number(other["f1"]), other["f1"]))
        rows.append(row)
    return _table(f"{scheme}: {MEANING_OF_SCHEMES[scheme]}", header, rows, totals=2)


def _errors(report: Mapping[str, Any], pictures: Mapping[str, Figure]) -> str:
    rows = []
    for kind in KINDS:
        one = report["errors"][kind]
        cells = [_kind_button(kind, one["labels"][label]["count"], label) for label in LABELS]
        interval = "" if one["interval"] is None else "{:.0f}–{:.0f}".format(*one["interval"])
        total = (f"{_kind_button(kind, one['count'], '')[0]}<i>{interval}</i>", one["count"])
        rows.append([_text(kind), total, *cells, (f"<div class=meaning>{_safe(MEANINGS[kind])}</div>", MEANINGS[kind])])
    confusion = report["confusion"]
    matrix = [
        [_text(name), *(_count(cell) for cell in row)]
        for name, row in zip(confusion["annotated"], confusion["counts"], strict=True)
    ]
    matrix[-1][-1] = ("", "")
    return "\n".join(
        [
            "<p>Every span that is not strictly right takes part in exactly one error. A count leads to its articles.</p>",
            _table("errors by kind; small: the 95 % interval", ["kind", "count", *LABELS, "meaning"], rows),
            _picture(pictures, "errors"),
            "<h3>Confusion</h3>",
            _table(
                "annotated (rows) and predicted (columns), boundaries right or not",
                ["annotated", *confusion["predicted"]],
                matrix,
            ),
            _picture(pictures, "confusion"),
        ]
    )


def _kind_button(kind: str, count: int, label: str) -> Cell:
    if not count:
        return "0", 0
    return f'<button type=button class=kind data-kind="{kind}" data-label="{label}">{count:,}</button>', count


def _scores(report: Mapping[str, Any], pictures: Mapping[str, Figure]) -> str:
    if report["calibration"] is None:
        return "<p>The system gives no scores.</p>"
    rows = []
    for name in (*LABELS, "micro"):
        one, curve = (
            part["micro"] if name == "micro" else part["labels"][name] for part in (report["calibration"], report["thresholds"])
        )
        best = curve["best"]
        rows.append(
            [
                _text(name),
                *(
                    _with_interval(one[key], one["interval"][key])
                    for key in ("expected_calibration_error", "mean_score", "share_right")
                ),
                (f"{best['threshold']:.2f}", best["threshold"]),
                _with_interval(best["f1"], best["interval"]),
            ]
        )
    header = ["label", "expected calibration error", "mean score", "share right", "best threshold", "F1 there"]
    return "\n".join(
        [
            "<p>A score is the system's estimate that label and both boundaries are right. "
            "The best threshold is chosen on these very articles, so its F1 is an optimistic one.</p>",
            _table("scores against strict correctness", header, rows, totals=1),
            _picture(pictures, "calibration"),
            _picture(pictures, "thresholds"),
            *_stored_thresholds(report),
        ]
    )


def _stored_thresholds(report: Mapping[str, Any]) -> list[str]:
    if report["stored_thresholds"] is None:
        return []
    rows = [[_text(name), *map(_text, stored_cells(report, name))] for name in (*LABELS, "micro")]
    return [_table(STORED_THRESHOLDS.replace("`", ""), STORED_HEADER, rows, totals=1)]


def _slices(report: Mapping[str, Any], pictures: Mapping[str, Figure]) -> str:
    parts = [f"<p>{NOTHING_TO_COUNT}</p>", _picture(pictures, "slices")]
    for name, part in report["slices"].items():
        rows = []
        for entry in part["values"]:
            one = entry["micro"]
            ratios = [(_number(one[key]), one[key]) for key in ("precision", "recall")]
            row = [_text(entry["value"]), *ratios, _with_interval(one["f1"], one["interval"]["f1"])]
            row += [(_number(entry["labels"][label]["f1"]), entry["labels"][label]["f1"]) for label in LABELS]
            row += [_count(entry["articles"])] if "articles" in entry else []
            rows.append([*row, _count(one["annotated"]), _count(one["predicted"])])
        articles = ["articles"] if part["of"] == "articles" else []
        header = [name, "precision", "recall", "F1", *LABELS, *articles, "annotated", "predicted"]
        parts.append(_table(f"strict, by {name} ({part['of']}); under a label's name its F1", header, rows))
    return "\n".join(parts)


def _browser(report: Mapping[str, Any], tally: Tally) -> str:
    held, total = len(tally.shown()), report["data"]["articles"]
    kept = "" if held == total else f"<p class=notes>It holds the {held:,} articles with the most errors, of {total:,}.</p>\n"
    labels = _options([("", "all labels"), *((label, label) for label in LABELS)])
    kinds = _options([("", "all articles"), ("any", "any error"), *((kind, kind) for kind in KINDS)])
    return (
        f"{kept}<div class=filters>\n<label>label<select id=label>{labels}</select></label>\n"
        f"<label>kind of error<select id=kind>{kinds}</select></label>\n"
        "<label>slice<select id=slice></select></label>\n<label>value<select id=value></select></label>\n"
        "<label>id or text holds<input id=find type=search></label>\n</div>\n"
        "<div id=status class=soft role=status></div>\n<div id=list></div>\n<button id=more class=more type=button>show more</button>"
    )


def _options(values: Iterable[tuple[str, str]]) -> str:
    return "".join(f'<option value="{value}">{text}</option>' for value, text in values)


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Cell]], totals: int = 0) -> str:
    """A table that sorts; its last `totals` rows stay at the end."""
    head = "".join(f"<th scope=col>{_safe(name)}</th>" for name in header)
    body = "\n".join(_rows(rows, totals))
    return (
        f"<div class=scroll><table class=sorts><caption>{_safe(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _rows(rows: Sequence[Sequence[Cell]], totals: int) -> Iterator[str]:
    for place, row in enumerate(rows):
        total = " class=total" if place >= len(rows) - totals else ""
        cells = "".join(f'<td data-value="{_safe(str(value))}">{shown}</td>' for shown, value in row)
        yield f"<tr{total}>{cells}</tr>"


def _text(text: str) -> Cell:
    return _safe(text), text


def _count(value: float) -> Cell:
    return f"{value:,}", value


def _number(value: float) -> str:
    return f"{value:.3f}"


def _with_interval(value: float, interval: Sequence[float] | None) -> Cell:
    return f"{_number(value)}<i>{_interval(interval)}</i>", value


def _interval(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.3f}–{interval[1]:.3f}"


def _picture(pictures: Mapping[str, Figure], name: str) -> str:
    if name not in pictures:
        return ""
    data = base64.b64encode(plots.to_svg(pictures[name]).encode()).decode()
    title = escape(plots.TITLES[name])
    return f'<figure><img alt="{title}" src="data:image/svg+xml;base64,{data}"><figcaption>{title}</figcaption></figure>'


def _safe(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode("utf-8"))
