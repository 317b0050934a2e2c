"""Processes that tokenise and decode beside the one that holds the network.

A GPU is through with a text long before one Python process has cut it into tokens and made entities of their scores. So each
process takes a stretch of texts, sends the windows, gets the scores, and sends the entities. Only the process that started them
touches the GPU. They are commands of their own, not forks: a fork of a process that uses CUDA is unsafe, and `multiprocessing`
would run the caller's script again. They end when their standard input does, however the caller ended.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from casualty_ner.decoding import entities
from casualty_ner.documents import Entity
from casualty_ner.errors import CasualtyNerError
from casualty_ner.machine import cores
from casualty_ner.reading import Reading
from casualty_ner.windows import Windower

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from casualty_ner.calibration import Calibration

Run = Callable[[list["NDArray[np.int64]"]], list["NDArray[np.float32]"]]
"""The network: windows of token ids to the scores of each, shape ``[length, classes]``."""

_FEWEST_CORES = 4
"""With less, threads of one process keep the cores as busy."""
_FORGET = None
"""Sent in place of texts."""


def spare_processes() -> int:
    """How many processes to start beside a GPU: one for every core but the one that feeds it, none on a small machine."""
    return cores() - 1 if cores() >= _FEWEST_CORES else 0


class Hosts:
    """Processes that are ready to tokenise and decode.

    Args:
        windower: For the model's tokenizer.
        tag_order: For each of `casualty_ner.labels.TAGS` its class index in the model's output.
        count: How many.
        calibration: Of the scores.
    """

    def __init__(self, windower: Windower, tag_order: Sequence[int], count: int, calibration: Calibration | None = None):
        greeting = pickle.dumps((windower, list(tag_order), calibration), pickle.HIGHEST_PROTOCOL)
        hosts = [_Host(greeting) for _ in range(count)]
        self.count = count
        self._idle: SimpleQueue[_Host] = SimpleQueue()
        for host in hosts:
            self._idle.put(host)
        self.close = weakref.finalize(self, _end, hosts)
        self._failure: BaseException | None = None
        self._forgotten = 0

    @property
    def alive(self) -> bool:
        return self.close.alive

    def forget(self) -> None:
        """Have each process forget what its windower remembers before it gets what `stream` takes from now on."""
        self._forgotten += 1

    def stream(self, chunks: Iterable[list[str]], run: Run) -> Iterator[list[Entity]]:
        """The entities of each text, in the order of the input; `run` is called in several threads at once.

        Raises:
            CasualtyNerError: A process has ended.
        """
        running: deque[Future[list[list[Entity]]]] = deque()
        pool = ThreadPoolExecutor(self.count, thread_name_prefix="casualty-ner-host")
        try:
            for chunk in chunks:
                running.append(pool.submit(self._extract, chunk, run, self._forgotten))
                if len(running) > 2 * self.count:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _extract(self, texts: list[str], run: Run, forgotten: int) -> list[list[Entity]]:
        host = self._idle.get()
        try:
            return host.extract(texts, run, forgotten)
        except BaseException as error:
            self._failure = self._failure or error  # the others fail because this one ends all conversations, in their midst
            self.close()
            raise self._failure from None
        finally:
            self._idle.put(host)


class _Host:
    """One process, and the conversation with it."""

    def __init__(self, greeting: bytes):
        self._greeting, self._forgotten = greeting, 0
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        once = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # a core each
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from casualty_ner.hosts import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **once, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._to: BinaryIO = self.process.stdin  # type: ignore[assignment]
        self._from: BinaryIO = self.process.stdout  # type: ignore[assignment]

    def extract(self, texts: list[str], run: Run, forgotten: int) -> list[list[Entity]]:
        try:
            if self._greeting:
                self._to.write(self._greeting)
                self._greeting = b""
            if self._forgotten != forgotten:
                self._forgotten = forgotten
                _send(self._to, _FORGET)
            _send(self._to, texts)
            ids, lengths = _receive(self._from)
            scores = run(np.split(ids.astype(np.int64), np.cumsum(lengths)[:-1]) if lengths else [])
            _send(self._to, np.concatenate(scores) if scores else None)
            found = _receive(self._from)
        except (EOFError, OSError, pickle.UnpicklingError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
            raise CasualtyNerError(
                f"a process that tokenises and decodes has ended (exit code {self.process.poll()}); what it said stands on "
                "standard error; to do without such processes give processes=0"
            ) from None
        return [
            [Entity(start, end, label, text[start:end], score) for start, end, label, score in rows]
            for text, rows in zip(texts, found, strict=True)
        ]


def _end(hosts: list[_Host]) -> None:
    for host in hosts:
        host.process.kill()  # it holds nothing that would be lost
    for host in hosts:
        host.process.wait()
        with contextlib.suppress(OSError):  # what was still to be written
            host._to.close()
        host._from.close()


def _send(stream: BinaryIO, value: Any) -> None:
    pickle.dump(value, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _receive(stream: BinaryIO) -> Any:
    return pickle.load(stream)  # noqa: S301 - from the process at the other end, which this package started


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """One process's side of the conversation, until the other end closes it."""
    windower, tag_order, calibration = _receive(source)
    while True:
        try:
            texts = _receive(source)
        except EOFError:
            return
        if texts is _FORGET:
            windower.forget()
            continue
        tokens = windower.tokenize(texts)
        reading = Reading(windower, tag_order, tokens)
        lengths = list(map(len, reading.inputs))
        ids = np.concatenate(reading.inputs).astype(np.int32) if lengths else np.zeros(0, np.int32)
        _send(target, (ids, lengths))
        scores = _receive(source)
        for window, part in enumerate(np.split(scores, np.cumsum(lengths)[:-1]) if lengths else ()):
            reading.take(window, part)
        found = entities(texts, tokens, reading.logits, calibration)
        _send(target, [[(one.start, one.end, one.label, one.score) for one in of] for of in found])


def main() -> None:
    """What a process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted caller closes the conversation
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints must not get between the answers
        serve(sys.stdin.buffer, answers)
