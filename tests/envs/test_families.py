"""Scenarios of models with windows and experts: what fits, and what their arguments keep on the host."""

from __future__ import annotations

from typing import Any

import pytest

from shunter.catalog.work import EXPERT_LAYERS_ON_HOST
from shunter.envs.scenario.fields import checked
from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.tabulation import Tabulation, facts_of_model
from shunter.errors import InputError
from shunter.models.published.performance import published_performance


def scenario(**model: Any) -> Scenario:
    data = {
        "name": "families",
        "engine": "llama-cpp",
        "models": [{"name": "m", "max_batch": 1, **model}],
        "devices": [{"name": "gpu", "gpu": "RTX 5090"}],
        "workload": {"requests": 4, "load": 0.5, "lengths": "azure2023_conv"},
    }
    return checked(Scenario, data, source="test", whole="scenario")


def footprint_bytes(asked: Scenario) -> float:
    return float(Tabulation(asked, published_performance()).tables.footprint_bytes[0, 0, 0])


def test_a_long_context_of_windows_fits_where_full_attention_would_not() -> None:
    gemma = {"catalog": "Gemma-3-27B", "quantization": "Q4_K_M", "context_tokens": 32768}
    # Weights on the device, keys and values of 10 full layers and 52 with a window, and a runtime of 0.5 GB.
    kv_bytes = 8192 * (10 * 32768 + 52 * 1536)
    assert footprint_bytes(scenario(**gemma)) == pytest.approx(16.54e9 + kv_bytes + 0.5e9, rel=0.01)


def test_experts_on_the_host_leave_room_on_the_device() -> None:
    oss = {"catalog": "gpt-oss-120b", "quantization": "MXFP4", "context_tokens": 8192}
    with pytest.raises(InputError, match=r"hold at least one model at one level"):
        footprint_bytes(scenario(**oss))
    some, more = (footprint_bytes(scenario(**oss, args=["--n-cpu-moe", n])) for n in ("24", "34"))
    assert more < some < 32e9
    facts = facts_of_model(scenario(**oss, args=["--cpu-moe"]).models[0], published_performance())
    assert facts[EXPERT_LAYERS_ON_HOST] == 36
    per_layer = facts["layer_weight_bytes"] * facts["expert_share"]
    assert some - more == pytest.approx(10 * per_layer, rel=0.02)


@pytest.mark.parametrize("args", [["--n-cpu-moe"], ["-ncmoe", "many"], ["--n-cpu-moe", "-1"]])
def test_a_count_that_is_none_is_refused(args: list[str]) -> None:
    model = scenario(catalog="gpt-oss-20b", quantization="MXFP4", args=args).models[0]
    with pytest.raises(InputError, match=r"^models\.m\.args must have a count of layers after -"):
        facts_of_model(model, published_performance())
