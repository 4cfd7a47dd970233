from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("sb3_contrib", reason="needs the extra train")

from shunter.agents.base import ScoringPolicy
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.learned.base_policy import TUNED_COST_GREEDY, BasePolicy, base_scores, pruned
from shunter.envs.observation.features import feature
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.world import World, make_world
from shunter.eval.execution.runs import simulate
from shunter.eval.metrics.metrics import summarize
from shunter.models.performance import PerformanceModel
from shunter.train.ppo.tasks import TrainingTask, make_task
from shunter.train.ppo.vec_env import SchedulingVecEnv
from shunter.train.ppo.worlds_env import WorldsVecEnv
from shunter.train.validation import cut_off_late


@pytest.fixture(scope="module")
def smaller(fake_world: World, fake_performance: PerformanceModel) -> World:
    data = fake_world.scenario.model_dump(mode="json")
    data["models"] = data["models"][:2]
    return make_world(Scenario.parse(data), fake_performance)


def test_worlds_side_by_side_are_the_worlds_by_themselves(fake_world: World, smaller: World) -> None:
    tasks = [TrainingTask(fake_world, 4.0), TrainingTask(smaller, 2.0)]
    venv = WorldsVecEnv(tasks, 2, seed=3, time_constant=50.0)
    alone = [SchedulingVecEnv(c.world, 2, seed=6 + i) for i, c in enumerate(tasks)]
    seen, apart = venv.reset(), [env.reset() for env in alone]
    gained, accrued, elapsed, episodes = np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4, int)
    for _ in range(400):
        for i, own in enumerate(apart):
            rows = slice(2 * i, 2 * i + 2)
            np.testing.assert_array_equal(seen["context"][rows], own["context"])
            for e, shown in zip(range(2), shown_of(own), strict=True):
                mask = seen["action_mask"][2 * i + e] > 0
                np.testing.assert_array_equal(
                    seen["candidates"][2 * i + e][mask], own["candidates"][e][shown]
                )
        before = {key: array.copy() for key, array in seen.items()}
        kept = seen
        actions = CostGreedy().act_batch(seen)
        seen, rewards, done, infos = venv.step(actions)
        for key, array in before.items():
            np.testing.assert_array_equal(kept[key], array)  # sb3 stores it only now
        chosen = [CostGreedy().act_batch(only(own)) for own in apart]
        stepped = [env.step(action) for env, action in zip(alone, chosen, strict=True)]
        apart = [one[0] for one in stepped]
        gained += rewards
        elapsed += [info["elapsed"] for info in infos]
        accrued -= np.concatenate([one[1] for one in stepped])
        np.testing.assert_array_equal(done, np.concatenate([one[2] for one in stepped]))
        for e in np.flatnonzero(done).tolist():
            task = tasks[e // 2]
            relative = elapsed[e] / 50.0 - accrued[e] / (task.cost * 50.0)
            assert gained[e] == pytest.approx(relative, rel=1e-3, abs=1e-4)
            gained[e], accrued[e], elapsed[e] = 0.0, 0.0, 0.0
            episodes[e] += 1
            space = venv.observation_space["candidates"]
            assert infos[e]["terminal_observation"]["candidates"].shape == space.shape
    assert episodes.all()
    venv.close()


def test_there_is_nothing_to_gain_by_doing_as_the_reference_policy_does(fake_world: World) -> None:
    venv = WorldsVecEnv([make_task(fake_world)], 8, time_constant=1.0)

    def mean_reward(policy: ScoringPolicy) -> float:
        venv.seed(0)
        seen, gained, time = venv.reset(), 0.0, 0.0
        for _ in range(1500):
            seen, rewards, _, infos = venv.step(policy.act_batch(seen))
            gained += float(rewards.sum())
            time += sum(info["elapsed"] for info in infos)
        return gained / time

    assert (
        abs(mean_reward(TUNED_COST_GREEDY)) < 0.3
    )  # of what it costs: other requests than those of the unit
    assert mean_reward(Waits()) < -0.5
    venv.close()


def test_a_reset_anywhere_is_one_on_the_way_of_untrained_logits(fake_world: World) -> None:
    task = TrainingTask(fake_world, 1.0, decisions=200)
    anywhere = WorldsVecEnv([task], 2, time_constant=1.0, anywhere=True)
    walked = WorldsVecEnv([task], 2, time_constant=1.0)
    skipped = []
    for seed in range(6):
        anywhere.seed(seed)
        walked.seed(seed)
        there, seen, count = anywhere.reset(), walked.reset(), 0
        while any((there[key] != array).any() for key, array in seen.items()) and count < 1000:
            prior = base_scores(seen["candidates"], BasePolicy())
            seen, _, _, _ = walked.step(np.where(seen["action_mask"] > 0, prior, -np.inf).argmax(axis=1))
            count += 1
        assert count < 1000
        skipped.append(count)
    assert len(set(skipped)) >= 4
    anywhere.close()
    walked.close()


def shown_of(own: dict[str, Any]) -> NDArray[np.bool_]:
    legal = own["action_mask"] > 0
    prior = base_scores(own["candidates"], BasePolicy())
    return pruned(own["candidates"], own["context"], legal, prior)


def only(own: dict[str, Any]) -> dict[str, Any]:
    return {**own, "action_mask": shown_of(own).astype(np.int8)}


def test_a_tasks_unit_is_littles_law(fake_world: World) -> None:
    busy = make_task(fake_world.at_rate(fake_world.rate_per_s * 3))
    idle = make_task(fake_world.at_rate(fake_world.rate_per_s / 10))
    assert busy.world.rate_per_s == fake_world.rate_per_s * 3
    assert busy.cost > 3 * idle.cost > 0
    runs = [simulate(idle.world, TUNED_COST_GREEDY, seed) for seed in range(8)]
    in_system = [summarize([run])["response_mean_s"] * idle.world.rate_per_s for run in runs]
    assert idle.cost == pytest.approx(np.mean(in_system), rel=0.25)  # other requests


def test_an_episode_of_a_policy_that_only_waits_comes_to_an_end(fake_world: World) -> None:
    run = simulate(cut_off_late(fake_world.with_guard(None)), Waits(), 0)
    assert run.requests.finish_s.isna().all()
    arrivals_s = fake_world.scenario.workload.requests / fake_world.rate_per_s
    assert run.makespan_s < 11 * (arrivals_s + 10 * fake_world.time_scale_s)


class Waits(ScoringPolicy):
    name = "waits"

    def scores(self, candidates: Any, context: Any, mask: Any) -> NDArray[np.float64]:
        return np.asarray(candidates[..., feature("is_wait")], np.float64)
