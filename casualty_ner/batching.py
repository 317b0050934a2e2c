"""Batches of similar length, closed by their padded cost ``longest * count`` in tokens, and the arrays they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows padded to one length, or one after the other.

    Attributes:
        ids: Token ids, shape ``[windows, padded]``, or ``[tokens]`` where nothing is padded.
        mask: 1 where `ids` is a token, 0 where it is filling, same shape.
        lengths: The length of each window without filling.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    lengths: tuple[int, ...]


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


def group_padded(lengths: Sequence[int], budget: int, multiple: int) -> list[list[int]]:
    """`group_by_cost` of windows that are padded to a multiple of `multiple` tokens."""
    return group_by_cost([padded_length(length, multiple) for length in lengths], budget)


def padded_length(length: int, multiple: int) -> int:
    """`length` rounded up to a multiple of `multiple`."""
    return -(-length // multiple) * multiple


def pad(windows: Sequence[NDArray[np.int64]], pad_id: int, multiple: int = 1) -> Batch:
    """Pad windows of token ids with `pad_id` to the longest one, rounded up to a multiple of `multiple`."""
    lengths = tuple(map(len, windows))
    shape = len(windows), padded_length(max(lengths), multiple)
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.full(shape, pad_id, dtype=np.int64)
    ids[mask.astype(bool)] = np.concatenate(windows)
    return Batch(ids, mask, lengths)


def join(windows: Sequence[NDArray[np.int64]]) -> Batch:
    """Windows of token ids one after the other, for an engine that needs no padding."""
    ids = np.concatenate(windows)
    return Batch(ids, np.broadcast_to(np.int64(1), ids.shape), tuple(map(len, windows)))


def unpad(scores: NDArray[np.float32], lengths: Sequence[int]) -> list[NDArray[np.float32]]:
    """The scores of each window without those of its filling."""
    return [rows[:length] for rows, length in zip(scores, lengths, strict=True)]
