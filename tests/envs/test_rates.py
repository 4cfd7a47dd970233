"""Whether a trace's rate is steady, and the curves that it follows where it is not."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shunter.envs.scenario.workload import Arrivals, Bursts, Diurnal, Step
from shunter.envs.workload.arrivals import arrival_times
from shunter.envs.workload.fit import fit_arrivals
from shunter.envs.workload.rates import LEVEL, RateCurve, rate_change, steadiness

Array = np.ndarray

RAMP = Arrivals(steps=[Step(span_s=500.0, factor=1.0), Step(span_s=500.0 / 92, factor=92.0)])
"""As many requests at one rate as at another one, 92 times as high."""
SWING = Arrivals(diurnal=Diurnal(amplitude=0.8))


def drawn(spec: Arrivals, seed: int, *, requests: int = 4096, rate_per_s: float = 5.0) -> Array:
    chunks = islice(arrival_times(spec, rate_per_s, np.random.default_rng(seed)), -(-requests // 4096))
    return np.concatenate(list(chunks))[:requests]


def ramp(seed: int, requests: int = 1000) -> Array:
    """The ramp once, from its beginning to its end."""
    times_s = drawn(RAMP, seed, requests=requests, rate_per_s=requests / (500 * (1 + 1 / 92)))
    return times_s[times_s < 500 * (1 + 1 / 92)]


@pytest.mark.parametrize("requests", [400, 4096])
@pytest.mark.parametrize(
    "spec",
    [
        Arrivals(),
        Arrivals(gaps="gamma", cv=4.0),
        Arrivals(gaps="weibull", cv=0.5),
        Arrivals(bursts=Bursts(factor=4.0, share=0.2, mean_s=1.0)),
    ],
    ids=["poisson", "gamma", "weibull", "bursts"],
)
def test_what_is_steady_is_not_refuted(spec: Arrivals, requests: int) -> None:
    found = [rate_change(drawn(spec, seed, requests=requests)) for seed in range(8)]
    assert sum(change.refuted for change in found) <= 1
    assert all(change.curve is None and not change.gains for change in found if not change.refuted)


@pytest.mark.parametrize("requests", [300, 1000, 20_000])
def test_a_ramp_has_no_rate_and_two_steps(requests: int) -> None:
    times_s = ramp(1, requests)
    assert steadiness(times_s) < LEVEL
    change = rate_change(times_s)
    assert change.kind == "steps"
    assert change.fastest_per_s / change.slowest_per_s > 50
    assert change.gains["steps"] > max(0.5, change.gains["diurnal"])
    assert change.curve is not None
    steps = change.curve.arrivals.steps or []
    assert steps[0].span_s == pytest.approx(500, rel=0.02)
    fast, slow = max(steps, key=lambda step: step.factor), steps[0]
    assert fast.factor / slow.factor == pytest.approx(92, rel=0.25)


def test_the_twin_of_a_ramp_is_true_of_both_halves() -> None:
    times_s = ramp(1, 20_000)
    fit = fit_arrivals(pd.DataFrame({"arrival_s": times_s}))
    assert fit.name.startswith("steps, ")
    twin_s = drawn(fit.arrivals, 7, requests=len(times_s), rate_per_s=fit.rate_per_s)
    for low_s, high_s in ((0, 500), (500, 505.4)):
        own, its = (((t >= low_s) & (t < high_s)).sum() for t in (times_s, twin_s))
        assert its == pytest.approx(own, rel=0.05)
    assert fit.held_out.score < 0.5


@pytest.mark.parametrize(("days", "requests"), [(1, 2000), (2, 20_000), (7, 2000)])
def test_a_swing_is_found_again(days: int, requests: int) -> None:
    times_s = drawn(SWING, 1, requests=requests, rate_per_s=requests / (days * 86_400))
    fit = fit_arrivals(pd.DataFrame({"arrival_s": times_s}))
    assert fit.change.refuted
    assert fit.change.kind == "diurnal"
    assert fit.arrivals.diurnal is not None
    assert fit.arrivals.diurnal.period_s == pytest.approx(86_400, rel=0.1)
    assert fit.arrivals.diurnal.amplitude == pytest.approx(0.8, abs=0.1)
    assert fit.arrivals.bursts is None


def test_what_is_left_of_a_swing_keeps_its_gaps() -> None:
    spec = Arrivals(gaps="gamma", cv=2.0, diurnal=Diurnal(amplitude=0.7, period_s=2000.0))
    fit = fit_arrivals(pd.DataFrame({"arrival_s": drawn(spec, 3, requests=40_960)}))
    assert fit.name == "diurnal, gamma gaps"
    assert fit.arrivals.cv == pytest.approx(2.0, rel=0.1)


def test_a_time_stamp_that_many_share_is_no_division_by_zero() -> None:
    times_s = np.repeat(np.arange(20.0), 30)
    change = rate_change(times_s)
    assert not change.refuted
    assert change.fastest_per_s < np.inf
    jump_s = np.concatenate([np.arange(300.0), np.full(300, 300.0), 300.0 + np.arange(5.0)])
    assert rate_change(jump_s).refuted


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.01, 100)), min_size=2, max_size=6))
def test_taking_a_curve_out_leaves_order_and_span(steps: list[tuple[float, float]]) -> None:
    span_s, factor = np.array(steps).T
    curve = RateCurve(Arrivals(), np.append(0.0, np.cumsum(span_s)), factor)
    times_s = np.linspace(0.0, span_s.sum(), 101)
    operational_s = curve.operational_s(times_s)
    assert (np.diff(operational_s) >= 0).all()
    assert operational_s[[0, -1]] == pytest.approx(times_s[[0, -1]])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.0, 100)), min_size=2, max_size=6), st.integers(0, 9)
)
@example([(1.0, 0.0), (1.0, 7.846617833692671e-208)], 0)
def test_steps_have_the_mean_rate_and_their_ratios(steps: list[tuple[float, float]], seed: int) -> None:
    span_s, factor = np.array(steps).T
    if not factor.any():
        return
    spec = Arrivals(steps=[Step(span_s=s, factor=f) for s, f in steps])
    rate_per_s = 4096 / span_s.sum()  # one round of the steps
    times_s = drawn(spec, seed, rate_per_s=rate_per_s) % span_s.sum()
    ends_s = np.append(0.0, np.cumsum(span_s))
    expected = span_s * factor / (span_s @ factor)
    found = np.histogram(times_s, bins=ends_s)[0] / len(times_s)
    np.testing.assert_allclose(found, expected, atol=0.06)
    factor = factor / factor.max()
    square = (span_s @ factor**2) * span_s.sum() / (span_s @ factor) ** 2
    assert spec.unsteady == pytest.approx(square)
