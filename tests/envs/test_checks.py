from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.gym.vector import SchedulingVectorEnv
from shunter.envs.world.world import World
from shunter.errors import InputError

ENVS = 4

MALFORMED: dict[str, Callable[[int], Any]] = {
    "short": lambda a: np.zeros(ENVS - 1, np.int64),
    "long": lambda a: np.zeros(ENVS + 1, np.int64),
    "one": lambda a: np.zeros(1, np.int64),
    "empty": lambda a: np.zeros(0, np.int64),
    "empty list": lambda a: [],
    "scalar": lambda a: 0,
    "numpy scalar": lambda a: np.int64(0),
    "square": lambda a: np.zeros((ENVS, ENVS), np.int64),
    "column": lambda a: np.zeros((ENVS, 1), np.int64),
    "row": lambda a: np.zeros((1, ENVS), np.int64),
    "floats": lambda a: np.zeros(ENVS),
    "booleans": lambda a: np.zeros(ENVS, np.bool_),
    "texts": lambda a: ["0"] * ENVS,
    "ragged": lambda a: [[0], [0, 0], 0, 0],
    "nothing": lambda a: None,
    "nothings": lambda a: [None] * ENVS,
    "beyond": lambda a: [0, a, 0, 0],
    "far beyond": lambda a: [10**6, 0, 0, 0],
    "negative": lambda a: [0, 0, -1, 0],
    "huge": lambda a: [10**30, 0, 0, 0],
    "a boolean among integers": lambda a: [0, True, 0, 0],
    "numpy's boolean among integers": lambda a: (0, 0, np.True_, 0),
    "partly masked": lambda a: np.ma.array(np.zeros(ENVS, np.int64), mask=[0, 1, 0, 0]),
    "no array after all": lambda a: Unwilling(),
    "unsigned beyond int64": lambda a: np.array([0, 0, 0, 2**64 - 1], np.uint64),
}

FINE: dict[str, Callable[[np.ndarray], Any]] = {
    "list": lambda b: b.tolist(),
    "tuple": tuple,
    "int8": lambda b: b.astype(np.int8),
    "uint64": lambda b: b.astype(np.uint64),
    "strided": lambda b: np.repeat(b, 2)[::2],
    "byte-swapped": lambda b: b.astype(">i4"),
    "read-only": lambda b: np.frombuffer(b.tobytes(), np.int64),
}


def facing_sb3(world: World) -> Any:
    module = pytest.importorskip("shunter.train.ppo.vec_env", reason="needs the extra train")
    return module.SchedulingVecEnv(world, ENVS)


def facing_worlds(world: World) -> Any:
    worlds_env = pytest.importorskip("shunter.train.ppo.worlds_env", reason="needs the extra train")
    from shunter.train.ppo.tasks import TrainingTask

    return worlds_env.WorldsVecEnv([TrainingTask(world, 1.0, 100)] * 2, ENVS // 2, time_constant=10.0)


FACES: dict[str, Callable[[World], Any]] = {
    "vector": lambda world: SchedulingVectorEnv(ENVS, world=world),
    "sb3": facing_sb3,
    "worlds": facing_worlds,
}


def memory(env: Any) -> list[bytes]:
    """All that a batch remembers."""
    parts = getattr(env, "parts", [env])
    return [array.tobytes() for part in parts for array in part.batch.state]


@pytest.mark.parametrize("face", FACES)
def test_malformed_actions_are_refused_and_change_nothing(fake_world: World, face: str) -> None:
    env = FACES[face](fake_world)
    env.reset()
    before, actions = memory(env), int(getattr(env, "single_action_space", env.action_space).n)
    for name, make in MALFORMED.items():
        with pytest.raises(InputError, match=r"actions(\[\d\])? must be integers") as caught:
            env.step(make(actions))
        assert "\n" not in str(caught.value), name
        assert memory(env) == before, name
    env.step(env.action_masks().argmax(axis=1))  # and it goes on
    assert memory(env) != before


@pytest.mark.parametrize("name", FINE)
def test_integers_of_any_kind_are_taken(fake_world: World, name: str) -> None:
    envs = [SchedulingVectorEnv(ENVS, world=fake_world) for _ in range(2)]
    for env in envs:
        env.reset(seed=0)
    chosen = np.array([np.flatnonzero(mask)[-1] for mask in envs[0].action_masks()])
    rewards = [env.step(given)[1] for env, given in zip(envs, (chosen, FINE[name](chosen)), strict=True)]
    np.testing.assert_array_equal(*rewards)
    assert memory(envs[0]) == memory(envs[1])


class Unwilling:
    """What says it is an integer or an array, and is not: as tensors do that lie elsewhere."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise RuntimeError("not here")

    __index__ = __array__  # type: ignore[assignment]


class Flag:
    """A boolean that Python takes for an integer, as torch's are."""

    dtype, shape = "torch.bool", ()

    def __index__(self) -> int:
        return 1


WRONG = [
    -1, 10**6, 10**30, 2.0, 0.5, np.float64(1), np.nan, True, np.True_, "0", None, [0], (0,),
    np.zeros(1, int), np.zeros((2, 2), int), object(), Unwilling(), Flag(), np.timedelta64(0, "s"),
    np.ma.masked, np.ma.array(0, mask=True),
]  # fmt: skip


@pytest.mark.parametrize("action", WRONG, ids=lambda action: repr(action).split(" at ")[0])
def test_a_single_environment_takes_one_candidates_index(fake_world: World, action: Any) -> None:
    env = SchedulingEnv(world=fake_world)
    env.reset(seed=0)
    before = memory(env)
    with pytest.raises(InputError, match=f"action must be one integer from 0 to {fake_world.actions - 1}"):
        env.step(action)
    assert memory(env) == before
    with pytest.raises(InputError, match="action must be"):
        env.step(fake_world.actions)  # type: ignore[arg-type]
    env.step(np.array(env.action_masks().argmax()))  # type: ignore[arg-type]  # as SB3 predicts it


@pytest.mark.parametrize("face", FACES)
def test_a_step_before_reset_says_so(fake_world: World, face: str) -> None:
    env = FACES[face](fake_world)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset first"):
        env.step(np.zeros(ENVS, np.int64))
    env.reset()
    env.close()
    env.close()
    for touch in (lambda: env.step(np.zeros(ENVS, np.int64)), env.reset):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="was closed"):
            touch()


def test_a_single_environment_must_be_reset_first_and_after_each_end(fake_world: World) -> None:
    env = SchedulingEnv(world=fake_world, cut_off_s=1e-3)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)  # type: ignore[arg-type]
    env.reset(seed=0)
    truncated = False
    while not truncated:
        *_, truncated, _ = env.step(env.action_masks().argmax())
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)  # type: ignore[arg-type]
    env.reset()
    env.step(env.action_masks().argmax())


def test_sb3s_face_wants_actions_before_it_steps(fake_world: World) -> None:
    env = facing_sb3(fake_world)
    env.reset()
    chosen = env.action_masks().argmax(axis=1)
    env.step_async(chosen)
    kept = chosen.copy()
    chosen[:] = -1  # the caller's array may change meanwhile
    env.step_wait()
    assert (kept >= 0).all()
    with pytest.raises(gymnasium.error.NoAsyncCallError):
        env.step_wait()
    env.step_async(env.action_masks().argmax(axis=1))
    env.reset()
    with pytest.raises(gymnasium.error.NoAsyncCallError):
        env.step_wait()


SEEDS: list[tuple[Any, str]] = [
    ([1, 2], "one integer, or a list of 4"),
    ([1, 2, 3, 4, 5], "one integer, or a list of 4"),
    ([], "one integer, or a list of 4"),
    (np.zeros((4, 1), int), "one integer, or a list of 4"),
    ([1, 2, -3, 4], "seed[2] must be an integer of at least 0"),
    ([1, 2.0, 3, 4], "seed[1] must be an integer of at least 0"),
    (np.arange(4.0), "seed[0] must be an integer of at least 0"),
    ([1, "2", 3, 4], "seed[1] must be an integer of at least 0"),
    ([True, 1, 2, 3], "seed[0] must be an integer of at least 0"),
    (-1, "seed must be an integer of at least 0"),
    (1.5, "seed must be an integer of at least 0"),
    ("7", "seed must be an integer of at least 0"),
    (True, "seed must be an integer of at least 0"),
    (np.ma.array(7, mask=True), "seed must be an integer of at least 0"),
    ([1, np.ma.masked, 3, 4], "seed[1] must be an integer of at least 0"),
]


@pytest.mark.parametrize(("seed", "says"), SEEDS, ids=repr)
def test_seeds_that_are_none_are_refused_and_change_nothing(fake_world: World, seed: Any, says: str) -> None:
    env = SchedulingVectorEnv(ENVS, world=fake_world)
    env.reset(seed=0)
    before = memory(env)
    with pytest.raises(InputError, match=re.escape(says)):
        env.reset(seed=seed)
    assert memory(env) == before
    if not isinstance(seed, list) and np.ndim(seed) == 0:
        with pytest.raises(InputError, match=re.escape(says)):
            SchedulingEnv(world=fake_world).reset(seed=seed)
        with pytest.raises(InputError, match=re.escape(says)):
            facing_sb3(fake_world).seed(seed)


def test_seeds_may_be_lists_arrays_and_large(fake_world: World) -> None:
    def first(seed: Any) -> bytes:
        env = SchedulingVectorEnv(ENVS, world=fake_world)
        env.reset(seed=seed)
        return env.batch.state.ring["arrival_ns"].tobytes()

    plain = first([5, 6, 7, 2**63 - 1])
    assert plain == first((5, 6, 7, 2**63 - 1)) == first(np.array([5, 6, 7, 2**63 - 1], np.uint64))
    assert first(np.int64(3)) == first(3) == first(np.array(3))
    assert first(3) != plain
    env = SchedulingVectorEnv(ENVS, world=fake_world)
    env.reset(seed=[None, 6, None, None])
    alone = SchedulingEnv(world=fake_world)
    alone.reset(seed=6)
    np.testing.assert_array_equal(env.batch.state.ring[1], alone.batch.state.ring[0])


@pytest.mark.parametrize("value", [0, -1, 2.5, "4", None, True])
@pytest.mark.parametrize("field", ["num_envs", "threads"])
def test_counts_are_integers_of_at_least_one(fake_world: World, field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{field} must be at least 1"):
        SchedulingVectorEnv(**{"world": fake_world, field: value})


@pytest.mark.parametrize("value", ["no", 1, None, 0.0])
@pytest.mark.parametrize("field", ["oracle", "noise", "copy"])
def test_flags_are_true_or_false(fake_world: World, field: str, value: Any) -> None:
    given: dict[str, Any] = {"world": fake_world, field: value}
    rule = f"{field} must be True{', False or drift' if field == 'noise' else ' or False'}"
    with pytest.raises(InputError, match=rule):
        SchedulingVectorEnv(2, **given)
    if field != "copy":
        with pytest.raises(InputError, match=rule):
            SchedulingEnv(**given)


@pytest.mark.parametrize("face", [SchedulingEnv, SchedulingVectorEnv])
def test_a_world_is_one_and_stands_alone(fake_world: World, face: Any) -> None:
    with pytest.raises(InputError, match="world must be a compiled scenario"):
        face(world="laptop")
    for more in ({"scenario": fake_world.scenario}, {"performance": "published"}):
        with pytest.raises(InputError, match="world must be given alone"):
            face(world=fake_world, **more)
    for wrong in (7, ["laptop"]):
        with pytest.raises(InputError, match="scenario must be a path"):
            face(scenario=wrong)
        with pytest.raises(InputError, match="performance must be a path"):
            face(scenario="laptop", performance=wrong)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, "5", True, []])
def test_a_cut_off_is_a_time(fake_world: World, value: Any) -> None:
    with pytest.raises(InputError, match="cut_off_s must be a number of seconds above 0"):
        SchedulingEnv(world=fake_world, cut_off_s=value)


def test_whoever_only_waits_is_cut_off_and_by_default_only_they(fake_world: World) -> None:
    """An episode that takes ten times what it should is over, on every face; nobody who works is so late."""
    world = fake_world.with_guard(None)
    envs = [SchedulingEnv(world=world), SchedulingEnv(world=world, cut_off_s=np.inf)]
    wait = world.actions - 1
    for env, limit_s in zip(envs, (world.late_s, world.scenario.limits.max_time_s), strict=True):
        env.reset(seed=0)
        truncated, decisions = False, 0
        while not truncated:
            *_, terminated, truncated, info = env.step(wait)  # type: ignore[arg-type]
            decisions += 1
            assert not terminated
        assert limit_s < info["now_s"] < limit_s + 2 * world.scenario.limits.max_wait_s
    vector = SchedulingVectorEnv(2, world=world)
    vector.reset(seed=0)
    truncated = np.zeros(2, np.bool_)
    while not truncated.any():
        _, _, terminated, truncated, info = vector.step(np.full(2, wait))
    assert truncated.all() or not terminated.any()
    random = np.random.default_rng(0)
    env = envs[0]
    env.reset(seed=0)
    over = truncated_once = False
    while not over:
        _, _, over, cut, info = env.step(random.choice(np.flatnonzero(env.action_masks())))
        truncated_once |= cut
        over |= cut
    assert not truncated_once
    assert info["now_s"] < world.late_s
