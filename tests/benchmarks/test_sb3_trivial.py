from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="needs the extra train")

from benchmarks.sb3_trivial import REQUESTS, against, optimum_s, random_legal, responses_s, trivial_world
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.world.world import World

SEEDS = range(5)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return trivial_world(tmp_path_factory.mktemp("lengths"))


def test_everything_arrives_at_once_and_looks_alike(world: World) -> None:
    requests = world.draw(3)
    assert len(requests.model) == REQUESTS
    assert set(requests.arrival_ns) == {0}
    assert len(set(requests.decode_tokens)) == 1
    assert world.devices == 1
    assert world.tables.footprint_bytes.sum() > world.tables.capacity_bytes.sum()


def test_nothing_beats_the_optimum_and_something_reaches_it(world: World) -> None:
    env, greedy = SchedulingEnv(world=world), CostGreedy()
    optimal = np.array([optimum_s(env, seed) for seed in SEEDS])
    played = responses_s(env, lambda env, seen: greedy.act(seen), SEEDS)
    drawn = np.array([responses_s(env, random_legal, range(s, s + 1))[0] for s in SEEDS for _ in range(5)])
    assert (played >= optimal - 1e-9).all()
    assert (played <= 1.2 * optimal).all()
    assert (drawn.reshape(len(SEEDS), 5) >= optimal[:, None] - 1e-9).all()


def test_a_search_leaves_no_trace(world: World) -> None:
    env = SchedulingEnv(world=world)
    assert optimum_s(env, 1) == optimum_s(env, 1) == optimum_s(SchedulingEnv(world=world), 1)


def test_ratios_are_paired(world: World) -> None:
    optimal = np.array([1.0, 2.0, 4.0])
    row = against("x", optimal * 1.1, optimal)
    assert row.value == pytest.approx(1.1)
    assert row.interval == pytest.approx((1.1, 1.1))
    assert against("x", optimal, optimal).interval is None
