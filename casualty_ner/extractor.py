"""The inference module: a checkpoint and raw texts in, entities with exact offsets out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from casualty_ner.batching import group_by_cost
from casualty_ner.decoding import entities
from casualty_ner.documents import Entity
from casualty_ner.labels import TAGS
from casualty_ner.windows import Tokens, Windower

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casualty_ner.checkpoint import Checkpoint
    from casualty_ner.runtimes.torch import TorchRuntime

_CHUNK_CHARS = 300_000
"""`Extractor.stream` gathers about this much text before it runs, so that batches can be sorted by length."""
_CHUNK_TEXTS = 1_000


class Extractor:
    """Finds casualty entities in texts of any length.

    A text longer than the model's window is read in overlapping windows, and each token is scored by the window in which it
    is most central; nothing is truncated. Entities do not depend on which texts are extracted together.

    Use `from_pretrained`; the constructor is for a model that is already in memory.
    """

    def __init__(self, windower: Windower, runtime: TorchRuntime, tag_order: Sequence[int], batch_tokens: int = 4096):
        self.windower, self.runtime, self.batch_tokens = windower, runtime, batch_tokens
        self._tag_order = list(tag_order)

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, *, device: str = "auto", batch_tokens: int = 4096) -> Extractor:
        """Load a checkpoint.

        Args:
            checkpoint: A folder that training wrote, or a hub id.
            device: ``"auto"`` (CUDA where it is, else CPU), or any torch device name.
            batch_tokens: Padded tokens run together; more is faster on a GPU and takes more memory.

        Raises:
            casualty_ner.errors.CheckpointError: It is missing, broken, or made for other labels, or the device is not available.
        """
        from casualty_ner.checkpoint import load_checkpoint
        from casualty_ner.runtimes.torch import choose_device

        chosen = choose_device(device)
        return cls.from_checkpoint(
            load_checkpoint(checkpoint), chosen.type if chosen.index is None else str(chosen), batch_tokens
        )

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, device: str = "auto", batch_tokens: int = 4096) -> Extractor:
        """An extractor over a loaded checkpoint."""
        from casualty_ner.runtimes.torch import TorchRuntime, choose_device

        windower = Windower(checkpoint.tokenizer, checkpoint.window.size, checkpoint.window.overlap)
        runtime = TorchRuntime(checkpoint.model, choose_device(device), checkpoint.tokenizer.pad_token_id or 0)
        return cls(windower, runtime, checkpoint.tag_order, batch_tokens)

    @overload
    def extract(self, texts: str) -> list[Entity]: ...
    @overload
    def extract(self, texts: list[str] | tuple[str, ...]) -> list[list[Entity]]: ...
    def extract(self, texts: str | list[str] | tuple[str, ...]) -> list[Entity] | list[list[Entity]]:
        """The entities of one text, or of each of several, ordered by position; they never overlap."""
        if isinstance(texts, str):
            return next(self.stream([texts]))
        return list(self.stream(texts))

    def stream(self, texts: Iterable[str]) -> Iterator[list[Entity]]:
        """As `extract`, for any number of texts in bounded memory; yields in the order of the input."""
        for chunk in _chunks(texts):
            tokens = self.windower.tokenize(chunk)
            for text, text_tokens, logits in zip(chunk, tokens, self.logits(tokens), strict=True):
                yield entities(text, text_tokens, logits)

    def logits(self, texts: Sequence[Tokens]) -> list[NDArray[np.float32]]:
        """Merged scores of every token of each tokenised text, each of shape ``[tokens, tags]`` in the order of `TAGS`."""
        merged = [np.zeros((len(tokens), len(TAGS)), dtype=np.float32) for tokens in texts]
        windows = [(index, window) for index, tokens in enumerate(texts) for window in self.windower.windows(tokens)]
        inputs = [self.windower.model_input(texts[index], window) for index, window in windows]
        before = len(self.windower.prefix)
        for batch in group_by_cost([len(ids) for ids in inputs], self.batch_tokens):
            for position, scores in zip(batch, self.runtime.run([inputs[position] for position in batch]), strict=True):
                index, window = windows[position]
                own = slice(before + window.own_start - window.start, before + window.own_stop - window.start)
                merged[index][window.own_start : window.own_stop] = scores[own][:, self._tag_order]
        return merged


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Consecutive texts of about `_CHUNK_CHARS` characters together, at least one each."""
    iterator = iter(texts)
    for first in iterator:
        chunk, size = [first], len(first)
        while size < _CHUNK_CHARS and len(chunk) < _CHUNK_TEXTS and (following := next(iterator, None)) is not None:
            chunk.append(following)
            size += len(following)
        yield chunk
