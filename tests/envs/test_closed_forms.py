"""The simulator against queueing theory: what is known exactly must come out, within sampling error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from shunter.agents.base import ScoringPolicy, is_, value
from shunter.envs.gym.vector import SchedulingVectorEnv
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.state.tables import make_tables
from shunter.envs.workload.lengths import length_pairs, remaining_tokens
from shunter.envs.workload.traces import write_trace
from shunter.envs.world.world import World

STEP_S = 0.01
REQUESTS = 1000
EPISODES = 96


class Exhaustive(ScoringPolicy):
    """Serves what is resident until nothing is left, then turns to another model, called for or not."""

    name = "exhaustive-cyclic"

    def scores(
        self, candidates: NDArray[Any], context: NDArray[Any], mask: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        has_work = is_(candidates, "run") & (value(candidates, "requests") > 0)
        return 3.0 * has_work + 2.0 * is_(candidates, "load") + 1.0 * is_(candidates, "wait")


def exponential(rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.geometric(1 / 60, 20_000)


def two_sizes(rng: np.random.Generator) -> NDArray[np.int64]:
    return np.where(np.arange(20_000) % 10 == 0, 400, 20)


def world_of(
    folder: Path,
    lengths: NDArray[np.int64],
    utilisation: float,
    *,
    models: int = 1,
    max_batch: int = 1,
    quantum_steps: int = 4096,
    switch_s: float = 0.0,
    users: int = 0,
    think_s: float = 1.0,
) -> tuple[World, float, float]:
    """A device without prefill or other costs; also the mean and the mean square of the service time."""
    trace = pd.DataFrame(
        {"arrival_s": 0.0, "prompt_tokens": 1, "decode_tokens": lengths, "model": "", "session": ""}
    )
    write_trace(trace, folder / "lengths.csv", format="vidur")
    # The prefill gives the first token; it costs nothing here.
    decode_s = (np.minimum(lengths, 2048) - 1) * STEP_S
    rate_per_s = utilisation / decode_s.mean()
    scenario = Scenario.parse(
        {
            "name": "closed-form",
            "engine": "fake",
            "models": [{"name": f"m{i}"} for i in range(models)],
            "devices": [{"name": "d", "device": "cuda:0-1GB"}],
            "workload": {
                "requests": REQUESTS,
                **(
                    {"closed_loop": {"users": users, "think_s": think_s}}
                    if users
                    else {"rate_per_s": rate_per_s}
                ),
                "lengths": str(folder / "lengths.csv"),
                "popularity_zipf": 0.0,
            },
            "limits": {
                "max_batch": max_batch,
                "context_tokens": 4096,
                "quantum_steps": quantum_steps,
                "quantum_s": 1e6,
                "max_wait_s": 1e6,
                "decision_s": 0.0,
                "max_time_s": 1e9,
            },
        }
    )
    shape, grid = (1, models, 1), np.array([1.0, 4096.0])
    step_s = np.zeros((*shape, max_batch, 2)) + (STEP_S * np.arange(1, max_batch + 1))[:, None]
    zero, limits = np.zeros(shape), scenario.limits
    tables = make_tables(
        level_ok=np.ones(shape, np.bool_),
        gpu_share=np.ones((models, 1)),
        footprint_bytes=np.full(shape, 0.9e9),
        capacity_bytes=np.full(1, 1e9),
        load_s=np.full(shape, switch_s),
        cold_load_s=np.full(shape, switch_s),
        weight_bytes=np.full(models, 0.9e9),
        host_bytes=np.inf,
        unload_s=zero,
        prefill_s=np.zeros((*shape, 2)),
        prefill_tokens=grid,
        step_s=step_s,
        context_tokens=grid,
        kv_save_s=np.zeros((*shape, 2)),
        kv_restore_s=np.zeros((*shape, 2)),
        remaining_tokens=remaining_tokens(length_pairs(scenario.workload, limits)),
        load_halfwidth=zero,
        prefill_halfwidth=zero,
        step_halfwidth=zero,
        offload_sensitivity=np.zeros((1, models)),
        kv_can_save=np.ones(1, np.bool_),
        quantum_steps=quantum_steps,
        quantum_ns=10**15,
        max_wait_ns=10**15,
        decision_ns=0,
        max_time_ns=10**18,
        max_batch=max_batch,
        oracle=0,
        time_scale_s=1.0,
    )
    world = World(scenario, tables, ((1,),) * models, rate_per_s, np.full(1, decode_s.mean()))
    return world, float(decode_s.mean()), float((decode_s**2).mean())


def mean_responses_s(world: World) -> NDArray[np.float64]:
    """Mean response of each of many independent episodes: the reward is minus the request-seconds."""
    env, policy = SchedulingVectorEnv(EPISODES, world=world), Exhaustive()
    observation, _ = env.reset(seed=7)
    total_s, over = np.zeros(EPISODES), np.zeros(EPISODES, np.bool_)
    while not over.all():
        observation, reward, terminated, truncated, _ = env.step(policy.act_batch(observation))
        total_s -= np.where(over, 0.0, reward * world.time_scale_s)
        over |= terminated | truncated
    env.close()
    return total_s / REQUESTS


def assert_mean(responses_s: NDArray[np.float64], expected_s: float) -> None:
    standard_error_s = responses_s.std(ddof=1) / np.sqrt(len(responses_s))
    assert standard_error_s < 0.04 * expected_s, "the test would see too little"
    assert abs(responses_s.mean() - expected_s) < 3.5 * standard_error_s


@pytest.mark.parametrize("utilisation", [0.3, 0.7])
@pytest.mark.parametrize("lengths", [exponential, two_sizes])
def test_one_at_a_time_is_m_g_1(lengths: Any, utilisation: float, tmp_path: Path) -> None:
    # Pollaczek and Khinchine; with exponential lengths it is M/M/1.
    drawn = lengths(np.random.default_rng(1))
    world, mean_s, square_s2 = world_of(tmp_path, drawn, utilisation)
    waiting_s = world.rate_per_s * square_s2 / (2 * (1 - utilisation))
    assert_mean(mean_responses_s(world), mean_s + waiting_s)


@pytest.mark.parametrize("lengths", [exponential, two_sizes])
def test_a_batch_without_economies_is_processor_sharing(lengths: Any, tmp_path: Path) -> None:
    # M/G/1-PS: E[S] / (1 - rho), whatever the distribution (Kleinrock 1967).
    world, mean_s, _ = world_of(
        tmp_path, lengths(np.random.default_rng(2)), 0.5, max_batch=64, quantum_steps=1
    )
    joining_s = 0.5 * STEP_S  # an arrival waits for the running step to end: half a step, if one runs
    assert_mean(mean_responses_s(world), mean_s / (1 - 0.5) + joining_s)


def test_two_models_in_turn_are_a_polling_system_with_set_up_times(tmp_path: Path) -> None:
    # Symmetric exhaustive polling with constant switch-over times r (Takagi 1986):
    # E[W] = (N λ E[S²] + r (N - ρ)) / (2 (1 - ρ)) for N queues of rate λ each.
    utilisation, switch_s, queues = 0.6, 2.0, 2
    world, mean_s, square_s2 = world_of(
        tmp_path, exponential(np.random.default_rng(3)), utilisation, models=queues, switch_s=switch_s
    )
    waiting_s = (world.rate_per_s * square_s2 + switch_s * (queues - utilisation)) / (2 * (1 - utilisation))
    assert_mean(mean_responses_s(world), mean_s + waiting_s)


def test_users_who_wait_for_answers_are_a_machine_repairman(tmp_path: Path) -> None:
    # M/M/1//N (Feller 1950): p_n / p_0 = N! / (N - n)! (E[S] / Z)^n; by Little's law a response is N / X - Z.
    users, ratio = 5, 3.0
    drawn = exponential(np.random.default_rng(4))
    mean_s = (np.minimum(drawn, 2048) - 1).mean() * STEP_S
    world, *_ = world_of(tmp_path, drawn, 0.5, users=users, think_s=ratio * mean_s)
    weights = np.cumprod([1.0, *((users - n) / ratio for n in range(users))])
    throughput_per_s = (1 - weights[0] / weights.sum()) / mean_s
    expected_s = users / throughput_per_s - ratio * mean_s
    responses_s = mean_responses_s(world)
    standard_error_s = responses_s.std(ddof=1) / np.sqrt(len(responses_s))
    # The first requests meet few others, and so do the last ones, when users have stopped to send.
    margin_s = 3.5 * standard_error_s + expected_s * users / REQUESTS
    assert margin_s < 0.03 * expected_s
    assert abs(responses_s.mean() - expected_s) < margin_s
