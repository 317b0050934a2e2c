"""The network in a kernel of our own (`encoder.cpp`): BERT encoders in bfloat16 on processors with AMX.

It knows one architecture, and is the faster for it: nothing is padded, and each worker thread runs a batch by itself.
"""

from __future__ import annotations

import copy
import ctypes
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from casualty_ner.batching import Batch, group_padded, join
from casualty_ner.checkpoint import architecture
from casualty_ner.errors import CheckpointError, UnsupportedError
from casualty_ner.machine import cores, cpu_and_cores
from casualty_ner.packing import split
from casualty_ner.runtimes.native.build import INSTEAD, Shape, library

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PretrainedConfig

    from casualty_ner.checkpoint import Checkpoint

_BLOCK = 32
"""Rows and columns of the kernel's matrix blocks."""


def require(config: PretrainedConfig) -> None:
    """Raise `UnsupportedError`, saying why, if this machine or this architecture cannot be run."""
    problem = _problem(config)
    if problem:
        raise UnsupportedError(f"runtime 'native' runs BERT encoders only, {problem}; {INSTEAD}")
    library()


def _problem(config: PretrainedConfig) -> str | None:
    if config.model_type != "bert":
        return f"and this model is of type {config.model_type!r}"
    if config.hidden_act != "gelu":
        return f"with the activation 'gelu', and this one has {config.hidden_act!r}"
    if getattr(config, "position_embedding_type", "absolute") != "absolute" or config.is_decoder:
        return "with absolute positions and attention in both directions, and this one has others"
    sizes = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "size of a head": config.hidden_size / config.num_attention_heads,
    }
    for name, size in sizes.items():
        if size % _BLOCK:
            return f"with sizes that are multiples of {_BLOCK}, and this one's {name} is {size:g}"
    return None


class NativeRuntime:
    """Runs a BERT encoder on the CPU in bfloat16. What a window gets does not depend on what else is in the batch.

    Args:
        checkpoint: Its weights are copied, but for the word embeddings.
        workers: Batches at once; by default one a core.

    Raises:
        UnsupportedError: This machine or this architecture cannot be run.
    """

    name = "native-bfloat16"
    multiple = 1

    def __init__(self, checkpoint: Checkpoint, workers: int | None = None):
        require(checkpoint.config)
        self.architecture, self.machine, self.workers = architecture(checkpoint.config), cpu_and_cores(), workers or cores()
        config = checkpoint.config
        shape = Shape(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.num_labels,
            config.vocab_size,
            config.max_position_embeddings,
            config.layer_norm_eps,
        )
        state = checkpoint.model.state_dict()
        weights = [np.ascontiguousarray(state[name].float().numpy()) for name in _weight_names(config.num_hidden_layers)]
        pointers = (ctypes.c_void_p * len(weights))(*(one.ctypes.data for one in weights))
        self._library, self._classes = library(), config.num_labels
        self._encoder = _Encoder(self._library, shape, pointers)
        self._words = weights[0]  # which the encoder goes on reading

    def group(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        return group_padded(lengths, budget, self.multiple)

    def prepare(self, windows: Sequence[NDArray[np.int64]]) -> Batch:
        return join(windows)

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """The logits, shape ``[tokens, classes]``."""
        lengths = np.array(batch.lengths, dtype=np.int32)
        logits = np.empty((len(batch.ids), self._classes), dtype=np.float32)
        failed = self._library.encoder_run(
            self._encoder.address, batch.ids.ctypes.data, lengths.ctypes.data, len(lengths), logits.ctypes.data
        )
        if failed == -1:
            raise CheckpointError(
                "the tokenizer gave an id or a length that the model has no embedding for; they are not of the same checkpoint"
            )
        if failed:
            raise MemoryError(f"no memory for a batch of {len(batch.ids)} tokens")
        return logits

    def finish(self, output: NDArray[np.float32], batch: Batch) -> list[NDArray[np.float32]]:
        return split(output, batch.lengths)

    def worker_choices(self) -> tuple[int, ...]:
        return (cores(),)

    def with_workers(self, workers: int) -> NativeRuntime:
        other = copy.copy(self)
        other.workers = workers
        return other


class _Encoder:
    """Owns the encoder's memory."""

    def __init__(self, library: ctypes.CDLL, shape: Shape, weights: ctypes.Array[ctypes.c_void_p]):
        self.address = library.encoder_new(ctypes.byref(shape), weights)
        if not self.address:
            raise MemoryError("no memory for the network's weights")
        weakref.finalize(self, library.encoder_free, self.address)


def _weight_names(layers: int) -> Iterator[str]:
    """The weights in the order that the encoder reads them."""
    embeddings = "bert.embeddings"
    for name in ("word", "position", "token_type"):
        yield f"{embeddings}.{name}_embeddings.weight"
    modules = [f"{embeddings}.LayerNorm"]
    for number in range(layers):
        layer = f"bert.encoder.layer.{number}"
        modules += [f"{layer}.attention.self.{name}" for name in ("query", "key", "value")]
        modules += [f"{layer}.attention.output.dense", f"{layer}.attention.output.LayerNorm"]
        modules += [f"{layer}.intermediate.dense", f"{layer}.output.dense", f"{layer}.output.LayerNorm"]
    for module in [*modules, "classifier"]:
        yield f"{module}.weight"
        yield f"{module}.bias"
