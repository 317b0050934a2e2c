"""The packed network on a CPU, where an attention written plainly stands in for the kernel, against the padded one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from casualty_ner import Extractor
from casualty_ner.checkpoint import load_checkpoint
from casualty_ner.packing import pack
from casualty_ner.runtimes import packed
from casualty_ner.runtimes.packed import FAMILIES, PackedNetwork, PackedRuntime, encoder_layers, missing
from casualty_ner.runtimes.torch import TorchRuntime
from casualty_ner.windows import Windower
from tests.library.fakes import plain_attention, random_model
from tests.tiny import texts

CPU = torch.device("cpu")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "varlen_attn", plain_attention)


@pytest.mark.parametrize("family", ["bert", "modernbert", "xlm-roberta"])
def test_packed_windows_get_the_scores_of_padded_ones(tiny: Callable[[str], Path], plain: None, family: str) -> None:
    model = random_model(tiny(family))
    assert model.config.model_type in FAMILIES
    reference = TorchRuntime(copy.deepcopy(model), CPU, model.config.pad_token_id)
    runtime = PackedRuntime(PackedNetwork(model), CPU)
    chance = np.random.default_rng(0)
    for lengths in ([30], [64, 41, 7], [5, 5], [17] * 12):
        windows = [chance.integers(5, 300, length) for length in lengths]
        batch = reference.prepare(windows)
        expected = reference.finish(reference.run(batch), batch)
        laid = runtime.prepare(windows)
        found = runtime.finish(runtime.run(laid), laid)
        for one, other in zip(expected, found, strict=True):
            assert other.shape == one.shape
            assert other.dtype == np.float32
            assert np.allclose(one, other, atol=1e-4)


def test_an_extractor_over_packed_windows_finds_the_same(checkpoint: Path, plain: None) -> None:
    loaded = load_checkpoint(checkpoint)
    some = texts(30)
    expected = Extractor.from_checkpoint(loaded, "cpu").extract(some)
    windower = Windower(loaded.tokenizer, loaded.window.size, loaded.window.overlap)
    runtime = PackedRuntime(PackedNetwork(loaded.model), CPU)
    for budget in (64, 700, 100_000):
        found = Extractor(windower, runtime, loaded.tag_order, budget, calibration=loaded.calibration).extract(some)
        assert [[one.span for one in of] for of in found] == [[one.span for one in of] for of in expected]
        assert np.allclose([one.score for of in found for one in of], [one.score for of in expected for one in of], atol=1e-4)


def test_scores_are_float32_whatever_the_network_computes_in(tiny: Callable[[str], Path], plain: None) -> None:
    network = PackedNetwork(random_model(tiny("bert")).to(torch.bfloat16))
    batch = pack([np.arange(5, 40)], 0)
    logits = network(torch.from_numpy(batch.data), batch.shape)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())  # they were not rounded on the way


@pytest.mark.parametrize("family", ["bert", "modernbert", "xlm-roberta"])
def test_a_layer_is_traced_whole_and_once_for_all_shapes(tiny: Callable[[str], Path], family: str) -> None:
    """With the kernel itself, whose output is only described here, not computed: what `torch.compile` does before it makes code."""
    torch._dynamo.reset()
    network = PackedNetwork(random_model(tiny(family)))
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[object]) -> Callable[..., object]:
        graphs.append(graph)
        return lambda *arguments: [torch.zeros(network_tokens[-1], 32)[None]]

    network_tokens = [0]
    network.compile(fullgraph=True, backend=backend)
    for lengths, longest in (([100, 60], 128), ([120] * 3, 256), ([40] * 20, 512)):
        batch = pack([np.full(length, 7) for length in lengths], 2)
        network_tokens.append(batch.shape.tokens)
        network(torch.from_numpy(batch.data), batch.shape._replace(longest=longest))
    assert len(encoder_layers(network.model)) == 2
    assert 1 <= len(graphs) <= (2 if family == "modernbert" else 1)  # its first layer has no norm before attention
    assert any("varlen_attn" in str(node.target) for graph in graphs for node in graph.graph.nodes)
    network.uncompile()
    assert all(layer._compiled_call_impl is None for layer in encoder_layers(network.model))


def test_what_cannot_be_packed_says_why(tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    capability = (9, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    assert missing(AutoConfig.from_pretrained(tiny("bert")), device) is None
    assert missing(AutoConfig.from_pretrained(tiny("deberta-v3")), device) == (
        "deberta-v2 computes its attention in a way of its own"
    )
    narrow = SimpleNamespace(model_type="bert", hidden_size=36, num_attention_heads=3)
    assert "these have 12" in str(missing(narrow, device))
    capability = (7, 5)
    assert "Old GPU is older" in str(missing(AutoConfig.from_pretrained(tiny("bert")), device))


def test_a_released_model_is_what_it_was(tiny: Callable[[str], Path], plain: None) -> None:
    model = random_model(tiny("bert")).to(torch.bfloat16)
    inputs = torch.arange(5, 35)[None]
    with torch.inference_mode():
        before = model(inputs).logits
        network = PackedNetwork(model)
        network.compile()
        network.release()
        assert torch.equal(model(inputs).logits, before)
