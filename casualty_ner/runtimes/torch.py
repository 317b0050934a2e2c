"""The network in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from casualty_ner.batching import Batch, group_padded, pad, unpad
from casualty_ner.checkpoint import architecture
from casualty_ner.errors import CheckpointError
from casualty_ner.machine import cpu_and_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel


def choose_device(device: str) -> torch.device:
    """``auto`` takes CUDA where it is, else the CPU; anything else is taken at its word.

    Raises:
        CheckpointError: The device is unknown or not available here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}; try 'cpu' or 'auto'") from None
    return chosen


class TorchRuntime:
    """Runs a token-classification model as it is (float32 unless the model was cast). torch parts each batch among the cores.

    Args:
        model: The model; it is moved to `device` and keeps its training mode.
        device: Where to run.
        pad_id: The id that fills a batch; the attention mask hides it.
    """

    workers = 1

    def __init__(self, model: PreTrainedModel, device: torch.device, pad_id: int):
        self.model, self.device, self.pad_id = model.to(device), device, pad_id
        self.multiple = 8 if device.type == "cuda" else 1  # what a GPU's matrix units like
        self.architecture = architecture(model.config)
        self.machine = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_and_cores()
        self.name = f"torch-{str(model.dtype).removeprefix('torch.')}"

    def group(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        return group_padded(lengths, budget, self.multiple)

    def prepare(self, windows: Sequence[NDArray[np.int64]]) -> Batch:
        return pad(windows, self.pad_id, self.multiple)

    @torch.inference_mode()
    def run(self, batch: Batch) -> torch.Tensor:
        """The logits on the device, shape ``[windows, padded, classes]``."""
        output = self.model(
            input_ids=torch.from_numpy(batch.ids).to(self.device), attention_mask=torch.from_numpy(batch.mask).to(self.device)
        )
        return output.logits

    def finish(self, output: torch.Tensor, batch: Batch) -> list[NDArray[np.float32]]:
        return unpad(output.float().cpu().numpy(), batch.lengths)

    def worker_choices(self) -> tuple[int, ...]:
        return (1,)

    def with_workers(self, workers: int) -> TorchRuntime:
        assert workers == 1
        return self
