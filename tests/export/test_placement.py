from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.workload.traces import write_trace
from shunter.envs.world.world import World
from shunter.export import placement
from shunter.export.llama_swap import llama_swap_config
from shunter.export.placement import fitting_sets, homes_of
from shunter.models.performance import PerformanceModel
from shunter.models.published.performance import published_performance
from tests import worlds


def by_trying_all(sizes: list[int], capacity: int) -> list[tuple[int, ...]]:
    every = range(len(sizes))
    fits = [
        set(chosen)
        for count in range(1, len(sizes) + 1)
        for chosen in itertools.combinations(every, count)
        if sum(sizes[i] for i in chosen) <= capacity
    ]
    return sorted(tuple(sorted(s)) for s in fits if not any(s < other for other in fits))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(20, 60))
def test_the_sets_are_those_of_trying_all(sizes: list[int], capacity: int) -> None:
    assert fitting_sets(sizes, capacity) == by_trying_all(sizes, capacity)


def test_too_many_sets_are_not_listed() -> None:
    assert fitting_sets([1.0] * 20, 10) is None
    assert fitting_sets([1.0] * 20, 20) == [tuple(range(20))]
    assert len(fitting_sets([1.0] * placement.MOST_SETS, 1) or ()) == placement.MOST_SETS


def test_homes_fit_and_cost_what_is_predicted(fake_world: World, fake_performance: PerformanceModel) -> None:
    homes = homes_of(fake_world.scenario, fake_performance)
    assert [home.model for home in homes] == ["small", "medium", "large"]
    assert sum(home.share for home in homes) == 1.0
    tables = fake_world.tables
    for m, home in enumerate(homes):
        level = fake_world.gpu_layers[m].index(home.gpu_layers)
        assert tables.level_ok[home.device, m, level]
        assert home.footprint_bytes == tables.footprint_bytes[home.device, m, level]
        assert np.isclose(home.load.seconds, tables.load_s[home.device, m, level])
        assert np.isclose(home.unload.seconds, tables.unload_s[home.device, m, level])
        assert home.load.low < home.load.seconds < home.load.high
        assert not home.is_cold


def test_work_is_spread_over_equal_devices(
    fake_checkpoints: dict[str, Path], fake_performance: PerformanceModel
) -> None:
    devices = [{"name": f"d{i}", "device": "cpu:1-threads-65MB"} for i in range(3)]
    scenario = worlds.fake_scenario(fake_checkpoints, devices=devices)
    assert {home.device for home in homes_of(scenario, fake_performance)} == {0, 1, 2}


def test_shares_are_those_of_the_trace_that_is_replayed(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "arrival_s": np.arange(100.0),
            "prompt_tokens": 10,
            "decode_tokens": 5,
            "model": ["a"] * 2 + ["b"] * 3 + ["c"] * 95,
            "session": "",
        }
    )
    write_trace(frame, tmp_path / "trace.parquet")
    names = ("a", "b", "c", "never")
    scenario = Scenario.parse(
        {
            "name": "replayed",
            "engine": "llama-cpp",
            "devices": [{"name": "large", "gpu": "RTX A6000"}, {"name": "small", "gpu": "RTX 3090"}],
            "models": [
                {"name": name, "catalog": "Llama-3-8B", "quantization": "F16" if name == "never" else "Q8_0"}
                for name in names
            ],
            "workload": {"replay": {"file": tmp_path / "trace.parquet"}},
        }
    )
    homes = homes_of(scenario, published_performance())
    assert [home.share for home in homes] == pytest.approx([0.02, 0.03, 0.95, 0.0])
    config = llama_swap_config(scenario, homes, models_dir=tmp_path, by_demand=True)
    costs = list(config["routing"]["router"]["settings"]["matrix"]["evict_costs"].values())
    # Of models alike, the one that is asked for most is the dearest to evict.
    assert costs[2] > 20 * costs[1] > 20 * costs[0] > 20 * costs[3] > 0


def test_models_with_several_homes_share_their_requests_among_them() -> None:
    scenario = load_scenario("two-gpu-unequal")
    performance = published_performance()
    once = {home.model: home for home in homes_of(scenario, performance)}
    twice = homes_of(scenario, performance, replicas=2)
    for name in once:
        mine = [home for home in twice if home.model == name]
        assert len({home.device for home in mine}) == len(mine)
        assert np.isclose(sum(home.share for home in mine), once[name].share)
    assert [home.model for home in twice] == sorted([home.model for home in twice], key=list(once).index), (
        "homes of a model stand together"
    )
    one = scenario.models[0].model_copy(update={"replicas_max": 1})
    kept = scenario.model_copy(update={"models": [one, *scenario.models[1:]]})
    assert [home.model for home in homes_of(kept, performance, replicas=2)].count(one.name) == 1


def test_a_level_leaves_room_for_the_process() -> None:
    scenario = load_scenario("laptop")
    bare, roomy = (homes_of(scenario, published_performance(), process_bytes=b) for b in (0.0, 479e6))
    capacity = scenario.devices[0].memory_bytes
    assert all(home.footprint_bytes + home.process_bytes <= capacity for home in roomy)
    assert all(a.gpu_layers >= b.gpu_layers for a, b in zip(bare, roomy, strict=True))
    cpu = scenario.devices[0].model_copy(update={"device": "cpu:1-threads-8GB"})
    on_cpu = scenario.model_copy(update={"devices": [cpu]})
    assert {home.process_bytes for home in homes_of(on_cpu, published_performance(), process_bytes=1.0)} == {
        0
    }


def test_what_is_pinned_or_preloaded_begins_where_it_should() -> None:
    scenario = load_scenario("two-gpu-unequal")
    for field in ("pinned", "preload"):
        for device, name in enumerate(["big", "small"]):
            model = scenario.models[2].model_copy(update={field: name})
            others = [model if i == 2 else other for i, other in enumerate(scenario.models)]
            homes = homes_of(scenario.model_copy(update={"models": others}), published_performance())
            assert next(home.device for home in homes if home.model == model.name) == device


def test_files_are_cold_where_the_hosts_memory_is_short() -> None:
    laptop = load_scenario("laptop")
    roomy = laptop.model_copy(update={"limits": laptop.limits.model_copy(update={"host_memory_gb": 100.0})})
    short, warm = (homes_of(s, published_performance()) for s in (laptop, roomy))
    assert all(home.is_cold for home in short)
    assert not any(home.is_cold for home in warm)
    assert all(a.load.seconds > b.load.seconds for a, b in zip(short, warm, strict=True))
