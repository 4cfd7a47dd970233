import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.models.intervals import LogErrors, half_width


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
