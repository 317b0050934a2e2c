"""A network stand-in whose scores depend on a window's tokens alone, so that anything that changes them shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from casualty_ner.batching import Batch, group_padded, pad
from casualty_ner.extractor import Extractor
from casualty_ner.labels import TAGS
from casualty_ner.windows import Windower


class HashRuntime:
    """Scores every token by a hash of itself and its neighbours; about half of the tokens get a tag other than O."""

    name = "hash-float32"
    workers = 3

    def __init__(self) -> None:
        self.table = np.random.default_rng(7).normal(size=(4096, len(TAGS))).astype(np.float32)
        self.batches: list[list[int]] = []

    def group(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        return group_padded(lengths, budget, 1)

    def prepare(self, windows: Sequence[np.ndarray]) -> Batch:
        self.batches.append([len(window) for window in windows])
        return pad(windows, 0)

    def run(self, batch: Batch) -> list[np.ndarray]:
        windows = [ids[:length] for ids, length in zip(batch.ids, batch.lengths, strict=True)]
        return [self.table[(window * 31 + np.roll(window, 1) * 7) % len(self.table)] * 3 for window in windows]

    def finish(self, output: list[np.ndarray], batch: Batch) -> list[np.ndarray]:
        return output


def hash_extractor(tokenizer: object, size: int = 32, overlap: int = 8, batch_tokens: int = 256) -> Extractor:
    return Extractor(Windower(tokenizer, size, overlap), HashRuntime(), range(len(TAGS)), batch_tokens)
