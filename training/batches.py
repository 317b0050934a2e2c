"""Batches of training windows: closed by a token budget, of similar length, and the same for the same seed.

The Trainer wants every epoch to have the same number of batches, also when it resumes in another process. So the shapes of
the batches are planned once, from lengths rounded up to `LENGTH_STEP`; windows of the same rounded length are
interchangeable, and each epoch deals them anew into the fixed shapes and shuffles the batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from casualty_ner.batching import group_by_cost, padded_length

LENGTH_STEP = 8
"""Batches are padded to a multiple of this, which also suits the matrix units."""


class TokenBudgetSampler(Sampler[list[int]]):
    """Yields batches of indices into `lengths`.

    Args:
        lengths: The length of each window in tokens.
        budget: The most padded tokens in a batch (a window longer than that stands alone).
        seed: Fixes the order.
        rank: Of this process, of `world_size`: each gets every `world_size`-th batch. The last batches are dealt twice where
            the count does not divide, so that all processes take the same number of steps.
        world_size: How many processes share the work.
    """

    def __init__(self, lengths: Sequence[int], budget: int, seed: int, rank: int = 0, world_size: int = 1):
        self._padded = [padded_length(length, LENGTH_STEP) for length in lengths]
        self._shapes = [[self._padded[index] for index in group] for group in group_by_cost(self._padded, budget)]
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._epoch = 0
        self.tokens = sum(lengths)
        self.padded_tokens = sum(shape[0] * len(shape) for shape in self._shapes)

    @property
    def padding_share(self) -> float:
        """The share of the positions of an epoch that hold padding."""
        return 1 - self.tokens / self.padded_tokens

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._shapes) // self._world_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self._seed, self._epoch])
        decks: dict[int, list[int]] = defaultdict(list)
        for index in generator.permutation(len(self._padded)).tolist():
            decks[self._padded[index]].append(index)
        batches = [[decks[length].pop() for length in shape] for shape in self._shapes]
        order = np.resize(generator.permutation(len(batches)), len(self) * self._world_size)
        return (batches[position] for position in order[self._rank :: self._world_size].tolist())
