from __future__ import annotations

import pytest

from shunter.catalog.gpus import get_gpu
from shunter.envs.scenario.library import scenario_names
from shunter.envs.scenario.scenario import Scenario, load_scenario
from shunter.envs.workload.shares import popularity
from shunter.models.published.rows import catalog_facts
from shunter.train.random_scenarios import (
    FAMILIES,
    MOST_REQUESTS,
    OVERCOMMIT,
    QUANTA_S,
    RARE_REQUESTS,
    REQUESTS,
    Family,
    family_of,
    random_scenario,
    random_worlds,
)

DRAWN = {seed: random_scenario(seed) for seed in range(76)}
ORDINARY = [scenario for seed, scenario in DRAWN.items() if family_of(seed) is None]


def of_family(name: str) -> list[Scenario]:
    return [scenario for seed, scenario in DRAWN.items() if family_of(seed) is FAMILIES[name]]


def rooms(scenario: Scenario) -> list[float]:
    return [get_gpu(str(device.gpu)).memory_bytes - 1e9 for device in scenario.devices]


def weights(scenario: Scenario) -> list[float]:
    return [
        float(catalog_facts(str(model.catalog), str(model.quantization))["weight_bytes"])
        for model in scenario.models
    ]


def are_equal(scenario: Scenario) -> bool:
    return len({device.gpu for device in scenario.devices}) == 1


@pytest.mark.parametrize("seed", DRAWN)
def test_every_model_fits_some_device_and_every_device_some_model(seed: int) -> None:
    scenario = DRAWN[seed]
    assert scenario == random_scenario(seed)
    tokens = scenario.limits.max_batch * scenario.limits.context_tokens
    needed = [
        facts["weight_bytes"] + tokens * facts["kv_bytes_per_token"]
        for model in scenario.models
        for facts in [catalog_facts(str(model.catalog), str(model.quantization))]
    ]
    assert max(needed) < max(rooms(scenario))
    assert min(needed) < min(rooms(scenario))
    assert weights(scenario)[0] < min(rooms(scenario))


@pytest.mark.parametrize("scenario", ORDINARY, ids=lambda scenario: scenario.name)
def test_half_are_ordinary_with_more_models_than_fit(scenario: Scenario) -> None:
    assert len(ORDINARY) == len(DRAWN) / 2
    assert sum(weights(scenario)) > OVERCOMMIT[0] * sum(rooms(scenario))
    assert scenario.workload.popularity_zipf < 1.5


def test_they_are_of_many_kinds_and_take_nothing_from_what_is_held_out() -> None:
    drawn = list(DRAWN.values())
    assert {len(scenario.devices) for scenario in ORDINARY} == {1, 2, 3, 4}
    counts = [len(scenario.models) for scenario in ORDINARY]
    assert min(counts) <= 4
    assert max(counts) >= 16
    quanta = [scenario.limits.quantum_s for scenario in drawn]
    assert min(quanta) < 1 < max(quanta) <= QUANTA_S[1]
    library = [load_scenario(name) for name in scenario_names()]
    trained = [scenario for scenario in library if scenario.split == "train"]
    allowed = {device.gpu for scenario in trained for device in scenario.devices}
    assert {device.gpu for scenario in drawn for device in scenario.devices} <= allowed
    assert {model.catalog for scenario in drawn for model in scenario.models} <= {
        model.catalog for scenario in trained for model in scenario.models
    }


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_draws_of_a_family_keep_within_it(family: Family) -> None:
    drawn = [scenario for seed, scenario in DRAWN.items() if family_of(seed) is family]
    assert len(drawn) >= 7
    for scenario in drawn:
        assert family.devices[0] <= len(scenario.devices) <= family.devices[1]
        assert family.models[0] <= len(scenario.models) <= family.models[1]
        assert family.zipf[0] <= scenario.workload.popularity_zipf <= family.zipf[1]
        if family.requests is not None:
            assert family.requests[0] <= scenario.workload.requests <= family.requests[1]
        assert scenario.workload.sessions is None
        assert scenario.workload.popularity_drift_s is None


def test_draws_cover_what_users_have() -> None:
    drawn = list(DRAWN.values())
    exponents = [scenario.workload.popularity_zipf for scenario in drawn if len(scenario.models) > 2]
    assert min(exponents) < 0.5
    assert max(exponents) > 3.5
    assert all(any(k < s < k + 1 for s in exponents) for k in range(4))
    assert max(scenario.workload.popularity_zipf for scenario in of_family("starvation")) > 5.5
    counts = {len(scenario.models) for scenario in drawn}
    assert {1, 2, 3, 4, 5} <= counts
    assert max(len(scenario.models) for scenario in of_family("skew")) > 20
    for several in (of_family("replicas"), of_family("skew")):
        assert {are_equal(scenario) for scenario in several} == {True, False}
    replicas = of_family("replicas")
    assert any(len(scenario.models) == 1 for scenario in replicas)
    assert sum(len(scenario.models) < len(scenario.devices) for scenario in replicas) >= 3
    fitting = [scenario for scenario in drawn if sum(weights(scenario)) < 0.7 * sum(rooms(scenario))]
    assert 3 <= len(fitting) <= len(drawn) / 4
    for scenario in of_family("starvation"):
        assert max(weights(scenario)) > 0.4 * rooms(scenario)[0]


def test_episodes_ask_for_the_rarest_model_now_and_then() -> None:
    for seed, scenario in DRAWN.items():
        if REQUESTS <= scenario.workload.requests < MOST_REQUESTS and family_of(seed) is not None:
            share = popularity(len(scenario.models), scenario.workload.popularity_zipf)[-1]
            assert share * (scenario.workload.requests + 1) >= RARE_REQUESTS


@pytest.mark.parametrize("seed", [9, 12])
def test_worlds_at_shares_of_what_it_sustains(seed: int) -> None:
    low, high = random_worlds(seed, [0.4, 0.8])
    assert high.rate_per_s == pytest.approx(2 * low.rate_per_s)
    workload = low.scenario.workload
    assert low.rate_per_s == pytest.approx(0.4 * (workload.capacity_rate_per_s or 0.0))
    drawn = workload.model_copy(update={"load": 0.7, "capacity_rate_per_s": None})
    assert low.scenario.model_copy(update={"workload": drawn}) == random_scenario(seed)
