from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from shunter.eval.metrics.backlog import first_half, growth_interval, growth_of, is_saturated


@dataclass(frozen=True)
class Served:
    """A run of which only times are known."""

    seed: int
    requests: pd.DataFrame


def run_of(requests: int, unserved: int, seed: int = 0) -> Served:
    """One request a second, served at once but for the last ones, which nobody serves."""
    arrival_s = np.arange(float(requests))
    finish_s = np.where(arrival_s < requests - unserved, arrival_s + 0.5, np.nan)
    return Served(seed, pd.DataFrame({"arrival_s": arrival_s, "finish_s": finish_s}))


def test_growth_is_what_piles_up_of_what_arrives_in_the_second_half() -> None:
    # Whoever has just arrived is in the system: one at the middle, which counts at the end too.
    assert growth_of(run_of(24, 4)) == (4 - 1) / 12
    assert growth_of(run_of(25, 12)) == (12 - 1) / 12
    assert growth_of(run_of(24, 0)) == 0.0
    assert (first_half(24), first_half(25)) == (12, 13)
    assert np.isnan(growth_of(run_of(3, 1)))


@pytest.mark.parametrize(
    ("requests", "unserved", "saturated"),
    [
        (12, 4, False),
        (12, 6, False),
        (14, 7, False),
        (16, 8, False),
        (20, 10, True),
        (24, 4, False),
        (200, 40, True),
        (2000, 60, False),
    ],
)
def test_few_requests_show_no_saturation(requests: int, unserved: int, saturated: bool) -> None:
    assert is_saturated(growth_interval([run_of(requests, unserved)])) is saturated


def test_repeats_of_a_sequence_are_no_further_arrivals_and_sequences_are() -> None:
    once, repeated = growth_interval([run_of(12, 6)]), growth_interval([run_of(12, 6)] * 5)
    assert once == pytest.approx(repeated)
    several = growth_interval([run_of(12, 6, seed) for seed in range(5)])
    assert is_saturated(several)
    assert not is_saturated(repeated)


def test_sequences_that_differ_widen_the_interval() -> None:
    mixed = growth_interval([run_of(200, 100, 0), run_of(200, 0, 1)])
    assert mixed.value == pytest.approx(0.495)
    assert not is_saturated(mixed)


def test_too_few_arrivals_have_no_interval() -> None:
    assert np.isnan(growth_interval([run_of(2, 1)])).all()
    assert not is_saturated(growth_interval([run_of(2, 1)]))
