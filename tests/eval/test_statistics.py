from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from shunter.eval.metrics.statistics import (
    iqm,
    kendall_tau,
    performance_profile,
    probability_of_improvement,
)
from shunter.uncertainty import bootstrap


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert iqm([1000.0, 2.0, 3.0, -1000.0]) == 2.5


def test_improvement_counts_pairs_on_the_same_requests_and_ties_half() -> None:
    assert probability_of_improvement([[1.0, 3.0]], [[2.0, 3.0]]) == (1 + 1 + 0 + 0.5) / 4
    assert probability_of_improvement([[1.0], [9.0]], [[2.0], [8.0]]) == 0.5
    with pytest.raises(ValueError, match="longer"):
        probability_of_improvement([[1.0]], [[1.0], [2.0]])


def test_a_profile_is_the_share_at_or_below() -> None:
    assert performance_profile([0.5, 1.0, 2.0, 4.0], [0.4, 1.0, 3.0]).tolist() == [0.0, 0.5, 0.75]


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_scipys_also_with_ties_and_for_many_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 5, (2, 7, 6)).astype(float)
    expected = [stats.kendalltau(a, b).statistic for a, b in zip(one, other, strict=True)]
    assert kendall_tau(one, other).tolist() == pytest.approx(expected)


def test_tau_of_a_constant_is_unknown() -> None:
    assert np.isnan(kendall_tau([1.0, 1.0], [1.0, 2.0]))


def test_the_bootstrap_is_scipys_and_resamples_rows_together() -> None:
    rng = np.random.default_rng(3)
    shared = rng.gamma(2.0, 5.0, 40)
    units = np.column_stack([shared, 0.5 * shared])
    found = bootstrap(units, lambda drawn: drawn[..., 1].mean(axis=1) / drawn[..., 0].mean(axis=1))
    assert found == pytest.approx((0.5, 0.5, 0.5))
    mean = bootstrap(units[:, :1], lambda drawn: drawn[..., 0].mean(axis=1))
    theirs = stats.bootstrap(
        (shared,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert mean.value == shared.mean()
    assert (mean.low, mean.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_one_unit_has_no_interval() -> None:
    found = bootstrap(np.array([[2.0]]), lambda drawn: drawn[..., 0].mean(axis=1))
    assert found.value == 2.0
    assert np.isnan([found.low, found.high]).all()
