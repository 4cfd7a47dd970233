from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from shunter.uncertainty import UNDECIDED, Interval, bootstrap, paired_mean_change, said, sign_of

WORDS = {"above": "longer", "below": "shorter"}


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.02, 0.3, "longer"),
        (-0.3, -0.02, "shorter"),
        (-0.57, 0.04, UNDECIDED),
        (-1e-9, 1e-9, UNDECIDED),
        (0.0, 0.0, UNDECIDED),
        (0.0, 0.3, UNDECIDED),
        (-0.3, 0.0, UNDECIDED),
        (float("nan"), float("nan"), UNDECIDED),
        (None, None, UNDECIDED),
    ],
)
def test_only_an_interval_clear_of_zero_is_a_claim(low: float | None, high: float | None, words: str) -> None:
    assert said(low, high, **WORDS) == words
    assert sign_of(low, high) == {"longer": 1, "shorter": -1, UNDECIDED: 0}[words]
    if low is not None and high is not None:
        assert Interval((low + high) / 2, low, high).sign == sign_of(low, high)


@pytest.mark.parametrize("resamples", [500, 4000])
def test_the_interval_is_scipys_to_the_last_digits(resamples: int) -> None:
    mine, theirs = np.random.default_rng(1).gamma(2.0, 5.0, (2, 23))
    found = paired_mean_change(mine, theirs, seed=3, resamples=resamples)
    known = stats.bootstrap(
        (mine, theirs),
        lambda a, b, axis: a.mean(axis) / b.mean(axis) - 1,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert found.value == pytest.approx(mine.mean() / theirs.mean() - 1, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), rel=1e-12)


def test_worlds_share_the_seeds_that_are_drawn() -> None:
    theirs = np.random.default_rng(2).gamma(2.0, 5.0, 30)
    mine = theirs * np.random.default_rng(3).normal(1.0, 0.2, 30)
    alone, both = paired_mean_change(mine, theirs), paired_mean_change(np.array([mine] * 2), [theirs] * 2)
    assert both == pytest.approx(alone, rel=1e-12)


def test_what_one_of_the_two_lacks_counts_for_neither() -> None:
    theirs = np.array([1.0, 2.0, 3.0, 1e9])
    mine = np.array([2.0, 4.0, 6.0, np.nan])
    assert paired_mean_change(mine, theirs) == pytest.approx((1.0, 1.0, 1.0))
    assert np.isnan(paired_mean_change(mine * np.nan, theirs)).all()


def test_what_is_equal_has_no_change_and_one_unit_no_interval() -> None:
    assert paired_mean_change(np.array([2.0, 3.0]), np.array([2.0, 3.0])) == (0.0, 0.0, 0.0)
    one = paired_mean_change(np.array([3.0]), np.array([2.0]))
    assert one.value == pytest.approx(0.5)
    assert one.sign == 0
    assert np.isnan([one.low, one.high]).all()


def test_resamples_without_the_figure_are_left_out() -> None:
    units = np.array([[0.0], [1.0]])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = bootstrap(units, lambda drawn: drawn.sum(axis=(1, 2)) / (drawn.sum(axis=(1, 2)) > 0))
    assert found == (1.0, 1.0, 2.0)
