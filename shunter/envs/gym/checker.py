"""Checks that an environment keeps the promises of ``SchedulingEnv``: for wrappers and worlds of your own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from shunter.envs.gym.scheduling import Observation
from shunter.envs.observation.features import CONTEXT_TABLE, FEATURE_TABLE, Feature
from shunter.errors import ShunterError

Env = gymnasium.Env[Any, Any]
KEYS = ["action_mask", "candidates", "context"]


class BrokenEnvError(ShunterError):
    """An environment breaks a promise; says which, and where it showed."""


def check_scheduling_env(env: Env, *, decisions: int = 300, seed: int = 0) -> None:
    """Takes random legal actions and checks everything that policies rely on.

    That spaces have their shapes; at every decision some action is legal, ``action_masks()`` and the
    observation agree, features are within their bounds and each candidate is of one kind; rewards are costs
    and time does not go back; the same seed gives the same episode; and nothing tells how long a request
    will be (not for oracles).

    Args:
        env: A ``SchedulingEnv``, or a wrapper that keeps its observations.
        decisions: Most decisions to take in one run.
        seed: Seed of the episodes and of the actions.

    Raises:
        BrokenEnvError: Names the promise that is broken.
    """
    _check_spaces(env)
    first = _rollout(env, decisions, seed)
    for number, (a, b) in enumerate(zip(first, _rollout(env, decisions, seed), strict=False)):
        for what in a:
            if not np.array_equal(a[what], b[what]):
                raise BrokenEnvError(f"the same seed gave other {what} at decision {number}")
    _check_secrets(env, decisions, seed)


def _check_spaces(env: Env) -> None:
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or sorted(space.spaces) != KEYS:
        raise BrokenEnvError(f"observation_space must be a Dict of {', '.join(KEYS)}. Got {space} instead")
    if not isinstance(env.action_space, spaces.Discrete):
        raise BrokenEnvError(f"action_space must be Discrete. Got {env.action_space} instead")
    actions = int(env.action_space.n)
    shapes = {"action_mask": (actions,), "candidates": (actions, len(FEATURE_TABLE))}
    for key, shape in {**shapes, "context": (len(CONTEXT_TABLE),)}.items():
        if space[key].shape != shape:
            raise BrokenEnvError(
                f"observation_space[{key!r}] must have shape {shape}. Got {space[key].shape}"
            )


def _masks(env: Env) -> NDArray[np.bool_]:
    try:
        return np.asarray(env.get_wrapper_attr("action_masks")(), np.bool_)
    except AttributeError:
        raise BrokenEnvError("there is no action_masks()") from None


def _rollout(env: Env, decisions: int, seed: int, lengthen: int = 0) -> list[dict[str, Any]]:
    """Observations and rewards of random legal actions; checks each."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    if lengthen:
        _lengthen(env, lengthen)
    trail: list[dict[str, Any]] = [{**observation}]
    now_s, total = float(info["now_s"]), 0.0
    for number in range(decisions):
        _check_observation(env, observation, number)
        legal = np.flatnonzero(observation["action_mask"])
        observation, cost, terminated, truncated, info = env.step(int(rng.choice(legal)))
        reward = float(cost)
        trail.append({**observation, "reward": reward})
        total += reward
        # Within a quantum time is charged for requests that finish in it; its end gives that back.
        if not total <= 1e-9:
            raise BrokenEnvError(
                f"rewards must be costs, finite and at most 0 in sum. Got {reward} at decision {number}"
            )
        if float(info["now_s"]) < now_s:
            raise BrokenEnvError(f"time went back from {now_s} s to {info['now_s']} s at decision {number}")
        now_s = float(info["now_s"])
        if terminated or truncated:
            break
    return trail


def _check_observation(env: Env, observation: Observation, number: int) -> None:
    mask = np.asarray(observation["action_mask"], np.bool_)
    if not mask.any():
        raise BrokenEnvError(f"no action is legal at decision {number}")
    if not np.array_equal(mask, _masks(env)):
        raise BrokenEnvError(f"action_masks() and the observation's action_mask differ at decision {number}")
    for key, table in (("candidates", FEATURE_TABLE), ("context", CONTEXT_TABLE)):
        _check_bounds(np.asarray(observation[key]), table, number)
    kinds = np.asarray(observation["candidates"])[mask, :4].sum(axis=1)
    if (kinds != 1).any():
        raise BrokenEnvError(f"a legal candidate must be one of run, load, evict, wait, at decision {number}")


def _check_bounds(values: NDArray[Any], table: tuple[Feature, ...], number: int) -> None:
    for i, feature in enumerate(table):
        column = values[..., i]
        wrong = ~((column >= 0) & (column <= feature.high))
        if wrong.any():
            rule = f"must lie between 0 and {feature.high:g}"
            raise BrokenEnvError(
                f"feature {feature.name} {rule}. Got {column[wrong][0]:g} at decision {number}"
            )


def _lengthen(env: Env, tokens: int) -> None:
    """Makes every request that is in the system or on its way longer."""
    state = env.unwrapped.batch.state  # type: ignore[attr-defined]
    state.slot["decode_tokens"] += tokens
    state.ring["decode_tokens"] += tokens


def _check_secrets(env: Env, decisions: int, seed: int) -> None:
    """Longer requests must look the same, until the first that is done shows the difference."""
    batch = env.unwrapped.batch  # type: ignore[attr-defined]
    if batch.tables.oracle[0]:
        return
    alike = _before_first_done(env, decisions, seed)
    short, long = _rollout(env, alike, seed), _rollout(env, alike, seed, lengthen=100_000)
    for number, (a, b) in enumerate(zip(short, long, strict=True)):
        for what in a:
            if not np.array_equal(a[what], b[what]):
                raise BrokenEnvError(f"{what} depends on how long a request will be, at decision {number}")


def _before_first_done(env: Env, decisions: int, seed: int) -> int:
    """How many decisions are taken before the first operation that a request does not outlast."""
    state = env.unwrapped.batch.state  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    for number in range(decisions):
        observation, _, over, cut, _ = env.step(int(rng.choice(np.flatnonzero(observation["action_mask"]))))
        batch = np.arange(state.entry.shape[2]) < state.device["op_batch"][0, :, None]
        if over or cut or (state.entry["finish_ns"][0] > 0)[batch].any():
            return number
    return decisions
