from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from shunter.envs.scenario.limits import Limits
from shunter.envs.scenario.model import Model
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.scenario.workload import LENGTHS, Sessions, Workload
from shunter.envs.state.state import Requests
from shunter.envs.workload.arrivals import weibull_shape
from shunter.envs.workload.draw import draw_requests, request_chunks
from shunter.envs.workload.lengths import length_pairs, remaining_tokens
from shunter.envs.workload.replay import replay_rate_per_s
from shunter.envs.workload.shares import popularity, shares_of
from shunter.envs.workload.traces import write_trace
from shunter.errors import InputError, UnknownNameError

MODELS = tuple(Model(name=name) for name in "abcd")
LIMITS = Limits(context_tokens=1024)
WORKLOAD = Workload(requests=5000, rate_per_s=2.0)

KINDS: dict[str, dict[str, Any]] = {
    "poisson": {},
    "gamma": {"arrivals": {"gaps": "gamma", "cv": 3.0}},
    "weibull": {"arrivals": {"gaps": "weibull", "cv": 0.5}},
    "bursts": {"arrivals": {"bursts": {"factor": 4.0, "share": 0.2, "mean_s": 5.0}}},
    "diurnal": {"arrivals": {"diurnal": {"amplitude": 0.8, "period_s": 60.0}}},
    "steps": {"arrivals": {"steps": [{"span_s": 40.0, "factor": 1.0}, {"span_s": 10.0, "factor": 9.0}]}},
    "drift": {"popularity_drift_s": 100.0},
    "sessions": {"sessions": {"turns": 5, "models": 2, "gap_s": 0.7}},
}


def drawn(seed: int = 0, requests: int = 5000, **changes: Any) -> Requests:
    workload = Workload.model_validate({"requests": requests, "rate_per_s": 2.0, **changes})
    return draw_requests(workload, LIMITS, MODELS, 2.0, seed)


def gaps_s(requests: Requests) -> Any:
    return np.diff(requests.arrival_ns) * 1e-9


def per_window(requests: Requests, window_s: float) -> Any:
    return np.bincount((requests.arrival_ns * 1e-9 / window_s).astype(int))[:-1]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_lengths_stay_within_the_context(lengths: str) -> None:
    pairs = length_pairs(WORKLOAD.model_copy(update={"lengths": lengths}), LIMITS)
    assert pairs.min() >= 1
    assert pairs.sum(axis=1).max() <= 1024


def test_quantile_lengths_have_the_published_quantiles() -> None:
    workload = WORKLOAD.model_copy(update={"lengths": "azure2023_code"})
    pairs = length_pairs(workload, Limits(context_tokens=100_000))
    # Medians of the Azure 2023 code trace in workload_quantiles.json: 1469 and 13 tokens.
    np.testing.assert_allclose(np.median(pairs, axis=0), [1469, 13], rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_requests_in_order(kind: str) -> None:
    first, again, other = (drawn(seed, **KINDS[kind]) for seed in (7, 7, 8))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.arrival_ns, other.arrival_ns)
    assert first.arrival_ns[0] >= 0
    assert (np.diff(first.arrival_ns) >= 0).all()
    assert set(first.model) <= set(range(len(MODELS)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_rate_is_the_one_asked_for(kind: str) -> None:
    requests = drawn(3, requests=60_000, **KINDS[kind])
    rate_per_s = len(requests.arrival_ns) / (requests.arrival_ns[-1] * 1e-9)
    counts = per_window(requests, 200.0)
    standard_error = counts.std() / np.sqrt(len(counts)) / 200.0
    assert abs(rate_per_s - 2.0) < 5 * max(standard_error, 0.003)


@pytest.mark.parametrize(("kind", "cv"), [("poisson", 1.0), ("gamma", 3.0), ("weibull", 0.5)])
def test_gaps_have_the_coefficient_of_variation(kind: str, cv: float) -> None:
    gaps = gaps_s(drawn(1, requests=60_000, **KINDS[kind]))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_an_exponential_is_the_weibull_of_shape_one() -> None:
    assert weibull_shape(1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["bursts", "diurnal", "steps"])
def test_a_changing_rate_is_over_dispersed_where_poisson_is_not(kind: str) -> None:
    steady = per_window(drawn(2, requests=20_000), 5.0)
    changing = per_window(drawn(2, requests=20_000, **KINDS[kind]), 5.0)
    assert steady.var() / steady.mean() < 1.3
    assert changing.var() / changing.mean() > 2.0


def test_steps_begin_with_the_first_and_come_again() -> None:
    requests = drawn(requests=20_000, **KINDS["steps"])
    at_s = requests.arrival_ns * 1e-9 % 50.0
    # 2 a second on the mean, of which the last fifth of the time has nine times the rate of the rest.
    assert (at_s < 40.0).mean() == pytest.approx(40 / 130, abs=0.01)
    first_s = requests.arrival_ns[requests.arrival_ns < 40e9] * 1e-9
    assert len(first_s) / 40.0 == pytest.approx(2 * 50 / 130, rel=0.6)


def test_popularity_is_zipf_and_lengths_are_the_traces() -> None:
    requests = drawn()
    share = np.bincount(requests.model, minlength=4) / len(requests.model)
    np.testing.assert_allclose(share, popularity(4, 1.2), atol=0.03)
    np.testing.assert_allclose(popularity(3, 1.0), np.array([6, 3, 2]) / 11)
    pairs = length_pairs(WORKLOAD, LIMITS)
    standard_error = pairs[:, 1].std() / np.sqrt(len(requests.model))
    assert abs(requests.decode_tokens.mean() - pairs[:, 1].mean()) < 4 * standard_error


def test_drift_changes_who_is_popular_and_not_how_much() -> None:
    requests = drawn(requests=20_000, popularity_drift_s=1000.0)
    epochs = (requests.arrival_ns * 1e-9 // 1000.0).astype(int)
    counts = [np.bincount(requests.model[epochs == e], minlength=4) for e in range(9)]
    assert len({int(c.argmax()) for c in counts}) > 1
    for count in counts:
        np.testing.assert_allclose(np.sort(count)[::-1] / count.sum(), popularity(4, 1.2), atol=0.05)


def test_sessions_alternate_between_different_models() -> None:
    requests = drawn(requests=12, rate_per_s=2.0, sessions={"turns": 4, "models": 2, "gap_s": 1e-6})
    for session in requests.model.reshape(3, 4).tolist():
        first, second = session[:2]
        assert first != second
        assert session == [first, second, first, second]


@pytest.mark.parametrize(
    ("sessions", "weights"),
    [
        ({"turns": 4, "models": 2}, None),
        ({"turns": 5, "models": 3}, (90.0, 5.0, 4.0, 1.0)),
        ({"turns": 2, "models": 4}, (90.0, 5.0, 4.0, 1.0)),
        ({"turns": 4, "models": 4}, (90.0, 5.0, 4.0, 1.0)),
        ({"turns": 3, "models": 1}, (0.9, 0.1, 1e-9, 1e-12)),
    ],
)
def test_shares_of_sessions_are_those_of_what_they_draw(
    sessions: dict[str, Any], weights: tuple[float, ...] | None
) -> None:
    """The shares of every whole session, whose number alone bounds how far they are from those of all."""
    whole = load_scenario("agents-alternate")
    models = tuple(
        Model(name=name, weight=weight) for name, weight in zip("abcd", weights or [None] * 4, strict=True)
    )
    workload = Workload(requests=60_000, rate_per_s=2.0, sessions=Sessions(gap_s=1e-6, **sessions))
    shares = shares_of(whole.model_copy(update={"models": models, "workload": workload}))
    requests = draw_requests(workload, LIMITS, models, 2.0, 3)
    found = np.bincount(requests.model, minlength=4) / 60_000
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.abs(found - shares).max() < 4 * 0.5 / np.sqrt(60_000 / sessions["turns"])
    by_popularity = np.array(weights or popularity(4, 1.0)) / sum(weights or (1.0,))
    apart = np.abs(shares - by_popularity).max()
    assert apart > 0.05 if sessions["models"] > 1 else apart < 1e-12


def test_chunks_are_what_one_draw_gives() -> None:
    whole = drawn(4, requests=9000)
    workload = Workload(requests=9000, rate_per_s=2.0)
    chunks = list(itertools.islice(request_chunks(workload, LIMITS, MODELS, 2.0, 4), 3))
    joined = np.concatenate([chunk.arrival_ns for chunk in chunks])[:9000]
    np.testing.assert_array_equal(joined, whole.arrival_ns)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    frame = pd.DataFrame(
        {
            "arrival_s": [0.0, 1.0, 3.0, 6.0],
            "prompt_tokens": [10, 20, 30, 40],
            "decode_tokens": [1, 2, 3, 4],
            "model": ["x", "y", "x", "x"],
            "session": ["1", "2", "1", "2"],
        }
    )
    write_trace(frame, tmp_path / "trace.parquet")
    return tmp_path / "trace.parquet"


def test_a_replay_begins_somewhere_and_goes_round(trace: Path) -> None:
    names = {"x": "a", "y": "d"}
    workload = Workload.model_validate(
        {"requests": 8, "replay": {"file": trace, "models": "column", "names": names}}
    )
    assert replay_rate_per_s(workload) == pytest.approx(0.5)
    requests = draw_requests(workload, LIMITS, MODELS, 0.5, 1)
    rows = requests.decode_tokens - 1
    np.testing.assert_array_equal(rows, (rows[0] + np.arange(8)) % 4)
    np.testing.assert_array_equal(requests.prompt_tokens, (rows + 1) * 10)
    np.testing.assert_array_equal(requests.model, np.array([0, 3, 0, 0])[rows])
    gap_before = np.array([2.0, 1.0, 2.0, 3.0])[rows]
    np.testing.assert_allclose(gaps_s(requests), gap_before[1:])
    faster = draw_requests(workload, LIMITS, MODELS, 5.0, 1)
    np.testing.assert_allclose(gaps_s(faster), gap_before[1:] / 10, rtol=1e-6)


def test_sessions_of_a_trace_keep_one_model(trace: Path) -> None:
    workload = Workload.model_validate({"requests": 40, "replay": {"file": trace, "models": "session"}})
    requests = draw_requests(workload, LIMITS, MODELS, 0.5, 3)
    of_row = {int(r): int(m) for r, m in zip(requests.decode_tokens, requests.model, strict=True)}
    assert of_row[1] == of_row[3]
    assert of_row[2] == of_row[4]


def test_a_trace_that_asks_for_an_unknown_model_is_refused(trace: Path) -> None:
    workload = Workload.model_validate({"requests": 4, "replay": {"file": trace, "models": "column"}})
    with pytest.raises(UnknownNameError, match="unknown name 'x'"):
        draw_requests(workload, LIMITS, MODELS, 0.5, 0)


def test_sessions_need_enough_models() -> None:
    with pytest.raises(InputError, match=r"workload\.sessions\.models must be at most 4"):
        drawn(sessions={"turns": 5, "models": 9, "gap_s": 1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arrivals": {"gaps": "gamma"}}, "give cv for gamma and weibull"),
        ({"arrivals": {"cv": 2}}, "give cv for gamma and weibull"),
        ({"arrivals": {"bursts": {"factor": 6, "share": 0.5, "mean_s": 1}}}, "times share of at most 1"),
        ({"arrivals": {"diurnal": {"amplitude": 1.5}}}, "less than 1"),
        ({"arrivals": {"steps": [{"span_s": 1, "factor": 1}]}}, "at least 2 items"),
        ({"arrivals": {"steps": [{"span_s": 1, "factor": 0}] * 2}}, "a factor above 0"),
        ({"arrivals": {"steps": [{"span_s": 0, "factor": 1}] * 2}}, "steps.0.span_s must be greater than 0"),
        (
            {"arrivals": {"steps": [{"span_s": 1, "factor": 1}] * 2, "diurnal": {"amplitude": 0.5}}},
            "at most one",
        ),
        ({"lengths": 7}, "workload.lengths"),
        ({"lengths": {"file": "x", "until_s": 3}}, r"workload.lengths.trace.until_s"),
        ({"replay": {"file": "x", "from_s": 5, "to_s": 5}}, "a to_s of more than from_s"),
        ({"replay": {"file": "x", "from_s": -1}}, "replay.from_s must be greater than or equal to 0"),
        ({"replay": {"file": "x", "requests": 0}}, "replay.requests"),
        (
            {"replay": {"file": "x", "models": "zipf", "names": {"x": "a"}}},
            "go by the trace's column, not by zipf",
        ),
        ({"replay": {"file": "x"}, "sessions": {"turns": 2, "gap_s": 1}}, "leave out arrivals and sessions"),
    ],
)
def test_bad_workloads_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = {
        "name": "s",
        "engine": "fake",
        "models": [{"name": "a"}],
        "devices": [{"name": "d", "device": "cpu:1-threads-50MB"}],
        "workload": {"rate_per_s": 1.0, **change},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=message):
        load_scenario(tmp_path / "s.yaml")


def test_trace_files_are_relative_to_the_scenario(trace: Path) -> None:
    text = """
name: s
engine: fake
models: [{name: a}]
devices: [{name: d, device: "cpu:1-threads-50MB"}]
workload: {replay: {file: trace.parquet}, requests: 4}
"""
    (trace.parent / "s.yaml").write_text(text)
    workload = load_scenario(trace.parent / "s.yaml").workload
    assert workload.replay is not None
    assert workload.replay.file == trace


def test_remaining_tokens_is_the_mean_residual_life() -> None:
    pairs = np.array([[1, 2], [1, 4], [1, 6]])
    expected = [4.0, 3.0, (2 + 4) / 2, (1 + 3) / 2, 2.0, 1.0, 1.0]
    np.testing.assert_allclose(remaining_tokens(pairs), expected)
