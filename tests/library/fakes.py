"""Stand-ins: for a network, for the attention kernel of a GPU, and for CUDA's streams and graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForTokenClassification

from casualty_ner.batching import Batch, group_padded, pad
from casualty_ner.extractor import Extractor
from casualty_ner.labels import TAG_IDS, TAGS
from casualty_ner.packing import Shape
from casualty_ner.runtimes import cuda, packed
from casualty_ner.runtimes.packed import PackedNetwork
from casualty_ner.windows import Windower


class HashRuntime:
    """A network whose scores depend on a window's tokens alone, so that anything that changes them shows.

    It scores every token by a hash of itself and its neighbours; about half of the tokens get a tag other than O.
    """

    name = "hash-float32"
    workers = 3

    def __init__(self) -> None:
        self.table = np.random.default_rng(7).normal(size=(4096, len(TAGS))).astype(np.float32)
        self.batches: list[list[int]] = []

    def group(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        return group_padded(lengths, budget, 1)

    def prepare(self, windows: Sequence[np.ndarray]) -> Batch:
        self.batches.append([len(window) for window in windows])
        return pad(windows, 0)

    def run(self, batch: Batch) -> list[np.ndarray]:
        windows = [ids[:length] for ids, length in zip(batch.ids, batch.lengths, strict=True)]
        return [self.table[(window * 31 + np.roll(window, 1) * 7) % len(self.table)] * 3 for window in windows]

    def finish(self, output: list[np.ndarray], batch: Batch) -> list[np.ndarray]:
        return output


def hash_extractor(tokenizer: object, size: int = 32, overlap: int = 8, batch_tokens: int = 256) -> Extractor:
    return Extractor(Windower(tokenizer, size, overlap), HashRuntime(), range(len(TAGS)), batch_tokens)


class EndlessTexts:
    """Texts without end, and how many of them were taken."""

    read = 0

    def __iter__(self) -> Iterator[str]:
        while True:
            self.read += 1
            yield "Twelve people were killed. " * 40


def random_model(encoder: Path) -> torch.nn.Module:
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(encoder, id2label=dict(enumerate(TAGS)), label2id=TAG_IDS)
    if config.model_type == "modernbert":
        config.local_attention = 16  # so that windows of a few dozen tokens are longer
    return AutoModelForTokenClassification.from_config(config).eval()


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` is documented to compute, window after window; what no window holds is NaN."""
    output = torch.full_like(query, torch.nan)
    for start, stop in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        assert stop - start <= max_q
        weights = torch.einsum("ihd,jhd->hij", query[start:stop], key[start:stop]) * scale
        if window_size != (-1, -1):
            distance = (torch.arange(stop - start)[:, None] - torch.arange(stop - start)).abs()
            weights = weights.masked_fill(distance > window_size[0], -torch.inf)
        output[start:stop] = torch.einsum("hij,jhd->ihd", weights.softmax(-1), value[start:stop])
    return output


class FakeCuda:
    """Everything runs on the CPU where it is called; no stream waits. What the network computes while a graph is being recorded
    is computed again, in place, at each replay of it.

    Args:
        patch: Puts the stand-ins in place, until it is undone.
    """

    def __init__(self, patch: pytest.MonkeyPatch):
        self.open: FakeGraph | None = None
        self.graphs: list[FakeGraph] = []
        self.fails = False
        network = PackedNetwork.__call__

        def call(self_: PackedNetwork, data: torch.Tensor, shape: Shape) -> torch.Tensor:
            output = network(self_, data, shape)
            if self.open is not None:
                self.open.shape = shape
                self.open.replay = lambda: output.copy_(network(self_, data, shape))
            return output

        patch.setattr(PackedNetwork, "__call__", call)
        patch.setattr(packed, "varlen_attn", plain_attention)
        patch.setattr(cuda, "_stream", lambda device: FakeStream())
        patch.setattr(cuda, "_room_on_host", torch.zeros_like)
        patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        patch.setattr(torch.cuda, "Event", lambda blocking: FakeEvent())
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        patch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        patch.setattr(torch.cuda, "graph", self.graph)
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        patch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)

    @contextlib.contextmanager
    def graph(self, graph: FakeGraph, **_: object) -> Iterator[None]:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nhint")
        self.open = graph
        yield
        self.open = None
        self.graphs.append(graph)


class FakeGraph:
    shape: Shape
    replay: Callable[[], object]


class FakeStream:
    def record_event(self) -> object:
        return object()

    def wait_event(self, event: object) -> None:
        assert event is not None


class FakeEvent:
    def record(self, stream: FakeStream) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        assert self.stream is not None
