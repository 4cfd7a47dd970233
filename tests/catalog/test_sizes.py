"""Weights in a quantisation, tensor by tensor, and what is kept of older sizes."""

from __future__ import annotations

import pytest

from shunter.catalog.models import known_models
from shunter.catalog.sizes import quantised_bytes
from shunter.errors import InputError, UnknownNameError
from shunter.models.published.rows import catalog_facts, facts_of


@pytest.mark.parametrize(
    ("name", "quantization", "published_bytes"),
    [
        ("Phi-4-14B", "Q8_0", 15576944640),
        ("Qwen3-30B-A3B", "BF16", 61089832960),
        ("Qwen3-30B-A3B", "Q4_K_M", 18556686912),
        ("gpt-oss-120b", "MXFP4", 63374323968),
        ("gpt-oss-120b", "Q8_0", 63374323968),  # experts are never quantised again
        ("Gemma-3-1B", "Q4_K_M", 762.49 * 2**20),  # rows of 1152
        ("DeepSeek-V2-Lite", "Q4_K_M", 9.65 * 2**30),
        ("Mixtral-8x22B", "Q4_K_M", 79.71 * 2**30),
        ("Llama-3-8B", "Q4_K_M", 4.58 * 2**30),
        ("Qwen3-32B", "Q4_K_M", 18.40 * 2**30),
        ("Llama-3-70B", "Q4_K_M", 39.59 * 2**30),
    ],
)
def test_sizes_are_those_of_published_files(name: str, quantization: str, published_bytes: float) -> None:
    sizes = quantised_bytes(known_models()[name], quantization)
    assert sizes.total == pytest.approx(published_bytes, rel=2e-3)
    assert catalog_facts(name, quantization)["weight_bytes"] == sizes.total
    layers = known_models()[name].layers
    assert 0.5 * sizes.total < layers * sizes.layer <= sizes.total


def test_narrow_rows_take_other_types() -> None:
    """A file of 397.8 MB, 5.9 of which are vocabulary; by the mean of a Llama's tensors it would be 300."""
    assert catalog_facts("Qwen2.5-0.5B", "Q4_K_M")["weight_bytes"] == pytest.approx(391.9e6, rel=2e-3)


@pytest.mark.parametrize("name", ["Gemma-3n-E4B", "Qwen3-Next-80B-A3B", "Mamba-2.8B", "DeepSeek-V3.2"])
def test_what_is_not_modelled_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=rf"^models\.a\.catalog must .* this one has .*'{name}'") as caught:
        catalog_facts(name, "F16", field="models.a")
    assert not isinstance(caught.value, UnknownNameError)
    assert facts_of(f"{name} F16") is None


def test_a_type_of_one_family_is_refused_for_others() -> None:
    with pytest.raises(InputError, match=r"model\.quantization must be another: MXFP4 is of gpt-oss alone"):
        catalog_facts("Qwen3-30B-A3B", "MXFP4")


def test_a_model_of_its_own_is_no_other_that_its_name_begins_like() -> None:
    assert catalog_facts("Phi-4-mini", "F16")["model"] == "Phi-4-mini F16"
    assert catalog_facts("phi-4", "F16")["model"] == "Phi-4-14B F16"


def test_active_parameters_are_those_that_are_published() -> None:
    models = known_models()
    assert models["Mixtral-8x7B"].active_params == pytest.approx(12.9e9, rel=2e-3)
    assert models["DeepSeek-V3"].active_params == pytest.approx(37e9, rel=2e-2)
    assert models["Llama-4-Scout"].active_params == pytest.approx(17e9, rel=2e-2)
    assert all(spec.active_params == spec.params for spec in models.values() if not spec.experts)
