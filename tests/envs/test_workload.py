from __future__ import annotations

import numpy as np

from shunter.envs.scenario import Limits, Workload
from shunter.envs.workload import draw_requests, length_pairs, popularity, remaining_tokens

WORKLOAD = Workload(requests=5000, rate_per_s=2.0)
LIMITS = Limits(context_tokens=1024)


def test_lengths_stay_within_the_context() -> None:
    pairs = length_pairs(WORKLOAD, LIMITS)
    assert len(pairs) == 19_366
    assert pairs.min() >= 1
    assert pairs.sum(axis=1).max() <= 1024


def test_the_same_seed_draws_the_same_requests() -> None:
    first, again, other = (draw_requests(WORKLOAD, LIMITS, 3, 2.0, seed) for seed in (7, 7, 8))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.arrival_ns, other.arrival_ns)


def test_rate_popularity_and_lengths_are_those_asked_for() -> None:
    requests = draw_requests(WORKLOAD, LIMITS, 4, 2.0, 0)
    gaps_s = np.diff(requests.arrival_ns) * 1e-9
    assert abs(gaps_s.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(gaps_s))
    share = np.bincount(requests.model, minlength=4) / len(requests.model)
    np.testing.assert_allclose(share, popularity(4, 1.2), atol=0.03)
    pairs = length_pairs(WORKLOAD, LIMITS)
    standard_error = pairs[:, 1].std() / np.sqrt(len(requests.model))
    assert abs(requests.decode_tokens.mean() - pairs[:, 1].mean()) < 4 * standard_error


def test_popularity_is_zipf() -> None:
    np.testing.assert_allclose(popularity(3, 1.0), np.array([6, 3, 2]) / 11)


def test_remaining_tokens_is_the_mean_residual_life() -> None:
    pairs = np.array([[1, 2], [1, 4], [1, 6]])
    expected = [4.0, 3.0, (2 + 4) / 2, (1 + 3) / 2, 2.0, 1.0, 1.0]
    np.testing.assert_allclose(remaining_tokens(pairs), expected)
