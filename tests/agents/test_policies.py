from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shunter.agents.base import Policy
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.learned.base_policy import BasePolicy, base_scores
from shunter.agents.learned.policy import POLICY_FORMAT, LearnedPolicy
from shunter.agents.registry import DEFAULT_POLICIES, make_policy
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.observation.features import FEATURES, FEATURES_VERSION
from shunter.envs.world.world import World
from shunter.errors import BrokenFileError, InputError, UnknownNameError, VersionError
from shunter.eval.execution.runs import simulate
from shunter.tensors import write_tensors
from tests.networks import random_policy


def observations(world: World, count: int = 40) -> list[dict[str, Any]]:
    env = SchedulingEnv(world=world)
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=0)[0]]
    for _ in range(count):
        seen.append(env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))[0])
    return seen


ALL = [*DEFAULT_POLICIES, "learned", "linear"]


def policy_of(name: str) -> Policy:
    widths = {"learned": 8, "linear": 0}
    return random_policy(width=widths[name]) if name in widths else make_policy(name)


@pytest.mark.parametrize("name", ALL)
def test_a_policy_obeys_the_protocol_and_batches_alike(fake_world: World, name: str) -> None:
    policy = policy_of(name)
    assert isinstance(policy, Policy)
    seen = observations(fake_world)
    single = [policy.act(o) for o in seen]
    assert all(o["action_mask"][a] for o, a in zip(seen, single, strict=True))
    batch = {key: np.stack([o[key] for o in seen]) for key in seen[0]}
    np.testing.assert_array_equal(policy.act_batch(batch), single)


@pytest.mark.parametrize("name", ALL)
def test_a_policy_serves_everyone(fake_world: World, name: str) -> None:
    run = simulate(fake_world, policy_of(name), 3)
    assert run.requests.finish_s.notna().all()
    assert run.counts["illegal_actions"] == 0


def candidates(*rows: dict[str, float]) -> dict[str, np.ndarray]:
    table = np.zeros((len(rows), len(FEATURES)), np.float32)
    for row, values in zip(table, rows, strict=True):
        for key, value in values.items():
            row[FEATURES.index(key)] = value
    return {
        "candidates": table,
        "context": np.zeros(6, np.float32),
        "action_mask": np.ones(len(rows), np.int8),
    }


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
WAIT = {"is_wait": 1}


def test_fifo_swap_serves_the_oldest_whatever_it_costs() -> None:
    seen = candidates({**RUN, "oldest_age": 1, "requests": 5}, {**LOAD, "oldest_age": 2}, WAIT)
    assert make_policy("fifo-swap").act(seen) == 1


def test_cost_greedy_weighs_requests_against_load_and_work() -> None:
    policy = CostGreedy()
    assert policy.act(candidates({**RUN, "requests": 2}, {**LOAD, "requests": 3}, WAIT)) == 0
    assert policy.act(candidates({**RUN, "requests": 2}, {**LOAD, "requests": 5}, WAIT)) == 1


def test_lru_keepalive_never_swaps_while_something_is_started() -> None:
    busy = {**RUN, "started": 1, "oldest_age": 1}
    older = {**LOAD, "oldest_age": 9, "shortage": 0.5}
    policy = make_policy("lru-keepalive")
    assert policy.act(candidates(busy, older, WAIT)) == 0
    assert policy.act(candidates({**busy, "started": 0}, older, WAIT)) == 1
    assert policy.act(candidates(busy, {**older, "shortage": 0}, WAIT)) == 1


@pytest.mark.parametrize("name", ["fifo-swap", "lru-keepalive"])
def test_eviction_takes_the_least_recently_used(name: str) -> None:
    recent, stale = {"is_evict": 1, "unused_time": 1}, {"is_evict": 1, "unused_time": 5}
    assert make_policy(name).act(candidates(recent, stale)) == 1


def test_nobody_prefetches_or_evicts_for_no_reason() -> None:
    idle = candidates({**LOAD, "requests": 0, "batch": 0}, {"is_evict": 1, "unused_time": 1e6}, WAIT)
    for name in DEFAULT_POLICIES:
        assert make_policy(name).act(idle) == 2


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean cost-greedy"):
        make_policy("cost-gredy")


def test_a_policy_file_reads_back_and_decides_alike(fake_world: World, tmp_path: Path) -> None:
    policy = random_policy()
    policy.save(tmp_path / "p.safetensors")
    again = make_policy(str(tmp_path / "p.safetensors"))
    assert again.name == "random-net"
    for observation in observations(fake_world):
        assert again.act(observation) == policy.act(observation)


def tampered(path: Path, **header: str) -> Path:
    policy = random_policy()
    good = {
        "format": "shunter-policy",
        "format_version": str(POLICY_FORMAT),
        "features_version": str(FEATURES_VERSION),
        "features": json.dumps(FEATURES),
    }
    write_tensors(path, policy.weights, {**good, **header})
    return path


@pytest.mark.parametrize(
    ("key", "version"),
    [
        ("features_version", "999"),
        ("format_version", "999"),
        ("format_version", "2"),
        ("format_version", "3"),
    ],
)
def test_a_policy_for_other_observations_is_refused(tmp_path: Path, key: str, version: str) -> None:
    path = tampered(tmp_path / "p.safetensors", **{key: version})
    with pytest.raises(VersionError, match=f"{key} must be version .* Got '{version}'"):
        LearnedPolicy.load(path)


def test_names_are_read_as_ppo_once_wrote_them_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    for text in (json.dumps(FEATURES), ",".join(FEATURES)):
        LearnedPolicy.load(tampered(path, features=text))
    for key, text in (("features", ",".join(FEATURES[1:])), ("features", ""), ("context_features", "[]")):
        with pytest.raises(BrokenFileError, match=f"its metadata {key} must be those of this version"):
            LearnedPolicy.load(tampered(path, **{key: text}))


def test_a_load_counts_less_where_another_device_would_serve_sooner() -> None:
    load = {**LOAD, "swap_time": 3, "join_time": 0, "batch_time": 1, "serve_elsewhere": 8}
    rows = [load, {**load, "serve_elsewhere": 2}, {**load, "serve_elsewhere": 2, "held": 1}]
    rows += [{**load, "elsewhere": 1}, {**load, "serve_elsewhere": 0}]
    seen = candidates(*rows)["candidates"]
    whole, sooner, held, copy, alone = np.exp(base_scores(seen, BasePolicy(copy_share=0.25)))
    assert sooner == pytest.approx(whole / 2, rel=1e-3)
    assert held == alone == whole
    assert copy == pytest.approx(whole / 4, rel=1e-3)
    blind = base_scores(seen[:2], BasePolicy(elsewhere=0.0))
    assert blind[0] == blind[1]


def test_broken_policy_files(tmp_path: Path) -> None:
    whole = tampered(tmp_path / "whole.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    stranger = tampered(tmp_path / "stranger.safetensors", format="other")
    for path in (cut, stranger):
        with pytest.raises(BrokenFileError):
            LearnedPolicy.load(path)
    with pytest.raises(InputError, match="existing policy file"):
        LearnedPolicy.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("key", ["linear", "score_1.weight"])
def test_weights_of_a_wrong_shape_or_not_finite(tmp_path: Path, key: str) -> None:
    for change in (lambda w: w[:, :-1].copy(), lambda w: w * np.nan):
        policy = random_policy()
        policy.weights[key] = change(policy.weights[key])
        policy.save(tmp_path / "p.safetensors")
        with pytest.raises(BrokenFileError, match=f"{re.escape(key)} must be finite numbers of shape"):
            LearnedPolicy.load(tmp_path / "p.safetensors")


def test_a_prior_must_not_be_negative(tmp_path: Path) -> None:
    policy = random_policy()
    policy.weights["prior"] = -policy.weights["prior"]
    policy.save(tmp_path / "p.safetensors")
    with pytest.raises(BrokenFileError, match="prior must not be negative"):
        LearnedPolicy.load(tmp_path / "p.safetensors")
