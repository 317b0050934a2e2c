"""What the stages of an extractor could do if the others took no time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
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


def host_rate(extractor: Extractor, texts: Sequence[str]) -> float:
    """Texts a second that the host tokenises and decodes, with as many processes as the extractor starts."""
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
    alone.extract(list(texts))
    some = list(islice(cycle(texts), max(len(texts), round(len(texts) * _SECONDS / (time.perf_counter() - start)))))
    some *= max(1, extractor.processes)  # for about `_SECONDS`, whoever shares the work
    alone.extract(some)  # the processes are there after this
    start = time.perf_counter()
    alone.extract(some)
    return len(some) / (time.perf_counter() - start)


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
