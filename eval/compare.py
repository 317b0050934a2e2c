"""Says with paired tests whether system B beats system A on the same articles, per label, and which articles decide it.

    python -m eval.compare runs/one runs/other --data data/annotations --split test --out DIR

A and B are checkpoints, folders of reports, or prediction files. The figure is strict F1. Its difference gets a paired bootstrap
interval over articles, and a p-value by approximate randomisation (Noreen 1989; Yeh 2000): if the systems were alike, swapping
their predictions on any article would change nothing but chance, so it is counted how often random swaps make a difference at
least as large, in either direction. The p-values of the four labels are corrected for being four (Holm 1979). The articles and both systems' spans are held in memory.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from casualty_ner.cli import run_command
from casualty_ner.documents import Article, Entity, Span
from casualty_ner.labels import LABELS
from eval.arguments import add_articles, read_articles
from eval.bootstrap import FEW_ARTICLES, LEVEL, RESAMPLES, SEED, interval, ratio, resampled_totals
from eval.markdown import escape, span, table, write_both
from eval.predictions import open_system
from eval.tally import BASE, Tally

SCHEMA_VERSION = 1
SHUFFLES = 10_000
SIGNIFICANT = 0.05
DECIDING = 10
"""Articles listed for either side."""

_TOGETHER = 500  # shuffles in one product
_COLUMNS = [(what, label) for label in LABELS for what in BASE]
_NAMES = ("micro", "macro", *LABELS)

Predictions = Sequence[Sequence[Entity]]


def compare(articles: Sequence[Article], first: Predictions, second: Predictions) -> dict[str, Any]:
    """Compare two systems' predictions of the same articles.

    Args:
        articles: The annotated articles.
        first: What system A predicted for each of them.
        second: What system B predicted.

    Returns:
        ``scores`` (for micro, macro and each label: F1 of both, difference, interval, p, verdict) and ``articles`` (those that
        decide it: how much each moves the difference in micro F1, and the spans in which the systems differ).
    """
    counts = _counts(articles, first), _counts(articles, second)
    totals = resampled_totals([csr_array(np.concatenate(counts, axis=1))])
    width = len(_COLUMNS)
    f1 = _f1(totals[:, :width]), _f1(totals[:, width:])
    differences = {name: f1[1][name] - f1[0][name] for name in _NAMES}
    p_values = _p_values(*counts)
    corrected = {**p_values, **holm({label: p_values[label] for label in LABELS})}
    scores = {}
    for name in _NAMES:
        difference = float(np.nan_to_num(differences[name][0]))
        scores[name] = {
            "f1": [float(np.nan_to_num(one[name][0])) for one in f1],
            "difference": difference,
            "interval": interval(differences[name][1:]),
            "p": p_values[name],
            "p_corrected": corrected[name],
            "verdict": _verdict(difference, corrected[name]),
        }
    return {"scores": scores, "articles": _deciding(articles, first, second, counts)}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Step-down correction for several tests (Holm 1979): each p-value times the number of tests that are left, never falling."""
    corrected, highest = {}, 0.0
    for done, (name, value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, value * (len(p_values) - done)))
        corrected[name] = highest
    return corrected


def _counts(articles: Sequence[Article], predictions: Predictions) -> NDArray[np.float64]:
    """Shape ``[articles, labels * (annotated, predicted, correct)]``."""
    tally = Tally(fields=())
    for article, predicted in zip(articles, predictions, strict=True):
        tally.add(article, predicted)
    return tally.dense(_COLUMNS)


def _f1(totals: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Micro, macro and each label's F1 of totals of shape ``[..., labels * 3]``; NaN where there is nothing to count."""
    parts = totals.reshape(*totals.shape[:-1], len(LABELS), len(BASE))
    spans, correct = parts[..., 0] + parts[..., 1], parts[..., 2]
    labels = ratio(2 * correct, spans)
    micro = ratio(2 * correct.sum(axis=-1), spans.sum(axis=-1))
    macro = ratio(np.nansum(labels, axis=-1), (spans > 0).sum(axis=-1).astype(np.float64))
    return {"micro": micro, "macro": macro, **{label: labels[..., index] for index, label in enumerate(LABELS)}}


def _p_values(first: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, float]:
    """How often swapping the systems on random articles makes a difference at least as large as the one seen."""
    change = second - first
    change = change[change.any(axis=1)]
    totals = first.sum(axis=0), second.sum(axis=0)
    seen = _differences(*totals)
    as_large = dict.fromkeys(_NAMES, 1)  # the order that was seen is one of the possible ones
    for start in range(0, SHUFFLES, _TOGETHER):
        generator = np.random.default_rng([SEED, start])
        swapped = generator.integers(0, 2, (min(_TOGETHER, SHUFFLES - start), len(change))) @ change
        shuffled = _differences(totals[0] + swapped, totals[1] - swapped)
        for name in _NAMES:
            as_large[name] += int((np.abs(shuffled[name]) >= np.abs(seen[name]) - 1e-12).sum())
    return {name: times / (SHUFFLES + 1) for name, times in as_large.items()}


def _differences(first: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    ours, theirs = _f1(first), _f1(second)
    return {name: np.nan_to_num(theirs[name]) - np.nan_to_num(ours[name]) for name in _NAMES}


def _verdict(difference: float, p: float) -> str:
    if p >= SIGNIFICANT:
        return "no difference shown"
    return "B is better" if difference > 0 else "A is better"


def _deciding(
    articles: Sequence[Article], first: Predictions, second: Predictions, counts: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> dict[str, list[dict[str, Any]]]:
    """The articles that move the difference in micro F1 most, for either side.

    An article's weight is half of what the difference would lose if the systems swapped their predictions of it. (What it would lose
    without the article is no measure: with a large difference, every article with a smaller one would speak for the worse system.)
    """
    totals = counts[0].sum(axis=0), counts[1].sum(axis=0)
    change = counts[1] - counts[0]
    swapped = _differences(totals[0] + change, totals[1] - change)["micro"]
    weights = (_differences(*totals)["micro"] - swapped) / 2
    order = np.argsort(-weights, kind="stable").tolist()
    for_second = [index for index in order if weights[index] > 1e-12][:DECIDING]
    for_first = [index for index in reversed(order) if weights[index] < -1e-12][:DECIDING]

    def entry(index: int) -> dict[str, Any]:
        article = articles[index]
        annotated = set(article.spans)
        ours, theirs = ({one.span for one in predictions[index]} for predictions in (first, second))
        sides = {
            "right_only_in_a": (ours - theirs) & annotated,
            "right_only_in_b": (theirs - ours) & annotated,
            "wrong_only_in_a": ours - theirs - annotated,
            "wrong_only_in_b": theirs - ours - annotated,
        }
        spans = {side: [_with_text(article, one) for one in sorted(found)] for side, found in sides.items()}
        return {"id": article.id, "weight": float(weights[index]), **spans}

    return {"for_b": [entry(index) for index in for_second], "for_a": [entry(index) for index in for_first]}


def _with_text(article: Article, span: Span) -> dict[str, Any]:
    return {**span.to_dict(), "text": article.text[span.start : span.end]}


def to_markdown(comparison: Mapping[str, Any]) -> str:
    """The comparison as Markdown."""
    scores, data = comparison["scores"], comparison["data"]
    micro = scores["micro"]
    rows = []
    for name in _NAMES:
        one = scores[name]
        p = f"{one['p']:.4f}" + (f" ({one['p_corrected']:.4f})" if name in LABELS else "")
        rows.append(
            [
                name,
                *(f"{value:.4f}" for value in one["f1"]),
                f"{one['difference']:+.4f}",
                _signed(one["interval"]),
                p,
                one["verdict"],
            ]
        )
    parts = [
        f"# {micro['verdict']}: strict F1 {micro['f1'][1]:.4f} (B) against {micro['f1'][0]:.4f} (A)",
        f"- A: {escape(comparison['a'])}\n- B: {escape(comparison['b'])}\n"
        f"- on {escape(data['file'])}, {data['articles']:,} articles, SHA-256 {data['sha256'][:16]}…",
        table(["strict F1", "A", "B", "B − A", "95 % interval", "p (corrected)", "verdict"], rows),
        f"Paired over articles: bootstrap interval of {comparison['resamples']:,} resamples, p by approximate randomisation with "
        f"{comparison['shuffles']:,} shuffles, two-sided; the four labels corrected after Holm. A verdict needs p < {SIGNIFICANT}.",
    ]
    if data["articles"] < FEW_ARTICLES:
        parts.append(f"{data['articles']} articles are too few to show much.")
    for side, letter in (("for_b", "B"), ("for_a", "A")):
        parts.append(f"## Articles that speak most for {letter}")
        entries = [_entry(entry) for entry in comparison["articles"][side]]
        parts.append("\n".join(entries) if entries else "None.")
    return "\n\n".join(parts) + "\n"


def _signed(bounds: Sequence[float] | None) -> str:
    return span(None) if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"


def _entry(entry: Mapping[str, Any]) -> str:
    sides = {
        "right_only_in_b": "only B finds",
        "right_only_in_a": "only A finds",
        "wrong_only_in_a": "A is wrong with",
        "wrong_only_in_b": "B is wrong with",
    }
    shown = [
        f"{words} " + ", ".join(f"“{escape(one['text'])}” {escape(one['label'])}" for one in entry[side])
        for side, words in sides.items()
        if entry[side]
    ]
    return f"- {escape(entry['id'])} ({entry['weight']:+.5f}): {'; '.join(shown)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.compare``."""
    parser = argparse.ArgumentParser(prog="eval.compare", description="Whether system B beats system A on the same articles.")
    parser.add_argument("a", metavar="A", help="a checkpoint, a folder with a report, or a prediction file")
    parser.add_argument("b", metavar="B", help="the same")
    add_articles(parser, "compare.md and compare.json")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    articles, data = read_articles(options)
    first, second = (
        [predicted for _, predicted in open_system(name, options.device).pairs(articles)] for name in (options.a, options.b)
    )
    comparison = {
        "schema_version": SCHEMA_VERSION,
        "a": options.a,
        "b": options.b,
        "data": data,
        "level": LEVEL,
        "resamples": RESAMPLES,
        "shuffles": SHUFFLES,
        **compare(articles, first, second),
    }
    text = to_markdown(comparison)
    write_both(options.out, "compare", comparison, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
