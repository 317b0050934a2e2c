from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForTokenClassification

from casualty_ner import Extractor
from casualty_ner.dataset import load_articles
from eval import benchmark
from eval.baselines import sorted_loop, stock_pipeline
from eval.limits import MatmulLimit, linear_shapes, operations
from tests.tiny import texts


def test_the_command_measures_a_model_without_training(
    tiny: Callable[[str], Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = ["pipeline, batch 1", "sorted loop", "torch-float32", "openvino-float32"]
    monkeypatch.setattr(benchmark, "system_names", lambda device: [*some, "onnx-bfloat16"])
    monkeypatch.setattr(benchmark, "_LEAST_SECONDS", 0.05)
    arguments = ["--random-weights", "--checkpoint", str(tiny("bert")), "--data", str(corpus), "--repeats", "2", "--profile"]
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    # The tiny encoder has fewer positions than the default window, which the message says; a window of its own is for trained ones.
    assert benchmark.main([*arguments, "--out", str(tmp_path / "none")]) == 2
    assert "a window of 256 tokens is longer than the 128 positions" in capsys.readouterr().err


def test_the_report_of_a_trained_checkpoint(
    checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = ["pipeline, batch 1", "sorted loop", "torch-float32", "openvino-float32"]
    monkeypatch.setattr(benchmark, "system_names", lambda device: [*some, "onnx-bfloat16"])
    monkeypatch.setattr(benchmark, "_LEAST_SECONDS", 0.05)
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


def test_random_weights_make_a_checkpoint_that_everything_loads(tiny: Callable[[str], Path]) -> None:
    with benchmark.random_checkpoint(str(tiny("bert"))) as folder:
        assert AutoModelForTokenClassification.from_pretrained(folder).config.num_labels == 9
        assert len(stock_pipeline(folder, "cpu", 2)(["Ten died.", "Four were hurt."])) == 2


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_limit_is_measured_and_leaves_the_threads_as_they_were(dtype: str) -> None:
    before = torch.get_num_threads()
    assert MatmulLimit([(64, 128), (128, 64), (64, 9)], dtype, "cpu").measure(0.01) > 0
    assert torch.get_num_threads() == before
