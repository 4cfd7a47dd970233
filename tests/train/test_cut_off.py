"""Episodes that are cut off in training: what follows is bootstrapped, discounted, and charged once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")

from shunter.envs.gym.vector import SchedulingVectorEnv  # noqa: E402
from shunter.envs.scenario.scenario import Scenario  # noqa: E402
from shunter.envs.world.world import World, make_world  # noqa: E402
from shunter.models.performance import PerformanceModel  # noqa: E402
from shunter.train.ppo.buffer import RecordDurations  # noqa: E402
from shunter.train.ppo.vec_env import SchedulingVecEnv  # noqa: E402


def test_the_value_of_what_follows_is_discounted_by_how_long_the_last_step_took() -> None:
    recorder = RecordDurations(time_constant=10.0, credit_constant=5.0)
    buffer = SimpleNamespace(pos=1, discounts=np.ones((3, 3), np.float32), traces=np.ones((3, 3), np.float32))
    policy = SimpleNamespace(
        obs_to_tensor=lambda seen: (seen, True), predict_values=lambda seen: torch.tensor([[seen]])
    )
    recorder.model = SimpleNamespace(rollout_buffer=buffer, policy=policy)  # type: ignore[assignment]
    infos: list[dict[str, Any]] = [
        {"elapsed": 20.0, "terminal_observation": 7.0, "TimeLimit.truncated": True},
        {"elapsed": 20.0, "terminal_observation": 7.0, "TimeLimit.truncated": False},
        {"elapsed": 20.0},
    ]
    rewards = np.array([1.0, 1.0, 1.0], np.float32)
    recorder.locals = {"infos": infos, "rewards": rewards}
    assert recorder._on_step()
    np.testing.assert_allclose(rewards, [1.0 + 7.0 * np.exp(-2.0), 1.0, 1.0], rtol=1e-6)
    assert not any(info.get("TimeLimit.truncated") for info in infos)  # or the algorithm adds it again


@pytest.mark.parametrize("metric", ["slo", "mean-response"])
def test_who_is_cut_off_is_charged_or_bootstrapped_and_not_both(
    fake_world: World, fake_performance: PerformanceModel, metric: str
) -> None:
    data = fake_world.scenario.model_dump(mode="json")
    data["objective"] = {"metric": metric, **({"slo": {"ttft_s": 1e6}} if metric == "slo" else {})}
    world = make_world(Scenario.parse(data), fake_performance).with_guard(None)
    wait = np.full(1, world.actions - 1)
    plain = SchedulingVectorEnv(1, world=world, cut_off_s=60.0)
    sb3 = SchedulingVecEnv(world, 1, seed=0, cut_off_s=60.0)
    plain.reset(seed=0)
    sb3.reset()
    truncated = False
    while not truncated:
        _, reward, _, cut, _ = plain.step(wait)
        _, theirs, done, infos = sb3.step(wait)
        truncated = bool(cut[0])
        assert truncated == done[0]
        if not truncated:
            assert theirs[0] == np.float32(reward[0])
    assert infos[0]["TimeLimit.truncated"]
    if metric == "mean-response":
        assert theirs[0] == np.float32(reward[0])
    else:
        assert reward[0] <= -1  # nobody's limit had passed: all who were there are charged at once
        assert theirs[0] == 0
