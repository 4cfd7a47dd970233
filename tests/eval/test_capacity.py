from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.heuristics.fifo.swap import FifoSwap
from shunter.agents.registry import DEFAULT_POLICIES, make_policy
from shunter.envs.world.world import make_world
from shunter.errors import InputError
from shunter.eval.metrics.capacity import GROWTH, capacity, growth, utilisation
from tests.envs.test_closed_forms import exponential, world_of


def test_one_at_a_time_on_one_device_it_is_one_over_the_mean_service(tmp_path: Path) -> None:
    world, mean_s, _ = world_of(tmp_path, exponential(np.random.default_rng(0)), 0.5)
    found = capacity(world, [CostGreedy()], range(16))
    assert found.rate_per_s == pytest.approx(1 / mean_s, rel=0.06)
    assert found.low < found.rate_per_s < found.high
    assert found.policy == "cost-greedy"


def test_growth_is_what_exceeds_the_capacity(tmp_path: Path) -> None:
    world, mean_s, _ = world_of(tmp_path, exponential(np.random.default_rng(0)), 0.5)
    assert abs(growth(world, CostGreedy(), 0.5 / mean_s, range(4), 1000).mean()) < GROWTH
    assert growth(world, CostGreedy(), 2 / mean_s, range(4), 1000).mean() == pytest.approx(0.5, abs=0.05)


def test_the_guard_does_not_matter(tmp_path: Path) -> None:
    world, mean_s, _ = world_of(tmp_path, exponential(np.random.default_rng(0)), 0.5)
    found = [growth(w, CostGreedy(), 2 / mean_s, range(2), 200) for w in (world, world.with_guard(1e-3))]
    np.testing.assert_array_equal(*found)


def test_the_best_policy_counts() -> None:
    world = make_world("paper-a6000")
    found = capacity(world, [FifoSwap(), CostGreedy()], range(8), requests=600)
    assert found.policy == "cost-greedy"
    assert found.by_policy["cost-greedy"] == found.rate_per_s


@pytest.mark.parametrize("name", ["trivial-two-models", "two-half-resident"])
def test_measuring_again_agrees_with_the_file(name: str) -> None:
    world = make_world(name)
    stated = world.scenario.workload.capacity_rate_per_s
    found = capacity(world, [make_policy(policy) for policy in DEFAULT_POLICIES], range(100, 116))
    assert stated is not None
    # Both were measured: their difference has the width of two intervals.
    width = np.hypot(found.high - found.rate_per_s, found.high - found.rate_per_s)
    assert abs(found.rate_per_s - stated) < max(width, 0.03 * stated)


def test_utilisation_is_in_proportion_to_the_rate_and_higher_when_offloaded() -> None:
    world = make_world("paper-a6000")
    shares = utilisation(world, 1.0)
    assert shares.shape == (1, 3)
    assert (np.diff(shares[0]) > 0).all()
    np.testing.assert_allclose(utilisation(world, 2.0), 2 * shares)
    assert shares[0, 0] == pytest.approx(world.service_s[0], rel=1e-6)


def test_levels_that_fit_nowhere_have_no_utilisation() -> None:
    world = make_world("trivial-two-models")
    nothing = replace(world, tables=world.tables.changed(level_ok=False))
    assert np.isnan(utilisation(nothing, 1.0)).all()


def test_bad_input(tmp_path: Path) -> None:
    world = make_world("trivial-two-models")
    with pytest.raises(InputError, match="seeds must be at least two"):
        capacity(world, [CostGreedy()], [1])
    closed, _, _ = world_of(tmp_path, exponential(np.random.default_rng(0)), 0.5, users=2)
    with pytest.raises(InputError, match="workload must be an open loop"):
        capacity(closed, [CostGreedy()], [1, 2])
