from __future__ import annotations

import pytest

from shunter.catalog.gpus import get_gpu
from shunter.envs.scenario import load_scenario
from shunter.envs.scenario_library import scenario_names
from shunter.models.published import catalog_facts
from shunter.train.random_scenarios import OVERCOMMIT, QUANTA_S, random_scenario, random_worlds


@pytest.mark.parametrize("seed", range(30))
def test_more_models_than_fit_and_each_fits_somewhere(seed: int) -> None:
    scenario = random_scenario(seed)
    assert scenario == random_scenario(seed)
    memory = [get_gpu(str(device.gpu)).memory_bytes for device in scenario.devices]
    sizes = [
        float(catalog_facts(str(model.catalog), str(model.quantization))["weight_bytes"])
        for model in scenario.models
    ]
    assert sum(sizes) > OVERCOMMIT[0] * (sum(memory) - 1e9 * len(memory))
    assert max(sizes) < max(memory)
    assert sizes[0] < min(memory)


def test_they_are_of_many_kinds_and_take_nothing_from_what_is_held_out() -> None:
    drawn = [random_scenario(seed) for seed in range(60)]
    assert {len(scenario.devices) for scenario in drawn} == {1, 2, 3, 4}
    counts = [len(scenario.models) for scenario in drawn]
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


def test_worlds_at_shares_of_what_it_sustains() -> None:
    low, high = random_worlds(12, [0.4, 0.8])
    assert high.rate_per_s == pytest.approx(2 * low.rate_per_s)
    assert low.scenario == random_scenario(12)
