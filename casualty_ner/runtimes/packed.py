"""The network over packed windows: transformers' own modules, with an attention that keeps to each window.

No padding is computed, and no mask is read. The modules stay those of transformers, so there is one implementation of each
architecture; what is swapped is the attention function, by the interface that transformers has for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from casualty_ner.checkpoint import architecture, first_position
from casualty_ner.packing import Packed, Shape, group_by_tokens, pack, split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PretrainedConfig, PreTrainedModel

ATTENTION = "casualty_ner_packed"
FAMILIES = ("bert", "camembert", "modernbert", "roberta", "xlm-roberta")
"""Architectures whose modules take any attention function and positions from outside. DeBERTa's attention is its own."""

_AMPERE = (8, 0)
_LARGEST_HEAD = 256


def missing(config: PretrainedConfig, device: torch.device) -> str | None:
    """Why a network cannot run packed on a CUDA device; ``None`` if it can."""
    if config.model_type not in FAMILIES:
        return f"{config.model_type} computes its attention in a way of its own"
    head = config.hidden_size // config.num_attention_heads
    if head % 8 or head > _LARGEST_HEAD:
        return f"attention over packed windows needs heads of a multiple of 8 up to {_LARGEST_HEAD} dimensions, these have {head}"
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return f"{torch.cuda.get_device_name(device)} is older than what attention over packed windows runs on (Ampere)"
    return None


class PackedNetwork:
    """A token-classification model that reads `casualty_ner.packing.Packed` windows.

    Args:
        model: Of one of `FAMILIES`, in evaluation mode, on the device and in the precision that it shall compute in. It is
            changed: its attention is swapped, and its last layer, which costs next to nothing, computes in float32, so that
            close decisions are not made by rounding.
    """

    def __init__(self, model: PreTrainedModel):
        self.model, self._attention = model, model.config._attn_implementation
        AttentionInterface.register(ATTENTION, _attend)
        model.set_attn_implementation(ATTENTION)
        model.classifier.float()
        self._hook = model.classifier.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))

    def release(self) -> None:
        """Make the model again what it was."""
        self.uncompile()
        self._hook.remove()
        self.model.classifier.to(self.model.dtype)
        self.model.set_attn_implementation(self._attention)

    @torch.inference_mode()
    def __call__(self, data: torch.Tensor, shape: Shape) -> torch.Tensor:
        """The logits of all tokens end to end, float32, shape ``[shape.tokens, classes]``; those of the filling mean nothing.

        Args:
            data: `Packed.data` on the device.
            shape: `Packed.shape`.
        """
        ids, positions, starts = data[: shape.tokens], data[shape.tokens : 2 * shape.tokens], data[2 * shape.tokens :]
        output = self.model(
            input_ids=ids[None].long(), position_ids=positions[None].long(), cu_seq_lens_q=starts, max_length_q=shape.longest
        )
        return output.logits[0]

    def compile(self, **settings: Any) -> None:
        """`compile_layers` of the model."""
        compile_layers(self.model, **settings)

    def uncompile(self) -> None:
        """Undo `compile`."""
        for layer in encoder_layers(self.model):
            layer._compiled_call_impl = None


def encoder_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The repeated layers of a model."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def compile_layers(model: PreTrainedModel, **settings: Any) -> None:
    """Have torch fuse what lies between the matrix products, at the next call: one layer's code for all layers and shapes.

    Args:
        model: Changed in place; its parameters and how it is saved stay as they are.
        settings: For `torch.compile`.
    """
    for layer in encoder_layers(model):
        layer.compile(dynamic=True, **settings)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: from shape ``[1, heads, tokens, head]`` to ``[1, tokens, heads, head]``."""
    side = -1 if sliding_window is None else sliding_window - 1  # transformers counts the token itself
    query, key, value = (one.transpose(1, 2)[0] for one in (query, key, value))
    starts, longest = cu_seq_lens_q, max_length_q
    output = varlen_attn(query, key, value, starts, starts, longest, longest, scale=scaling, window_size=(side, side))
    assert isinstance(output, torch.Tensor)  # it is two of them where more is asked for
    return output[None], None


class PackedRuntime:
    """Runs packed windows one batch after the other, as `casualty_ner.runtimes.Runtime`.

    Args:
        network: The network.
        device: Where it is.
    """

    workers = 1

    def __init__(self, network: PackedNetwork, device: torch.device):
        config = network.model.config
        self.network, self.device = network, device
        self.architecture = architecture(config)
        self.machine = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        self.name = f"{device.type}-{str(network.model.dtype).removeprefix('torch.')}"
        self._first_position = first_position(config)

    def group(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        return group_by_tokens(lengths, budget)

    def worker_choices(self) -> tuple[int, ...]:
        return (1,)

    def with_workers(self, workers: int) -> PackedRuntime:
        assert workers == 1
        return self

    def prepare(self, windows: Sequence[NDArray[np.int64]]) -> Packed:
        return pack(windows, self._first_position)

    def run(self, batch: Packed) -> NDArray[np.float32]:
        """The logits of all tokens, shape ``[batch.shape.tokens, classes]``."""
        return self.network(torch.from_numpy(batch.data).to(self.device), batch.shape).cpu().numpy()

    def finish(self, output: NDArray[np.float32], batch: Packed) -> list[NDArray[np.float32]]:
        return split(output, batch.lengths)
