from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from benchmarks.paired import holm, holm_levels, paired
from shunter.uncertainty import paired_mean_change


def test_change_and_interval_are_those_of_the_package() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.lognormal(2.0, 0.4, (3, 20))
    mine = theirs * rng.lognormal(-0.1, 0.1, (3, 20))

    found, known = paired(mine, theirs), paired_mean_change(mine, theirs)

    assert found.change == pytest.approx(known.value)
    assert found.interval() == pytest.approx((known.low, known.high), abs=0.004)
    assert found.p < 0.01


def test_equal_policies_do_not_differ() -> None:
    times = np.random.default_rng(2).lognormal(2.0, 0.4, (2, 20))
    found = paired(times, times)
    assert (found.change, found.p, *found.interval()) == (0.0, 1.0, 0.0, 0.0)


def test_a_wider_interval_contains_the_narrower_one() -> None:
    rng = np.random.default_rng(3)
    theirs = rng.lognormal(2.0, 0.4, (1, 20))
    found = paired(theirs * rng.lognormal(0.0, 0.1, (1, 20)), theirs)
    (low, high), (lower, higher) = found.interval(0.95), found.interval(0.999)
    assert lower < low < found.change < high < higher


def test_holm_multiplies_by_how_many_are_left_and_never_descends() -> None:
    # By hand: 0.01 x 4, 0.02 x 3, then 0.04 x 2 = 0.08, then max(0.08, 0.05).
    assert holm([0.04, 0.01, 0.05, 0.02]) == pytest.approx([0.08, 0.04, 0.08, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_holm_lies_between_no_correction_and_bonferroni() -> None:
    p = np.random.default_rng(4).uniform(0, 0.1, 10)
    assert (holm(p) >= false_discovery_control(p) - 1e-12).all()
    assert (holm(p) <= np.minimum(1.0, 10 * p) + 1e-12).all()


def test_the_least_p_gets_the_strictest_level() -> None:
    assert holm_levels([0.2, 0.001, 0.01]) == pytest.approx([0.95, 1 - 0.05 / 3, 0.975])
