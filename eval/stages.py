"""What the stages of an extractor could do if the others took no time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from casualty_ner.extractor import Extractor
from casualty_ner.reading import Reading

_SECONDS = 2.0


class Remembered:
    """Stands for a runtime that needs no time: it gives the scores that the real one gave for the same window before."""

    name = "remembered"
    workers = 1

    def __init__(self, runtime: Any):
        self._runtime, self._scores = runtime, dict[bytes, np.ndarray]()

    def learn(self, windows: Sequence[np.ndarray], budget: int) -> None:
        for group in self._runtime.group(list(map(len, windows)), budget):
            batch = self._runtime.prepare([windows[index] for index in group])
            for index, scores in zip(group, self._runtime.finish(self._runtime.run(batch), batch), strict=True):
                self._scores[windows[index].tobytes()] = scores

    def group(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        return [list(range(len(lengths)))] if lengths else []

    def prepare(self, windows: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return windows

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._scores[window.tobytes()] for window in batch]

    def finish(self, output: list[np.ndarray], batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        return output


def passes(extractor: Extractor, texts: Sequence[str], count: int) -> Iterator[str]:
    """The texts `count` times over, for `Extractor.stream`. It forgets them before each time: no pass gains by an earlier one.

    It tokenises a stretch of the stream at once, so the last texts of a pass come together with the next one's first. That no
    stretch holds a text twice takes texts of more than its 150,000 characters.
    """
    for _ in range(count):
        extractor.forget()
        yield from texts


def host_rate(extractor: Extractor, texts: Sequence[str]) -> float:
    """Texts a second that the host tokenises and decodes, with as many processes as the extractor starts; see `passes`."""
    tokens = extractor.windower.tokenize(texts)
    remembered = Remembered(extractor.runtime)
    remembered.learn(_windows(extractor, tokens), extractor.batch_tokens)
    alone = Extractor(
        extractor.windower,
        remembered,  # type: ignore[arg-type]
        extractor.tag_order,
        extractor.batch_tokens,
        calibration=extractor.calibration,
        processes=extractor.processes,
    )
    start = time.perf_counter()
    deque(alone.stream(texts), maxlen=0)
    rounds = max(1, round(_SECONDS / (time.perf_counter() - start)))
    rounds *= max(1, alone.processes)  # for about `_SECONDS`, whoever shares the work
    deque(alone.stream(passes(alone, texts, rounds)), maxlen=0)  # the processes are there after this
    start = time.perf_counter()
    deque(alone.stream(passes(alone, texts, rounds)), maxlen=0)
    return len(texts) * rounds / (time.perf_counter() - start)


def network_rate(extractor: Extractor, texts: Sequence[str]) -> float:
    """Texts a second whose windows, tokenised and laid out beforehand, the runtime scores, copies to and from the device included."""
    runtime = extractor.runtime
    windows = _windows(extractor, extractor.windower.tokenize(texts))
    batches = [
        runtime.prepare([windows[index] for index in group])
        for group in runtime.group(list(map(len, windows)), extractor.batch_tokens)
    ]

    def run(batch: Any) -> None:
        runtime.finish(runtime.run(batch), batch)

    with ThreadPoolExecutor(runtime.workers) as pool:
        _timed(pool, run, batches)  # warm-up
        rounds, seconds = 1, _timed(pool, run, batches)
        if seconds < _SECONDS:
            rounds = round(_SECONDS / seconds)
            seconds = _timed(pool, run, batches * rounds)
    return len(texts) * rounds / seconds


def _timed(pool: ThreadPoolExecutor, run: Callable[[Any], None], batches: Sequence[Any]) -> float:
    start = time.perf_counter()
    deque(pool.map(run, batches), maxlen=0)
    return time.perf_counter() - start


def _windows(extractor: Extractor, tokens: Sequence[Any]) -> list[np.ndarray]:
    return Reading(extractor.windower, extractor.tag_order, tokens).inputs
