"""Batches of similar length, closed by their padded cost ``longest * count`` in tokens."""

from __future__ import annotations

from collections.abc import Sequence


def group_by_cost(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group items so that no group costs more than `budget` padded tokens (an item longer than that stands alone).

    Returns:
        Lists of indices into `lengths`, the longest items first; every index occurs once.
    """
    groups: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and longest * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return groups
