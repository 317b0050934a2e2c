"""The GPU runtime: what it plans and when it gives up on a CPU, with CUDA's objects faked; the real ones where a GPU is (marked gpu)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from casualty_ner import Extractor, runtimes
from casualty_ner.checkpoint import load_checkpoint
from casualty_ner.errors import CheckpointError
from casualty_ner.packing import Packed
from casualty_ner.runtimes import cuda, load, packed
from casualty_ner.runtimes.cuda import CudaRuntime
from casualty_ner.runtimes.packed import PackedNetwork
from casualty_ner.runtimes.torch import TorchRuntime
from casualty_ner.windows import Windower
from tests.library.fakes import FakeCuda, random_model
from tests.tiny import texts

CPU = torch.device("cpu")


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def test_recordings_give_every_thread_its_own_scores(checkpoint: Path, fake_cuda: FakeCuda) -> None:
    loaded = load_checkpoint(checkpoint)
    some = texts(30)
    expected = Extractor.from_checkpoint(loaded, "cpu").extract(some)
    windower = Windower(loaded.tokenizer, loaded.window.size, loaded.window.overlap)
    runtime = CudaRuntime(PackedNetwork(loaded.model), CPU, fuse=False)
    found = Extractor(windower, runtime, loaded.tag_order, 700, calibration=loaded.calibration).extract(some)
    assert [[one.span for one in of] for of in found] == [[one.span for one in of] for of in expected]
    shapes = {graph.shape for graph in fake_cuda.graphs}
    assert len(fake_cuda.graphs) == len(shapes) > 1  # each shape is recorded once
    assert runtime.with_workers(2).workers == 2
    assert runtime.with_workers(2)._recordings is runtime._recordings


def test_scores_that_were_returned_stay_as_they_are(tiny: Callable[[str], Path], fake_cuda: FakeCuda) -> None:
    runtime = CudaRuntime(PackedNetwork(random_model(tiny("bert"))), CPU, fuse=False)
    chance = np.random.default_rng(0)
    batches = [runtime.prepare([chance.integers(5, 300, 50)]) for _ in range(20)]
    one_by_one = [runtime.run(batch).copy() for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(runtime.run, batches))
    for alone, other, batch in zip(one_by_one, together, batches, strict=True):
        (alone,), (other,) = runtime.finish(alone, batch), runtime.finish(other, batch)
        assert np.array_equal(alone, other)


def test_without_recording_the_kernels_are_launched(
    tiny: Callable[[str], Path], fake_cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    network = PackedNetwork(random_model(tiny("bert")))
    windows = [np.arange(5, 45)]

    def scores(runtime: CudaRuntime) -> np.ndarray:
        batch: Packed = runtime.prepare(windows)
        return runtime.finish(runtime.run(batch), batch)[0]

    expected = scores(CudaRuntime(network, CPU, fuse=False))
    fake_cuda.graphs.clear()
    assert np.array_equal(scores(CudaRuntime(network, CPU, fuse=False, record=False)), expected)
    assert not fake_cuda.graphs
    fake_cuda.fails = True
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(scores(CudaRuntime(network, CPU, fuse=False)), expected)
    assert caplog.messages == [
        "cpu-float32: the network cannot be recorded (operation not permitted when stream is capturing); its kernels are launched one by one"
    ]


def test_without_a_compiler_it_runs_unfused(
    tiny: Callable[[str], Path], fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = PackedNetwork(random_model(tiny("bert")))

    def no_compiler(graph: object, inputs: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    compile_with = PackedNetwork.compile
    monkeypatch.setattr(PackedNetwork, "compile", lambda self: compile_with(self, backend=no_compiler))
    with caplog.at_level(logging.WARNING):
        runtime = CudaRuntime(network, CPU)
    assert "torch.compile cannot be used here" in caplog.text
    assert all(layer._compiled_call_impl is None for layer in packed.encoder_layers(network.model))
    batch = runtime.prepare([np.arange(5, 45)])
    assert np.isfinite(runtime.finish(runtime.run(batch), batch)[0]).all()


def test_what_cannot_be_packed_is_padded(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_checkpoint(checkpoint)
    model = loaded.model.to(torch.bfloat16)
    inputs = torch.arange(5, 35)[None]
    expected = model(inputs).logits

    def broken(network: PackedNetwork, device: torch.device) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(packed, "missing", lambda config, device: "this GPU is old")
    assert isinstance(load._on_cuda(model, CPU, loaded), TorchRuntime)
    assert "this GPU is old; running padded batches, which is slower" in caplog.text
    monkeypatch.setattr(packed, "missing", lambda config, device: None)
    monkeypatch.setattr(cuda, "CudaRuntime", broken)
    assert isinstance(load._on_cuda(model, CPU, loaded), TorchRuntime)
    assert "windows cannot be packed here (no kernel image is available)" in caplog.text
    assert torch.equal(model(inputs).logits, expected)


def test_numbers_too_large_are_an_error(tiny: Callable[[str], Path], fake_cuda: FakeCuda) -> None:
    model = random_model(tiny("bert")).half()
    runtime = CudaRuntime(PackedNetwork(model), CPU, fuse=False)
    batch = runtime.prepare([np.arange(5, 45)])
    runtime.finish(runtime.run(batch), batch)
    model.bert.encoder.layer[0].intermediate.dense.bias.data.fill_(60_000.0)
    model.bert.encoder.layer[0].output.dense.weight.data.fill_(60_000.0)
    with pytest.raises(CheckpointError, match=r"cpu-float16: .* too large for this precision; use precision='bfloat16'"):
        runtime.finish(runtime.run(batch), batch)


def test_auto_takes_float16_on_a_gpu() -> None:
    assert runtimes.choose("auto", "auto", on_cpu=False) == ("torch", "float16")
    assert runtimes.choose("torch", "bfloat16", on_cpu=False) == ("torch", "bfloat16")
    with pytest.raises(CheckpointError, match="float16 is for GPUs"):
        runtimes.choose("torch", "float16", on_cpu=True)
