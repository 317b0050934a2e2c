from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casualty_ner.batching import group_by_cost
from training.batches import LENGTH_STEP, TokenBudgetSampler

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
