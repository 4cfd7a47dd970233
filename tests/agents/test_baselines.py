from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.sim_worlds import synthetic_world
from shunter.agents.base import Policy
from shunter.agents.registry import DEFAULT_POLICIES, HEURISTICS, make_policy
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.observation.features import CONTEXT_FEATURES, FEATURES
from shunter.envs.world.world import World
from shunter.eval.execution.batched import evaluate_batched

RUN = {"is_run": 1, "resident_here": 1, "gpu_share": 1, "requests": 1, "batch": 1, "first_time": 1}
LOAD = {
    "is_load": 1,
    "top_level": 1,
    "gpu_share": 1,
    "requests": 1,
    "batch": 1,
    "swap_time": 1,
    "first_time": 1,
}
EVICT = {"is_evict": 1, "resident_here": 1, "gpu_share": 1, "footprint": 0.3}
WAIT = {"is_wait": 1}

Row = dict[str, float]


def act(name: str, *rows: Row, **context: float) -> int:
    table = np.zeros((len(rows), len(FEATURES)), np.float32)
    for row, values in zip(table, rows, strict=True):
        for key, value in values.items():
            row[FEATURES.index(key)] = value
    shared = np.zeros(len(CONTEXT_FEATURES), np.float32)
    for key, value in context.items():
        shared[CONTEXT_FEATURES.index(key)] = value
    mask = np.ones(len(rows), np.int8)
    return make_policy(name).act({"candidates": table, "context": shared, "action_mask": mask})


@pytest.fixture(scope="module", params=[1, 2], ids=["one device", "two devices"])
def world(request: pytest.FixtureRequest) -> World:
    rate_per_s = 0.2 * request.param
    return synthetic_world(4, request.param, rate_per_s=rate_per_s, requests=60, max_batch=4)


@pytest.mark.parametrize("name", [*HEURISTICS, "exhaustive:then=longest"])
def test_everyone_is_served_without_an_illegal_action(world: World, name: str) -> None:
    result = evaluate_batched(world, make_policy(name), range(3))
    assert result.unfinished.tolist() == [0, 0, 0]
    assert all(counts["illegal_actions"] == 0 for counts in result.counts)
    assert all(counts["swaps"] > 0 for counts in result.counts)


def seen(world: World, count: int = 60) -> list[dict[str, Any]]:
    env = SchedulingEnv(world=world)
    rng = np.random.default_rng(0)
    found = [env.reset(seed=0)[0]]
    for _ in range(count):
        found.append(env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))[0])
    return found


@pytest.mark.parametrize("name", HEURISTICS)
def test_single_and_batched_choices_agree_and_are_legal(world: World, name: str) -> None:
    policy, found = make_policy(name), seen(world)
    assert isinstance(policy, Policy)
    single = [policy.act(o) for o in found]
    assert all(o["action_mask"][a] for o, a in zip(found, single, strict=True))
    batch = {key: np.stack([o[key] for o in found]) for key in found[0]}
    np.testing.assert_array_equal(policy.act_batch(batch), single)


@pytest.mark.parametrize("name", HEURISTICS)
def test_the_order_of_candidates_does_not_matter(world: World, name: str) -> None:
    policy, rng = make_policy(name), np.random.default_rng(1)
    for observation in seen(world):
        order = rng.permutation(len(observation["action_mask"]))
        shuffled = {**observation, **{k: observation[k][order] for k in ("candidates", "action_mask")}}
        one, other = policy.act(observation), order[policy.act(shuffled)]
        # Equals may take each other's place: what is chosen must be the same.
        np.testing.assert_array_equal(observation["candidates"][one], observation["candidates"][other])


def test_what_is_compared_by_default_holds_no_oracle() -> None:
    assert not any(cls.oracle for cls in DEFAULT_POLICIES.values())
    assert [name for name, cls in HEURISTICS.items() if cls.oracle] == ["sjf-oracle"]


@pytest.mark.parametrize("name", HEURISTICS)
def test_nobody_prefetches_or_evicts_for_no_reason(name: str) -> None:
    unwanted = {**LOAD, "requests": 0, "batch": 0}
    assert act(name, unwanted, {**EVICT, "unused_time": 1e6}, WAIT) == 2


@pytest.mark.parametrize("name", sorted(set(HEURISTICS) - {"cost-greedy", "random", "startup-greedy"}))
def test_no_second_copy_unless_a_started_request_is_tied_to_this_device(name: str) -> None:
    there = {**LOAD, "oldest_age": 1, "elsewhere": 1}
    assert act(name, there, WAIT) == 1
    assert act(name, {**there, "held": 1}, WAIT) == 0


@pytest.mark.parametrize("name", ["fifo-swap", "fifo-collated", "count-lru", "exhaustive", "never-preempt"])
def test_as_many_layers_as_can_be_of_the_oldest_request(name: str) -> None:
    part, whole = {**LOAD, "oldest_age": 9, "gpu_share": 0.5, "top_level": 0}, {**LOAD, "oldest_age": 9}
    assert act(name, {**LOAD, "oldest_age": 1, "gpu_share": 0.2, "top_level": 0}, part, whole, WAIT) == 2


def test_fifo_collated_swaps_only_when_nobody_asks_for_a_resident_or_beyond_the_bound() -> None:
    here, other = {**RUN, "oldest_age": 1}, {**LOAD, "oldest_age": 9}
    assert act("fifo-swap", here, other, WAIT) == 1
    assert act("fifo-collated:max_wait=10", here, other, WAIT) == 0
    assert act("fifo-collated:max_wait=8", here, other, WAIT) == 1
    assert act("fifo-collated:max_wait=8", {**here, "oldest_age": 9.5}, other, WAIT) == 0


def test_count_lru_unloads_before_it_would_hold_one_too_many() -> None:
    new = {**LOAD, "oldest_age": 9}
    old, recent = {**EVICT, "unused_time": 5}, {**EVICT, "unused_time": 1}
    assert act("count-lru:most=3", new, old, recent, WAIT) == 0
    assert act("count-lru:most=2", new, old, recent, WAIT) == 1
    assert act("count-lru:most=2", new, {**old, "requests": 1}, recent, WAIT) == 2
    resident = {**RUN, "oldest_age": 10}
    assert act("count-lru:most=2", new, old, recent, resident, WAIT) == 3


def test_size_lru_evicts_the_largest_that_nobody_waits_for() -> None:
    small, large = {**EVICT, "unused_time": 9}, {**EVICT, "footprint": 0.6}
    assert act("count-lru", small, large) == 0
    assert act("size-lru", small, large) == 1
    assert act("size-lru", small, {**large, "requests": 2}) == 0


def test_startup_greedy_takes_the_soonest_start_unless_another_waited_longer() -> None:
    slow, quick = {**LOAD, "swap_time": 3, "oldest_age": 2}, {**LOAD, "swap_time": 1, "oldest_age": 1}
    assert act("startup-greedy:age_weight=1", slow, quick, WAIT) == 1
    assert act("startup-greedy:age_weight=3", slow, quick, WAIT) == 0


def test_startup_greedy_loads_a_second_copy_where_that_is_quicker_than_the_queue() -> None:
    copy = {**LOAD, "swap_time": 2, "elsewhere": 1, "startup_elsewhere": 1}
    assert act("startup-greedy", copy, WAIT) == 1
    assert act("startup-greedy", {**copy, "startup_elsewhere": 3}, WAIT) == 0
    part = {**copy, "gpu_share": 0.0, "top_level": 0, "swap_time": 0.5}
    assert act("startup-greedy", part, copy, WAIT) == 2


def test_pressure_greedy_swaps_for_pressure_well_above_a_resident_that_has_work() -> None:
    here = {**RUN, "requests": 1, "footprint": 0.5}
    waiting = {**LOAD, "requests": 2, "footprint": 0.5, "shortage": 0.2}
    assert act("pressure-greedy:threshold=1.5", here, waiting, WAIT) == 1
    assert act("pressure-greedy:threshold=3", here, waiting, WAIT) == 0
    assert act("pressure-greedy:threshold=3", here, {**waiting, "shortage": 0}, WAIT) == 1
    assert act("pressure-greedy:threshold=3", {**waiting, "requests": 1}, WAIT) == 0
    light, heavy = {**EVICT, "arrivals": 1}, {**EVICT, "arrivals": 2}
    assert act("pressure-greedy", heavy, light) == 1
    assert act("pressure-greedy", heavy, {**light, "footprint": 0.1}) == 0


def test_pressure_greedy_does_not_swap_back_and_forth() -> None:
    low, high = {**RUN, "requests": 1, "footprint": 0.3}, {**RUN, "requests": 4, "footprint": 0.3}
    between = {**LOAD, "requests": 6, "footprint": 0.9, "shortage": 0.5}
    assert act("pressure-greedy:threshold=1.5", low, high, between, WAIT) < 2
    assert act("pressure-greedy:threshold=1.5", low, between, WAIT) == 1


def test_cost_table_evicts_what_costs_least() -> None:
    cheap = {**EVICT, "preempt_time": 1, "footprint": 0.1}
    dear = {**EVICT, "preempt_time": 2, "footprint": 0.4}
    assert act("cost-table", cheap, dear) == 0
    assert act("cost-table:per=byte", cheap, dear) == 1
    popular = {**cheap, "arrivals": 2}
    assert act("cost-table:popularity=1", popular, dear) == 1
    assert act("cost-table:popularity=0", popular, dear) == 0


def test_sjf_takes_the_shortest_whatever_the_queues() -> None:
    crowd, short = {**RUN, "requests": 9, "first_time": 2}, {**LOAD, "swap_time": 0.5, "first_time": 1}
    assert act("sjf", crowd, short, WAIT) == 1
    assert act("cost-greedy", crowd, short, WAIT) == 0
    assert act("sjf:load_weight=3", crowd, short, WAIT) == 0


def test_the_oracle_sees_true_lengths_and_nobody_else_does(world: World) -> None:
    told = {}
    for name in ("sjf", "sjf-oracle"):
        policy = make_policy(name)
        env = SchedulingEnv(world=world, oracle=policy.oracle)
        arrived, _ = env.reset(seed=0)
        while not arrived["candidates"][:, FEATURES.index("requests")].any():
            arrived = env.step(world.actions - 1)[0]
        told[name] = arrived["candidates"][:, FEATURES.index("batch_time")]
    assert not np.array_equal(told["sjf"], told["sjf-oracle"])
    blind, knowing = (evaluate_batched(world, make_policy(name), [0]) for name in told)
    assert not blind.requests[0].equals(knowing.requests[0])


def test_cost_greedy_counts_a_second_copy_as_told() -> None:
    here, copy = {**RUN, "first_time": 2}, {**LOAD, "requests": 3, "elsewhere": 1}
    assert act("cost-greedy", here, copy, WAIT) == 1
    assert act("cost-greedy:copy_share=0.1", here, copy, WAIT) == 0
    assert act("cost-greedy:load_weight=8", here, copy, WAIT) == 0


def test_exhaustive_stays_until_the_queue_is_empty() -> None:
    here = {**RUN, "oldest_age": 1, "turned_to_last": 1}
    older, longer = {**RUN, "oldest_age": 9}, {**LOAD, "oldest_age": 2, "requests": 5}
    assert act("exhaustive", here, older, longer, WAIT) == 0
    assert act("exhaustive", {**here, "turned_to_last": 0}, older, longer, WAIT) == 1
    assert act("exhaustive:then=longest", {**here, "turned_to_last": 0}, older, longer, WAIT) == 2


def test_never_preempt_finishes_what_it_started() -> None:
    started, older = {**RUN, "oldest_age": 1, "started": 1}, {**RUN, "oldest_age": 9}
    assert act("never-preempt", started, older, {**LOAD, "oldest_age": 20}, WAIT) == 0
    assert act("never-preempt", {**started, "started": 0}, older, WAIT) == 1
    last = {**started, "turned_to_last": 1}
    assert act("never-preempt", {**older, "started": 1}, last, WAIT) == 1


def test_lru_keepalive_preempts_only_when_patience_ends() -> None:
    busy, waiting = {**RUN, "started": 1, "oldest_age": 1}, {**LOAD, "oldest_age": 9, "shortage": 0.5}
    assert act("lru-keepalive:patience=10", busy, waiting, WAIT) == 0
    assert act("lru-keepalive:patience=8", busy, waiting, WAIT) == 1


def test_lru_keepalive_offloads_partially_beside_others_or_only_alone() -> None:
    whole, part = {**LOAD, "shortage": 0.2}, {**LOAD, "gpu_share": 0.5, "top_level": 0}
    busy = {**RUN, "started": 1, "oldest_age": 1}
    assert act("lru-keepalive:partial=beside", whole, part, WAIT) == 1
    assert act("lru-keepalive:partial=alone", whole, part, WAIT) == 0
    assert (
        act("lru-keepalive:partial=beside", {**whole, "oldest_age": 2}, {**part, "oldest_age": 2}, busy) == 1
    )
    assert (
        act("lru-keepalive:partial=alone", {**whole, "oldest_age": 2}, {**part, "oldest_age": 2}, busy) == 2
    )


def test_random_depends_on_what_it_sees_and_takes_anything_that_serves() -> None:
    choices = [
        act("random", {**RUN, "oldest_age": age}, {**LOAD, "oldest_age": age}, WAIT) for age in range(40)
    ]
    assert choices == [
        act("random", {**RUN, "oldest_age": age}, {**LOAD, "oldest_age": age}, WAIT) for age in range(40)
    ]
    assert 10 < sum(choices) < 30
    assert set(choices) == {0, 1}
