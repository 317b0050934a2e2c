from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForTokenClassification

from tests.tiny import FAMILIES
from training.optimizer import build_optimizer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rate_falls_from_the_head_to_the_embeddings(tiny: Callable[[str], Path], family: str) -> None:
    model = AutoModelForTokenClassification.from_pretrained(tiny(family), num_labels=9)  # of two layers
    optimizer = build_optimizer(model, learning_rate=1.0, layer_decay=0.5, weight_decay=0.1)
    settings = {
        id(parameter): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]
    }
    assert len(settings) == len(list(model.parameters()))
    seen = set()
    for name, parameter in model.named_parameters():
        rate, decay = settings[id(parameter)]
        assert decay == (0.1 if parameter.ndim > 1 else 0.0), name
        place = next((key for key in ("classifier", ".0.", ".1.", "embed") if key in name), None)
        if place:
            seen.add(place)
            assert rate == {"classifier": 1.0, ".1.": 0.5, ".0.": 0.25, "embed": 0.125}[place], name
    assert seen == {"classifier", ".0.", ".1.", "embed"}


def test_what_is_frozen_is_left_alone(tiny: Callable[[str], Path]) -> None:
    model = AutoModelForTokenClassification.from_pretrained(tiny("bert"), num_labels=9)
    model.get_input_embeddings().weight.requires_grad_(False)
    optimizer = build_optimizer(model, learning_rate=1.0, layer_decay=1.0, weight_decay=0.0)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(trained) == len(list(model.parameters())) - 1
    assert all(group["lr"] == 1.0 for group in optimizer.param_groups)
