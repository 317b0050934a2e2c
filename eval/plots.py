"""The figures of a report as pictures: PNG files, and SVG inside the page."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casualty_ner.labels import LABELS
from eval.errors import KINDS
from eval.matching import SCHEMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart with any colour vision.
COLOURS = dict(zip(LABELS, ("#0072b2", "#e69f00", "#d55e00", "#009e73"), strict=True))
_SCHEME_STYLES = dict(zip(SCHEMES, (("#222222", "o"), ("#56b4e9", "s"), ("#cc79a7", "D"), ("#009e73", "^")), strict=True))
_NAMES = (*LABELS, "micro", "macro")
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "casualty-ner",  # the same report gives the same file
}

TITLES = {
    "f1": "F1 in four schemes, with 95 % intervals",
    "confusion": "Annotated and predicted labels",
    "errors": "Errors by kind and label",
    "calibration": "Reliability of the scores",
    "thresholds": "Precision, recall and F1 against the threshold",
    "slices": "Strict micro F1 by slice, with 95 % intervals",
}


def draw(report: Mapping[str, Any]) -> dict[str, Figure]:
    """The pictures of a report by file name; those of the scores only if the system gives scores."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        pictures = {
            "f1": _f1(report),
            "confusion": _confusion(report["confusion"]),
            "errors": _errors(report["errors"]),
        }
        if report["calibration"] is not None:
            pictures["calibration"] = _calibration(report["calibration"]["micro"])
            pictures["thresholds"] = _thresholds(report["thresholds"])
        pictures["slices"] = _slices(report["slices"], report["strict"]["micro"])
    return pictures


def learning_curve(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """F1 against training articles: a panel for each set of articles, a line for each label through the means of its checkpoints."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        picture = Figure(figsize=(3.6 * len(curves), 3.4), layout="constrained")
        panels = picture.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        for panel, (name, points) in zip(panels, curves.items(), strict=True):
            sizes = [point["articles"] for point in points]
            for label in (*LABELS, "micro"):
                values = [point["f1"][label] for point in points]
                colour = COLOURS.get(label, "#222222")
                means = [sum(some) / len(some) for some in values]
                panel.plot(sizes, means, color=colour, marker="o", markersize=3, label=label)
                panel.fill_between(
                    sizes, [min(some) for some in values], [max(some) for some in values], color=colour, alpha=0.15
                )
            panel.set_xscale("log", base=2)
            panel.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
            panel.set(title=name, xlabel="training articles")
        panels[0].set_ylabel("strict F1 (mean; least to most)")
        panels[-1].legend(fontsize=8)
    return picture


def save(figure: Figure, path: Path) -> None:
    """Write a picture as PNG."""
    with _quiet():
        figure.savefig(path, dpi=150, metadata={"Software": None})


def to_svg(figure: Figure) -> str:
    """A picture as SVG."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context(_STYLE), _quiet():
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a warning for each character of a field's value that the font lacks; the tables show them all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, axes


def _f1(report: Mapping[str, Any]) -> Figure:
    figure, (axes,) = _figure(7, 3.6)
    lowest = 1.0
    for offset, scheme in enumerate(SCHEMES):
        colour, marker = _SCHEME_STYLES[scheme]
        places, values, below, above = [], [], [], []
        for row, name in enumerate(_NAMES):
            one = report[scheme][name] if name in {"micro", "macro"} else report[scheme]["labels"][name]
            low, high = one["interval"]["f1"] or (one["f1"], one["f1"])
            places.append(row + (offset - 1.5) * 0.18)
            values.append(one["f1"])
            below.append(max(one["f1"] - low, 0))
            above.append(max(high - one["f1"], 0))
            lowest = min(lowest, low)
        axes.errorbar(values, places, xerr=[below, above], fmt=marker, color=colour, markersize=4.5, linewidth=1.2, label=scheme)
    axes.set_yticks(range(len(_NAMES)), _NAMES)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(max(0.0, lowest - 0.03), 1.005)
    axes.set_xlabel("F1")
    figure.legend(loc="outside upper center", ncols=len(SCHEMES))
    return figure


def _confusion(confusion: Mapping[str, Any]) -> Figure:
    figure, (axes,) = _figure(6, 4.2)
    counts = confusion["counts"]
    shares = [[cell / max(sum(row), 1) for cell in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, cells in enumerate(counts):
        for column, cell in enumerate(cells):
            if row == column == len(LABELS):
                continue
            text = f"{cell:,}\n{shares[row][column]:.1%}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=8, color="white" if shares[row][column] > 0.6 else "#222222"
            )
    axes.set_xticks(range(len(counts)), confusion["predicted"])
    axes.set_yticks(range(len(counts)), confusion["annotated"])
    axes.set(xlabel="predicted", ylabel="annotated (share of the row)")
    axes.grid(visible=False)
    return figure


def _errors(errors: Mapping[str, Any]) -> Figure:
    figure, (axes,) = _figure(7, 3.2)
    left = [0] * len(KINDS)
    for label in LABELS:
        counts = [errors[kind]["labels"][label]["count"] for kind in KINDS]
        axes.barh(range(len(KINDS)), counts, left=left, color=COLOURS[label], label=label, height=0.7)
        left = [before + count for before, count in zip(left, counts, strict=True)]
    for row, total in enumerate(left):
        axes.annotate(f"{total:,}", (total, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(KINDS)), KINDS)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("errors")
    figure.legend(loc="outside upper center", ncols=len(LABELS))
    return figure


def _calibration(micro: Mapping[str, Any]) -> Figure:
    figure, (left, right) = _figure(8, 3.6, 2)
    bins = [one for one in micro["bins"] if one["spans"]]
    means, shares = [one["mean_score"] for one in bins], [one["share_right"] for one in bins]
    intervals = [one["interval"] or (share, share) for one, share in zip(bins, shares, strict=True)]
    below = [max(share - low, 0) for share, (low, _) in zip(shares, intervals, strict=True)]
    above = [max(high - share, 0) for share, (_, high) in zip(shares, intervals, strict=True)]
    left.plot((0, 1), (0, 1), color="#999999", linestyle="--", linewidth=1, label="perfect")
    left.errorbar(
        means, shares, yerr=[below, above], fmt="o-", color="#0072b2", markersize=4.5, linewidth=1.2, label="this system"
    )
    left.set(xlabel="mean score", ylabel="share strictly right", xlim=(0, 1.02), ylim=(0, 1.02))
    left.legend(loc="upper left")
    left.set_title(f"expected calibration error {micro['expected_calibration_error']:.3f}", fontsize=9)
    edges = [one["from"] for one in micro["bins"]]
    width = 1 / len(edges)
    right.bar(edges, [one["spans"] for one in micro["bins"]], width=width, align="edge", color="#d0d0d0", label="predicted")
    right.bar(edges, [one["right"] for one in micro["bins"]], width=width, align="edge", color="#0072b2", label="strictly right")
    right.set(xlabel="score", ylabel="spans", xlim=(0, 1))
    right.legend(loc="upper left")
    return figure


def _thresholds(curves: Mapping[str, Any]) -> Figure:
    figure, (left, right) = _figure(8, 3.6, 2)
    for name in (*LABELS, "micro"):
        one = curves["micro"] if name == "micro" else curves["labels"][name]
        style: dict[str, Any] = {"color": COLOURS.get(name, "#222222"), "linewidth": 2 if name == "micro" else 1.2}
        points = [
            (recall, precision)
            for recall, precision in zip(one["recall"], one["precision"], strict=True)
            if precision is not None
        ]
        if points:
            left.plot(*zip(*points, strict=True), **style)
        right.plot(curves["thresholds"], [math.nan if value is None else value for value in one["f1"]], label=name, **style)
        if name == "micro":
            known = [(at, *bounds) for at, bounds in zip(curves["thresholds"], one["interval"]["f1"], strict=True) if bounds]
            if known:
                places, low, high = zip(*known, strict=True)
                right.fill_between(places, low, high, color="#222222", alpha=0.12, linewidth=0)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
    right.set(xlabel="threshold on the score", ylabel="strict F1", xlim=(0, 1), ylim=(0, 1.01))
    figure.legend(loc="outside upper center", ncols=5)
    return figure


def _slices(slices: Mapping[str, Any], micro: Mapping[str, Any]) -> Figure:
    rows: list[tuple[str, Mapping[str, Any] | None]] = []
    for name, part in slices.items():
        rows.append((name, None))
        rows += [(_short(entry["value"]), entry["micro"]) for entry in part["values"] if entry["micro"]["annotated"]]
    figure, (axes,) = _figure(7, 0.8 + 0.2 * len(rows))
    axes.axvline(micro["f1"], color="#999999", linestyle="--", linewidth=1)
    lowest = micro["f1"]
    for place, (_, one) in enumerate(rows):
        if one is None:
            continue
        low, high = one["interval"]["f1"] or (one["f1"], one["f1"])
        lowest = min(lowest, low)
        error = [[max(one["f1"] - low, 0)], [max(high - one["f1"], 0)]]
        axes.errorbar([one["f1"]], [place], xerr=error, fmt="o", color="#0072b2", markersize=4, linewidth=1.2)
    names = [name if one is None else f"{name}  ({one['annotated']:,})" for name, one in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    for text, (_, one) in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_parse_math(False)
        if one is None:
            text.set_fontweight("bold")
    axes.set_ylim(len(rows) - 0.3, -0.7)
    axes.set_xlim(max(0.0, lowest - 0.03), 1.005)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("strict micro F1 (in brackets: annotated spans)")
    return figure


def _short(text: str, most: int = 40) -> str:
    printable = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return printable if len(printable) <= most else printable[: most - 1] + "…"
