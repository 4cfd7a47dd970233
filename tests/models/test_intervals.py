import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.models.fit.intervals import LogErrors, group_half_width, half_width


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=200))
def test_nine_tenths_of_the_errors_are_within(errors):
    width = half_width(np.array(errors))
    assert np.mean(np.abs(errors) <= width) >= min(0.9, 1 - 1 / (len(errors) + 1))
    assert width in np.abs(errors)


def test_new_errors_of_the_same_kind_are_covered_nine_times_in_ten():
    rng = np.random.default_rng(0)
    covered = [abs(rng.standard_normal()) <= half_width(rng.standard_normal(49)) for _ in range(4000)]
    assert np.mean(covered) == pytest.approx(0.9, abs=0.015)


def test_what_is_new_widens_and_never_narrows():
    errors = LogErrors(cell=0.1, model=0.05, device=0.3)
    new = np.array([False, True, False, True])
    got = errors.half_width(new, np.array([False, False, True, True]))
    assert got.tolist() == [0.1, 0.1, 0.3, 0.3]


def test_what_was_never_held_out_is_a_factor_of_two_either_way():
    got = LogErrors(cell=0.1, model=None, device=None).half_width(np.array([True]), np.array([False]))
    assert got[0] == pytest.approx(math.log(2))


def test_without_groups_the_prior_speaks_and_many_groups_outvote_it():
    alone = group_half_width(np.empty(0), np.empty(0), 0.1)
    assert alone == pytest.approx(0.1 * 2.132, rel=1e-3)
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), 5)
    assert group_half_width(rng.normal(0, 0.3, 2000), groups, 0.01) == pytest.approx(0.3 * 1.645, rel=0.05)


@pytest.mark.parametrize("seen", [0, 1, 3])
def test_a_new_group_is_covered_nine_times_in_ten_however_few_were_seen(seen):
    rng = np.random.default_rng(seen)
    covered = []
    for _ in range(4000):
        # The hierarchical model itself: variances of a prior of four groups with a spread of 0.2.
        spread = 0.2 * np.sqrt(4 / rng.chisquare(4))
        half = group_half_width(rng.normal(0, spread, seen), np.arange(seen), 0.2)
        covered.append(abs(rng.normal(0, spread)) <= half)
    assert np.mean(covered) == pytest.approx(0.9, abs=0.015)
