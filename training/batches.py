"""Batches of training windows: closed by a token budget, of similar length, some read without punctuation, and the same for the same seed.

The Trainer wants every epoch to have the same number of batches, also when it resumes in another process. So the shapes of
the batches are planned once, from lengths rounded up to `LENGTH_STEP`; windows of the same rounded length are
interchangeable, and each epoch deals them anew into the fixed shapes and shuffles the batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerFast

from casualty_ner.batching import group_by_cost, padded_length
from casualty_ner.windows import IGNORED

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


class WindowCollator:
    """Pads windows to a batch; some lose punctuation first, so that the model does not come to rely on it.

    A window that is chosen loses each kind of mark in it with probability one half. Chance is torch's, which the Trainer
    saves and restores, so that a resumed run sees the same.

    Args:
        tokenizer: Pads.
        punctuation_dropout: The share of the windows that are chosen.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, punctuation_dropout: float):
        self._share = punctuation_dropout
        self._pad = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=LENGTH_STEP, label_pad_token_id=IGNORED)

    def __call__(self, windows: Sequence[Mapping[str, Any]]) -> Mapping[str, torch.Tensor]:
        return self._pad([self._row(window) for window in windows])

    def _row(self, window: Mapping[str, Any]) -> dict[str, list[int]]:
        ids, tags, is_mark = window["input_ids"], window["labels"], window["is_mark"]
        if self._share and torch.rand(()) < self._share:
            marks = sorted({token for token, mark in zip(ids, is_mark, strict=True) if mark})
            gone = {mark for mark, fate in zip(marks, torch.rand(len(marks)).tolist(), strict=True) if fate < 0.5}
            kept = [at for at, token in enumerate(ids) if not (is_mark[at] and token in gone)]
            ids, tags = [ids[at] for at in kept], [tags[at] for at in kept]
        return {"input_ids": ids, "labels": tags}
