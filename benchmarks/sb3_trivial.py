"""Whether stock PPO learns the trivial two-model scenario to the optimum, found by exact search.

Two models, a device that holds one of them, eight requests that are all there after the first wait. Lengths
are all alike, so nothing is hidden: what the best sequence of decisions reaches, a policy can reach too.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.form import Row, at_most, main, reported
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.envs.gym.scheduling import Observation, SchedulingEnv
from shunter.envs.scenario.scenario import load_scenario
from shunter.envs.scenario.workload import Workload
from shunter.envs.world.world import World, make_world
from shunter.train.ppo.vec_env import SchedulingVecEnv
from shunter.uncertainty import paired_mean_change

Choose = Callable[[SchedulingEnv, Observation], int]
Seconds = NDArray[np.float64]

REQUESTS, PROMPT_TOKENS, DECODE_TOKENS = 8, 200, 100
BAR = 1.01
HELD_OUT = range(2_000_000, 2_000_040)
"""Workload seeds of the evaluation; training draws its own."""

TRAINING_SEEDS = (0, 1, 2)
ALGORITHMS: dict[str, Any] = {"PPO": PPO, "MaskablePPO": MaskablePPO}
STEPS, ENVIRONMENTS, ROLLOUT = 120_000, 64, 32


def trivial_world(folder: Path) -> World:
    """The library's scenario with a workload that ends: everything arrives at once.

    Args:
        folder: Where a file with the lengths is put, which must stay.
    """
    lengths = folder / "lengths.csv"
    row = f"0.0,{PROMPT_TOKENS},{DECODE_TOKENS}\n"
    lengths.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + row, encoding="utf-8")
    # So high a rate that all arrival times are the same nanosecond.
    workload = Workload(requests=REQUESTS, rate_per_s=1e12, popularity_zipf=0, lengths=lengths)
    scenario = load_scenario("trivial-two-models")
    # Whoever gets nowhere in so many times the optimum need not go on.
    limits = scenario.limits.model_copy(update={"max_time_s": 120.0})
    return make_world(scenario.model_copy(update={"workload": workload, "limits": limits}))


def optimum_s(env: SchedulingEnv, seed: int) -> float:
    """The lowest mean response that any sequence of decisions reaches, by uniform-cost search.

    Costs add up and depend on what is queued and resident only, not on the time: whatever state comes off
    the queue first was reached as cheaply as can be.
    """
    env.reset(seed=0, options={"workload_seed": seed})
    order = count()
    ahead: list[tuple[float, int, Any]] = [(0.0, next(order), env.get_state())]
    seen: set[bytes] = set()
    while ahead:
        cost, _, state = heapq.heappop(ahead)
        env.set_state(state)
        if env.device < 0:
            return cost / REQUESTS
        key = _key(env)
        if key in seen:
            continue
        seen.add(key)
        for action in np.flatnonzero(env.action_masks()):
            env.set_state(state)
            *_, info = env.step(int(action))
            heapq.heappush(ahead, (cost + info["cost_request_s"], next(order), env.get_state()))
    raise AssertionError("an episode always ends")


def _key(env: SchedulingEnv) -> bytes:
    """All that the future depends on: arrivals to come, queues, residents, and a load under way."""
    state = env.batch.state.of(0)
    parts = [state.clock["arrived"], state.place["resident"], state.place["evicting"]]
    parts += [state.device["pending_model"], state.device["pending_level"], state.model["cached"]]
    for head in state.model["head"]:
        at = int(head)
        parts.append(np.array([-1]))
        while at >= 0:
            slot = state.slot[at]
            parts.append(np.array([slot[name] for name in ("id", "generated", "kv", "home")]))
            at = int(slot["next"])
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def responses_s(env: SchedulingEnv, choose: Choose, seeds: range) -> Seconds:
    """Mean response of each seed's episode."""
    means = []
    for seed in seeds:
        seen, _ = env.reset(seed=seed, options={"workload_seed": seed})
        cost, over = 0.0, False
        while not over:
            seen, _, terminated, truncated, info = env.step(choose(env, seen))
            cost, over = cost + info["cost_request_s"], terminated or truncated
        means.append(cost / REQUESTS)
    return np.array(means)


def learned(name: str, world: World, seed: int, steps: int) -> Choose:
    """Trains an algorithm as it comes, with its default network and SB3's own scaling of observations.

    Returns:
        Takes the most probable legal action: PPO knows no mask while it learns.
    """
    environment = VecNormalize(
        SchedulingVecEnv(world, ENVIRONMENTS, seed=seed), norm_obs_keys=["candidates", "context"], gamma=1.0
    )
    model = ALGORITHMS[name](
        "MultiInputPolicy",
        environment,
        n_steps=ROLLOUT,
        batch_size=512,
        gamma=1.0,
        ent_coef=0.01,
        learning_rate=lambda left: 1e-3 * left,
        seed=seed,
        device="cpu",
    )
    model.learn(steps)

    def choose(env: SchedulingEnv, seen: Observation) -> int:
        scaled = environment.normalize_obs({key: value[None] for key, value in seen.items()})
        distribution = model.policy.get_distribution(model.policy.obs_to_tensor(scaled)[0])
        probable = distribution.distribution.probs[0].detach().numpy()
        return int(np.where(env.action_masks(), probable, -1.0).argmax())

    return choose


def against(name: str, mine: Seconds, optimal: Seconds, note: str = "") -> Row:
    """Ratio of the means over the same seeds, with a paired bootstrap interval."""
    interval = None
    if not np.allclose(mine, optimal):
        change = paired_mean_change(mine, optimal, resamples=2000)
        interval = (1 + change.low, 1 + change.high)
    ratio = float(mine.mean() / optimal.mean())
    return Row(f"mean response, {name} over optimum", ratio, interval=interval, note=note)


def random_legal(env: SchedulingEnv, seen: Observation) -> int:
    """Any legal action, all alike."""
    return int(env.np_random.choice(np.flatnonzero(seen["action_mask"])))


def run(quick: bool) -> list[Row]:
    """Searches, plays and trains."""
    with tempfile.TemporaryDirectory() as folder:
        return _rows(trivial_world(Path(folder)), quick)


def _rows(world: World, quick: bool) -> list[Row]:
    env, seeds = SchedulingEnv(world=world), HELD_OUT[:10] if quick else HELD_OUT
    optimal = np.array([optimum_s(env, seed) for seed in seeds])
    note = f"{REQUESTS} requests, {len(seeds)} held-out seeds, exact search"
    rows = [reported("mean response, optimum", float(optimal.mean()), "s", note=note)]
    greedy = CostGreedy()
    rows.append(against("random legal", responses_s(env, random_legal, seeds), optimal))
    rows.append(against("cost-greedy", responses_s(env, lambda env, seen: greedy.act(seen), seeds), optimal))
    for name in ALGORITHMS:
        trained = [
            against(name, responses_s(env, learned(name, world, seed, STEPS), seeds), optimal)
            for seed in TRAINING_SEEDS[: 1 if quick else None]
        ]
        worst = max(trained, key=lambda row: row.value or np.inf)
        values = ", ".join(f"{row.value:.4f}" for row in trained)
        note = f"worst of {len(trained)} training seeds ({values}); {STEPS} decisions each"
        rows.append(at_most(Row(worst.metric, worst.value, interval=worst.interval, note=note), BAR))
    return rows


if __name__ == "__main__":
    raise SystemExit(main("sb3_trivial", run, __doc__ or ""))
