"""The inference module: a checkpoint and raw texts in, entities with exact offsets out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from casualty_ner.decoding import entities
from casualty_ner.documents import Entity
from casualty_ner.errors import OutputError
from casualty_ner.hosts import Hosts, spare_processes
from casualty_ner.reading import Reading
from casualty_ner.windows import Tokens, Windower

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casualty_ner.calibration import Calibration
    from casualty_ner.checkpoint import Checkpoint
    from casualty_ner.runtimes import Runtime

logger = logging.getLogger(__name__)

_CHUNK_CHARS = 150_000
"""`Extractor.stream` gathers about this much text before it runs, so that batches can be sorted by length."""
_CHUNK_TEXTS = 500
_LONG = 4
"""A stream of more chunks than this (some 280,000 characters) is worth calibrating for, where the machine was not yet."""
_AHEAD = 1
"""Chunks that are tokenised while an earlier one runs."""
_CHUNKS_HERE = 8
"""Chunks that are tokenised and decoded in this process before others, which take a second or two to start, are worth it."""


class Extractor:
    """Finds casualty entities in texts of any length.

    A text longer than the model's window is read in overlapping windows, and each token is scored by the window in which it
    is most central; nothing is truncated. Entities do not depend on which texts are extracted together, beyond the last
    digits of a score (and with 16-bit numbers, whose sums round differently in batches of different shape, beyond a borderline
    entity now and then).

    Use `from_pretrained`; the constructor is for a model that is already in memory.

    Args:
        windower: For the model's tokenizer.
        runtime: The engine with the model.
        tag_order: For each of `casualty_ner.labels.TAGS` its class index in the model's output.
        batch_tokens: Padded tokens run together.
        calibration: Of the scores; without one they are the model's own, and nothing is left out for its score.
        thresholds: Leave out the entities that score less than the calibration's threshold for their label.
        tune: Let the first long stream find out how many batches, of how many tokens, this machine runs best.
        processes: Processes that tokenise and decode beside this one once a stream goes on for longer.
    """

    def __init__(
        self,
        windower: Windower,
        runtime: Runtime,
        tag_order: Sequence[int],
        batch_tokens: int = 4096,
        *,
        calibration: Calibration | None = None,
        thresholds: bool = True,
        tune: bool = False,
        processes: int = 0,
    ):
        self.windower, self.runtime, self.batch_tokens, self.processes = windower, runtime, batch_tokens, processes
        self.calibration = calibration
        self._scoring = calibration if thresholds or calibration is None else calibration.uncut()
        self.tag_order, self._tune = list(tag_order), tune
        self._hosts: Hosts | None = None

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        *,
        device: str = "auto",
        runtime: str = "auto",
        precision: str = "auto",
        batch_tokens: int | None = None,
        thresholds: bool = True,
        processes: int | None = None,
    ) -> Extractor:
        """Load a checkpoint, or an export of one.

        Args:
            checkpoint: A folder that training or ``casualty-ner export`` wrote, or a hub id.
            device: ``"auto"`` (CUDA where it is, else CPU), or any torch device name.
            runtime: The engine: ``"native"``, ``"torch"``, ``"openvino"``, ``"onnx"``, or ``"auto"``: what an export was
                made for, else native on a CPU where machine and model allow it (the first time ever it is compiled, which
                takes some seconds), else OpenVINO where it is installed (it converts the model in about 3 s, an export
                spares that), else torch.
            precision: ``"float32"``, ``"bfloat16"``, ``"float16"`` (GPU only), ``"int8"`` (exports only), or ``"auto"``: what an
                export was made for, else float16 on a GPU, bfloat16 on a CPU that has units for it, else float32.
                ``runtime="torch", precision="float32"`` is the reference that F1 is reported with.
            batch_tokens: Padded tokens run together; by default what was measured on this machine, which the first long
                stream on a CPU does, or what suits most.
            thresholds: Leave out the entities that score less than what validation showed to be best for their label, where
                the checkpoint says so; ``False`` gives all, for a cut of one's own.
            processes: Processes that tokenise and decode beside this one; by default none on a CPU, whose cores the
                network needs, and on a GPU one for every core but one, on a machine that has some.

        Raises:
            casualty_ner.errors.CheckpointError: It is missing, broken, or made for other labels, the device is not
                available, or the runtime is not installed or cannot run here.
        """
        from casualty_ner.checkpoint import load_description
        from casualty_ner.runtimes.load import load_runtime
        from casualty_ner.tuning import default_budget, on_gpu, tuned

        description = load_description(checkpoint)
        engine = load_runtime(description, device, runtime, precision)
        known = tuned(engine)
        engine, budget = known or (engine, default_budget(engine))
        if processes is None:
            processes = spare_processes() if on_gpu(engine) else 0
        return cls(
            description.windower(),
            engine,
            description.tag_order,
            batch_tokens or budget,
            calibration=description.calibration,
            thresholds=thresholds,
            # On a GPU it takes long: casualty-ner calibrate does it there.
            tune=known is None and batch_tokens is None and not on_gpu(engine),
            processes=processes,
        )

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, device: str = "auto", batch_tokens: int = 4096, thresholds: bool = True
    ) -> Extractor:
        """An extractor over a loaded checkpoint as it is: in torch, float32."""
        from casualty_ner.runtimes.torch import TorchRuntime, choose_device

        runtime = TorchRuntime(checkpoint.model, choose_device(device), checkpoint.pad_id)
        return cls(
            checkpoint.windower(),
            runtime,
            checkpoint.tag_order,
            batch_tokens,
            calibration=checkpoint.calibration,
            thresholds=thresholds,
        )

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
        """As `extract`, for any number of texts in bounded memory; yields in the order of the input.

        While the network runs over one stretch of the input, the next is tokenised and the last one decoded.
        """
        chunks = _chunks(texts)
        yield from self._stream_here(islice(chunks, _CHUNKS_HERE) if self.processes else chunks)
        for first in chunks:  # what goes on for longer is worth processes of its own
            if self._hosts is None or not self._hosts.alive:
                self._hosts = Hosts(self.windower, self.tag_order, self.processes, self._scoring)
            yield from self._hosts.stream(chain([first], chunks), self._run)

    def _stream_here(self, chunks: Iterable[list[str]]) -> Iterator[list[Entity]]:
        running: deque[_Running] = deque()
        pool = self._pool()
        try:
            for number, chunk in enumerate(chunks):
                if number == _LONG and self._tune:
                    while running:
                        yield from running.popleft().entities()
                    pool.shutdown()
                    self._find_best_setting()
                    pool = self._pool()
                tokens = self.windower.tokenize(chunk)
                running.append(_Running(chunk, tokens, *self._start(tokens, pool), self._scoring))
                if len(running) > _AHEAD:
                    yield from running.popleft().entities()
            while running:
                yield from running.popleft().entities()
        finally:
            pool.shutdown(cancel_futures=True)

    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.runtime.workers, thread_name_prefix="casualty-ner")

    def _find_best_setting(self) -> None:
        from casualty_ner.tuning import calibrate

        self._tune = False
        try:
            calibrate(self)
        except OutputError as error:  # what was found holds for this extractor all the same
            logger.warning("%s", error)

    def forget(self) -> None:
        """As `Windower.forget`, here and in the processes that tokenise beside this one."""
        self.windower.forget()
        if self._hosts is not None:
            self._hosts.forget()

    def logits(self, texts: Sequence[Tokens]) -> list[NDArray[np.float32]]:
        """Merged scores of every token of each tokenised text, each of shape ``[tokens, tags]`` in the order of `TAGS`."""
        with self._pool() as pool:
            merged, parts = self._start(texts, pool)
            for part in parts:
                part.result()
        return np.split(merged, np.cumsum([len(tokens) for tokens in texts])[:-1]) if texts else []

    def _start(self, texts: Sequence[Tokens], pool: ThreadPoolExecutor) -> tuple[NDArray[np.float32], list[Future[None]]]:
        """Begin to score texts: the array that the scores go to, text after text, and what to wait for until they are there."""
        reading = Reading(self.windower, self.tag_order, texts)

        def score(batch: list[int]) -> None:
            for window, scores in zip(batch, self._run_batch([reading.inputs[window] for window in batch]), strict=True):
                reading.take(window, scores)

        return reading.logits, _submit(pool, score, self.runtime.group(list(map(len, reading.inputs)), self.batch_tokens))

    def _run(self, windows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """The network's output for each window, batch after batch in this thread."""
        batches = self.runtime.group(list(map(len, windows)), self.batch_tokens)
        scores = {
            window: of
            for batch in batches
            for window, of in zip(batch, self._run_batch([windows[window] for window in batch]), strict=True)
        }
        return [scores[window] for window in range(len(windows))]

    def _run_batch(self, windows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        prepared = self.runtime.prepare(windows)
        return self.runtime.finish(self.runtime.run(prepared), prepared)


class _Running:
    """Texts whose scores are being computed."""

    def __init__(
        self,
        texts: list[str],
        tokens: list[Tokens],
        logits: NDArray[np.float32],
        parts: list[Future[None]],
        calibration: Calibration | None,
    ):
        self._texts, self._tokens, self._logits, self._parts = texts, tokens, logits, parts
        self._calibration = calibration

    def entities(self) -> list[list[Entity]]:
        """Wait for the scores, and decode them."""
        for part in self._parts:
            part.result()
        return entities(self._texts, self._tokens, self._logits, self._calibration)


def _submit(pool: ThreadPoolExecutor, score: Callable[[list[int]], None], batches: list[list[int]]) -> list[Future[None]]:
    if len(batches) == 1:  # one short text: no thread has to be woken for it
        score(batches[0])
        return []
    return [pool.submit(score, batch) for batch in batches]


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Consecutive texts of about `_CHUNK_CHARS` characters together, at least one each; the first chunks are smaller.

    So the network has something to do soon, and the first entities are there soon.
    """
    iterator = iter(texts)
    enough = _CHUNK_CHARS // 8
    for first in iterator:
        chunk, size = [first], len(first)
        while size < enough and len(chunk) < _CHUNK_TEXTS and (following := next(iterator, None)) is not None:
            chunk.append(following)
            size += len(following)
        yield chunk
        enough = min(2 * enough, _CHUNK_CHARS)
