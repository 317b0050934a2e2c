"""How many batches to run at once and how large: measured once per machine, engine and size of model, and remembered.

What ``casualty-ner calibrate`` measures is kept in ``~/.cache/casualty_ner/tuning.json`` (or under ``CASUALTY_NER_CACHE``).
Without it, or on another machine, defaults hold; results do not depend on either.
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

if TYPE_CHECKING:
    from casualty_ner.extractor import Extractor
    from casualty_ner.runtimes import Runtime

logger = logging.getLogger(__name__)

BUDGETS = (512, 1024, 2048, 4096, 8192)
GPU_BUDGETS = (4096, 8192, 16384, 32768)
DEFAULT_BUDGETS = {"torch": 4096, "openvino": 1024, "onnx": 1024, "cuda": 16384}
"""Padded tokens a batch where nothing was measured. One core's batch stays in its cache; torch parts one among all cores; a GPU
has so many units that a small batch leaves most of them idle."""
_SECONDS_EACH = 0.8


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


def tuned(runtime: Runtime) -> tuple[Runtime, int]:
    """The engine as this machine runs it best, and the batch budget; as it is, with the default budget, if nothing is known."""
    known = _read().get(_key(runtime))
    if known is None:
        return runtime, DEFAULT_BUDGETS[runtime.name.split("-")[0]]
    if known.workers != runtime.workers and known.workers in runtime.worker_choices():
        runtime = runtime.with_workers(known.workers)
    return runtime, known.batch_tokens


def calibrate(extractor: Extractor) -> Tuning:
    """Measure the settings worth trying, a second each, and remember the best for this machine.

    Raises:
        OutputError: The cache cannot be written.
    """
    best: Tuning | None = None
    windows = _windows(extractor)
    for workers in extractor.runtime.worker_choices():
        runtime = extractor.runtime if workers == extractor.runtime.workers else extractor.runtime.with_workers(workers)
        for budget in GPU_BUDGETS if _records(runtime) else BUDGETS:
            rate = _rate(runtime, windows, budget)
            logger.info("%s: %d at once, %d tokens a batch: %.0f tokens/s", runtime.name, workers, budget, rate)
            if best is None or rate > best.tokens_per_second:
                best = Tuning(workers, budget, rate)
    assert best is not None
    _write({**_read(), _key(extractor.runtime): best})
    return best


def _windows(extractor: Extractor) -> list[np.ndarray]:
    """Windows of random tokens, from a fifth of the window's length to all of it."""
    chance = np.random.default_rng(0)
    size = extractor.windower.size
    lengths = np.sort(chance.integers(max(size // 5, 1), size + 1, 256))[::-1]
    return [chance.integers(0, len(extractor.windower.tokenizer), length) for length in lengths]


def _rate(runtime: Runtime, windows: list[np.ndarray], budget: int) -> float:
    def run(batch: list[np.ndarray]) -> int:
        prepared = runtime.prepare(batch)
        runtime.finish(runtime.run(prepared), prepared)
        return sum(map(len, batch))

    batches = _batches(runtime, windows, budget)
    done, at = 0, 0
    with ThreadPoolExecutor(runtime.workers) as pool:
        list(pool.map(run, batches if _records(runtime) else batches[: 2 * runtime.workers]))
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < _SECONDS_EACH:
            some = [batches[(at + number) % len(batches)] for number in range(4 * runtime.workers)]
            at += len(some)
            done += sum(pool.map(run, some))
    return done / elapsed


def _batches(runtime: Runtime, windows: list[np.ndarray], budget: int) -> list[list[np.ndarray]]:
    return [[windows[index] for index in group] for group in runtime.group(list(map(len, windows)), budget)]


def _records(runtime: Runtime) -> bool:
    """Whether each shape of batch costs time when it is first met."""
    return runtime.name.startswith("cuda")


def _key(runtime: Runtime) -> str:
    return f"{runtime.name} | {runtime.architecture} | {runtime.machine}"


def tuning_file() -> Path:
    """Where what was measured is kept."""
    folder = os.environ.get("CASUALTY_NER_CACHE")
    return (Path(folder) if folder else Path.home() / ".cache" / "casualty_ner") / "tuning.json"


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
