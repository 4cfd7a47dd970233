"""Policies that users bring: classes, models of Stable-Baselines3, names, and choices that are none."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.agents.learned.shipped import shipped_policy
from shunter.agents.registry import make_policy
from shunter.cli.evaluations.eval_ import findings, results_table
from shunter.envs.gym.flat import FlatSchedulingEnv
from shunter.envs.gym.multi import MultiSchedulingEnv
from shunter.envs.gym.scheduling import SchedulingEnv
from shunter.envs.world.world import World, make_world
from shunter.errors import BrokenFileError, InputError, PluginError, UnknownNameError
from shunter.eval.asked import tell_apart
from shunter.eval.evaluate_and_save import evaluate_and_save
from shunter.eval.evaluation import evaluate
from shunter.eval.execution.batched import evaluate_batched
from shunter.eval.execution.runs import simulate
from shunter.models.performance import PerformanceModel
from tests.envs.test_vector import changed


@pytest.fixture
def few_models(fake_world: World, fake_performance: PerformanceModel) -> World:
    """Of eight requests, with fewer candidates than the other one."""
    data = fake_world.scenario.model_dump(mode="json")
    workload = {**data["workload"], "requests": 8}
    return make_world(
        {**data, "name": "few", "models": data["models"][:2], "workload": workload}, fake_performance
    )


class Touches:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


MODULE = '''
from shunter.agents.heuristics.cost_greedy import CostGreedy

class Plain:
    """Has no word on oracles."""
    def __init__(self):
        self.name, self._inner = "plain", CostGreedy()
    def act(self, observation):
        return self._inner.act(observation)
    def act_batch(self, observations):
        return self._inner.act_batch(observations)

class OnState(Plain):
    def act(self, observation):
        raise AssertionError("it decides on the state")
    def act_on(self, world, state, device, observation):
        return self._inner.act(observation)

class Failing(Plain):
    def __init__(self):
        raise RuntimeError("no\\nway")

class Lacking:
    name = "lacking"
    def act(self, observation):
        return 0

class Slotted:
    __slots__ = ()
    name = "slotted"
    def act(self, observation):
        return 0
    act_batch = act

NUMBER = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of policies in the current folder, imported by none yet."""
    (tmp_path / "my_policies.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "my_policies", raising=False)
    return "my_policies"


def test_a_class_of_the_current_folder_plays_as_it_is(module: str, fake_world: World) -> None:
    own = simulate(fake_world, CostGreedy(), 0)
    for name in ("Plain", "OnState"):
        policy = make_policy(f"{module}:{name}")
        run = simulate(fake_world, policy, 0)
        assert run.policy == "plain"
        assert run.cost == own.cost
        assert evaluate_batched(fake_world, policy, [0]).cost[0] == own.cost


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my_policies:Failing", "making it failed: RuntimeError: no way"),
        ("my_policies:Lacking", "makes no Policy .* lacks act_batch"),
        ("my_policies:NUMBER", "it is no class and no function: 3"),
        ("my_policies:Nobody", "cannot be imported: AttributeError"),
        ("my_polices:Plain", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(module: str, name: str, says: str) -> None:
    with pytest.raises(PluginError, match=says) as caught:
        make_policy(name)
    assert "\n" not in str(caught.value)


def test_a_policy_is_called_what_the_user_calls_it(module: str, tmp_path: Path) -> None:
    shipped_policy().save(tmp_path / "a=b.safetensors")
    assert make_policy("mine=a=b.safetensors").name == "mine"
    assert make_policy("a=b.safetensors").name == shipped_policy().name  # it is there
    assert make_policy("slow one=fifo-collated:max_wait_s=30").name == "slow one"
    assert make_policy("x=my_policies:Plain").name == "x"
    assert make_policy("fifo-collated:max_wait_s=30").name == "fifo-collated:max_wait_s=30.0"
    for text in ("=cost-greedy", " x=cost-greedy", "a\nb=cost-greedy", "x=my_policies:Slotted"):
        with pytest.raises(InputError, match="--policy must"):
            make_policy(text)
    with pytest.raises(UnknownNameError, match="nothing"):
        make_policy("x=nothing")


def test_files_of_the_same_name_are_told_apart_by_where_they_are(tmp_path: Path, fake_world: World) -> None:
    paths = [tmp_path / "a" / "policy.safetensors", tmp_path / "b" / "policy.safetensors"]
    paths.append(tmp_path / "b" / "other.safetensors")
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        shipped_policy().save(path)
    for files, expected in (
        (paths[:1], [shipped_policy().name]),
        ([paths[0], paths[2]], ["policy", "other"]),
        (paths, ["a-policy", "b-policy", "b-other"]),
    ):
        given = [*map(str, files), "cost-greedy"]
        made = [make_policy(text) for text in given]
        tell_apart(given, made)
        assert [policy.name for policy in made] == [*expected, "cost-greedy"]
    with pytest.raises(InputError, match="each policy once, or as NAME=POLICY"):
        evaluate_and_save(fake_world.scenario, [str(paths[0])] * 2, [0], out=tmp_path / "twice")


class Chooses:
    """Takes a legal action, or what is given, every other time."""

    name = "chooses"

    def __init__(self, choice: Any) -> None:
        self.choice, self.count = choice, 0

    def act(self, observation: dict[str, Any]) -> Any:
        self.count += 1
        legal = np.flatnonzero(observation["action_mask"])
        if self.count % 2:
            return int(legal[0])
        illegal = np.flatnonzero(observation["action_mask"] == 0)
        return int(illegal[0]) if self.choice is None else self.choice

    def act_batch(self, observations: dict[str, Any]) -> Any:
        return np.zeros(len(observations["action_mask"]) + 1, np.int64)


def test_illegal_choices_are_counted_and_shown(fake_world: World) -> None:
    found = evaluate(fake_world, [CostGreedy(), Chooses(None)], [0, 1]).to_dict()
    share = found["policies"]["chooses"]["simulated"]["illegal_share"]
    assert 0.3 < share <= 0.5
    assert found["policies"]["cost-greedy"]["simulated"]["illegal_share"] == 0
    assert found["metrics"]["illegal_share"] == "illegal choices"
    text = " ".join(findings(found))
    assert f"although the mask forbade it, so that something else was done: chooses in {share:.1%}" in text
    table = results_table(found, "simulated", "")
    assert f"{share:.1%}" in [str(cell) for cell in table.columns[2].cells]
    legal = evaluate(fake_world, [CostGreedy()], [0]).to_dict()
    assert "illegal_share" not in legal["metrics"]
    assert "mask" not in " ".join(findings(legal))


@pytest.mark.parametrize("choice", [10**6, 10**30, -1, 2.5, "0", True, [0]], ids=repr)
def test_a_choice_that_is_no_candidate_is_refused_by_name(fake_world: World, choice: Any) -> None:
    with pytest.raises(InputError, match="what 'chooses' chooses must be one integer from 0 to"):
        simulate(fake_world, Chooses(choice), 0)


def test_a_batch_of_choices_of_the_wrong_length_is_refused_by_name(fake_world: World) -> None:
    with pytest.raises(InputError, match=r"what 'chooses' chooses must be integers of shape \(1,\)"):
        evaluate_batched(fake_world, Chooses(None), [0])


class Bomb:
    def __reduce__(self) -> Any:
        return Path.write_text, (Path("exploded"), "")


def test_nothing_of_a_pickle_runs_without_consent(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    evil = pickle.dumps(Touches(ran))
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        for name in ("data", "policy.pth", "pytorch_variables.pth"):
            file.writestr(name, evil)
    for name in ("stats.pkl", "policy.safetensors", "policy"):
        (tmp_path / name).write_bytes(evil)
    for asked in ("model.zip", "model.zip:normalize=stats.pkl", "policy.safetensors", "policy", "stats.pkl"):
        for given in (f"{tmp_path}/{asked}", f"mine={tmp_path}/{asked}"):
            with pytest.raises(InputError):
                make_policy(given.replace("=stats", f"={tmp_path}/stats"))
    assert not ran.exists()
    pickle.loads(evil)
    assert ran.exists(), "it would have been seen"


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "MaskablePPO"])
def test_a_model_of_sb3_plays_with_consent(name: str, fake_world: World, tmp_path: Path) -> None:
    sb3 = pytest.importorskip("stable_baselines3", reason="needs the extra train")
    contrib = pytest.importorskip("sb3_contrib", reason="needs the extra train")
    from shunter.train.ppo.vec_env import SchedulingVecEnv

    env = SchedulingVecEnv(fake_world, 2)
    scaled = sb3.common.vec_env.VecNormalize(env, norm_obs_keys=["candidates", "context"])
    kind = getattr(contrib if name == "MaskablePPO" else sb3, name)
    options = {"DQN": {"buffer_size": 10}, "A2C": {"n_steps": 8}}.get(name, {"n_steps": 8, "batch_size": 16})
    model = kind("MultiInputPolicy", scaled, device="cpu", seed=0, **options)
    path, stats = tmp_path / "model.zip", tmp_path / "stats.pkl"
    model.save(path)
    scaled.save(str(stats))
    with pytest.raises(InputError, match=r"consent \(--unpickle\): it is a pickle"):
        make_policy(str(path))
    policy = make_policy(f"{path}:normalize={stats}", unpickle=True)
    assert policy.name == "model"
    seen = {key: array.copy() for key, array in env.reset().items()}
    masks = {"action_masks": env.action_masks()} if name == "MaskablePPO" else {}
    expected, _ = model.predict(scaled.normalize_obs(seen), deterministic=True, **masks)
    np.testing.assert_array_equal(policy.act_batch(seen), expected)
    run = simulate(changed(fake_world, requests=8), policy, 0)
    assert run.counts["decisions"] > 0
    if name == "MaskablePPO":
        assert run.counts["illegal_actions"] == 0
    assert make_policy(f"mine={path}", unpickle=True).name == "mine"


@pytest.mark.parametrize("face", ["one", "flat", "several"])
def test_a_model_of_sb3_chooses_as_it_did_in_its_environment(
    face: str, few_models: World, fake_world: World, tmp_path: Path
) -> None:
    sb3 = pytest.importorskip("stable_baselines3", reason="needs the extra train")
    env: Any = {
        "one": lambda: SchedulingEnv(world=few_models),
        "flat": lambda: FlatSchedulingEnv(world=few_models),
        "several": lambda: MultiSchedulingEnv(worlds=[few_models, fake_world]),
    }[face]()
    kind = "MlpPolicy" if face == "flat" else "MultiInputPolicy"
    sb3.PPO(kind, env, device="cpu", seed=0, n_steps=8, batch_size=8).save(tmp_path / "model.zip")
    model = sb3.PPO.load(tmp_path / "model.zip", device="cpu")
    options = {"workload_seed": 3} | ({"scenario": few_models.scenario.name} if face == "several" else {})
    seen, _ = env.reset(options=options)
    cost, over = 0.0, False
    while not over:
        seen, reward, terminated, truncated, info = env.step(int(model.predict(seen, deterministic=True)[0]))
        cost, over = cost - reward, terminated or truncated
    policy = make_policy(str(tmp_path / "model.zip"), unpickle=True)
    policy.check(few_models)
    runs = simulate(few_models, policy, 3), evaluate_batched(few_models, policy, [3])
    for counts in (runs[0].counts, runs[1].counts[0]):
        assert counts["illegal_actions"] == info["illegal_actions"]
    assert runs[1].response_mean_s[0] * 8 == pytest.approx(cost * few_models.time_scale_s)
    if face != "several":
        with pytest.raises(InputError, match=f"model must be trained on .* {fake_world.actions} candidates"):
            policy.check(fake_world)


def test_a_model_of_sb3_that_lacks_what_it_was_trained_behind_is_refused_before_anything_runs(
    few_models: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sb3 = pytest.importorskip("stable_baselines3", reason="needs the extra train")
    monkeypatch.chdir(tmp_path)
    vec = sb3.common.vec_env
    scaled = vec.VecNormalize(vec.DummyVecEnv([lambda: FlatSchedulingEnv(world=few_models)]))
    model = sb3.PPO("MlpPolicy", scaled, device="cpu", n_steps=8, batch_size=8)
    model.learn(8)
    model.save("model.zip")
    scaled.save("stats.pkl")
    make_policy("model.zip:normalize=stats.pkl", unpickle=True).check(few_models)
    with pytest.raises(InputError, match="model must come with :normalize=FILE"):
        make_policy("model.zip", unpickle=True).check(few_models)
    other = sb3.PPO("MultiInputPolicy", SchedulingEnv(world=few_models), n_steps=8, batch_size=8)
    other.save("other.zip")
    with pytest.raises(InputError, match="normalize must be of what the model was trained on"):
        make_policy("other.zip:normalize=stats.pkl", unpickle=True)


def test_files_that_are_no_models_of_sb3_are_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.zip"
    with pytest.raises(InputError, match="existing policy file"):
        make_policy(str(path), unpickle=True)
    for content in (b"", b"no zip", pickle.dumps(Bomb())):
        path.write_bytes(content)
        with pytest.raises(BrokenFileError, match="no model of Stable-Baselines3"):
            make_policy(str(path), unpickle=True)
    for data, says in (
        ("{}", "no model of Stable-Baselines3"),
        ("[1]", "no model of Stable-Baselines3"),
        ("{", "no model of Stable-Baselines3"),
        ('{"policy_class": {"__module__": 3}}', "PPO, A2C, DQN, QRDQN or MaskablePPO"),
        ('{"policy_class": {"__module__": "sb3_contrib.common.recurrent.policies"}}', "recurrent"),
        ('{"policy_class": {"__module__": "mine"}}', "PPO, A2C, DQN, QRDQN or MaskablePPO"),
    ):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("data", data)
            file.writestr("policy.pth", pickle.dumps(Bomb()))
        with pytest.raises(BrokenFileError, match=says):
            make_policy(str(path), unpickle=True)
    assert not Path("exploded").exists()
