from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shunter.agents.learned.policy import LearnedPolicy
from shunter.envs.world.world import World
from shunter.models.performance import PerformanceModel
from shunter.tracking.lineage import (
    PERFORMANCE,
    SCENARIO,
    file_input,
    policy_digest,
    scenario_digest,
    software_tags,
    where,
    world_inputs,
    world_params,
    world_tags,
)
from tests.networks import random_policy


def test_trainings_at_two_loads_differ_in_name_and_parameters_and_not_in_the_scenario(
    fake_world: World,
) -> None:
    light, heavy = fake_world.at_load(0.4), fake_world.at_load(0.8)
    assert (where([light]), where([heavy])) == ("fake at 0.4", "fake at 0.8")
    assert where([light, heavy]) == "fake at 0.4, 0.8"
    assert (world_params([light])["loads"], world_params([heavy])["loads"]) == ("0.4", "0.8")
    assert world_tags([light]) == world_tags([heavy])


def test_many_scenarios_and_loads_still_make_a_short_name(fake_world: World) -> None:
    def called(name: str) -> World:
        return replace(fake_world, scenario=fake_world.scenario.model_copy(update={"name": name}))

    worlds = [called(f"s{i}").at_load(0.4 + i / 10) for i in range(5)]
    assert where(worlds) == "s0, 4 more at 0.4 to 0.8"


def test_a_digest_follows_what_a_scenario_says_and_what_predicts(
    fake_world: World, fake_performance: PerformanceModel
) -> None:
    other = fake_world.scenario.model_copy(update={"description": "another"})
    assert scenario_digest(other) != scenario_digest(fake_world.scenario)
    tags = world_tags([fake_world])
    assert tags == {SCENARIO: scenario_digest(fake_world.scenario), PERFORMANCE: fake_performance.digest}
    assert [(one.name, one.digest) for one in world_inputs([fake_world], "training")] == [
        ("fake", tags[SCENARIO]),
        ("performance model", tags[PERFORMANCE]),
    ]


def test_a_policy_is_known_by_its_numbers_wherever_it_comes_from(tmp_path: Path) -> None:
    policy = random_policy(1)
    policy.save(tmp_path / "p.safetensors")
    again = LearnedPolicy.load(tmp_path / "p.safetensors")
    again.name = "models:champion"
    assert policy_digest(again) == policy_digest(policy)
    assert policy_digest(random_policy(2)) != policy_digest(policy)


def test_files_and_folders_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(text)
    first, same, other = (file_input(tmp_path / name, "update").digest for name in ("a", "b", "c"))
    assert first == same != other
    assert file_input(tmp_path / "a" / "f", "update").digest == first


def test_what_ran_is_said() -> None:
    found = software_tags()
    assert "numpy " in found["shunter.versions"]
    assert found["shunter.version"] in found["shunter.versions"]
    assert found.get("shunter.commit") == found.get("mlflow.source.git.commit")
