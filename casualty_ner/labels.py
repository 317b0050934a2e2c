"""The tag set and the legal tag sequences, as data. Alignment, decoder and scorer all read it from here."""

from __future__ import annotations

from collections.abc import Iterable

LABELS = ("ACTOR", "COUNT", "CASUALTY_TYPE", "SOURCE")
"""The four labels, in the order of every table."""

OUTSIDE = "O"

TAGS = (OUTSIDE, *(f"{prefix}-{label}" for label in LABELS for prefix in "BI"))
"""IOB2 tags; the position in this tuple is the class index of a model trained here."""

TAG_IDS = {tag: index for index, tag in enumerate(TAGS)}
OUTSIDE_ID = TAG_IDS[OUTSIDE]
BEGIN_IDS = tuple(TAG_IDS[f"B-{label}"] for label in LABELS)
INSIDE_IDS = tuple(TAG_IDS[f"I-{label}"] for label in LABELS)


def may_follow(previous: str | None, tag: str) -> bool:
    """Whether `tag` is legal after `previous` (``None``: at the beginning) in strict IOB2."""
    if not tag.startswith("I-"):
        return True
    return previous is not None and previous != OUTSIDE and previous[2:] == tag[2:]


ALLOWED = tuple(tuple(may_follow(previous, tag) for tag in TAGS) for previous in TAGS)
"""``ALLOWED[previous][tag]``: the legal transitions between class indices."""

ALLOWED_FIRST = tuple(may_follow(None, tag) for tag in TAGS)


def tag_order(names: Iterable[str]) -> list[int] | None:
    """For each of TAGS its class index among a model's label names; ``None`` if the names are not our tag set."""
    positions = {name: index for index, name in enumerate(names)}
    if positions.keys() != TAG_IDS.keys():
        return None
    return [positions[tag] for tag in TAGS]
