"""What scenarios say of single models: in tables, in what is drawn, and held to in every decision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.agents.registry import make_policy
from shunter.envs.scenario.scenario import Device, Scenario, load_scenario
from shunter.envs.state.records import FAR_NS
from shunter.envs.world.world import World, make_world, with_footprints
from shunter.errors import InputError, UnknownNameError
from shunter.eval.execution.runs import simulate
from shunter.eval.timeline import read_timeline
from tests.envs.test_scenario import GOOD
from tests.random_worlds import ByName, keyed_worlds

LAPTOP = load_scenario("laptop").model_dump(mode="json")
LAPTOP["models"] = LAPTOP["models"][:3]
NAMES = [model["name"] for model in LAPTOP["models"]]


def laptop(*keys: dict[str, Any], **changes: Any) -> Scenario:
    """Three models of the library's laptop with keys of its models, in order, and other changes."""
    models = [{**m, **k} for m, k in zip(LAPTOP["models"], (*keys, {}, {}, {}), strict=False)]
    return Scenario.parse({**LAPTOP, "models": models, **changes})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weight": 0}, "models.0.weight must be greater than 0. Got 0"),
        ({"weight": 2.0}, "give a weight to all models or to none: b have none"),
        ({"kv_type": "q5_0"}, "models.0.kv_type must be 'f16', 'q8_0' or 'q4_0'. Got 'q5_0'"),
        ({"ttl_s": 0}, "models.0.ttl_s must be greater than 0. Got 0"),
        ({"ttl_s": 5, "pinned": True}, "give pinned or ttl_s: what is pinned is never evicted"),
        ({"preload": True, "pinned": True}, "give pinned or preload"),
        ({"pinned": "e"}, "models.a.pinned: unknown name 'e'"),
        ({"preload": "e"}, "models.a.preload: unknown name 'e'"),
        ({"priority": -1}, "models.0.priority must be greater than or equal to 0. Got -1"),
        ({"replicas_max": 0}, "models.0.replicas_max must be greater than or equal to 1. Got 0"),
        ({"aliases": ["b"]}, "have in models.a.aliases names of no other model, each once: b"),
        ({"aliases": ["x", "x"]}, "have in models.a.aliases names of no other model, each once: x"),
        ({"devices": ["d", "e"]}, "a model on a group of devices is not supported yet"),
        ({"max_batch": 65}, "models.0.max_batch must be less than or equal to 64. Got 65"),
        ({"context_tokens": 1}, "models.0.context_tokens must be greater than or equal to 2. Got 1"),
    ],
)
def test_bad_keys_are_named_with_rule_and_value(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Scenario.parse({**GOOD, "models": [{"name": "a", **keys}, {"name": "b"}]})
    assert message in str(caught.value)


def test_a_replay_has_lengths_of_its_own() -> None:
    models = [{"name": "a", "lengths": "azure2023_code"}]
    with pytest.raises(InputError, match="leave out lengths of models"):
        Scenario.parse({**GOOD, "models": models, "workload": {"replay": {"file": "t.csv"}}})


def test_keys_survive_being_written_and_read() -> None:
    keys = {
        "pinned": True,
        "aliases": ["x"],
        "args": ["--jinja"],
        "lengths": "azure2023_code",
        "kv_type": "q8_0",
    }
    scenario = laptop(keys, {"ttl_s": 3.0, "preload": True, "replicas_max": 1, "priority": 2})
    assert Scenario.parse(scenario.model_dump(mode="json")) == scenario
    assert scenario.model(NAMES[0]).kv_share == 34 / 64


def test_lengths_from_a_file_are_relative_to_the_scenario(tmp_path: Path) -> None:
    scenario = laptop({"lengths": "own.csv"})
    assert scenario.models[0].relative_to(tmp_path).lengths == tmp_path / "own.csv"


def test_a_reserve_in_bytes_is_taken_of_a_real_budget_too() -> None:
    real = Device(name="d", device="cuda:0-20GB", reserve_bytes=2_000_000_000)
    assert real.memory_bytes == 18 * 10**9
    assert Device(name="d", gpu="RTX A6000", reserve_bytes=0).memory_bytes == 49140 * 2**20
    with pytest.raises(
        InputError, match=r"devices\.d\.reserve_bytes must leave something of cuda:0-1GB's 1\.0 GB"
    ):
        _ = Device(name="d", device="cuda:0-1GB", reserve_bytes=10**9).memory_bytes


def test_weights_are_shares_and_lengths_and_context_are_the_models_own() -> None:
    scenario = laptop(
        {"weight": 1, "context_tokens": 64}, {"weight": 6, "lengths": "mooncake_synthetic"}, {"weight": 3}
    )
    world = make_world(scenario)
    requests = world.draw(1)._replace()
    share = np.bincount(requests.model, minlength=3) / len(requests.model)
    np.testing.assert_allclose(share, [0.1, 0.6, 0.3], atol=0.1)
    total = requests.prompt_tokens + requests.decode_tokens
    assert total[requests.model == 0].max() <= 64 < total[requests.model == 2].max()
    assert (
        requests.prompt_tokens[requests.model == 1].mean()
        > requests.prompt_tokens[requests.model == 2].mean()
    )
    assert world.tables.remaining_tokens.shape[0] == 3
    assert world.tables.footprint_bytes[0, 0, 0] < make_world(laptop()).tables.footprint_bytes[0, 0, 0]


def test_with_drift_shares_go_by_rank() -> None:
    keys: list[dict[str, Any]] = [{"weight": w} for w in (0.01, 5.0, 0.01)]
    workload = {**LAPTOP["workload"], "popularity_drift_s": 50.0, "requests": 2000}
    requests = make_world(laptop(*keys, workload=workload)).draw(0)
    epoch = requests.arrival_ns // 50_000_000_000
    assert (requests.model[epoch == 0] == 1).mean() > 0.9
    tops = {int(np.bincount(requests.model[epoch == e]).argmax()) for e in range(int(epoch[-1]))}
    assert tops == {0, 1, 2}


def test_kv_of_another_type_takes_less_and_is_not_guessed_where_it_was_measured() -> None:
    plain, small = make_world(laptop()), make_world(laptop({"kv_type": "q4_0"}))
    assert (small.tables.footprint_bytes[:, 0] < plain.tables.footprint_bytes[:, 0]).all()
    np.testing.assert_array_equal(small.tables.footprint_bytes[:, 1], plain.tables.footprint_bytes[:, 1])


def test_measured_kv_is_f16(fake_world: World, fake_performance: Any) -> None:
    data = fake_world.scenario.model_dump(mode="json")
    data["models"][0]["kv_type"] = "q8_0"
    with pytest.raises(InputError, match=r"models\.\w+\.kv_type must be f16: d0 was profiled with it"):
        make_world(Scenario.parse(data), fake_performance)


def test_what_is_pinned_is_there_from_the_start_and_leaves_less_to_others() -> None:
    world = make_world(laptop({"pinned": True}))
    tables, plain = world.tables, make_world(laptop()).tables
    assert tables.pinned.tolist() == [0, -1, -1]
    assert tables.level_ok[0, 0].sum() == 1
    assert tables.level_ok[0, 1:].sum() <= plain.level_ok[0, 1:].sum()
    run = simulate(world, make_policy("fifo-swap"), 0)
    assert run.requests.finish_s.notna().all()
    rows = run.log.frame()
    assert not any(NAMES[0] in evicted for evicted in rows.evicted)
    assert not ((rows.operation == "load") & (rows.model == NAMES[0])).any()
    residents = read_timeline(rows).residents
    assert residents.set_index("model").start_s[NAMES[0]] == 0.0


def test_no_room_for_what_is_pinned_or_beside_it() -> None:
    rule = "must fit some device at some level, beside what"
    pinned, whole = {"pinned": True}, {"levels": ["all"]}
    with pytest.raises(InputError, match=rf"models\.{NAMES[2]}\.pinned {rule} else is pinned"):
        make_world(laptop(pinned, {"pinned": "gpu0"}, {**pinned, **whole}))
    half, first = {"pinned": True, "levels": ["50%"]}, {"preload": True, **whole}
    with pytest.raises(InputError, match=rf"models\.{NAMES[1]}\.preload {rule} is pinned"):
        make_world(laptop(half, first, first))
    with pytest.raises(InputError, match=r"models\.\S+ must fit some device beside what is pinned there"):
        make_world(laptop(pinned, {}, pinned))


def test_measured_footprints_renew_what_is_pinned() -> None:
    world = make_world(laptop({"pinned": True}))
    larger = with_footprints(world, 1.01 * world.tables.footprint_bytes)
    assert larger.tables.level_ok[0, 0].sum() == 1
    assert larger.tables.pinned[0] == 0


def test_unknown_devices_name_the_nearest() -> None:
    device = LAPTOP["devices"][0]["name"]
    with pytest.raises(UnknownNameError, match=f"did you mean {device}"):
        laptop({"pinned": device + "x"})


def test_of_a_scenario_without_keys_nothing_is_said() -> None:
    tables = make_world("laptop").tables
    assert (tables.ttl_ns == FAR_NS).all()
    assert (tables.pinned < 0).all()
    assert (tables.priority == 0).all()
    assert tables.limits["least_ttl_ns"][0] == FAR_NS
    assert tables.remaining_tokens.shape[0] == 1


def test_what_lies_idle_is_evicted_when_its_time_is_over() -> None:
    slow = {**LAPTOP["workload"], "load": None, "rate_per_s": 0.01, "requests": 20}
    world = make_world(laptop(*[{"ttl_s": 5.0}] * 3, workload=slow))
    rows = simulate(world, make_policy("cost-greedy"), 0).log.frame()
    evictions = rows[rows.operation == "evict"]
    assert len(evictions) >= 5
    ends = rows[rows.operation.isin(["run", "load"])]
    idle_s = [
        row.decided_s - ends[(ends.model == row.model) & (ends.end_s <= row.decided_s)].end_s.max()
        for row in evictions.itertuples()
    ]
    # Where the device is at work at that moment, once it is done.
    assert min(idle_s) == pytest.approx(5.0, abs=1e-6)
    assert np.median(idle_s) == pytest.approx(5.0, abs=1e-6)


def test_priority_shortens_the_guard() -> None:
    busy = {**LAPTOP["workload"], "load": 0.9}
    limits = {**LAPTOP["limits"], "guard_s": 15.0}

    def longest_wait(priority: int) -> float:
        rare = {"weight": 0.3, "priority": priority}
        scenario = laptop({"weight": 10}, {"weight": 10}, rare, workload=busy, limits=limits)
        run = simulate(make_world(scenario), make_policy("cost-greedy"), 0)
        mine = run.requests[run.requests.model == NAMES[2]]
        return float((mine.first_token_s - mine.arrival_s).max())

    assert 2 * longest_wait(9) < longest_wait(0)


@settings(max_examples=40, deadline=None)
@given(world=keyed_worlds(requests=30), seed=st.integers(0, 1000))
def test_in_random_worlds_every_decision_keeps_the_keys(world: World, seed: int) -> None:
    run = simulate(world, ByName(world, seed), seed)
    rows, scenario, tables = run.log.frame(), world.scenario, world.tables
    names = {model.name: m for m, model in enumerate(scenario.models)}
    for row in rows.itertuples():
        d = [device.name for device in scenario.devices].index(row.device)
        for name in row.evicted:
            assert tables.pinned[names[name]] != d
        if row.operation == "run":
            assert len(row.request_ids) <= scenario.batch_of(scenario.model(row.model))
    residents = read_timeline(rows).residents if len(rows) else None
    for model in scenario.models:
        if residents is None or model.replicas_max is None:
            continue
        own = residents[residents.model == model.name]
        held = [((own.start_s <= at) & (at < own.end_s)).sum() for at in own.start_s]
        assert max(held, default=0) <= model.replicas_max
