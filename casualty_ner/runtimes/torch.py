"""The network in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from casualty_ner.errors import CheckpointError

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
    """Runs a token-classification model as it is (float32 unless the model was cast).

    Args:
        model: The model; it is moved to `device` and keeps its training mode.
        device: Where to run.
        pad_id: The id that fills a batch; the attention mask hides it.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device, pad_id: int):
        self.model, self.device, self.pad_id = model.to(device), device, pad_id

    @torch.inference_mode()
    def run(self, windows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Score one padded batch.

        Args:
            windows: Token ids with special tokens, each of shape ``[length]``; lengths may differ.

        Returns:
            For each window its logits in the model's class order, shape ``[length, classes]``.
        """
        longest = max(map(len, windows))
        ids = np.full((len(windows), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(windows), longest), dtype=np.int64)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
            mask[row, : len(window)] = 1
        output = self.model(
            input_ids=torch.from_numpy(ids).to(self.device), attention_mask=torch.from_numpy(mask).to(self.device)
        )
        logits = output.logits.float().cpu().numpy()
        return [logits[row, : len(window)] for row, window in enumerate(windows)]
