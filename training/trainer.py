"""The Hugging Face Trainer with our batches and with strict entity F1 over whole articles as its evaluation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from casualty_ner.documents import Article
from training.batches import TokenBudgetSampler

logger = logging.getLogger("training")


class WindowTrainer(Trainer):
    """Trains on windows, evaluates on articles.

    Args:
        sampler: Makes the batches; it knows about ranks, so the loader is not sharded again.
        validate: Scores the model on articles; ``f1`` among its values picks the best checkpoint.
        arguments: What `transformers.Trainer` takes; ``eval_dataset`` holds the validation articles.
    """

    def __init__(
        self,
        *,
        sampler: TokenBudgetSampler,
        validate: Callable[[nn.Module, Sequence[Article]], dict[str, float]],
        **arguments: Any,
    ):
        self._sampler, self._validate = sampler, validate
        self.clock = StepClock()
        super().__init__(**arguments, callbacks=[_EpochOrder(sampler), self.clock])
        self.remove_callback(PrinterCallback)  # would print every log entry where there is no progress bar

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train_dataset,
            batch_sampler=self._sampler,
            collate_fn=self.data_collator,
            pin_memory=self.args.device.type == "cuda",
        )

    def evaluate(
        self, eval_dataset: Sequence[Article] | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        scores = self._validate(model, self.eval_dataset if eval_dataset is None else eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        model.train(was_training)
        self.log(dict(metrics))
        logger.info("epoch %g: %s", self.state.epoch or 0, ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class StepClock(TrainerCallback):
    """The time spent in optimisation steps, evaluation and saving left out."""

    def __init__(self) -> None:
        self.seconds, self.steps, self._started = 0.0, 0, 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)  # a step is over when the GPU is through with it
        self.seconds += time.perf_counter() - self._started
        self.steps += 1


class _EpochOrder(TrainerCallback):
    """Tells the sampler which epoch begins, on a resumed run too."""

    def __init__(self, sampler: TokenBudgetSampler):
        self._sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._sampler.set_epoch(int(state.epoch or 0))
