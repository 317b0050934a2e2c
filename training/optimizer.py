"""The optimiser: AdamW with a learning rate that falls from layer to layer towards the embeddings.

The lower layers of a pretrained encoder know most of what they need, and a small corpus teaches them mostly its own accidents; so they
learn more slowly (discriminative fine-tuning, Howard and Ruder 2018).
"""

from __future__ import annotations

import re
from collections import defaultdict

from torch import nn
from torch.optim import AdamW
from transformers import PreTrainedModel

_LAYER = re.compile(r"\blayers?\.(\d+)\.")


def build_optimizer(model: PreTrainedModel, learning_rate: float, layer_decay: float, weight_decay: float) -> AdamW:
    """AdamW over the parameters that are trained; biases and norms do not decay.

    The head learns at `learning_rate`, the topmost layer at `layer_decay` times that, and so on down to the embeddings.
    """
    layers = int(getattr(model.config, "num_hidden_layers", 0))
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = learning_rate * layer_decay ** (layers + 1 - _depth(name, layers))
            groups[rate, weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
    return AdamW(
        [{"params": some, "lr": rate, "weight_decay": decay} for (rate, decay), some in groups.items()],
        lr=learning_rate,
        fused=True,
    )


def _depth(name: str, layers: int) -> int:
    """0 for the embeddings, the number of its layer counted from 1, and one more than there are layers for what is above them."""
    layer = _LAYER.search(name)
    if layer:
        return int(layer[1]) + 1
    return 0 if "embed" in name else layers + 1
