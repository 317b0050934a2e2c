"""What is known of the pieces of texts, so that none is tokenised twice.

News repeats its words. Under BERT's tokenizers a blank separates: neither tokens nor words depend on anything beyond it (see
`separable` and `casualty_ner.words`). So a text's tokens are those of its *pieces*, the stretches between blanks, one after the
other, and each piece need be tokenised only once. What is known is looked up, a step of C for each piece, and put together by
operations on arrays for all texts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, islice, pairwise
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerFast

    Arrays = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    """A text's ids, units and bounds, as in `casualty_ner.windows.Tokens`."""
    Tokenize = Callable[[str], tuple[Arrays, NDArray[np.int64]]]
    """A text to these arrays and to where each token starts."""

_BLANKS = "\t\n\r"
"""What separates beside the blank itself. Of Unicode's other blanks BERT deletes some, which joins what stands around them."""

_MOST_CHARACTERS = 2_000_000
"""A lexicon of more is full. As measured on news, that is 220,000 pieces and 72 MB; with pieces of three letters it is 130 MB."""


def separable(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokens on one side of a blank never depend on what stands on its other side, as under BERT's rules.

    These look at single characters, or at one and its marks, and then at what stands between blanks. Added tokens are found
    before that, in the text as it is: they must not take in the blanks around them, nor contain one.
    """
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    backend = tokenizer.backend_tokenizer
    return (
        isinstance(backend.normalizer, BertNormalizer)
        and isinstance(backend.pre_tokenizer, BertPreTokenizer)
        and isinstance(backend.model, WordPiece)
        and not any(
            token.lstrip or token.rstrip or token.normalized or any(map(str.isspace, token.content))
            for token in tokenizer.added_tokens_decoder.values()
        )
    )


class Lexicon:
    """The pieces read so far, with their tokens. It only grows: start a new one when it is `full`.

    Several threads may read at once. A copy, or what a pickle gives, is empty.
    """

    def __init__(self) -> None:
        self._numbers = _Numbers()
        self._pieces = _Rows(5)  # of each: its tokens, units and characters (with a blank); where its tokens and units begin
        self._tokens = _Rows(2)  # of each token: its id; its unit counted from the piece's first, or less than 0
        self._bounds = _Rows(2)  # of each unit, counted from where the piece starts
        self._learning = Lock()
        self.characters = 0

    def __reduce__(self) -> tuple[type[Lexicon], tuple[()]]:
        return Lexicon, ()

    @property
    def full(self) -> bool:
        return self.characters > _MOST_CHARACTERS

    def read(self, texts: Sequence[str], tokenize: Tokenize) -> list[Arrays]:
        """The tokens of each text; pieces that are new are learnt by one call of `tokenize`, joined by blanks."""
        if not texts:
            return []
        split = list(map(_split, texts))
        counts = list(map(len, split))  # at least one each
        with self._learning:
            numbers = np.fromiter(map(self._numbers.__getitem__, chain.from_iterable(split)), np.int64, sum(counts))
            self._learn(tokenize)
        # From here on no lock is needed: rows that are there never change.
        pieces = self._pieces.take(numbers)
        sizes, firsts = pieces[:, :3], pieces[:, 3:]
        tokens, units = sizes[:, 0], sizes[:, 1]
        ends = sizes.cumsum(axis=0)
        starts = ends - sizes
        stops = np.cumsum(counts)
        starts_in_text = starts - starts[stops - counts].repeat(counts, axis=0)
        moves = firsts - starts[:, :2]
        token_count, unit_count = ends[-1, :2].tolist()
        rows = self._tokens.take(moves[:, 0].repeat(tokens) + np.arange(token_count))
        ids, units_in_piece = rows[:, 0].copy(), rows[:, 1]
        unit_of = units_in_piece + starts_in_text[:, 1].repeat(tokens)
        unit_of[units_in_piece < 0] = -1
        bounds = self._bounds.take(moves[:, 1].repeat(units) + np.arange(unit_count))
        bounds += starts_in_text[:, 2].repeat(units)[:, None]
        cuts = [[0, 0], *ends[stops - 1, :2].tolist()]
        return [
            (ids[token:token_stop], unit_of[token:token_stop], bounds[unit:unit_stop])
            for (token, unit), (token_stop, unit_stop) in pairwise(cuts)
        ]

    def _learn(self, tokenize: Tokenize) -> None:
        """Take in the pieces that have a number but no rows yet: the last ones."""
        count = len(self._numbers) - self._pieces.count
        if not count:
            return
        new = list(islice(reversed(self._numbers), count))[::-1]
        characters = np.fromiter(map(len, new), np.int64, count) + 1
        ends = characters.cumsum()
        (ids, unit_of, bounds), token_starts = tokenize(" ".join(new))
        # A piece has the tokens and units that start before it ends.
        stops = np.zeros((count + 1, 2), dtype=np.int64)
        stops[1:, 0], stops[1:, 1] = token_starts.searchsorted(ends), bounds[:, 0].searchsorted(ends)
        firsts, sizes = stops[:-1], stops[1:] - stops[:-1]
        unit_of = unit_of - firsts[:, 1].repeat(sizes[:, 0])  # what was below 0 stays so
        bounds = bounds - (ends - characters).repeat(sizes[:, 1])[:, None]
        firsts += self._tokens.count, self._bounds.count
        self._tokens.add(ids[:, None], unit_of[:, None])
        self._bounds.add(bounds)
        self._pieces.add(sizes, characters[:, None], firsts)  # last: after an interruption before, they are still to be learnt
        self.characters += int(ends[-1])


class _Numbers(dict[str, int]):
    """Numbers the pieces as they are asked for."""

    def __missing__(self, piece: str) -> int:
        number = self[piece] = len(self)
        return number


class _Rows:
    """A growing table. What was added never changes or moves, so that who reads it need not know of who adds."""

    def __init__(self, width: int):
        self._rows, self.count = np.empty((256, width), dtype=np.int64), 0

    def add(self, *columns: NDArray[np.int64]) -> None:
        count = self.count + len(columns[0])
        if count > len(self._rows):
            larger = np.empty((2 * count, self._rows.shape[1]), dtype=np.int64)
            larger[: self.count] = self._rows[: self.count]
            self._rows = larger
        np.concatenate(columns, axis=1, out=self._rows[self.count : count])
        self.count = count

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._rows.take(numbers, axis=0)


def _split(text: str) -> list[str]:
    for blank in _BLANKS:
        text = text.replace(blank, " ")
    return text.split(" ")
