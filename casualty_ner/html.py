"""Texts with their entities marked, as one page that works from disk. Everything from the input is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from casualty_ner.documents import Entity
from casualty_ner.labels import LABELS

_COLOURS = dict(zip(LABELS, ("#cfe2ff", "#ffe0b3", "#ffc9c9", "#d3f2d3"), strict=True))

HEAD = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Casualty entities</title>\n<style>\n'
    "body { font: 16px/1.7 Georgia, serif; max-width: 46em; margin: 2em auto; padding: 0 1em; color: #222 }\n"
    "h2 { font: 600 14px sans-serif; margin-top: 2.5em } article { white-space: pre-wrap; overflow-wrap: anywhere }\n"
    "mark { padding: .1em .25em; border-radius: .25em } mark small { font: 600 10px sans-serif; margin-left: .4em; opacity: .65 }\n"
    + "".join(f".{label} {{ background: {colour} }}\n" for label, colour in _COLOURS.items())
    + "</style>\n</head>\n<body>\n"
)
TAIL = "</body>\n</html>\n"


def section(name: str, text: str, entities: Sequence[Entity]) -> str:
    """One text; each entity carries its label, and its score as a tooltip."""
    parts, done = [f"<h2>{_safe(name)}</h2>\n<article>"], 0
    for entity in entities:
        parts.append(_safe(text[done : entity.start]))
        parts.append(
            f'<mark class="{entity.label}" title="{entity.label} {entity.score:.3f}">{_safe(entity.text)}<small>{entity.label}</small></mark>'
        )
        done = entity.end
    parts.append(_safe(text[done:]) + "</article>\n")
    return "".join(parts)


def _safe(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode("utf-8"))
