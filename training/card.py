"""The model card, its figures taken from the run's reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from casualty_ner.labels import LABELS
from eval.markdown import span
from training.config import Config

_MEANINGS = {
    "ACTOR": ("who suffered or inflicted the harm", "40 **Malian soldiers** were killed"),
    "COUNT": ("how many people, with the bound", "**at least 36** people died"),
    "CASUALTY_TYPE": ("what happened to them", "12 were **wounded** and three are **missing**"),
    "SOURCE": ("who says so", "**army spokesman Deng Akol** said two were killed"),
}


def write_card(
    folder: Path,
    config: Config,
    fingerprint: Mapping[str, Mapping[str, object]],
    facts: Mapping[str, Any],
    reports: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write ``README.md`` into the checkpoint folder."""
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "token-classification",
        "language": "en",
        "tags": ["casualty-ner"],
    }
    if facts["encoder"]["origin"] != "folder":
        header["base_model"] = config.encoder.name
    training = facts["training"]
    lines = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {config.run.name}: casualty statements in news text",
        "Finds who was harmed, how many, how, and who says so.",
        "| label | meaning | example |\n| --- | --- | --- |\n"
        + "\n".join(f"| {label} | {meaning} | {example} |" for label, (meaning, example) in _MEANINGS.items()),
        "```python\nfrom casualty_ner import Extractor\n\n"
        f'Extractor.from_pretrained("{config.run.directory}/{config.run.name}").extract("At least 36 people were killed, police said.")\n```\n\n'
        "A plain transformers directory: `AutoModelForTokenClassification.from_pretrained` loads it too. The `Extractor` adds "
        f"overlapping windows of {config.window.size} tokens for long texts, legal tag sequences, whole words, calibrated scores, and a threshold for each "
        "label that was chosen on validation.",
        "## Results\n\nStrict: label and both character offsets must match. F1 with its 95 % bootstrap interval over articles; with the "
        "thresholds (the report also has the figures without). "
        "The whole report: `report/SPLIT/report.html`.",
        *(f"### {split}\n\n{_table(report['strict'])}" for split, report in reports.items()),
        "## Training\n\n"
        f"Encoder `{config.encoder.name}` (from {facts['encoder']['origin']}), {training['precision']}, {config.training.epochs} epochs of "
        f"{training['tokens_per_epoch']:,} tokens, best epoch {training['best_epoch']:g}, {training['padding_share']:.1%} padding, "
        f"{training['tokens_per_second']:,.0f} tokens/s. Settings: `config.training.yaml`; versions: `environment.json`.",
        "Data:\n\n"
        + "\n".join(f"- {split}: {one['articles']} articles, SHA-256 `{one['sha256']}`" for split, one in fingerprint.items()),
        "## Limits\n\nTrained on English text written for the project, not on records of real events. What it finds is a reading of a "
        "text, not a fact: check against the text before anybody relies on it, above all names of persons.",
    ]
    (folder / "README.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def _table(strict: Mapping[str, Any]) -> str:
    rows = [*((label, strict["labels"][label]) for label in LABELS), ("micro", strict["micro"])]
    body = "\n".join(
        f"| {name} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} | {span(row['interval']['f1'])} | {row['annotated']} |"
        for name, row in rows
    )
    return f"| label | precision | recall | F1 | 95 % interval | annotated |\n| --- | --: | --: | --: | --: | --: |\n{body}"
