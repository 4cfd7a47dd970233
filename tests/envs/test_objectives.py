"""Rewards of every objective against what the finished run itself says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shunter.agents.registry import make_policy
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.rules.objectives import alone_s
from shunter.envs.scenario.objective import Objective, with_objective
from shunter.envs.scenario.workload import Workload
from shunter.envs.world.world import World
from shunter.errors import InputError, UnknownNameError
from shunter.eval.execution.runs import Run, simulate
from shunter.eval.metrics.metrics import metric_names, request_times, slowdowns, summarize
from tests.worlds import fake_scenario

POLICY = "cost-greedy"


def with_goal(world: World, max_time_s: float = 36_000.0, **objective: Any) -> World:
    limits = world.scenario.limits.model_copy(update={"max_time_s": max_time_s})
    changes = {"objective": Objective(**objective), "limits": limits}
    scenario = world.scenario.model_copy(update=changes)
    tables = with_objective(world.tables, scenario.objective, [d.name for d in scenario.devices])
    return replace(world, scenario=scenario, tables=tables.changed(max_time_ns=round(max_time_s * 1e9)))


def episode(world: World, seed: int) -> tuple[float, Run]:
    """The sum of rewards in the environment, and the same episode in the evaluation's loop."""
    env, policy, total, over = SchedulingEnv(world=world), make_policy(POLICY), 0.0, False
    observation, _ = env.reset(seed=0, options={"workload_seed": seed})
    while not over:
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
        total += reward
        over = terminated or truncated
    run = simulate(world, policy, seed)
    assert run.cost == pytest.approx(
        -total * (world.time_scale_s if world.scenario.objective.metric == "mean-response" else 1.0)
    )
    return total, run


def test_mean_response_sums_up_responses(fake_world: World) -> None:
    total, run = episode(with_goal(fake_world), 1)
    assert -total * fake_world.time_scale_s == pytest.approx(request_times(run).response_s.sum())


def test_slowdown_sums_up_slowdowns(fake_world: World) -> None:
    total, run = episode(with_goal(fake_world, metric="slowdown"), 1)
    each = slowdowns(run)
    assert (each > 1).all()
    assert -total == pytest.approx(each.sum())
    assert summarize([run])["slowdown_mean"] == pytest.approx(each.mean())


@pytest.mark.parametrize("max_time_s", [36_000.0, 8.0])
@pytest.mark.parametrize("slo", [{"ttft_s": 1.0}, {"tpot_s": 0.004}, {"ttft_s": 1.0, "tpot_s": 0.004}])
def test_slo_counts_each_request_that_missed_it(
    fake_world: World, slo: dict[str, float], max_time_s: float
) -> None:
    total, run = episode(with_goal(fake_world, max_time_s, metric="slo", slo=slo), 1)
    times = request_times(run)
    kept = times.response_s.notna()
    kept &= times.ttft_s <= slo.get("ttft_s", np.inf)
    kept &= ~(times.tpot_s > slo.get("tpot_s", np.inf))
    arrived = run.requests.arrival_s <= run.makespan_s
    assert 0 < kept.sum() < len(kept)
    assert -total == (arrived & ~kept).sum()
    summary = summarize([run])
    assert summary["slo_attainment"] == pytest.approx(kept.mean())
    assert summary["goodput_per_s"] == pytest.approx(kept.sum() / run.makespan_s)


def test_a_missed_slo_is_charged_when_it_is_certain(fake_world: World) -> None:
    """A request that nobody serves costs 1 soon after its time is over, not at the end."""
    world = with_goal(fake_world, metric="slo", slo={"ttft_s": 2.0})
    env = SchedulingEnv(world=world)
    env.reset(seed=0, options={"workload_seed": 1})
    first_s = world.draw(1).arrival_ns[0] * 1e-9
    charged_s = -1.0
    while charged_s < 0:
        _, reward, *_, info = env.step(world.actions - 1)
        if reward < 0:
            assert reward == -1.0
            charged_s = info["now_s"]
    assert first_s + 2.0 < charged_s < first_s + 2.0 + world.scenario.limits.max_wait_s


@pytest.mark.parametrize(
    ("metric", "field", "unit_s"), [("money", "usd_per_hour", 3600.0), ("energy", "watts", 1.0)]
)
def test_prices_add_up(fake_world: World, metric: str, field: str, unit_s: float) -> None:
    rates = {"d0": {"busy": 300.0, "idle": 50.0}}
    world = with_goal(fake_world, metric=metric, waiting_price=0.25, **{field: rates})
    total, run = episode(world, 1)
    log = run.log.frame()
    own = log[(log.device == "d0") & log.operation.isin(["run", "load", "evict"])]
    busy_s = (own.end_s.clip(upper=run.makespan_s) - own.decided_s).sum()
    devices = (50.0 * run.makespan_s + 250.0 * busy_s) / unit_s
    assert -total == pytest.approx(devices + 0.25 * request_times(run).response_s.sum())
    assert set(metric_names(world.scenario.objective)) - set(metric_names(Objective())) == {"cost_mean"}


def test_alone_means_alone_on_the_best_device(fake_world: World) -> None:
    """A world that costs nothing but work serves a single request in that time."""
    workload = Workload(requests=1, rate_per_s=1.0, prompt_scale=0.05, decode_scale=0.1)
    limits = fake_world.scenario.limits.model_copy(update={"quantum_s": 1e6, "quantum_steps": 10**6})
    scenario = fake_world.scenario.model_copy(
        update={"workload": workload, "limits": limits, "objective": Objective(metric="slowdown")}
    )
    tables = fake_world.tables.changed(
        load_s=0.0, cold_load_s=0.0, decision_ns=0, quantum_ns=10**15, quantum_steps=10**6
    )
    # One device, one level: the best is the one that there is.
    level = tables.level.copy()
    level["level_ok"][1] = 0
    level["level_ok"][:, :, 1:] = 0
    world = replace(fake_world, scenario=scenario, tables=tables._replace(level=level))
    for seed in range(10):
        run = simulate(world, make_policy("fifo-swap"), seed)
        request = world.draw(seed)
        alone = alone_s(world.tables, request.model[0], request.prompt_tokens[0], request.decode_tokens[0])
        assert float(request_times(run).response_s[0]) == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ({"metric": "slo"}, "have an slo with"),
        ({"slo": {}}, "give ttft_s, tpot_s or both"),
        ({"metric": "money", "waiting_price": 1.0}, "have usd_per_hour of"),
        ({"metric": "energy", "watts": {"d0": {"busy": 1.0}}}, "give waiting_price"),
        ({"waiting_price": 1.0}, "give waiting_price"),
        (
            {"metric": "energy", "watts": {"d0": {"busy": -1}}, "waiting_price": 1},
            "greater than or equal",
        ),
    ],
)
def test_what_an_objective_lacks_is_said(fake_checkpoints: Any, objective: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fake_scenario(fake_checkpoints, objective=objective)


def test_a_price_of_an_unknown_device_is_refused(fake_world: World) -> None:
    with pytest.raises(UnknownNameError, match="d0"):
        with_goal(fake_world, metric="energy", watts={"dO": {"busy": 1.0}}, waiting_price=1.0)
