from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from eval.bootstrap import figure, interval, mean_known, ratio, resampled_totals


def test_the_totals_of_the_data_come_first_and_resamples_draw_whole_articles() -> None:
    counts = csr_array(np.array([[1, 10], [2, 20], [4, 40]]))
    totals = resampled_totals([counts], resamples=60)
    assert totals.shape == (61, 2)
    assert totals[0].tolist() == [7, 70]
    assert (totals[:, 1] == 10 * totals[:, 0]).all()
    assert set(totals[1:, 0]) <= {a + b + c for a in (1, 2, 4) for b in (1, 2, 4) for c in (1, 2, 4)}
    assert len(set(totals[1:, 0])) > 5


def test_the_same_seed_gives_the_same_resamples_and_more_of_them_begin_alike() -> None:
    counts = csr_array(np.random.default_rng(0).integers(0, 5, (50, 3)))
    assert (resampled_totals([counts], 100) == resampled_totals([counts], 100)).all()
    assert (resampled_totals([counts], 100) != resampled_totals([counts], 100, seed=1)).any()
    assert (resampled_totals([counts], 50) == resampled_totals([counts], 100)[:51]).all()


def test_the_interval_of_a_share_is_the_normal_one() -> None:
    """400 articles of one span each, 320 of them right: 0.8 plus or minus 1.96 standard errors."""
    counts = csr_array(np.array([[1, 1]] * 320 + [[0, 1]] * 80))
    totals = resampled_totals([counts], 4_000)
    low, high = interval(ratio(totals[1:, 0], totals[1:, 1])) or (0.0, 0.0)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert low == pytest.approx(0.8 - half, abs=0.005)
    assert high == pytest.approx(0.8 + half, abs=0.005)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Articles differ in how hard they are; an interval that took spans as independent would be too narrow."""
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(150):
        chances = generator.beta(4, 1, 80)
        counts = csr_array(np.stack([generator.binomial(10, chances), np.full(80, 10)], axis=1))
        totals = resampled_totals([counts], 300)
        low, high = interval(ratio(totals[1:, 0], totals[1:, 1])) or (0.0, 0.0)
        hits += low <= 0.8 <= high
    assert 0.88 <= hits / 150 <= 1


def test_nothing_to_count() -> None:
    nothing = np.full(5, np.nan)
    assert figure(nothing) == 0.0
    assert interval(nothing[1:]) is None
    assert np.isnan(ratio(np.zeros(3), np.zeros(3))).all()
    assert mean_known([np.array([1.0, np.nan]), np.array([3.0, np.nan])])[0] == 2.0
    assert resampled_totals([csr_array((0, 2))], 10).tolist() == [[0, 0]]


def test_what_rests_on_a_single_article_has_no_interval() -> None:
    one, two = np.zeros((40, 2)), np.zeros((40, 2))
    one[0], two[0], two[1] = (3, 4), (3, 4), (1, 4)
    for counts, known in ((one, False), (two, True)):
        totals = resampled_totals([csr_array(counts)], 400)
        assert (interval(ratio(totals[1:, 0], totals[1:, 1])) is not None) == known
