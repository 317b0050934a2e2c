"""Windows laid end to end without padding, in batches of a few fixed shapes, so that a GPU's work can be recorded and replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEWEST_TOKENS = 128
_SHORTEST = 128
"""Attention kernels work on blocks of this many tokens; to tell shorter windows apart would save them nothing."""


class Shape(NamedTuple):
    """What a recording is made for; a batch that fits is run by it.

    Attributes:
        tokens: Room for so many tokens.
        windows: Room for so many windows.
        longest: No window is longer.
    """

    tokens: int
    windows: int
    longest: int

    @property
    def size(self) -> int:
        """The length of `Packed.data`."""
        return 2 * self.tokens + self.windows + 1


@dataclass(frozen=True, slots=True)
class Packed:
    """Windows end to end.

    Attributes:
        data: All that the network reads, in one array, so that it is copied to the device at once: for each token its id, then
            for each its position in its window, then where each window starts. What is left of the room for tokens is filled
            with zeros and belongs to no window; what is left of that for windows are windows of no length at the end. Shape
            ``[shape.size]``.
        shape: How `data` is parted.
        lengths: The length of each window.
    """

    data: NDArray[np.int32]
    shape: Shape
    lengths: tuple[int, ...]

    @property
    def ids(self) -> NDArray[np.int32]:
        """Token ids, the filling included, shape ``[shape.tokens]``."""
        return self.data[: self.shape.tokens]


def group_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group items so that no group holds more than `budget` tokens (an item longer than that stands alone).

    Returns:
        Lists of indices into `lengths`, the longest items first, so that those of a group are of similar length; every index
        occurs once.
    """
    groups: list[list[int]] = []
    held = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        held += lengths[index]
        if groups and held <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            held = lengths[index]
    return groups


def shape_for(lengths: Sequence[int]) -> Shape:
    """The smallest of the fixed shapes that has room for windows of these lengths.

    Room for tokens is a power of two or half as much again, so at most a third of it stays empty, and nothing of it in a
    batch as large as such a budget. Room for windows is doubled against what equally long ones need, for it costs next to nothing.
    """
    tokens = max(sum(lengths), _FEWEST_TOKENS)
    power = _power_of_two(tokens)
    room = power * 3 // 4 if tokens <= power * 3 // 4 and power > _FEWEST_TOKENS else power
    longest = max(_power_of_two(max(lengths)), _SHORTEST)
    return Shape(room, _power_of_two(max(len(lengths), 2 * room // longest)), longest)


def pack(windows: Sequence[NDArray[np.int64]], first_position: int) -> Packed:
    """Lay windows of token ids end to end.

    Args:
        windows: One at least, none of them empty.
        first_position: The position that the network gives to the first token of a window.
    """
    lengths = tuple(map(len, windows))
    shape = shape_for(lengths)
    starts = np.zeros(shape.windows + 1, dtype=np.int32)
    np.cumsum(lengths, out=starts[1 : len(lengths) + 1])
    used = int(starts[len(lengths)])
    starts[len(lengths) :] = used
    data = np.zeros(shape.size, dtype=np.int32)
    data[:used] = np.concatenate(windows)
    positions = np.arange(first_position, first_position + used, dtype=np.int32)
    data[shape.tokens : shape.tokens + used] = positions - np.repeat(starts[: len(lengths)], lengths)
    data[2 * shape.tokens :] = starts
    return Packed(data, shape, lengths)


def split(scores: NDArray[np.float32], lengths: Sequence[int]) -> list[NDArray[np.float32]]:
    """The scores of each window, from those of all tokens end to end."""
    return np.split(scores[: sum(lengths)], np.cumsum(lengths)[:-1])


def _power_of_two(number: int) -> int:
    """`number`, rounded up to a power of two."""
    return 1 << (number - 1).bit_length()
