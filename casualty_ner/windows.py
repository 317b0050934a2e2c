"""Text to overlapping token windows with exact character offsets, and spans to token tags.

Training and inference share this module, so that there is one tokenisation and one alignment. The text is tokenised raw:
nothing is split, cleaned or joined beforehand. Tokens are tied to the text's words (see `casualty_ner.words`) by their
offsets; a token that covers parts of several words glues them into one *unit*, the smallest stretch a span can consist of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import regex

from casualty_ner.documents import Span
from casualty_ner.errors import CheckpointError
from casualty_ner.labels import OUTSIDE_ID, TAG_IDS
from casualty_ner.lexicon import Lexicon, separable
from casualty_ner.words import word_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerFast

    from casualty_ner.lexicon import Arrays

IGNORED = -100
"""The tag of a position that the loss leaves out (special tokens, padding)."""

_BLOCK_CHARS = 20_000
"""Longer texts are tokenised in blocks cut at a blank, which bounds the tokeniser's memory (about 1 KB a token)."""

_SURROGATE = regex.compile(r"[\uD800-\uDFFF]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised text.

    Attributes:
        ids: Token ids without special tokens, shape ``[tokens]``.
        units: For each token its row in `bounds`, or -1 for a token that covers no word; never decreasing over the
            tokens that cover one.
        bounds: Half-open character offsets of each unit, shape ``[units, 2]``.
    """

    ids: NDArray[np.int64]
    units: NDArray[np.int64]
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens ``start:stop`` of a text, run through the model together; it *owns* those that are nowhere more central."""

    start: int
    stop: int
    own_start: int
    own_stop: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """Token tags of a text's spans.

    Attributes:
        tags: Class index of each token, shape ``[tokens]``.
        moved: The spans whose offsets no sequence of units matches. Each was tagged on the units that it touches, so
            what a model can learn and predict is wider than the span and will score as an error.
        lost: The spans that touch no unit, or only units that an earlier span has taken; they have no tag at all.
    """

    tags: NDArray[np.int64]
    moved: tuple[Span, ...]
    lost: tuple[Span, ...]


def plan_windows(tokens: int, size: int, overlap: int) -> list[Window]:
    """Cover `tokens` tokens by as few windows of at most `size` as will do, neighbours sharing at least `overlap`.

    The windows are equally long, so that none is short of context and no token is read twice without need (two full
    windows would read a text of 1.2 windows as 2). A token that two windows share is owned by the one in which it lies
    further from the edge. Every token is owned exactly once.
    """
    count = max(1, -(-(tokens - overlap) // (size - overlap)))
    length = -(-(tokens + (count - 1) * overlap) // count)
    starts = [number * (tokens - length) // max(count - 1, 1) for number in range(count)]
    stops = [start + length for start in starts]
    cuts = [0, *((start + stop) // 2 for start, stop in zip(starts[1:], stops, strict=False)), tokens]
    return [Window(*bounds) for bounds in zip(starts, stops, cuts[:-1], cuts[1:], strict=True)]


class Windower:
    """Turns texts into tokens and windows for one tokenizer.

    Args:
        tokenizer: A fast tokenizer (offsets are needed).
        size: The window's length in tokens, special tokens included.
        overlap: How many tokens neighbouring windows share at least.

    Raises:
        CheckpointError: The tokenizer is not a fast one, or the sizes do not fit together.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: int, overlap: int):
        if not tokenizer.is_fast:
            raise CheckpointError(
                f"{type(tokenizer).__name__} gives no character offsets; use a checkpoint with a tokenizer.json (fast tokenizer)"
            )
        self.tokenizer, self.size, self.overlap = tokenizer, size, overlap
        self.prefix, self.suffix = _special_ids(tokenizer)
        self._separable, self._lexicon = separable(tokenizer), Lexicon()
        self.capacity = size - len(self.prefix) - len(self.suffix)
        if not 0 <= overlap < self.capacity:
            raise CheckpointError(
                f"a window of {size} tokens, {len(self.prefix) + len(self.suffix)} of them special, cannot overlap its neighbour by {overlap}"
            )

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise texts of any length; the result does not depend on which texts come together, or came before."""
        if not self._separable:
            return [_tie_to_words(*encoded, word_bounds(text)) for text, encoded in zip(texts, self._encode(texts), strict=True)]
        lexicon = self._lexicon  # another thread may start a new one meanwhile
        if lexicon.full:
            self._lexicon = lexicon = Lexicon()
        return [Tokens(*arrays) for arrays in lexicon.read(texts, self._learned)]

    def forget(self) -> None:
        """Forget the pieces of all texts so far, which makes the next ones take as long as the first; for measurements."""
        self._lexicon = Lexicon()

    def _learned(self, text: str) -> tuple[Arrays, NDArray[np.int64]]:
        """What the lexicon asks for: a text's tokens, and where each starts."""
        ((ids, offsets),) = self._encode([text])
        tokens = _tie_to_words(ids, offsets, word_bounds(text))
        return (tokens.ids, tokens.units, tokens.bounds), offsets[:, 0]

    def _encode(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Each text's token ids and their half-open character offsets, shapes ``[tokens]`` and ``[tokens, 2]``."""
        owners: list[int] = []
        shifts: list[int] = []
        blocks: list[str] = []
        for index, text in enumerate(texts):
            for start, stop in _blocks(text):
                owners.append(index)
                shifts.append(start)
                blocks.append(_encodable(text[start:stop]))
        ids: list[list[NDArray[np.int64]]] = [[] for _ in texts]
        offsets: list[list[NDArray[np.int64]]] = [[] for _ in texts]
        if blocks:
            encoded = self.tokenizer(
                blocks,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            for owner, shift, block_ids, block_offsets in zip(
                owners, shifts, encoded["input_ids"], encoded["offset_mapping"], strict=True
            ):
                count = len(block_ids)
                ids[owner].append(np.fromiter(block_ids, np.int64, count))
                flat = np.fromiter(chain.from_iterable(block_offsets), np.int64, 2 * count)  # four times as fast as np.array
                offsets[owner].append(flat.reshape(-1, 2) + shift)
        return [
            (_joined(text_ids, (0,)), _joined(text_offsets, (0, 2))) for text_ids, text_offsets in zip(ids, offsets, strict=True)
        ]

    def windows(self, tokens: Tokens) -> list[Window]:
        """The windows that cover the text; none for a text without tokens."""
        return plan_windows(len(tokens), self.capacity, self.overlap) if len(tokens) else []

    def model_input(self, tokens: Tokens, window: Window) -> NDArray[np.int64]:
        """The window's token ids with the special tokens around them, shape ``[window + specials]``."""
        return np.concatenate([self.prefix, tokens.ids[window.start : window.stop], self.suffix])

    def model_tags(self, alignment: Alignment, window: Window) -> NDArray[np.int64]:
        """The window's tags, `IGNORED` at the special tokens, aligned with `model_input`."""
        tags = alignment.tags[window.start : window.stop]
        return np.pad(tags, (len(self.prefix), len(self.suffix)), constant_values=IGNORED)


def align(tokens: Tokens, spans: Sequence[Span]) -> Alignment:
    """Tag each token by the annotated spans: B on the first token of a span, I on its others, O elsewhere."""
    unit_tags = np.full(len(tokens.bounds), OUTSIDE_ID)
    first_units = np.zeros(len(tokens.bounds), dtype=bool)
    starts, ends = tokens.bounds[:, 0], tokens.bounds[:, 1]
    moved, lost = [], []
    for span in spans:
        first = int(np.searchsorted(ends, span.start, side="right"))
        stop = int(np.searchsorted(starts, span.end, side="left"))
        exact = first < stop and starts[first] == span.start and ends[stop - 1] == span.end
        while first < stop and unit_tags[first] != OUTSIDE_ID:
            first += 1
        if first >= stop:
            lost.append(span)
            continue
        if not exact:
            moved.append(span)
        unit_tags[first:stop] = TAG_IDS[f"I-{span.label}"]
        first_units[first] = True
    covered = tokens.units >= 0
    tags = np.full(len(tokens), OUTSIDE_ID)
    tags[covered] = unit_tags[tokens.units[covered]]
    opens = np.zeros(len(tokens), dtype=bool)
    opens[covered] = first_units[tokens.units[covered]]
    opens[1:] &= tokens.units[1:] != tokens.units[:-1]
    tags[opens] -= 1  # in TAGS every B- stands right before its I-
    return Alignment(tags, tuple(moved), tuple(lost))


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The special tokens that the tokenizer puts before and after a sequence."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for at in range(len(full) - len(bare) + 1):
        if full[at : at + len(bare)] == bare:
            return np.array(full[:at], dtype=np.int64), np.array(full[at + len(bare) :], dtype=np.int64)
    raise CheckpointError(
        f"{type(tokenizer).__name__} changes the tokens of a text when it adds special tokens; it cannot be used"
    )


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Cut a text at blanks into stretches of about `_BLOCK_CHARS`; one without a blank to cut at stays whole."""
    start = 0
    while len(text) - start > _BLOCK_CHARS:
        blank = _BLANK.search(text, start + _BLOCK_CHARS)
        if blank is None:
            break
        yield start, blank.start()
        start = blank.start()
    if start < len(text):
        yield start, len(text)


_BLANK = regex.compile(r"[^\S\x0b\x0c\x85]")  # these three BERT deletes, which joins what stands around them


def _encodable(text: str) -> str:
    """Lone surrogates cannot be encoded as UTF-8, which the tokenizer needs; a replacement keeps the offsets."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _joined(parts: list[NDArray[np.int64]], shape_if_none: tuple[int, ...]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(shape_if_none, dtype=np.int64)


def _tie_to_words(ids: NDArray[np.int64], offsets: NDArray[np.int64], words: NDArray[np.int64]) -> Tokens:
    """Units are words, glued where one token covers several; a word without a token is no unit by itself."""
    # Words that each token covers: first:stop.
    first = np.searchsorted(words[:, 1], offsets[:, 0], side="right")
    stop = np.searchsorted(words[:, 0], offsets[:, 1], side="left")
    covers = (first < stop) & (offsets[:, 0] < offsets[:, 1])
    # glued[w]: some token covers both word w and word w - 1.
    change = np.zeros(len(words) + 1, dtype=np.int64)
    np.add.at(change, first[covers] + 1, 1)
    np.add.at(change, stop[covers], -1)
    glued = np.cumsum(change)[: len(words)] > 0
    unit_of_word = np.cumsum(~glued) - 1
    token_unit = unit_of_word[first[covers]] if len(words) else np.zeros(0, dtype=np.int64)
    used, compact = np.unique(token_unit, return_inverse=True)
    unit_starts = words[~glued, 0]
    unit_ends = words[np.append(~glued[1:], True), 1] if len(words) else unit_starts
    units = np.full(len(ids), -1, dtype=np.int64)
    units[covers] = compact
    return Tokens(ids, units, np.stack([unit_starts[used], unit_ends[used]], axis=1))
