"""Published rates of vLLM as decode steps, and what the shipped model makes of them."""

from __future__ import annotations

import pytest

from shunter.envs.scenario.scenario import Scenario
from shunter.envs.world.tabulation import Tabulation
from shunter.models.outside import why_out_of_range
from shunter.models.published.performance import VLLM, published_performance
from shunter.models.published.vllm_rows import refused_vllm, vllm_frame


def test_steps_are_of_as_many_requests_as_decode_at_once() -> None:
    rows = vllm_frame().set_index("row_id")
    # 1000 tokens a second at 29.87 ms each are 61 requests, of the 200 that were sent.
    assert rows["batch"]["v050"] == round(2057.51 * 0.02987)
    assert rows["duration_s"]["v050"] == pytest.approx(0.02987)
    # Without a time per token: what a request takes after its first, over its tokens.
    assert rows["duration_s"]["v000"] == pytest.approx((4 / 2.09 - 0.063) / (210 / 2.09))
    # All sent at once: the time to the first token is a queue, so a step is what 32 take for a token each.
    assert rows["duration_s"]["v133"] == pytest.approx(32 / 653.61)
    assert set(rows["gpu_count"]) == {1.0}
    assert set(rows["device"]) >= {"A100 PCIe 80GB", "RTX 4090", "RTX 5090"}


def test_rows_that_no_term_is_of_are_left_out_with_the_reason() -> None:
    why = refused_vllm()
    assert "split over GPUs by tensors" in why["v021"]
    assert "on how many is not told" in why["v005"]
    assert why["v134"] == "it ran without CUDA graphs"
    assert not set(why.index) & set(vllm_frame()["row_id"])


def test_the_shipped_model_is_near_the_rows_and_flags_what_nobody_published() -> None:
    model = published_performance()
    rows = vllm_frame()
    done = model.predict(rows)
    assert (done["duration_s_predicted"] / rows["duration_s"] - 1).abs().mean() < 0.15
    for operation in ("prefill", "load", "unload"):
        asked = model.configurations(VLLM, "RTX 4090", "Llama-3-8B BF16", operation=operation, tokens=512)
        assert model.predict(asked)["out_of_range"].all()
        assert why_out_of_range(model, asked) == [f"no {operation} was measured: data sheets alone"]
    assert not model.saves_kv(VLLM, "RTX 4090")
    assert model.saves_kv("llama-cpp", "RTX 4090")


def test_a_scenario_of_vllm_needs_no_profile() -> None:
    text = {
        "name": "served",
        "engine": "vllm",
        "devices": [{"name": "a", "gpu": "RTX 4090"}],
        "models": [{"name": "m", "catalog": "Llama-3-8B", "quantization": "BF16"}],
        "workload": {"requests": 20, "rate_per_s": 0.3},
        "limits": {"max_batch": 16, "context_tokens": 512},
    }
    tables = Tabulation(Scenario.model_validate(text), published_performance()).tables
    one, sixteen = tables.step_s[0, 0, 0, [0, 15], 0]
    assert one < sixteen < 4 * one
