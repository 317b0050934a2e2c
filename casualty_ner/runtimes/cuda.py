"""The packed network on a GPU: recorded once for each shape of batch, replayed for each batch, copies beside it.

A small network is over on a GPU before Python has launched its hundred kernels one by one. A recording (CUDA graph) is launched as
one. Several threads may call `CudaRuntime.run`: while one batch computes, the next is on its way to the device, the last one on
its way back, and the threads' Python packs and unpacks others.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch

from casualty_ner.errors import CheckpointError, first_line
from casualty_ner.packing import Packed, Shape, pack
from casualty_ner.runtimes.packed import PackedNetwork, PackedRuntime

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_TRIAL = (100, 60)
"""Lengths of two windows whose batch has no two dimensions alike, for torch takes such for the same one."""


class CudaRuntime(PackedRuntime):
    """Runs packed windows on a CUDA device.

    Logits come back as they are, 36 bytes a token: at two million tokens a second less than a hundredth of what the bus
    carries, so there is nothing to gain by deciding on the device, and decoding stays one implementation, exact everywhere.

    Args:
        network: The network, on `device`.
        device: A CUDA device.
        workers: Batches on their way at once: one computes, one is copied, one is packed.
        record: Record and replay; without it, kernels are launched one by one.
        fuse: Have torch compile what lies between the matrix products. It takes some seconds once (torch keeps what it
            made in a cache on disk); where there is no compiler it is left out with a warning.

    Raises:
        RuntimeError: The network does not run on this device.
    """

    def __init__(self, network: PackedNetwork, device: torch.device, *, workers: int = 3, record: bool = True, fuse: bool = True):
        super().__init__(network, device)
        self.workers = workers
        self._record = record
        self._compute, self._copy_in, self._copy_out = (_stream(device) for _ in range(3))
        self._order = Lock()
        self._recordings: dict[Shape, Callable[[torch.Tensor], torch.Tensor]] = {}
        self._memory = torch.cuda.graph_pool_handle()
        trial = pack([np.zeros(length, dtype=np.int64) for length in _TRIAL], self._first_position)
        if fuse:
            self._fuse(trial)
        self.run(trial)

    @torch.inference_mode()
    def run(self, batch: Packed) -> NDArray[np.float32]:
        with torch.cuda.stream(self._copy_in):
            data = torch.from_numpy(batch.data).pin_memory().to(self.device, non_blocking=True)
            arrived = self._copy_in.record_event()
        with self._order, torch.cuda.stream(self._compute):
            network = self._recordings.get(batch.shape) or self._prepare(batch.shape)
            self._compute.wait_event(arrived)
            logits = network(data)
            computed = self._compute.record_event()
        data.record_stream(self._compute)
        with torch.cuda.stream(self._copy_out):
            self._copy_out.wait_event(computed)
            host = _room_on_host(logits)
            host.copy_(logits, non_blocking=True)
            logits.record_stream(self._copy_out)
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # a thread that waits sleeps; the cores have tokens to make
            done.record(self._copy_out)
        done.synchronize()
        return host.numpy()

    def finish(self, output: NDArray[np.float32], batch: Packed) -> list[NDArray[np.float32]]:
        scores = super().finish(output, batch)
        if not np.isfinite(output[: sum(batch.lengths)]).all():
            raise CheckpointError(
                f"{self.name}: the network's numbers are too large for this precision; use precision='bfloat16'"
            )
        return scores

    def worker_choices(self) -> tuple[int, ...]:
        return (2, 3, 4)

    def with_workers(self, workers: int) -> CudaRuntime:
        other = copy.copy(self)  # the same recordings, under the same lock
        other.workers = workers
        return other

    def _prepare(self, shape: Shape) -> Callable[[torch.Tensor], torch.Tensor]:
        """What runs batches of a shape from now on: a recording where one can be made."""
        if self._record:
            try:
                self._recordings[shape] = self._recorded(shape)
                return self._recordings[shape]
            except RuntimeError as error:
                logger.warning(
                    "%s: the network cannot be recorded (%s); its kernels are launched one by one", self.name, first_line(error)
                )
                self._record = False
        self._recordings[shape] = lambda data: self.network(data, shape)
        return self._recordings[shape]

    def _recorded(self, shape: Shape) -> Callable[[torch.Tensor], torch.Tensor]:
        """Record the network; on the compute stream, with nobody else on it."""
        data = torch.zeros(shape.size, dtype=torch.int32, device=self.device)  # a valid batch: windows of no length
        self.network(data, shape)  # what is prepared at a first run must not be recorded
        graph = torch.cuda.CUDAGraph()
        # The shapes share their working memory, for they never run at the same time. Other threads may use CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._memory, stream=self._compute, capture_error_mode="thread_local"):
            logits = self.network(data, shape)

        def replay(new: torch.Tensor) -> torch.Tensor:
            data.copy_(new)
            graph.replay()
            return logits.clone()  # the next replay writes over it

        return replay

    def _fuse(self, trial: Packed) -> None:
        self.network.compile()
        try:
            with torch.cuda.stream(self._compute):
                self.network(torch.from_numpy(trial.data).to(self.device), trial.shape)
        except Exception as error:  # of torch's compiler, of Triton, of the C compiler, or that one of them is missing
            logger.warning("%s: torch.compile cannot be used here (%s); running without it", self.name, first_line(error))
            self.network.uncompile()


def _room_on_host(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
