from __future__ import annotations

from itertools import islice

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.envs.scenario.workload import Arrivals, Bursts
from shunter.envs.workload.arrivals import arrival_times
from shunter.envs.workload.fit import dispersion, fit_arrivals, likeness
from shunter.errors import InputError


def drawn(spec: Arrivals, seed: int, requests: int = 24_576, rate_per_s: float = 5.0) -> pd.DataFrame:
    chunks = islice(arrival_times(spec, rate_per_s, np.random.default_rng(seed)), requests // 4096)
    return pd.DataFrame({"arrival_s": np.concatenate(list(chunks))})


def test_poisson_has_dispersion_one_and_equal_gaps_none() -> None:
    assert dispersion(drawn(Arrivals(), 1)["arrival_s"].to_numpy(), 10.0) == pytest.approx(1.0, abs=0.2)
    assert dispersion(np.arange(1000.0), 10.0) < 0.2
    assert np.isnan(dispersion(np.arange(10.0), 5.0))


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("gamma gaps", Arrivals(gaps="gamma", cv=4.0)),
        ("bursts", Arrivals(bursts=Bursts(factor=4.0, share=0.2, mean_s=20.0))),
    ],
)
def test_the_process_that_made_a_trace_is_found_again(name: str, spec: Arrivals) -> None:
    trace = drawn(spec, 3)
    fit = fit_arrivals(trace)

    assert fit.name == name
    # Of this trace: bursts come so rarely that its own rate is 13 % off the process's, typically.
    assert fit.rate_per_s == pytest.approx(len(trace) / trace["arrival_s"].max(), rel=0.1)
    assert fit.seen.score < min(fit.others.values())
    assert fit.held_out.score < 1.0
    if spec.cv is not None:
        assert fit.arrivals.cv == pytest.approx(spec.cv, rel=0.1)
    if spec.bursts and fit.arrivals.bursts:
        found = fit.arrivals.bursts
        assert found.share * found.factor == pytest.approx(0.8, abs=0.2)
        assert found.mean_s == pytest.approx(20.0, rel=0.5)


def test_poisson_arrivals_get_no_burstiness() -> None:
    fit = fit_arrivals(drawn(Arrivals(), 5))
    assert fit.arrivals.bursts is None or fit.arrivals.bursts.factor < 1.2
    assert fit.arrivals.cv is None or fit.arrivals.cv == pytest.approx(1.0, abs=0.05)
    assert fit.held_out.score < 0.3


def test_a_set_of_arrivals_is_like_itself() -> None:
    times_s = drawn(Arrivals(), 2)["arrival_s"].to_numpy()
    assert likeness(times_s, times_s).score == 0
    assert likeness(times_s, 4 * times_s).gaps_ks == 0


GAPS = {
    "equal": lambda rng, n: np.ones(n),
    "whole seconds": lambda rng, n: rng.integers(0, 2, n) * 1.0,
    "exponential": lambda rng, n: rng.exponential(1.0, n),
    "without a mean": lambda rng, n: rng.pareto(0.3, n),
    "all at a few times": lambda rng, n: np.where(rng.random(n) < 0.05, 1e6, 0.0),
    "one long pause": lambda rng, n: np.where(np.arange(n) == n // 2, 1e12, 1e-3),
    "two rates": lambda rng, n: np.repeat([1e-6, 1e6], [n // 2, n - n // 2]),
}


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(sorted(GAPS)), st.integers(200, 300), st.integers(0, 99), st.sampled_from([0.0, 1.7e9])
)
def test_any_arrivals_are_fitted_or_refused(gaps: str, requests: int, seed: int, begins_s: float) -> None:
    times_s = begins_s + np.cumsum(GAPS[gaps](np.random.default_rng(seed), requests))
    frame = pd.DataFrame({"arrival_s": times_s})
    if min(np.ptp(half_s) for half_s in np.array_split(times_s, 2)) <= 0:
        with pytest.raises(InputError, match="span some time in each half"):
            fit_arrivals(frame)
        return
    fit = fit_arrivals(frame)
    again = Arrivals.model_validate(fit.arrivals.model_dump(mode="json"))
    assert again == fit.arrivals
    assert fit.rate_per_s == pytest.approx((requests - 1) / np.ptp(times_s))
    assert np.isfinite([fit.seen.score, fit.held_out.score, fit.floor.score]).all()


@pytest.mark.parametrize("times_s", [np.arange(100.0), np.zeros(1000)])
def test_a_trace_that_tells_too_little_is_refused(times_s: np.ndarray) -> None:
    with pytest.raises(InputError, match="trace must"):
        fit_arrivals(pd.DataFrame({"arrival_s": times_s}))
