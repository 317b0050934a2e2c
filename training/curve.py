"""The training curve as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from casualty_ner.labels import LABELS


def plot_curve(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the loss of the training steps and the F1 on validation, both over epochs, into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    losses = [(entry["epoch"], entry["loss"]) for entry in history if "loss" in entry]
    scores = [entry for entry in history if "eval_f1" in entry]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    if losses:
        left.plot(*zip(*losses, strict=True), color="#555", linewidth=1)
        left.set_yscale("log")
    left.set(xlabel="epoch", ylabel="training loss (cross-entropy per token)")
    epochs = [entry["epoch"] for entry in scores]
    for label in LABELS:
        right.plot(epochs, [entry[f"eval_f1_{label}"] for entry in scores], linewidth=1, marker=".", label=label)
    right.plot(epochs, [entry["eval_f1"] for entry in scores], color="black", linewidth=2, marker="o", label="micro")
    right.set(xlabel="epoch", ylabel="strict F1 on validation")
    right.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
