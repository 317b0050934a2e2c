from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from casualty_ner.packing import group_by_tokens, pack, shape_for, split

some_lengths = st.lists(st.integers(1, 600), min_size=1, max_size=60)


@given(some_lengths, st.integers(1, 2000))
def test_groups_keep_the_budget_and_lose_nothing(lengths: list[int], budget: int) -> None:
    groups = group_by_tokens(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or sum(lengths[index] for index in group) <= budget
    ordered = [lengths[index] for group in groups for index in group]
    assert ordered == sorted(lengths, reverse=True)
    for group, following in itertools.pairwise(groups):
        assert sum(lengths[index] for index in group) + lengths[following[0]] > budget


@given(some_lengths)
def test_a_shape_has_room_and_wastes_little(lengths: list[int]) -> None:
    shape = shape_for(lengths)
    assert shape.tokens >= sum(lengths)
    assert shape.windows >= len(lengths)
    assert shape.longest >= max(lengths)
    assert shape.tokens == 128 or shape.tokens * 2 / 3 <= sum(lengths)


def test_shapes_are_few() -> None:
    chance = np.random.default_rng(0)
    shapes = set()
    for _ in range(2000):
        lengths = chance.integers(20, 513, chance.integers(1, 50)).tolist()
        shapes |= {shape_for([lengths[index] for index in group]) for group in group_by_tokens(lengths, 8192)}
    assert len(shapes) < 50
    assert max(shape.tokens for shape in shapes) == 8192


def test_a_full_batch_leaves_no_room_empty() -> None:
    assert shape_for([512] * 32) == (16384, 64, 512)
    assert shape_for([512] * 16) == (8192, 32, 512)
    assert shape_for([5]) == (128, 2, 128)
    assert shape_for([3] * 1000) == (3072, 1024, 128)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.sampled_from([0, 2]))
def test_packing_and_back(lengths: list[int], first_position: int) -> None:
    windows = [np.arange(length) + 100 * number + 7 for number, length in enumerate(lengths)]
    packed = pack(windows, first_position)
    tokens, used = packed.shape.tokens, sum(lengths)
    assert packed.data.dtype == np.int32
    assert len(packed.data) == packed.shape.size
    assert np.array_equal(packed.ids[:used], np.concatenate(windows))
    assert not packed.ids[used:].any()
    positions, starts = packed.data[tokens : 2 * tokens], packed.data[2 * tokens :]
    assert np.array_equal(positions[:used], np.concatenate([np.arange(length) + first_position for length in lengths]))
    assert not positions[used:].any()
    assert len(starts) == packed.shape.windows + 1
    assert np.array_equal(np.diff(starts), [*lengths, *[0] * (packed.shape.windows - len(lengths))])
    for window, back in zip(windows, split(packed.ids.astype(np.float32), packed.lengths), strict=True):
        assert np.array_equal(window, back)
