"""A checkpoint made ready for another engine, with a guard: what loses too much F1 is not written.

An export is a folder that `Extractor.from_pretrained` loads like any checkpoint, without converting anything at load time.
Its ``casualty_ner.json`` records what it was made from and what was measured when it was made.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from casualty_ner.batching import Batch, pad
from casualty_ner.checkpoint import Checkpoint, load_description, load_weights, save_metadata
from casualty_ner.dataset import load_articles, split_file, split_files
from casualty_ner.documents import Article, Entity
from casualty_ner.encoders import sha256
from casualty_ner.errors import CheckpointError, OutputError
from casualty_ner.extractor import Extractor
from casualty_ner.machine import cpu_name
from casualty_ner.runtimes import EXPORTABLE, choose
from casualty_ner.scoring import micro, strict_counts

MAX_LOSS = 0.005
_CALIBRATION_WINDOWS = 128
_WITHOUT_WEIGHTS = ("*.json", "*.txt", "*.model")


def export(
    *, checkpoint: str | Path, runtime: str, precision: str, data: str | Path, split: str | None, out: Path, max_loss: float
) -> dict[str, Any]:
    """Convert a checkpoint, measure the result against the original in torch float32, and write it if it is as good.

    Args:
        checkpoint: A folder that training wrote, or a hub id.
        runtime: ``openvino`` or ``onnx``.
        precision: One that the runtime has, or ``auto``.
        data: Annotated articles that F1 is measured on: a corpus folder or a JSONL file. int8 for OpenVINO also takes the
            texts that it finds its scales with from here: the training split's, or the file's own.
        split: Which split of a corpus folder.
        out: The folder to write; it must not exist.
        max_loss: How much strict micro F1 the export may lose.

    Returns:
        What was recorded under ``export`` in ``casualty_ner.json``, the figures under its ``guard``.

    Raises:
        CheckpointError: The checkpoint, runtime or precision cannot be used, or the export loses more than `max_loss`.
        RecordError: The data cannot be used.
        OutputError: `out` exists or cannot be written.
    """
    if runtime not in EXPORTABLE:
        raise CheckpointError(
            f"nothing to export for runtime {runtime!r}: choose {' or '.join(EXPORTABLE)}; native and torch load the checkpoint itself"
        )
    runtime, precision = choose(runtime, precision, on_cpu=True)
    if out.exists():
        raise OutputError(f"{out}: is there already; remove it or choose another --out")
    source = split_file(data, split)
    articles = load_articles(source)
    loaded = load_weights(load_description(checkpoint))
    original = _extract(Extractor.from_checkpoint(loaded, "cpu"), articles)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}; choose another --out") from None
    try:
        record = write_export(loaded, runtime, precision, data, partial)
        exported = _extract(Extractor.from_pretrained(partial), articles)
        record["guard"] = {
            "data": source.name,
            "sha256": sha256(source),
            **_compare(articles, original, exported),
            "max_loss": max_loss,
        }
        loss = record["guard"]["f1_original"] - record["guard"]["f1_export"]
        if loss > max_loss:
            raise CheckpointError(
                f"{runtime} in {precision} loses {loss:.4f} strict F1 on {source} ({record['guard']['f1_original']:.4f} -> "
                f"{record['guard']['f1_export']:.4f}), more than {max_loss}; nothing was written. Use a higher precision, or allow it with --max-loss"
            )
        _record(loaded, record, partial)
        partial.chmod(0o755)
        partial.rename(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}; choose another --out") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def write_export(checkpoint: Checkpoint, runtime: str, precision: str, data: str | Path, folder: Path) -> dict[str, Any]:
    """Write an export into an existing folder without measuring it; returns what was recorded of it."""
    for pattern in _WITHOUT_WEIGHTS:
        for file in Path(checkpoint.location).glob(pattern):
            if "safetensors" not in file.name:
                shutil.copyfile(file, folder / file.name)
    record: dict[str, Any] = {
        "runtime": runtime,
        "precision": precision,
        "checkpoint": checkpoint.location,
        "made_on": cpu_name(),
    }
    if runtime == "openvino":
        from casualty_ner.runtimes import openvino

        model = openvino.convert(checkpoint)
        if precision == "int8":
            texts, record["calibrated_on"] = _calibration_texts(data)
            model = openvino.quantize(model, _samples(checkpoint, texts))
        openvino.save(model, folder)
        files, record["engine"] = openvino.FILES, f"openvino {openvino.version()}"
    else:
        from casualty_ner.runtimes import onnx

        serialised = onnx.convert(checkpoint)
        onnx.save(onnx.quantize(serialised) if precision == "int8" else serialised, folder)
        files, record["engine"] = onnx.FILES, f"onnxruntime {onnx.version()}"
    record["files"] = {name: sha256(folder / name) for name in files}
    _record(checkpoint, record, folder)
    return record


def _record(checkpoint: Checkpoint, record: dict[str, Any], folder: Path) -> None:
    facts = {key: value for key, value in checkpoint.metadata.items() if key not in ("format_version", "window")}
    save_metadata(folder, checkpoint.window, **{**facts, "export": record})


def _calibration_texts(data: str | Path) -> tuple[list[str], str]:
    files = split_files(data)
    file = files.get("train", next(iter(files.values())))
    return [article.text for article in load_articles(file)], file.name


def _samples(loaded: Checkpoint, texts: Sequence[str]) -> Iterator[Batch]:
    """Windows of evenly spread texts, one a batch."""
    windower = loaded.windower()
    step = max(1, len(texts) // _CALIBRATION_WINDOWS)
    for tokens in windower.tokenize(texts[::step][:_CALIBRATION_WINDOWS]):
        for window in windower.windows(tokens)[:1]:
            yield pad([windower.model_input(tokens, window)], loaded.pad_id)


def _extract(extractor: Extractor, articles: Sequence[Article]) -> list[list[Entity]]:
    return extractor.extract([article.text for article in articles])


def _compare(articles: Sequence[Article], original: list[list[Entity]], exported: list[list[Entity]]) -> dict[str, Any]:
    """F1 of both, and the share of entities that they have in common."""

    def f1(found: list[list[Entity]]) -> float:
        pairs = ((article.spans, [entity.span for entity in own]) for article, own in zip(articles, found, strict=True))
        return micro(strict_counts(pairs)).f1

    return {
        "articles": len(articles),
        "f1_original": f1(original),
        "f1_export": f1(exported),
        "agreement": agreement(original, exported),
    }


def agreement(first: Sequence[Sequence[Entity]], second: Sequence[Sequence[Entity]]) -> float:
    """How far two systems find the same entities in the same texts: F1 of one's spans against the other's; 1 if neither has any."""
    pairs = [({entity.span for entity in a}, {entity.span for entity in b}) for a, b in zip(first, second, strict=True)]
    total = sum(len(a) + len(b) for a, b in pairs)
    return 2 * sum(len(a & b) for a, b in pairs) / total if total else 1.0
