"""Fine-tunes an encoder from a config.

    python -m training.train --config configs/minilm.yaml [section.key=value …] [--resume]

The result, ``runs/NAME``, is a plain transformers directory with the resolved config, the data's fingerprint, the environment,
the log, the training curve, F1 reports on validation and test, and a model card. ``torchrun --nproc-per-node N -m
training.train …`` runs it on several processes.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

from casualty_ner.calibration import fit
from casualty_ner.checkpoint import WindowSize, load_checkpoint, max_positions, save_metadata
from casualty_ner.cli import run_command
from casualty_ner.dataset import load_articles, rank, split_files
from casualty_ner.documents import Article
from casualty_ner.encoders import Source, lift_limits, resolve
from casualty_ner.errors import CasualtyNerError, CheckpointError, ConfigError, RecordError, first_line
from casualty_ner.extractor import Extractor
from casualty_ner.labels import TAG_IDS, TAGS
from casualty_ner.records import dump_line
from casualty_ner.runtimes.packed import compile_layers
from casualty_ner.runtimes.torch import TorchRuntime
from casualty_ner.scoring import macro_f1, micro, strict_counts
from casualty_ner.windows import IGNORED, Windower, align
from eval.evaluate import evaluate
from eval.limits import MatmulLimit, linear_shapes, operations
from eval.markdown import summary
from eval.predictions import System, predict
from training.batches import LENGTH_STEP, TokenBudgetSampler
from training.card import write_card
from training.config import Config, DataConfig, EncoderConfig, load_config
from training.curve import plot_curve
from training.run import CHECKPOINTS, Run, data_fingerprint
from training.trainer import WindowTrainer

logger = logging.getLogger("training")


def train(config: Config, resume: bool = False) -> Path | None:
    """Train as configured.

    Args:
        config: All settings.
        resume: Continue an interrupted run of the same config and data; without one, start anew.

    Returns:
        The finished run's folder; ``None`` in the processes of a distributed run that do not write it.

    Raises:
        casualty_ner.errors.CasualtyNerError: Config, data, encoder or output cannot be used.
    """
    started = time.perf_counter()
    state = PartialState(cpu=_on_cpu(config))
    corpus = _load_corpus(config.data)
    run = Run(config)
    if state.is_main_process:
        run.begin(resume, corpus.fingerprint)
        _log_to(run.partial / "train.log")
    state.wait_for_everyone()

    source = resolve(config.encoder.name, config.encoder.revision)
    logger.info("encoder %s from %s", config.encoder.name, source.origin)
    transformers.set_seed(config.training.seed)
    model, tokenizer = _load_encoder(config, source)
    windower = Windower(tokenizer, config.window.size, config.window.overlap)
    windows = _training_windows(windower, corpus.articles["train"])
    lengths = [len(ids) for ids in windows["input_ids"]]
    sampler = TokenBudgetSampler(
        lengths, config.training.batch_tokens, config.training.seed, state.process_index, state.num_processes
    )
    logger.info(
        "%d windows, %d tokens, %.1f %% padding, %d batches",
        len(lengths),
        sampler.tokens,
        100 * sampler.padding_share,
        len(sampler),
    )

    arguments = _arguments(config, run.partial / CHECKPOINTS, len(sampler))
    trainer = WindowTrainer(
        sampler=sampler,
        validate=lambda model, articles: _validate(model, windower, articles, arguments.bf16 and _on_cpu(config)),
        model=model,
        args=arguments,
        train_dataset=windows,
        eval_dataset=corpus.articles["validation"],
        data_collator=DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=LENGTH_STEP, label_pad_token_id=IGNORED),
        processing_class=tokenizer,
    )
    last = run.last_checkpoint()
    if last is not None:
        logger.info("resuming from %s", last.name)
    if config.training.compile:
        compile_layers(model)
    try:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except torch._dynamo.exc.TorchDynamoException as error:
        raise ConfigError(f"training.compile: torch.compile cannot be used here ({first_line(error)}); set it to false") from None
    if not state.is_main_process:
        return None
    speed = sampler.tokens / len(sampler) * trainer.clock.steps / max(trainer.clock.seconds, 1e-9) / state.num_processes
    facts = {
        "encoder": {"name": config.encoder.name, "origin": source.origin, "revision": config.encoder.revision},
        "training": {
            "articles": len(corpus.articles["train"]),
            "tokens_per_epoch": sampler.tokens,
            "padding_share": sampler.padding_share,
            "tokens_per_second": speed * state.num_processes,
            "precision": "bf16" if arguments.bf16 else "fp32",
            "best_epoch": _best_epoch(trainer.state.log_history),
        },
    }
    if model.device.type == "cuda":
        dtype = "bfloat16" if arguments.bf16 else "float32"
        share = limit_share(model, speed, sampler.tokens / len(lengths), dtype)
        facts["training"]["matmul_limit_share"] = share
        logger.info(
            "%.0f tokens/s in training steps, %.0f %% of what %s reaches in bare matrix products of these shapes in %s",
            speed,
            100 * share,
            torch.cuda.get_device_name(model.device),
            dtype,
        )
    _finish(config, run, trainer, corpus, facts)
    final = run.complete()
    logger.info(
        "wrote %s after %.0f s; %.0f tokens/s in training steps",
        final,
        time.perf_counter() - started,
        speed * state.num_processes,
    )
    return final


@dataclass(frozen=True)
class _Corpus:
    files: Mapping[str, Path]
    articles: Mapping[str, list[Article]]

    @property
    def fingerprint(self) -> dict[str, dict[str, object]]:
        return data_fingerprint(self.files, {split: len(articles) for split, articles in self.articles.items()})


def _load_corpus(settings: DataConfig) -> _Corpus:
    path = settings.path
    files = split_files(path)
    for split in ("train", "validation"):
        if split not in files:
            raise RecordError(path, None, f"training needs {split}.jsonl; it has {', '.join(files)}")
    articles = {split: load_articles(file) for split, file in files.items()}
    if settings.articles is not None:
        articles["train"] = _draw(articles["train"], settings.articles, files["train"])
    return _Corpus(files, articles)


def _draw(articles: Sequence[Article], count: int, file: Path) -> list[Article]:
    """`count` articles whose ids have the smallest hashes, in their order: a random draw, the same everywhere."""
    if count > len(articles):
        raise ConfigError(f"data.articles: {count} are asked for, {file} holds {len(articles)}; set it to null for all")
    ranks = list(map(rank, articles))
    last = sorted(ranks)[count - 1]
    return [article for article, its in zip(articles, ranks, strict=True) if its <= last]


def _load_encoder(config: Config, source: Source) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location)
        settings = AutoConfig.from_pretrained(
            source.location, num_labels=len(TAGS), id2label=dict(enumerate(TAGS)), label2id=TAG_IDS
        )
        _set_dropout(settings, config.encoder)
        model = AutoModelForTokenClassification.from_pretrained(
            source.location, config=settings, use_safetensors=True, dtype="float32", attn_implementation=_attention(config)
        )
    except CasualtyNerError:
        raise
    except Exception as error:  # a damaged folder can fail in any of several libraries
        raise CheckpointError(
            f"{config.encoder.name}: cannot be loaded as an encoder: {type(error).__name__}: {first_line(error)}"
        ) from None
    if config.encoder.freeze_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    limit = max_positions(settings)
    if limit is not None and config.window.size > limit:
        raise ConfigError(f"window.size: {config.window.size} is more than the {limit} positions of {config.encoder.name}")
    lift_limits(tokenizer, limit)
    return model, tokenizer


def _attention(config: Config) -> str | None:
    """Plain attention where its backward pass is faster than the fused one's: on a CPU, for short windows."""
    return "eager" if _on_cpu(config) and config.window.size <= 512 else None


# What architectures call the two.
_DROPOUT = ("hidden_dropout_prob", "embedding_dropout", "mlp_dropout")
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")


def _set_dropout(settings: PretrainedConfig, encoder: EncoderConfig) -> None:
    """Change the encoder's dropout where the config asks for it."""
    for key, names in (("dropout", _DROPOUT), ("attention_dropout", _ATTENTION_DROPOUT)):
        rate = getattr(encoder, key)
        known = [name for name in names if hasattr(settings, name)]
        if rate is not None and not known:
            raise ConfigError(f"encoder.{key}: {settings.model_type} has no such setting; set it to null")
        for name in known if rate is not None else ():
            setattr(settings, name, rate)


def _training_windows(windower: Windower, articles: Sequence[Article]) -> Dataset:
    """All windows of the articles as a dataset; spans that the tokens cannot express are reported."""
    rows = []
    for article, tokens in zip(articles, windower.tokenize([article.text for article in articles]), strict=True):
        alignment = align(tokens, article.spans)
        for kind, spans in (("widened to whole words", alignment.moved), ("left out (no token)", alignment.lost)):
            for span in spans:
                logger.warning(
                    "%s: %s %r at %d is %s", article.id, span.label, article.text[span.start : span.end], span.start, kind
                )
        for window in windower.windows(tokens):
            rows.append({"input_ids": windower.model_input(tokens, window), "labels": windower.model_tags(alignment, window)})
    if not rows:
        raise RecordError("train.jsonl", None, "holds no article with a token; add articles")
    return Dataset.from_list(rows)


def _validate(model: nn.Module, windower: Windower, articles: Sequence[Article], rounded: bool) -> dict[str, float]:
    """Scores of the model as it is, or of a copy in bfloat16, which a CPU runs in a third of the time."""
    assert isinstance(model, PreTrainedModel)
    network = copy.deepcopy(model).to(dtype=torch.bfloat16) if rounded else model
    runtime = TorchRuntime(network, model.device, windower.tokenizer.pad_token_id or 0)
    predictions = predict(Extractor(windower, runtime, range(len(TAGS))), articles)
    counts = strict_counts((article.spans, [entity.span for entity in entities]) for article, entities in predictions)
    return {"f1": micro(counts).f1, "macro_f1": macro_f1(counts), **{f"f1_{label}": one.f1 for label, one in counts.items()}}


def _arguments(config: Config, output: Path, batches: int) -> TrainingArguments:
    settings = config.training
    on_cpu = _on_cpu(config)
    steps = math.ceil(batches / settings.gradient_accumulation) * settings.epochs
    distributed: dict[str, Any] = {"ddp_backend": "gloo"} if on_cpu and "WORLD_SIZE" in os.environ else {}
    return TrainingArguments(
        output_dir=str(output),
        seed=settings.seed,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup * steps),
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        gradient_accumulation_steps=settings.gradient_accumulation,
        optim="adamw_torch_fused",
        bf16=_use_bf16(settings.precision, on_cpu),
        use_cpu=on_cpu,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        greater_is_better=True,
        logging_steps=max(1, steps // 200),
        remove_unused_columns=False,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        **distributed,
    )


def _on_cpu(config: Config) -> bool:
    return config.training.device == "cpu" or not torch.cuda.is_available()


def _use_bf16(precision: str, on_cpu: bool) -> bool:
    if precision == "auto":
        return torch.ops.mkldnn._is_mkldnn_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported()
    return precision == "bf16"


def limit_share(model: PreTrainedModel, tokens_per_second: float, window: float, dtype: str) -> float:
    """The share of its device's matrix-multiply limit that a training reached; backward costs twice what forward does.

    Args:
        model: On the device.
        tokens_per_second: Of this process.
        window: The mean length of a window in tokens.
        dtype: What it computed in.
    """
    limit = MatmulLimit(linear_shapes(model), dtype, str(model.device)).measure()
    return 3 * operations(model, window) * tokens_per_second / limit


def _best_epoch(history: Sequence[Mapping[str, float]]) -> float | None:
    scored = [entry for entry in history if "eval_f1" in entry]
    return max(scored, key=lambda entry: entry["eval_f1"])["epoch"] if scored else None


def _finish(config: Config, run: Run, trainer: WindowTrainer, corpus: _Corpus, facts: dict[str, Any]) -> None:
    """Write everything that belongs to the result into the working folder."""
    folder = run.partial
    trainer.save_model(str(folder))
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; config.training.yaml says the same
    window, device = WindowSize(config.window.size, config.window.overlap), "cpu" if _on_cpu(config) else "auto"
    save_metadata(folder, window, **facts)
    checkpoint = load_checkpoint(folder)
    found = predict(Extractor.from_checkpoint(checkpoint, device), corpus.articles["validation"])
    calibration = fit((article.spans, entities) for article, entities in found)
    save_metadata(folder, window, **facts, calibration=calibration.to_dict())
    with open(folder / "history.jsonl", "w", encoding="utf-8") as stream:
        stream.writelines(map(dump_line, trainer.state.log_history))
    plot_curve(trainer.state.log_history, folder / "curve.png")
    extractor = Extractor.from_checkpoint(replace(checkpoint, calibration=calibration), device, thresholds=False)
    system = System(config.run.name, extractor, extractor.windower, calibration)
    reports = {
        split: evaluate(system, corpus.articles[split], data=corpus.files[split], out=folder / "report" / split)
        for split in ("validation", "test")
        if split in corpus.files
    }
    write_card(folder, config, corpus.fingerprint, facts, reports)


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m training.train``."""
    parser = argparse.ArgumentParser(prog="training.train", description="Fine-tune an encoder on annotated articles.")
    parser.add_argument("--config", required=True, help="an experiment such as configs/minilm.yaml")
    parser.add_argument("--resume", action="store_true", help="continue the interrupted run of this name, if there is one")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings over the config's")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logger.setLevel(logging.INFO if int(os.environ.get("RANK", "0")) == 0 else logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()  # of loading and saving; the Trainer's own stays
    datasets.disable_progress_bars()
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    folder = train(load_config(options.config, options.overrides), options.resume)
    if folder is not None:
        print(summary(json.loads((folder / "report" / "validation" / "report.json").read_text(encoding="utf-8"))))
        print(f"checkpoint, reports and model card: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
