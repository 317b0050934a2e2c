from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, BertConfig, BertForTokenClassification

from casualty_ner import Extractor
from casualty_ner.checkpoint import Checkpoint, WindowSize
from casualty_ner.errors import CheckpointError, UnsupportedError
from casualty_ner.export import agreement, export
from casualty_ner.labels import TAG_IDS, TAGS
from casualty_ner.runtimes import native
from casualty_ner.runtimes.native import build
from casualty_ner.runtimes.torch import TorchRuntime
from tests.tiny import texts

SIZES = {
    "a head of 32": {"hidden_size": 32, "num_attention_heads": 1, "intermediate_size": 64},
    "three heads, nothing a power of two": {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 160},
    "heads of 64": {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 96},
    "as MiniLM": {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "as BERT base": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
BATCHES = ([1], [512], [33, 1, 64, 7, 250, 32], [16, 17, 15], [31] * 9)


@pytest.fixture(scope="module")
def compiled() -> None:
    try:
        build.library()
    except UnsupportedError as error:
        pytest.skip(str(error))


def random_bert(layers: int = 2, peaked: float = 1, **size: int) -> Checkpoint:
    """A network in which every weight matters: biases and norms are random too. `peaked` makes attention choose: with 8
    scores are so large that their exponentials would overflow, with 1 they are not."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=300, max_position_embeddings=512, num_hidden_layers=layers, num_labels=len(TAGS), **size)
    model = BertForTokenClassification(config).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith("bias"):
                weights.normal_(0, 0.2)
            elif "LayerNorm" in name:
                weights.normal_(1, 0.2)
            elif ".query." in name or ".key." in name:
                weights.normal_(0, peaked * weights.shape[1] ** -0.5)
            else:
                weights.normal_(0, weights.shape[1] ** -0.5)
    order = tuple(range(len(TAGS)))
    return Checkpoint(
        tokenizer=None,
        window=WindowSize(512, 128),
        tag_order=order,
        config=config,
        calibration=None,
        metadata={},
        location="random",
        model=model,
    )


def scores(runtime: native.NativeRuntime | TorchRuntime, windows: list[np.ndarray]) -> list[np.ndarray]:
    batch = runtime.prepare(windows)
    return runtime.finish(runtime.run(batch), batch)


def some_windows(lengths: list[int]) -> list[np.ndarray]:
    chance = np.random.default_rng(len(lengths))
    return [chance.integers(0, 300, length) for length in lengths]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("peaked", [1, 8])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_it_is_as_close_to_float32_as_torch_in_bfloat16_is(size: dict[str, int], peaked: float) -> None:
    checkpoint = random_bert(peaked=peaked, **size)
    ours = native.NativeRuntime(checkpoint)
    reference = TorchRuntime(checkpoint.model, torch.device("cpu"), 0)
    windows = [window for lengths in BATCHES for window in some_windows(lengths)]
    exact = [scores(reference, [window])[0] for window in windows]
    found = [one for lengths in BATCHES for one in scores(ours, some_windows(lengths))]
    rounding = TorchRuntime(checkpoint.model.to(torch.bfloat16), torch.device("cpu"), 0)
    rounded = [scores(rounding, [window])[0] for window in windows]
    assert [one.shape for one in found] == [one.shape for one in exact]
    error = np.concatenate(found) - np.concatenate(exact)
    allowed = np.concatenate(rounded) - np.concatenate(exact)
    assert np.sqrt((error**2).mean()) < 1.1 * np.sqrt((allowed**2).mean())
    assert abs(error).max() < 1.5 * abs(allowed).max()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("peaked", [1, 8])
@pytest.mark.parametrize("size", ["as MiniLM", "heads of 64"])
def test_what_a_window_gets_does_not_depend_on_the_others_to_the_last_bit(size: str, peaked: float) -> None:
    runtime = native.NativeRuntime(random_bert(peaked=peaked, **SIZES[size]))
    for lengths in BATCHES:
        windows = some_windows(lengths)
        together = scores(runtime, windows)
        for one, window in zip(together, windows, strict=True):
            assert np.array_equal(one, scores(runtime, [window])[0])
        for one, other in zip(together, scores(runtime, windows[::-1])[::-1], strict=True):
            assert np.array_equal(one, other)


@pytest.mark.usefixtures("compiled")
def test_many_threads_share_one_network() -> None:
    runtime = native.NativeRuntime(random_bert(**SIZES["as MiniLM"])).with_workers(4)
    assert runtime.workers == 4
    batches = [some_windows([5 * number + 3, 40]) for number in range(24)]
    expected = [scores(runtime, batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(lambda batch: scores(runtime, batch), batches), expected, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(found, one, strict=True))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("windows", [[np.array([300])], [np.array([-1])], [np.zeros(513, dtype=np.int64)]])
def test_what_there_is_no_embedding_for_is_an_error(windows: list[np.ndarray]) -> None:
    runtime = native.NativeRuntime(random_bert(**SIZES["a head of 32"]))
    with pytest.raises(CheckpointError, match="an id or a length that the model has no embedding for"):
        scores(runtime, windows)


@pytest.mark.usefixtures("compiled")
def test_a_trained_checkpoint_is_read_as_it_is_and_finds_the_same(checkpoint: Path) -> None:
    some = texts(60)
    expected = Extractor.from_pretrained(checkpoint, device="cpu", runtime="torch", precision="float32").extract(some)
    extractor = Extractor.from_pretrained(checkpoint, device="cpu")
    assert extractor.runtime.name == "native-bfloat16"  # which auto takes
    found = extractor.extract(some)
    assert agreement(expected, found) > 0.95
    assert [extractor.extract(text) for text in some] == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "this model is of type 'roberta'"),
        ({"hidden_act": "relu"}, "with the activation 'gelu', and this one has 'relu'"),
        ({"num_attention_heads": 2}, "multiples of 32, and this one's size of a head is 16"),
        ({"intermediate_size": 100}, "multiples of 32, and this one's intermediate_size is 100"),
        ({"is_decoder": True}, "attention in both directions"),
    ],
)
def test_another_architecture_is_refused_with_advice(change: dict[str, object], message: str) -> None:
    config = BertConfig(hidden_size=32, num_attention_heads=1, intermediate_size=64)
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(UnsupportedError, match=f"{message}.*; use runtime='openvino' or 'torch'"):
        native.require(config)


def test_what_is_refused_is_run_by_another_engine_and_logged(
    tiny: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = AutoConfig.from_pretrained(tiny("bert"), id2label=dict(enumerate(TAGS)), label2id=TAG_IDS, hidden_act="relu")
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny("bert")).save_pretrained(tmp_path)
    (tmp_path / "casualty_ner.json").write_text(json.dumps({"format_version": 1, "window": {"size": 64, "overlap": 16}}))
    with caplog.at_level(logging.INFO):
        assert Extractor.from_pretrained(tmp_path, device="cpu").runtime.name.split("-")[0] in ("openvino", "torch")
    assert "taking another than the fastest: runtime 'native' runs BERT encoders only" in caplog.text
    with pytest.raises(UnsupportedError, match="this one has 'relu'"):
        Extractor.from_pretrained(tmp_path, device="cpu", runtime="native")
    with pytest.raises(CheckpointError, match="runtime 'native' has no precision 'float32'; choose one of auto, bfloat16"):
        Extractor.from_pretrained(tmp_path, device="cpu", runtime="native", precision="float32")


def test_there_is_nothing_to_export(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="native and torch load the checkpoint itself"):
        export(
            checkpoint=checkpoint,
            runtime="native",
            precision="auto",
            data=corpus,
            split="test",
            out=tmp_path / "out",
            max_loss=1.0,
        )


# ---- compiling ----


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, a processor that has all it needs, and quick compiling."""
    monkeypatch.setenv("CASUALTY_NER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build, "cpu_flags", lambda: frozenset(build.UNITS))
    monkeypatch.setattr(build, "FLAGS", tuple(flag for flag in build.FLAGS if flag != "-O3"))
    yield tmp_path / "cache"


@pytest.fixture
def compiler() -> None:
    try:
        build._compiler()
    except UnsupportedError as error:
        pytest.skip(str(error))


def test_a_processor_without_the_units(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "cpu_flags", lambda: frozenset(build.UNITS) - {"amx_bf16"})
    with pytest.raises(UnsupportedError, match="needs a processor with AMX; this one lacks amx_bf16; use runtime="):
        build.library.__wrapped__()


def test_no_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UnsupportedError, match=r"needs a C\+\+ compiler .* there is none; install g\+\+"):
        build._load()
    monkeypatch.setenv("CXX", "icx -O1")
    with pytest.raises(UnsupportedError, match="there is no icx; install"):
        build._load()


def test_a_compiler_that_cannot(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(UnsupportedError, match=r"false cannot compile it: exit code 1; g\+\+ from 11"):
        build._load()
    assert not list(fresh.iterdir())


@pytest.mark.usefixtures("compiler")
def test_it_is_compiled_once_and_a_damaged_library_again(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        build._load()
        build._load()
        assert caplog.text.count("compiling runtime native, once for this machine") == 1
        (kept,) = fresh.iterdir()
        other = tmp_path / "damaged"
        other.mkdir()
        (other / kept.name).write_bytes(b"broken")
        monkeypatch.setenv("CASUALTY_NER_CACHE", str(other))
        build._load()
    assert f"{other / kept.name}: cannot be loaded" in caplog.text
    assert (other / kept.name).stat().st_size > 10_000
    assert [path.name for path in other.iterdir()] == [kept.name]


@pytest.mark.usefixtures("compiler")
def test_a_cache_that_cannot_be_written_costs_time_only(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CASUALTY_NER_CACHE", "/proc/none")
    build._load()
    assert "compiled at every start; set CASUALTY_NER_CACHE" in caplog.text


@pytest.mark.usefixtures("compiled")
def test_processes_that_compile_at_the_same_time(tmp_path: Path) -> None:
    code = "from casualty_ner.runtimes.native import build; build.FLAGS = build.FLAGS[:1] + build.FLAGS[2:]; build.library()"
    environment = {"CASUALTY_NER_CACHE": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 1
