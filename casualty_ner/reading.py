"""Tokenised texts on their way through the network: cut into windows, and the windows' scores merged into one row a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from casualty_ner.labels import TAGS
from casualty_ner.windows import Tokens, Windower

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Reading:
    """The windows of some texts, and the scores as they come in.

    Args:
        windower: For the model's tokenizer.
        tag_order: For each of `casualty_ner.labels.TAGS` its class index in the model's output.
        texts: The tokenised texts.

    Attributes:
        inputs: What the network reads: each window's token ids with the special tokens.
        logits: The scores of all texts, one after the other, each token's from the window that owns it, shape
            ``[tokens, tags]`` in the order of `TAGS`; zero until `take` has had them.
    """

    def __init__(self, windower: Windower, tag_order: Sequence[int], texts: Sequence[Tokens]):
        self.inputs: list[NDArray[np.int64]] = []
        self.logits = np.zeros((sum(map(len, texts)), len(TAGS)), dtype=np.float32)
        self._tag_order = list(tag_order)
        self._places: list[tuple[slice, slice]] = []
        at, before = 0, len(windower.prefix)
        for tokens in texts:
            for window in windower.windows(tokens):
                self.inputs.append(windower.model_input(tokens, window))
                owned = slice(before + window.own_start - window.start, before + window.own_stop - window.start)
                self._places.append((owned, slice(at + window.own_start, at + window.own_stop)))
            at += len(tokens)

    def take(self, window: int, scores: NDArray[np.float32]) -> None:
        """Take in the network's output for a window, shape ``[length, classes]``; in any order, from any thread."""
        owned, place = self._places[window]
        self.logits[place] = scores[owned][:, self._tag_order]
