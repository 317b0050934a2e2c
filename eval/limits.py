"""How fast this machine could run a network if it had nothing to do but multiply its matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
_ROWS = {"cpu": (256, 1024, 4096), "cuda": (4096, 16384, 65536)}


def linear_shapes(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Inputs and outputs of every linear layer of a token-classification model, in order."""
    return [(module.in_features, module.out_features) for module in model.modules() if isinstance(module, nn.Linear)]


def operations(model: PreTrainedModel, tokens: float) -> float:
    """Floating-point operations a token in the matrix products: linear layers, and attention over windows of `tokens` tokens."""
    config = model.config
    attention = 4 * config.num_hidden_layers * config.hidden_size * tokens
    return sum(2 * inputs * outputs for inputs, outputs in linear_shapes(model)) + attention


class MatmulLimit:
    """The matrix products of a model's linear layers, one after the other, each with weights of its own, and nothing between.

    Args:
        shapes: As `linear_shapes` gives them.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        device: Where.
    """

    def __init__(self, shapes: list[tuple[int, int]], dtype: str, device: str):
        self._shapes = [(inputs, outputs) for inputs, outputs in shapes if outputs >= 64]  # the classifier is negligible
        self._dtype, self._device = DTYPES[dtype], torch.device(device)
        self._weights = [self._random(outputs, inputs).t() for inputs, outputs in self._shapes]
        self._multiply: Callable[..., Any] = torch._int_mm if dtype == "int8" else torch.mm

    def measure(self, seconds: float = 0.25) -> float:
        """Operations a second: the best over several row counts and, on a CPU, over one copy on all cores and one copy a core."""
        total = torch.get_num_threads()
        copies = sorted({1, total}) if self._device.type == "cpu" else [1]
        try:
            return max(self._rate(rows, count, total // count, seconds) for rows in _ROWS[self._device.type] for count in copies)
        finally:
            torch.set_num_threads(total)

    def _rate(self, rows: int, copies: int, threads: int, seconds: float) -> float:
        inputs = {width: self._random(rows, width) for width, _ in self._shapes}

        def work(until: float) -> int:
            torch.set_num_threads(threads)
            passes = 0
            with torch.inference_mode():
                while time.perf_counter() < until:
                    self._pass(inputs)
                    passes += 1
            return passes

        with ThreadPoolExecutor(copies) as pool:
            list(pool.map(work, [time.perf_counter() + seconds / 4] * copies))  # warm-up
            start = time.perf_counter()
            passes = sum(pool.map(work, [start + seconds] * copies))
            elapsed = time.perf_counter() - start
        return passes * rows * sum(2 * width * outputs for width, outputs in self._shapes) / elapsed

    def _pass(self, inputs: dict[int, torch.Tensor]) -> None:
        for (width, _), weight in zip(self._shapes, self._weights, strict=True):
            self._multiply(inputs[width], weight)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _random(self, rows: int, columns: int) -> torch.Tensor:
        if self._dtype == torch.int8:
            return torch.randint(-8, 8, (rows, columns), dtype=torch.int8, device=self._device)
        return torch.randn(rows, columns, dtype=self._dtype, device=self._device)
