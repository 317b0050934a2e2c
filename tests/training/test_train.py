from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, PreTrainedModel

from casualty_ner import Extractor
from casualty_ner.dataset import load_articles
from casualty_ner.errors import CheckpointError, ConfigError, RecordError
from casualty_ner.labels import LABELS
from casualty_ner.records import read_records, write_records
from casualty_ner.runtimes.packed import compile_layers
from tests.conftest import ROOT, tiny_overrides
from tests.tiny import FAMILIES, texts
from training import train as train_module
from training.config import load_config
from training.train import _draw, limit_share, train

CONFIGS = {"bert": "conflibert", "modernbert": "modernbert", "deberta-v3": "deberta-v3", "xlm-roberta": "xlm-roberta"}


def command(*arguments: str, launcher: tuple[str, ...] = ("-m",)) -> list[str]:
    return [sys.executable, *launcher, "training.train", "--config", str(ROOT / "configs" / "minilm.yaml"), *arguments]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_saves_loads_and_gives_exact_offsets(
    family: str, tiny: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    overrides = [*tiny_overrides(tiny(family), corpus, tmp_path), "training.epochs=6"]
    folder = train(load_config(ROOT / "configs" / f"{CONFIGS[family]}.yaml", overrides))
    assert folder == tmp_path / CONFIGS[family]
    losses = [entry["loss"] for _, entry in read_records(folder / "history.jsonl") if "loss" in entry]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    some = texts(8)
    for text, entities in zip(some, Extractor.from_pretrained(folder, device="cpu").extract(some), strict=True):
        assert all(text[entity.start : entity.end] == entity.text for entity in entities)


def test_a_run_folder_holds_what_a_reader_needs(checkpoint: Path, corpus: Path) -> None:
    names = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()}
    assert names >= {
        "README.md",
        "casualty_ner.json",
        "config.json",
        "config.training.yaml",
        "curve.png",
        "data.json",
        "environment.json",
        "history.jsonl",
        "model.safetensors",
        "report/test/report.json",
        "report/test/report.html",
        "report/validation/predictions.jsonl",
        "tokenizer.json",
        "train.log",
    }
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl")) or name.startswith("checkpoints")]
    assert not list(checkpoint.parent.glob(".*"))
    assert yaml.safe_load((checkpoint / "config.training.yaml").read_text())["training"]["seed"] == 13
    assert json.loads((checkpoint / "data.json").read_text())["train"]["articles"] == len(load_articles(corpus / "train.jsonl"))
    facts = json.loads((checkpoint / "casualty_ner.json").read_text())
    assert facts["window"] == {"size": 64, "overlap": 16}
    assert 0 <= facts["training"]["padding_share"] < 0.3
    assert facts["training"]["tokens_per_second"] > 0
    assert facts["training"]["articles"] == len(load_articles(corpus / "train.jsonl"))
    assert facts["calibration"].keys() == set(LABELS)
    stored = json.loads((checkpoint / "report" / "test" / "report.json").read_text())["stored_thresholds"]
    assert stored == {label: scale["threshold"] for label, scale in facts["calibration"].items()}
    card = (checkpoint / "README.md").read_text()
    micro = json.loads((checkpoint / "report" / "test" / "report.json").read_text())["strict"]["micro"]
    low, high = micro["interval"]["f1"]
    assert f"{micro['f1']:.3f} | {low:.3f}–{high:.3f} | {micro['annotated']} |" in card
    assert (checkpoint / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_draw_of_articles_lies_within_a_larger_one(corpus: Path, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    articles = load_articles(corpus / "train.jsonl")
    small, large = (_draw(articles, count, corpus / "train.jsonl") for count in (5, 9))
    assert (len(small), len(large)) == (5, 9)
    assert {one.id for one in small} < {one.id for one in large}
    overrides = [*tiny_overrides(tiny("bert"), corpus, tmp_path), f"data.articles={len(articles) + 1}"]
    with pytest.raises(ConfigError, match=r"data.articles: .* are asked for"):
        train(load_config(ROOT / "configs" / "minilm.yaml", overrides))


def test_frozen_embeddings_stay_as_they_were(tiny: Callable[[str], Path], corpus: Path, tmp_path: Path) -> None:
    overrides = tiny_overrides(tiny("bert"), corpus, tmp_path)
    folder = train(load_config(ROOT / "configs" / "minilm.yaml", [*overrides, "encoder.freeze_embeddings=true"]))
    assert folder is not None
    before, after = (load_file(one / "model.safetensors") for one in (tiny("bert"), folder))
    assert torch.equal(before["embeddings.word_embeddings.weight"], after["bert.embeddings.word_embeddings.weight"])
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(before[name], after[f"bert.{name}"])


def test_compiled_it_learns_the_same(
    tiny: Callable[[str], Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def traced(model: PreTrainedModel) -> None:
        compiled.append(model)
        compile_layers(model, backend="aot_eager")  # all of torch.compile but the making of machine code

    monkeypatch.setattr(train_module, "compile_layers", traced)
    overrides = tiny_overrides(tiny("bert"), corpus, tmp_path)
    folders = [
        train(load_config(ROOT / "configs" / "minilm.yaml", [*overrides, f"run.name=compile-{name}", f"training.compile={name}"]))
        for name in ("false", "true")
    ]
    assert len(compiled) == 1
    plain, fused = (load_file(folder / "model.safetensors") for folder in folders if folder)
    assert plain.keys() == fused.keys()
    assert all(torch.allclose(plain[name], fused[name], atol=1e-3) for name in plain)


def test_without_a_compiler_the_key_is_named(
    tiny: Callable[[str], Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(graph: object, inputs: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(train_module, "compile_layers", lambda model: compile_layers(model, backend=no_compiler))
    overrides = [*tiny_overrides(tiny("bert"), corpus, tmp_path), "training.compile=true"]
    with pytest.raises(ConfigError, match=r"training.compile: torch.compile cannot be used here \(.*\); set it to false"):
        train(load_config(ROOT / "configs" / "minilm.yaml", overrides))


def test_the_share_of_the_limit(checkpoint: Path) -> None:
    model = AutoModelForTokenClassification.from_pretrained(checkpoint)
    assert 0 < limit_share(model, 1000, 50, "float32") < 1


def test_same_seed_same_weights(tiny: Callable[[str], Path], corpus: Path, tmp_path: Path) -> None:
    overrides = tiny_overrides(tiny("bert"), corpus, tmp_path)
    folders = [
        train(load_config(ROOT / "configs" / "minilm.yaml", [*overrides, f"run.name={name}", f"training.seed={seed}"]))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    first, second, third = (weights(folder) for folder in folders if folder)
    assert first == second != third


def test_killed_and_resumed_ends_like_one_that_was_not(tiny: Callable[[str], Path], corpus: Path, tmp_path: Path) -> None:
    overrides = [*tiny_overrides(tiny("bert"), corpus, tmp_path), "training.epochs=8"]
    through = train(load_config(ROOT / "configs" / "minilm.yaml", [*overrides, "run.name=through"]))
    assert through is not None

    arguments = [*overrides, "run.name=killed"]
    partial = tmp_path / ".killed.partial"
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(partial.glob("checkpoints/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    assert not (tmp_path / "killed").exists()

    refused = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "holds an interrupted run; pass --resume" in refused.stderr

    # A checkpoint that was being written when the process died is passed over.
    torn = partial / "checkpoints" / "checkpoint-9999"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step": 99')
    resumed = subprocess.run(command(*arguments, "--resume"), cwd=ROOT, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from checkpoint-" in resumed.stderr
    assert weights(tmp_path / "killed") == weights(through)
    assert not partial.exists()


def test_an_interrupted_run_is_not_continued_with_another_config_or_other_data(
    tiny: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    overrides = tiny_overrides(tiny("bert"), data, tmp_path)
    config = load_config(ROOT / "configs" / "minilm.yaml", overrides)
    from training.run import Run, data_fingerprint

    files = {split: data / f"{split}.jsonl" for split in ("train", "validation", "test")}
    fingerprint = data_fingerprint(files, {split: len(load_articles(file)) for split, file in files.items()})
    Run(config).begin(resume=False, fingerprint=fingerprint)
    with pytest.raises(ConfigError, match=r"was begun with another training\.seed"):
        train(load_config(ROOT / "configs" / "minilm.yaml", [*overrides, "training.seed=5"]), resume=True)
    write_records(files["test"], [article.to_dict() for article in load_articles(files["test"])[1:]])
    with pytest.raises(ConfigError, match="was begun with other data"):
        train(config, resume=True)


def test_a_failed_run_leaves_the_earlier_result(
    checkpoint: Path, tiny: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "minilm")
    before = weights(tmp_path / "minilm")
    overrides = [*tiny_overrides(tiny("bert"), corpus, tmp_path), "encoder.name=/none"]
    with pytest.raises(CheckpointError, match="/none"):
        train(load_config(ROOT / "configs" / "minilm.yaml", overrides))
    assert weights(tmp_path / "minilm") == before


def test_a_result_is_replaced_by_a_newer_one(checkpoint: Path, tiny: Callable[[str], Path], corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "minilm")
    train(load_config(ROOT / "configs" / "minilm.yaml", [*tiny_overrides(tiny("bert"), corpus, tmp_path), "training.seed=99"]))
    assert weights(tmp_path / "minilm") != weights(checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["minilm"]


def test_two_processes_share_the_work(tiny: Callable[[str], Path], corpus: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617", "-m")
    arguments = [*tiny_overrides(tiny("bert"), corpus, tmp_path), "run.name=two"]
    done = subprocess.run(command(*arguments, launcher=launcher), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = max(entry["step"] for _, entry in read_records(tmp_path / "two" / "history.jsonl"))
    one = train(load_config(ROOT / "configs" / "minilm.yaml", [*arguments, "run.name=one"]))
    assert one is not None
    steps_alone = max(entry["step"] for _, entry in read_records(one / "history.jsonl"))
    batches, epochs = steps_alone // 2, 2
    assert steps == -(-batches // 2) * epochs
    assert load_file(tmp_path / "two" / "model.safetensors").keys() == load_file(one / "model.safetensors").keys()


def test_spans_that_cannot_be_tagged_are_reported(
    tiny: Callable[[str], Path], corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    articles = [article.to_dict() for article in load_articles(data / "train.jsonl")]
    articles.append({"id": "odd", "text": "Gunmen struck.", "spans": [{"start": 0, "end": 3, "label": "ACTOR"}]})
    write_records(data / "train.jsonl", articles)
    train(load_config(ROOT / "configs" / "minilm.yaml", tiny_overrides(tiny("bert"), data, tmp_path)))
    assert "odd: ACTOR 'Gun' at 0 is widened to whole words" in caplog.text


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("data.path=/none", RecordError, "/none"),
        ("encoder.name=no/such-encoder", CheckpointError, "the hub did not give a model of that name"),
        ("window.size=256", ConfigError, "256 is more than the 128 positions"),
    ],
)
def test_unusable_input(
    override: str, error: type[Exception], message: str, tiny: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(load_config(ROOT / "configs" / "minilm.yaml", [*tiny_overrides(tiny("bert"), corpus, tmp_path), override]))


def test_the_command_reports_bad_input_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(command("training.epochs=0"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: command line: training.epochs: Input should be greater than or equal to 1, got 0\n"
