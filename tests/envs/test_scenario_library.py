from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest
import yaml

import shunter.envs  # noqa: F401 - registers the environment
from shunter.agents.heuristics.cost_greedy import CostGreedy
from shunter.envs.scenario.library import find_scenario, scenario_names, write_capacity
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.world.residency import residency
from shunter.envs.world.world import load_note, make_world
from shunter.errors import InputError, UnknownNameError
from shunter.eval.execution.runs import simulate
from shunter.models.published.performance import published_performance

NAMES = scenario_names()


def shortened(name: str, requests: int) -> Scenario:
    scenario = load_scenario(name)
    workload = scenario.workload.model_copy(update={"requests": requests})
    return scenario.model_copy(update={"workload": workload})


@pytest.mark.parametrize("name", NAMES)
def test_fifty_requests_of_every_scenario_are_served(name: str) -> None:
    run = simulate(make_world(shortened(name, 50)), CostGreedy(), 0)
    assert run.requests.finish_s.notna().sum() == 50


@pytest.mark.parametrize("name", NAMES)
def test_every_scenario_says_what_it_is(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert len(scenario.description) > 40
    assert scenario.workload.load is not None
    assert scenario.workload.capacity_rate_per_s is not None
    assert find_scenario(name).read_text(encoding="utf-8").startswith("# ")


def test_the_library_varies() -> None:
    scenarios = [load_scenario(name) for name in NAMES]
    assert len(scenarios) >= 12
    assert {len(s.devices) for s in scenarios} >= {1, 2, 4, 8}
    assert {len(s.models) for s in scenarios} >= {2, 40}
    assert len({s.workload.lengths for s in scenarios}) >= 3


def test_what_is_held_out_is_in_no_scenario_for_training() -> None:
    splits: dict[str | None, list[Scenario]] = {"train": [], "test": []}
    for name in NAMES:
        scenario = load_scenario(name)
        splits[scenario.split].append(scenario)
    assert len(splits["test"]) >= 3
    used = {
        split: (
            {m.catalog for s in scenarios for m in s.models},
            {d.gpu for s in scenarios for d in s.devices},
            {str(s.workload.replay.file if s.workload.replay else s.workload.lengths) for s in scenarios},
        )
        for split, scenarios in splits.items()
    }
    for train, test in zip(used["train"], used["test"], strict=True):
        assert not train & test
    assert not any("azure2023_conv" in lengths for lengths in used["train"][2])


def test_names_reach_gymnasium_and_make_world() -> None:
    env = gymnasium.make("shunter/Scheduling-v0", scenario="trivial-two-models")
    env.reset(seed=0)
    assert make_world("trivial-two-models").scenario.name == "trivial-two-models"
    env.close()


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = find_scenario("laptop").read_text(encoding="utf-8")
    (tmp_path / "laptop").write_text(text.replace("name: laptop", "name: mine"))
    monkeypatch.chdir(tmp_path)
    assert load_scenario("laptop").name == "mine"


def test_unknown_names_list_the_nearest_and_paths_do_not() -> None:
    with pytest.raises(UnknownNameError, match="did you mean paper-a6000"):
        load_scenario("paper-a600")
    with pytest.raises(InputError, match="be an existing YAML file"):
        load_scenario("paper-a600.yaml")


def test_a_load_is_a_share_of_the_capacity_that_the_file_states() -> None:
    scenario = load_scenario("trivial-two-models")
    half = scenario.workload.model_copy(update={"load": 0.5, "capacity_rate_per_s": 4.0})
    stated = make_world(scenario.model_copy(update={"workload": half}))
    assert stated.rate_per_s == 2.0
    assert load_note(stated) is None
    guessed = stated.scenario.workload.model_copy(update={"capacity_rate_per_s": None})
    world = make_world(scenario.model_copy(update={"workload": guessed}))
    assert f"load 0.5 is here {world.rate_per_s:.4g} requests/s, a share of what" in str(load_note(world))
    rate = guessed.model_copy(update={"load": None, "rate_per_s": 1.0})
    assert load_note(make_world(scenario.model_copy(update={"workload": rate}))) is None


def test_a_capacity_is_written_and_the_rest_stays(tmp_path: Path) -> None:
    path, text = tmp_path / "s.yaml", find_scenario("laptop").read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    write_capacity(path, 0.123456)
    once = path.read_text(encoding="utf-8")
    assert load_scenario(path).workload.capacity_rate_per_s == 0.1235
    write_capacity(write_capacity(path, 7.0), 0.123456)
    assert path.read_text(encoding="utf-8") == once
    assert [line for line in once.splitlines() if "capacity_rate" not in line] == [
        line for line in text.splitlines() if "capacity_rate" not in line
    ]


def test_a_file_without_a_load_keeps_its_text(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    for text in ("workload: {rate_per_s: 0.5}\n", "name: x\n", "[1]\n", ""):
        path.write_text(text)
        with pytest.raises(InputError, match=r"have workload\.load"):
            write_capacity(path, 1.0)
        assert path.read_text() == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("workload: {load: 0.7}\n", "workload: {load: 0.7, capacity_rate_per_s: 2}\n"),
        (
            "workload: {load: 0.7, requests: 9} # x\n",
            "workload: {load: 0.7, capacity_rate_per_s: 2, requests: 9} # x\n",
        ),
        ('{"workload": {"load": 0.7}}', '{"workload": {"load": 0.7, "capacity_rate_per_s": 2}}'),
        ("workload: {capacity_rate_per_s: 1.5, load: 1}", "workload: {capacity_rate_per_s: 2, load: 1}"),
        (
            "workload:\n    load: 0.7  # load: 3\n",
            "workload:\n    load: 0.7  # load: 3\n    capacity_rate_per_s: 2\n",
        ),
        ("workload:\r\n  load: 0.7\r\n", "workload:\r\n  load: 0.7\r\n  capacity_rate_per_s: 2\r\n"),
        ("name: é🙂\nworkload:\n  load: 0.7", "name: é🙂\nworkload:\n  load: 0.7\n  capacity_rate_per_s: 2"),
        (
            "a: {load: 1}\nworkload: {load: 1}\n",
            "a: {load: 1}\nworkload: {load: 1, capacity_rate_per_s: 2}\n",
        ),
    ],
)
def test_a_capacity_is_written_in_the_form_of_the_file(before: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(before.encode())
    assert write_capacity(path, 2.0).read_bytes().decode() == after
    assert yaml.safe_load(after)["workload"]["capacity_rate_per_s"] == 2


def test_residency_tells_levels_apart() -> None:
    table = residency(load_scenario("paper-5000ada"), published_performance())
    big = table[table.model == "llama-2-70b"]
    assert list(big.gpu_layers) == [81, 61, 40]
    assert list(big.fits) == [False, False, True]
    assert big.device_gb.is_monotonic_decreasing
    assert big.tokens_per_s.is_monotonic_decreasing
    assert (table.load_s_low < table.load_s).all()
    assert table.load_out_of_range.all()
