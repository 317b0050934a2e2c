from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from casualty_ner import Extractor, extractor
from casualty_ner.dataset import load_articles
from casualty_ner.errors import CheckpointError
from casualty_ner.runtimes import packed
from eval import benchmark, stages, untrained
from eval.baselines import sorted_loop, stock_pipeline
from eval.limits import MatmulLimit, linear_shapes, operations
from eval.untrained import random_checkpoint
from tests.library.fakes import FakeCuda, hash_extractor
from tests.tiny import texts


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_LEAST_SECONDS", 0.05)
    monkeypatch.setattr(stages, "_SECONDS", 0.05)


def test_the_command_measures_a_model_without_training(
    tiny: Callable[[str], Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = ["pipeline, batch 1", "sorted loop", "torch-float32"]
    monkeypatch.setattr(benchmark, "system_names", lambda device: some)
    arguments = ["--random-weights", "--checkpoint", str(tiny("bert")), "--data", str(corpus), "--repeats", "1", "--profile"]
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert benchmark.main([*arguments, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert [row["name"] for row in report["systems"]] == some
    assert all("f1" not in row for row in report["systems"])  # of nonsense there is none


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--device", "cuda", "--data", str(corpus), "--out", str(tmp_path)]) == 2
    assert "device 'cuda' cannot be used" in capsys.readouterr().err


def test_the_rows_of_a_gpu(checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code as on a GPU, but for CUDA's own, which `FakeCuda` stands for, and the compiler."""
    names = benchmark.system_names("cuda")
    FakeCuda(monkeypatch)
    monkeypatch.setattr(packed, "missing", lambda config, device: None)
    monkeypatch.setattr(packed.PackedNetwork, "compile", lambda network: None)
    monkeypatch.setattr(benchmark, "system_names", lambda device: names)
    cold = {"cold_start_seconds": 1.0, "peak_memory_mb": 2.0, "peak_gpu_memory_mb": 3.0}
    monkeypatch.setattr(benchmark, "_probe_apart", lambda *_: cold)
    facts = benchmark.machine("cpu")
    monkeypatch.setattr(benchmark, "machine", lambda device: {**facts, "gpu": "Fake H100", "cuda": "13.0"})
    out = tmp_path / "report"
    arguments = ["--checkpoint", str(checkpoint), "--data", str(corpus), "--repeats", "1", "--profile", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    report = json.loads((out / "benchmark.json").read_text())
    rows = {row["name"]: row for row in report["systems"]}
    assert set(rows) | {"torch-bfloat16", "torch-float16"} == set(names)  # these two are loaded as for a real GPU
    assert all(rows[step]["agreement"] > 0.99 for step in benchmark.STEPS)
    assert rows["packed-float16"]["padding"] < 0.5
    stock = [row["times_stock"] for name, row in rows.items() if name.startswith("pipeline")]
    assert len(stock) == 6
    assert max(stock) == 1
    alone = rows["recorded-float16"]["alone"]
    assert alone["network"] > 0
    assert alone["host"] > 0
    markdown = (out / "benchmark.md").read_text()
    assert markdown.startswith("Fake H100, CUDA 13.0; ")
    assert "| fused-float16 |" in markdown
    widths = [line.count("|") for line in markdown.splitlines() if line.startswith("|")]
    assert set(widths) == {widths[0], 6}  # every row is as wide as its header


def test_the_report_of_a_trained_checkpoint(
    checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = ["pipeline, batch 1", "sorted loop", "torch-float32", "openvino-float32"]
    monkeypatch.setattr(benchmark, "system_names", lambda device: [*some, "onnx-bfloat16"])
    out = tmp_path / "report"
    arguments = ["--checkpoint", str(checkpoint), "--data", str(corpus), "--repeats", "2", "--profile", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    assert {file.name for file in out.iterdir()} == {"benchmark.json", "benchmark.md", "benchmark.png"}
    report = json.loads((out / "benchmark.json").read_text())
    assert (out / "benchmark.md").read_text() in capsys.readouterr().out
    assert "has no precision 'bfloat16'" in report["skipped"]["onnx-bfloat16"]
    rows = {row["name"]: row for row in report["systems"]}
    assert list(rows) == some
    for row in rows.values():
        rate = row["tokens_per_second"]
        assert 0 < rate["low"] <= rate["median"] <= rate["high"]
        assert len(rate["repeats"]) == 2
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
        assert row["cold_start_seconds"] > 0
        assert 50 < row["peak_memory_mb"] < 4000
        assert 0 <= row["agreement"] <= 1
    assert rows["torch-float32"]["agreement"] == 1
    assert rows["openvino-float32"]["agreement"] > 0.99
    assert rows["pipeline, batch 1"]["times_stock"] == 1
    assert 0 <= rows["openvino-float32"]["padding"] < 0.5
    assert set(rows["torch-float32"]["profile"]) == {"tokenise", "run", "decode", "together"}
    tokens = sum(
        map(
            len,
            Extractor.from_pretrained(checkpoint).windower.tokenize([one.text for one in load_articles(corpus / "test.jsonl")]),
        )
    )
    assert report["data"]["tokens"] == tokens


def test_random_weights_find_about_as_much_as_is_annotated(tiny: Callable[[str], Path], corpus: Path) -> None:
    articles = load_articles(corpus / "train.jsonl")
    with random_checkpoint(str(tiny("bert")), articles) as folder:
        assert AutoModelForTokenClassification.from_pretrained(folder).config.num_labels == 9
        assert len(stock_pipeline(folder, "cpu", 2)(["Ten died.", "Four were hurt."])) == 2
        extractor = Extractor.from_pretrained(folder, device="cpu", runtime="torch", precision="float32")
        assert (extractor.windower.size, extractor.windower.overlap) == (128, 32)
        found = extractor.extract([article.text for article in articles])
    assert 0.8 < sum(map(len, found)) / sum(len(article.spans) for article in articles) < 1.2


def test_random_weights_need_nothing_that_is_not_there(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nowhere(name: str) -> None:
        raise CheckpointError(f"{name}: no such folder, and the hub did not give a model of that name")

    monkeypatch.setattr(untrained, "resolve", nowhere)
    articles = load_articles(corpus / "train.jsonl")
    with random_checkpoint(untrained.ENCODER, articles) as folder:
        extractor = Extractor.from_pretrained(folder, device="cpu", runtime="torch", precision="float32")
        assert extractor.runtime.architecture == "bert 6x384"
        assert extractor.windower.size == 512
        found = extractor.extract([article.text for article in articles])
        assert sum(map(len, found)) > len(articles)
    assert "a tokenizer is learnt from the articles" in caplog.text
    with pytest.raises(CheckpointError, match="no such folder"), random_checkpoint("some/other", articles):
        pass


def test_the_host_alone_finds_the_same(checkpoint: Path, corpus: Path) -> None:
    extractor = Extractor.from_pretrained(checkpoint, device="cpu", runtime="torch")
    some = [article.text for article in load_articles(corpus / "test.jsonl")]
    remembered = stages.Remembered(extractor.runtime)
    remembered.learn(stages._windows(extractor, extractor.windower.tokenize(some)), 4096)
    alone = Extractor(extractor.windower, remembered, extractor.tag_order, calibration=extractor.calibration)
    expected = extractor.extract(some)
    assert [[one.span for one in of] for of in alone.extract(some)] == [[one.span for one in of] for of in expected]
    assert stages.host_rate(extractor, some) > 0
    assert stages.network_rate(extractor, some) > 0


def test_each_pass_begins_with_nothing_remembered(tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "_CHUNK_CHARS", 2000)
    made = hash_extractor(AutoTokenizer.from_pretrained(tiny("bert")))
    some = texts(30)
    tokenised: list[str] = []
    encode = made.windower._encode

    def spy(parts: list[str]) -> list:
        tokenised.extend(piece for part in parts for piece in part.split(" "))
        return encode(parts)

    monkeypatch.setattr(made.windower, "_encode", spy)
    made.extract(some)
    distinct = len(tokenised)
    made.extract(some)
    assert len(tokenised) == distinct
    assert len(list(made.stream(stages.passes(made, some, 3)))) == 90
    assert len(tokenised) > 3.5 * distinct
    measured = benchmark.Measured("ours", benchmark._spans_of(made), made, some)
    measured._passes = 3
    tokenised.clear()
    measured.run([])
    assert len(tokenised) > 2.7 * distinct
    tokenised.clear()
    measured.run([some[0]] * 5)
    assert len(tokenised) > 2.7 * distinct + 5 * len(set(some[0].split(" ")))  # the single texts too
    tokenised.clear()
    benchmark.profile(made, some)
    assert len(tokenised) == 2 * distinct  # for the stage tokenise, and for all together


def test_the_loop_by_hand_reads_all_of_a_long_text(checkpoint: Path) -> None:
    text = " ".join(texts(6))
    (found,) = sorted_loop(str(checkpoint), "cpu", size=64, overlap=16)([text])
    ours = Extractor.from_pretrained(checkpoint, device="cpu", runtime="torch").extract(text)
    assert len(set(found) & {entity.span for entity in ours}) > len(ours) / 2
    assert found[-1].end > len(text) * 0.9


def test_operations_are_those_of_the_linear_layers_and_of_attention(checkpoint: Path) -> None:
    model = AutoModelForTokenClassification.from_pretrained(checkpoint)
    shapes = linear_shapes(model)
    assert len(shapes) == 2 * 6 + 1  # two layers: query, key, value, output, and the two of the feed-forward; the classifier
    linear = 2 * (2 * (4 * 32 * 32 + 2 * 32 * 64) + 32 * 9)
    assert operations(model, 50) == linear + 4 * 2 * 32 * 50


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_a_limit_is_measured_and_leaves_the_threads_as_they_were(dtype: str) -> None:
    before = torch.get_num_threads()
    assert MatmulLimit([(64, 128), (128, 64), (64, 9)], dtype, "cpu").measure(0.01) > 0
    assert torch.get_num_threads() == before
