from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from casualty_ner.batching import group_by_cost
from casualty_ner.windows import IGNORED, Windower, align, punctuation
from tests.tiny import texts
from training.batches import LENGTH_STEP, TokenBudgetSampler, WindowCollator

lengths_of = st.lists(st.integers(1, 256), min_size=1, max_size=120)


@given(lengths_of, st.integers(1, 1000))
def test_groups_keep_the_budget_and_hold_every_item_once(lengths: list[int], budget: int) -> None:
    groups = group_by_cost(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or max(lengths[index] for index in group) * len(group) <= budget for group in groups)


@given(lengths_of, st.integers(0, 5))
def test_an_epoch_holds_every_window_once_within_the_budget(lengths: list[int], epoch: int) -> None:
    sampler = TokenBudgetSampler(lengths, budget=512, seed=1)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    for batch in batches:
        longest = max(-(-lengths[index] // LENGTH_STEP) * LENGTH_STEP for index in batch)
        assert longest * len(batch) <= 512


def test_order_follows_seed_and_epoch_alone() -> None:
    lengths = [8, 16, 24, 32] * 20
    first, second = TokenBudgetSampler(lengths, 64, seed=1), TokenBudgetSampler(lengths, 64, seed=1)
    assert list(first) == list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(first) != list(TokenBudgetSampler(lengths, 64, seed=2))
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}


@given(lengths_of, st.integers(2, 5))
def test_processes_share_the_batches_and_take_equal_steps(lengths: list[int], world_size: int) -> None:
    ranks = [list(TokenBudgetSampler(lengths, 512, 1, rank, world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    times = Counter(index for batches in ranks for batch in batches for index in batch)
    assert times.keys() == set(range(len(lengths)))


@pytest.mark.parametrize(("lengths", "share"), [([8] * 10, 0.0), ([4] * 10, 0.5)])
def test_padding_share(lengths: list[int], share: float) -> None:
    assert TokenBudgetSampler(lengths, 80, seed=1).padding_share == share


@pytest.fixture(scope="module")
def windows(tiny: Callable[[str], Path]) -> tuple[Any, list[dict[str, list[int]]]]:
    tokenizer = AutoTokenizer.from_pretrained(tiny("bert"))
    windower = Windower(tokenizer, 64, 16)
    rows = []
    for text, tokens in zip(texts(12), windower.tokenize(texts(12)), strict=True):
        marks = punctuation(text, tokens)
        alignment = align(tokens, [])
        alignment.tags[:] = np.arange(len(tokens)) % 9  # so that a tag which leaves its token shows
        for window in windower.windows(tokens):
            row = {
                "input_ids": windower.model_input(tokens, window),
                "labels": windower.model_tags(alignment, window),
                "is_mark": windower.padded(marks[window.start : window.stop], False),
            }
            rows.append({name: values.tolist() for name, values in row.items()})  # as a dataset gives them
    return tokenizer, rows


def test_a_batch_is_padded_and_otherwise_as_it_was(windows: tuple[Any, list[dict[str, list[int]]]]) -> None:
    tokenizer, rows = windows
    batch = WindowCollator(tokenizer, 0.0)(rows)
    assert batch["input_ids"].shape[1] % LENGTH_STEP == 0
    for row, ids, tags, mask in zip(rows, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        length = len(row["input_ids"])
        assert ids[:length].tolist() == row["input_ids"] and tags[:length].tolist() == row["labels"]
        assert mask.tolist() == [1] * length + [0] * (len(ids) - length)
        assert set(tags[length:].tolist()) <= {IGNORED}


def test_punctuation_goes_by_kind_and_takes_its_tags_with_it(windows: tuple[Any, list[dict[str, list[int]]]]) -> None:
    tokenizer, rows = windows
    torch.manual_seed(3)
    batch = WindowCollator(tokenizer, 1.0)(rows)
    lost = kept = 0
    for row, ids, tags, mask in zip(rows, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        before = list(zip(row["input_ids"], row["labels"], strict=True))
        after = list(zip(ids[mask.bool()].tolist(), tags[mask.bool()].tolist(), strict=True))
        rest = iter(before)
        assert all(one in rest for one in after)  # in the same order
        gone = Counter(token for token, _ in before) - Counter(token for token, _ in after)
        marks = Counter(token for token, mark in zip(row["input_ids"], row["is_mark"], strict=True) if mark)
        assert all(gone[token] == marks[token] for token in gone)
        lost, kept = lost + len(gone), kept + len(marks) - len(gone)
    assert 0.3 < lost / (lost + kept) < 0.7


def test_chance_is_torchs(windows: tuple[Any, list[dict[str, list[int]]]]) -> None:
    tokenizer, rows = windows
    collator, batches = WindowCollator(tokenizer, 0.5), []
    for _ in range(2):
        torch.manual_seed(7)
        batches.append(collator(rows)["input_ids"])
    assert torch.equal(*batches)
    assert not torch.equal(batches[0], collator(rows)["input_ids"])
