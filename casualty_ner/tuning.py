"""How many batches to run at once and how large: measured once per machine, engine and size of model, and remembered.

The first long stream of texts measures it by itself (`casualty_ner.Extractor.stream`), which takes about two seconds;
``casualty-ner calibrate`` does so on demand. What was found is kept in ``~/.cache/casualty_ner/tuning.json`` (or under
``CASUALTY_NER_CACHE``). Until then defaults hold; results do not depend on either.
"""

from __future__ import annotations

import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casualty_ner.errors import OutputError
from casualty_ner.machine import cache_folder

if TYPE_CHECKING:
    from casualty_ner.extractor import Extractor
    from casualty_ner.runtimes import Runtime

logger = logging.getLogger(__name__)

BUDGETS = (1024, 2048, 4096)
GPU_BUDGETS = (8192, 16384, 32768)
DEFAULT_BUDGETS = {"torch": 4096, "native": 2048, "openvino": 1024, "onnx": 1024, "cuda": 16384}
"""Padded tokens a batch where nothing was measured. One core's batch stays in its cache; torch parts one among all cores; a GPU
has so many units that a small batch leaves most of them idle."""
_SECONDS_EACH = 0.25
_WORTH_CHANGING = 1.1
"""What is not this much faster than the default is taken for noise: other programs may keep a core busy while it is measured."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """A setting and what it was measured to do.

    Attributes:
        workers: Batches run at once.
        batch_tokens: Padded tokens a batch.
        tokens_per_second: Of the network alone, over windows of mixed length.
    """

    workers: int
    batch_tokens: int
    tokens_per_second: float


def default_budget(runtime: Runtime) -> int:
    """Tokens a batch where nothing was measured."""
    return DEFAULT_BUDGETS[runtime.name.split("-")[0]]


def tuned(runtime: Runtime) -> tuple[Runtime, int] | None:
    """The engine as this machine runs it best, and the batch budget; ``None`` if that was not measured yet."""
    known = _read().get(_key(runtime))
    if known is None:
        return None
    if known.workers != runtime.workers and known.workers in runtime.worker_choices():
        runtime = runtime.with_workers(known.workers)
    return runtime, known.batch_tokens


def calibrate(extractor: Extractor) -> Tuning:
    """Measure the settings worth trying, remember the best for this machine, and run the extractor with it from now on.

    First the number of workers with the default budget, then the budget. The engine is not to be in use meanwhile.

    Raises:
        OutputError: The cache cannot be written; the extractor has the best setting nevertheless.
    """
    windows, budget = _windows(extractor), default_budget(extractor.runtime)
    engines = {one.workers: one for one in [extractor.runtime, *map(extractor.runtime.with_workers, _other_workers(extractor))]}
    best = _best(engines, windows, [(workers, budget) for workers in engines])
    budgets = [best.batch_tokens, *(one for one in _budgets(extractor.runtime) if one != best.batch_tokens)]
    best = _best(engines, windows, [(best.workers, budget) for budget in budgets])
    extractor.runtime, extractor.batch_tokens = engines[best.workers], best.batch_tokens
    logger.info(
        "%s: %d batches at once of %d tokens are the fastest here", extractor.runtime.name, best.workers, best.batch_tokens
    )
    _write({**_read(), _key(extractor.runtime): best})
    return best


def _other_workers(extractor: Extractor) -> list[int]:
    return [workers for workers in extractor.runtime.worker_choices() if workers != extractor.runtime.workers]


def _best(engines: dict[int, Runtime], windows: list[np.ndarray], settings: list[tuple[int, int]]) -> Tuning:
    """The fastest of several settings (workers, budget); the first of them unless another is clearly faster."""
    rates = [Tuning(workers, budget, _rate(engines[workers], windows, budget)) for workers, budget in settings]
    fastest = max(rates, key=lambda one: one.tokens_per_second)
    return fastest if fastest.tokens_per_second > _WORTH_CHANGING * rates[0].tokens_per_second else rates[0]


def _windows(extractor: Extractor) -> list[np.ndarray]:
    """Windows of random tokens, from a fifth of the window's length to all of it."""
    chance = np.random.default_rng(0)
    size = extractor.windower.size
    lengths = chance.integers(max(size // 5, 1), size + 1, 256)
    return [chance.integers(0, len(extractor.windower.tokenizer), length) for length in lengths]


def _rate(runtime: Runtime, windows: list[np.ndarray], budget: int) -> float:
    def run(batch: list[np.ndarray]) -> int:
        prepared = runtime.prepare(batch)
        runtime.finish(runtime.run(prepared), prepared)
        return sum(map(len, batch))

    batches = _batches(runtime, windows, budget)
    until = 0.0

    def work(first: int) -> int:
        done, at = 0, first
        while not done or time.perf_counter() < until:
            done += run(batches[at % len(batches)])
            at += runtime.workers
        return done

    with ThreadPoolExecutor(runtime.workers) as pool:
        # Warm-up: one batch each, or every batch where each shape costs time when it is first met.
        list(pool.map(run, batches) if on_gpu(runtime) else pool.map(work, range(runtime.workers)))
        start = time.perf_counter()
        until = start + _SECONDS_EACH
        return sum(pool.map(work, range(runtime.workers))) / (time.perf_counter() - start)


def _batches(runtime: Runtime, windows: list[np.ndarray], budget: int) -> list[list[np.ndarray]]:
    groups = runtime.group(list(map(len, windows)), budget)
    order = np.random.default_rng(0).permutation(len(groups))  # long and short ones, however few are run
    return [[windows[index] for index in groups[number]] for number in order]


def _budgets(runtime: Runtime) -> tuple[int, ...]:
    return GPU_BUDGETS if on_gpu(runtime) else BUDGETS


def on_gpu(runtime: Runtime) -> bool:
    """Whether the engine is the one for a GPU, which has settings of its own."""
    return runtime.name.startswith("cuda")


def _key(runtime: Runtime) -> str:
    return f"{runtime.name} | {runtime.architecture} | {runtime.machine}"


def tuning_file() -> Path:
    """Where what was measured is kept."""
    return cache_folder() / "tuning.json"


def _read() -> dict[str, Tuning]:
    try:
        return {key: Tuning(**value) for key, value in json.loads(tuning_file().read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("%s: not readable (%s), so defaults are used; run casualty-ner calibrate again", tuning_file(), error)
        return {}


def _write(known: dict[str, Tuning]) -> None:
    path = tuning_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps({key: asdict(value) for key, value in known.items()}, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; set CASUALTY_NER_CACHE to a folder that can") from None
