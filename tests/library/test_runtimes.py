from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

from casualty_ner import Extractor, machine, runtimes, tuning
from casualty_ner.batching import group_by_cost, pad, padded_length, unpad
from casualty_ner.checkpoint import load_checkpoint, load_description
from casualty_ner.cli import main
from casualty_ner.errors import CheckpointError, OutputError
from casualty_ner.export import agreement, export
from casualty_ner.labels import TAG_IDS, TAGS
from casualty_ner.runtimes.load import load_runtime
from casualty_ner.runtimes.torch import TorchRuntime
from tests.tiny import FAMILIES, texts

ENGINES = ("openvino", "onnx")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASUALTY_NER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def exports(checkpoint: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """An export of the tiny checkpoint for a runtime and precision; made once."""
    root = tmp_path_factory.mktemp("exports")

    def get(runtime: str, precision: str) -> Path:
        out = root / f"{runtime}-{precision}"
        if not out.exists():
            export(checkpoint=checkpoint, runtime=runtime, precision=precision, data=corpus, split="test", out=out, max_loss=1.0)
        return out

    return get


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.sampled_from([1, 16]))
def test_padding_and_back(lengths: list[int], multiple: int) -> None:
    windows = [np.arange(1, length + 1) for length in lengths]
    batch = pad(windows, 0, multiple)
    assert batch.ids.shape == batch.mask.shape == (len(lengths), padded_length(max(lengths), multiple))
    assert batch.ids.shape[1] % multiple == 0
    assert np.array_equal(batch.mask, batch.ids > 0)
    for window, back in zip(windows, unpad(batch.ids, batch.lengths), strict=True):
        assert np.array_equal(window, back)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("runtime", ENGINES)
def test_an_engine_computes_what_torch_does_in_batches_of_any_shape(
    tiny: Callable[[str], Path], tmp_path: Path, runtime: str, family: str
) -> None:
    torch.manual_seed(1)
    labels = {"id2label": dict(enumerate(TAGS)), "label2id": TAG_IDS}
    AutoModelForTokenClassification.from_config(AutoConfig.from_pretrained(tiny(family), **labels)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny(family)).save_pretrained(tmp_path)
    (tmp_path / "casualty_ner.json").write_text(json.dumps({"format_version": 1, "window": {"size": 64, "overlap": 16}}))
    loaded = load_checkpoint(tmp_path)
    reference = TorchRuntime(loaded.model, torch.device("cpu"), loaded.pad_id)
    engine = load_runtime(load_description(tmp_path), "cpu", runtime, "float32")
    chance = np.random.default_rng(0)
    for lengths in ([30], [64, 41, 7], [5, 5], [17]):
        windows = [chance.integers(5, 300, length) for length in lengths]
        batch = reference.prepare(windows)
        expected = reference.finish(reference.run(batch), batch)
        batch = engine.prepare(windows)
        for one, other in zip(expected, engine.finish(engine.run(batch), batch), strict=True):
            assert other.shape == one.shape
            assert other.dtype == np.float32
            assert np.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    ("runtime", "precision"), [("openvino", "float32"), ("openvino", "int8"), ("onnx", "float32"), ("onnx", "int8")]
)
def test_an_export_loads_like_a_checkpoint_and_finds_the_same(
    exports: Callable[[str, str], Path], checkpoint: Path, runtime: str, precision: str
) -> None:
    some = texts(30)
    expected = Extractor.from_pretrained(checkpoint, device="cpu", runtime="torch", precision="float32").extract(some)
    extractor = Extractor.from_pretrained(exports(runtime, precision))
    assert extractor.runtime.name == f"{runtime}-{precision}"
    found = extractor.extract(some)
    assert agreement(expected, found) > (0.8 if precision == "int8" else 0.999)
    alone = [entity.span for text in some for entity in extractor.extract(text)]
    assert precision == "int8" or alone == [entity.span for entities in found for entity in entities]
    record = json.loads((exports(runtime, precision) / "casualty_ner.json").read_text())["export"]
    assert 0 <= record["guard"]["f1_export"] <= 1
    assert record["guard"]["articles"] == 6


@pytest.mark.skipif(not machine.has_bfloat16(), reason="no bfloat16 units here")
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_bfloat16_finds_almost_the_same(checkpoint: Path, runtime: str) -> None:
    some = texts(40)
    expected = Extractor.from_pretrained(checkpoint, device="cpu", runtime="torch", precision="float32").extract(some)
    extractor = Extractor.from_pretrained(checkpoint, device="cpu", runtime=runtime)
    assert extractor.runtime.name.startswith(runtime)
    reduced = Extractor.from_pretrained(checkpoint, device="cpu", runtime=runtime, precision="bfloat16").extract(some)
    assert agreement(expected, reduced) > 0.95


def test_auto_takes_the_fastest_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = {"torch", "openvino"}
    monkeypatch.setattr(runtimes, "installed", lambda runtime: runtime in there)
    monkeypatch.setattr(runtimes, "has_bfloat16", lambda: True)
    assert runtimes.choose("auto", "auto", on_cpu=True) == ("openvino", "bfloat16")
    assert runtimes.choose("torch", "float32", on_cpu=True) == ("torch", "float32")
    there.remove("openvino")
    assert runtimes.choose("auto", "auto", on_cpu=True) == ("torch", "bfloat16")
    monkeypatch.setattr(runtimes, "has_bfloat16", lambda: False)
    assert runtimes.choose("auto", "auto", on_cpu=True) == ("torch", "float32")


@pytest.mark.parametrize(
    ("runtime", "precision", "on_cpu", "message"),
    [
        ("warp", "auto", True, "no runtime 'warp'; choose one of auto, native, torch, openvino, onnx"),
        ("onnx", "bfloat16", True, "runtime 'onnx' has no precision 'bfloat16'; choose one of auto, float32, int8"),
        ("openvino", "auto", False, "runs on the CPU only"),
        ("onnx", "auto", True, r"not installed; install it with: pip install 'casualty-ner\[onnx\]'"),
        ("torch", "bfloat16", True, "no units for bfloat16"),
    ],
)
def test_what_cannot_be_run_says_what_to_do(
    runtime: str, precision: str, on_cpu: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "installed", lambda name: name != "onnx")
    monkeypatch.setattr(runtimes, "has_bfloat16", lambda: False)
    with pytest.raises(CheckpointError, match=message):
        runtimes.choose(runtime, precision, on_cpu)


def test_int8_needs_an_export(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="make an export with 'casualty-ner export --runtime openvino --precision int8"):
        Extractor.from_pretrained(checkpoint, device="cpu", runtime="openvino", precision="int8")


def test_openvino_is_imported_without_its_telemetry() -> None:
    code = (
        "import sys; from casualty_ner.runtimes.openvino import openvino; openvino();"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "openvino_model.bin").write_bytes(b"broken"),
            "openvino_model.bin: SHA-256 is .* the file is damaged",
        ),
        (lambda folder: (folder / "openvino_model.xml").unlink(), "openvino_model.xml: SHA-256 is no such file"),
        (lambda folder: _edit_export(folder, files={}, spoil=True), "cannot read it: .*; export the checkpoint again"),
        (lambda folder: _edit_export(folder, runtime="warp"), "an export for warp in float32, unknown to this package"),
        (lambda folder: _edit_export(folder, files=None), "does not say what the export is"),
    ],
)
def test_a_spoilt_export_is_one_clear_error(
    exports: Callable[[str, str], Path], tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    for file in exports("openvino", "float32").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        Extractor.from_pretrained(folder)


def _edit_export(folder: Path, spoil: bool = False, **values: object) -> None:
    path = folder / "casualty_ner.json"
    metadata = json.loads(path.read_text())
    metadata["export"].update(values)
    path.write_text(json.dumps(metadata))
    if spoil:
        (folder / "openvino_model.xml").write_text("<net")


def test_a_corrupt_onnx_file(exports: Callable[[str, str], Path], tmp_path: Path) -> None:
    for file in exports("onnx", "float32").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"broken")
    _edit_export(tmp_path, files={})
    with pytest.raises(CheckpointError, match=r"ONNX Runtime .* cannot read the model"):
        Extractor.from_pretrained(tmp_path)


def test_an_unquantised_openvino_export_computes_in_either_precision(exports: Callable[[str, str], Path]) -> None:
    extractor = Extractor.from_pretrained(exports("openvino", "float32"), precision="float32")
    assert extractor.runtime.name == "openvino-float32"
    if machine.has_bfloat16():
        extractor = Extractor.from_pretrained(exports("openvino", "float32"), precision="bfloat16")
        assert extractor.runtime.name == "openvino-bfloat16"
    with pytest.raises(CheckpointError, match="an export for openvino in float32; for auto in int8 load the checkpoint"):
        Extractor.from_pretrained(exports("openvino", "float32"), precision="int8")


def test_a_bfloat16_export_on_a_processor_without_says_what_to_do(
    exports: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exports("openvino", "float32")
    monkeypatch.setattr(runtimes, "has_bfloat16", lambda: False)
    with pytest.raises(CheckpointError, match=r"no units for bfloat16 .* use precision='float32'"):
        Extractor.from_pretrained(folder, precision="bfloat16")


def test_an_export_is_for_one_engine(exports: Callable[[str, str], Path]) -> None:
    with pytest.raises(CheckpointError, match="an export for openvino in float32; for torch in auto load the checkpoint"):
        Extractor.from_pretrained(exports("openvino", "float32"), runtime="torch")
    with pytest.raises(CheckpointError, match="without weights for torch; give the checkpoint that it was made from"):
        load_checkpoint(exports("openvino", "float32"))


def test_the_guard_refuses_what_loses_too_much(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    with pytest.raises(CheckpointError, match=r"loses .* strict F1 on .*test.jsonl .*, more than -1.0; nothing was written"):
        export(checkpoint=checkpoint, runtime="openvino", precision="float32", data=corpus, split="test", out=out, max_loss=-1.0)
    assert not [path for path in tmp_path.iterdir() if "export" in path.name]
    out.mkdir()
    with pytest.raises(OutputError, match="is there already"):
        export(checkpoint=checkpoint, runtime="openvino", precision="float32", data=corpus, split="test", out=out, max_loss=1.0)


def test_the_commands(checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made"
    arguments = ["--checkpoint", str(checkpoint), "--runtime", "onnx", "--precision", "float32", "--data", str(corpus)]
    assert main(["export", *arguments, "--out", str(out)]) == 0
    assert "100.00% of the entities are the same (6 articles, validation.jsonl)" in capsys.readouterr().out
    text = tmp_path / "a.txt"
    text.write_text(texts(1)[0])
    assert main(["extract", "--checkpoint", str(out), str(text)]) == 0
    found = json.loads(capsys.readouterr().out)["entities"]
    assert main(["extract", "--checkpoint", str(checkpoint), "--runtime", "torch", "--precision", "float32", str(text)]) == 0
    expected = json.loads(capsys.readouterr().out)["entities"]
    assert [(one["start"], one["end"], one["label"]) for one in found] == [
        (one["start"], one["end"], one["label"]) for one in expected
    ]


def test_what_was_calibrated_is_remembered_for_this_machine(
    exports: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tuning, "_SECONDS_EACH", 0.02)
    monkeypatch.setattr(tuning, "BUDGETS", (640, 1280))
    monkeypatch.setattr(tuning, "_WORTH_CHANGING", 0.0)  # the fastest, by however little
    folder = exports("onnx", "float32")
    assert Extractor.from_pretrained(folder).batch_tokens == tuning.DEFAULT_BUDGETS["onnx"]
    best = tuning.calibrate(Extractor.from_pretrained(folder))
    extractor = Extractor.from_pretrained(folder)
    assert (extractor.batch_tokens, extractor.runtime.workers) == (best.batch_tokens, best.workers)
    assert best.batch_tokens in (640, 1024, 1280)
    assert Extractor.from_pretrained(folder, batch_tokens=99).batch_tokens == 99
    monkeypatch.setattr("casualty_ner.runtimes.onnx.cpu_and_cores", lambda: "another machine")
    assert Extractor.from_pretrained(folder).batch_tokens == tuning.DEFAULT_BUDGETS["onnx"]
    tuning.tuning_file().write_text("{broken")
    assert Extractor.from_pretrained(folder).batch_tokens == tuning.DEFAULT_BUDGETS["onnx"]
    assert "run casualty-ner calibrate again" in caplog.text


def test_only_what_is_clearly_faster_changes_a_default(
    exports: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = Extractor.from_pretrained(exports("onnx", "float32"))
    rates = {1024: 100.0, 2048: 109.0, 4096: 50.0}
    monkeypatch.setattr(tuning, "_rate", lambda runtime, windows, budget: rates[budget])
    assert tuning.calibrate(extractor).batch_tokens == 1024
    rates[2048] = 111.0
    assert tuning.calibrate(extractor) == tuning.Tuning(extractor.runtime.workers, 2048, 111.0)
    assert extractor.batch_tokens == 2048


def test_the_first_long_stream_calibrates_once_and_changes_no_result(
    exports: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tuning, "_SECONDS_EACH", 0.02)
    monkeypatch.setattr("casualty_ner.extractor._CHUNK_CHARS", 2_000)
    caplog.set_level("INFO", logger="casualty_ner.tuning")
    folder, some = exports("onnx", "float32"), texts(20)
    extractor = Extractor.from_pretrained(folder)
    alone = [[entity.span for entity in extractor.extract(text)] for text in some]
    assert not tuning.tuning_file().exists()  # none of these was long
    assert [[entity.span for entity in found] for found in extractor.stream(iter(some))] == alone
    assert tuning.tuning_file().exists()
    assert extractor.extract(some) and Extractor.from_pretrained(folder).extract(some)
    assert caplog.text.count("are the fastest here") == 1
    tuning.tuning_file().unlink()
    Extractor.from_pretrained(folder, batch_tokens=700).extract(some)  # who gives a budget gets it
    assert not tuning.tuning_file().exists()


def test_a_stream_goes_on_where_nothing_can_be_remembered(
    exports: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tuning, "_SECONDS_EACH", 0.02)
    monkeypatch.setattr("casualty_ner.extractor._CHUNK_CHARS", 2_000)
    monkeypatch.setenv("CASUALTY_NER_CACHE", "/proc/none")
    assert len(Extractor.from_pretrained(exports("onnx", "float32")).extract(texts(20))) == 20
    assert "set CASUALTY_NER_CACHE" in caplog.text


def test_a_cache_that_cannot_be_written(exports: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_SECONDS_EACH", 0.02)
    monkeypatch.setenv("CASUALTY_NER_CACHE", "/proc/none")
    with pytest.raises(OutputError, match="set CASUALTY_NER_CACHE"):
        tuning.calibrate(Extractor.from_pretrained(exports("onnx", "float32")))


def test_a_huge_text_and_a_great_many(exports: Callable[[str, str], Path]) -> None:
    extractor = Extractor.from_pretrained(exports("openvino", "float32"))
    piece = texts(1)[0]
    long = "\n\n".join([piece] * (2_000_000 // len(piece)))
    last = extractor.extract(long)[-1]
    assert len(long) - last.end < len(piece)
    assert len(extractor.extract(["Ten died."] * 5_000)) == 5_000


def test_groups_of_one_when_nothing_fits() -> None:
    assert group_by_cost([50, 40], 10) == [[0], [1]]


def test_the_machine_is_named_and_its_cores_counted() -> None:
    assert machine.cores() >= 1
    assert machine.cpu_name()
    assert machine.cpu_and_cores().startswith(machine.cpu_name())


def test_converting_prints_nothing_between_the_results(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("Ten people were killed.")
    command = ["casualty_ner.cli", "--verbose", "extract", "--checkpoint", str(checkpoint), "--runtime", "openvino", str(text)]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["id"] == str(text)
