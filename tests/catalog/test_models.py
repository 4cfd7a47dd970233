import csv
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.catalog.models import catalog_models, get_model, known_models, scaled_model
from shunter.errors import InputError, UnknownNameError


@pytest.mark.parametrize(
    ("name", "params", "kv_bytes", "architecture"),
    [
        ("Llama-3-8B", 8_030_261_248, 131_072, "llama"),
        ("Qwen2.5-3B", 3_085_938_688, 36_864, "qwen2"),
        ("Qwen3-32B", 32_762_123_264, 262_144, "qwen3"),
    ],
)
def test_sizes_agree_with_the_published_ones(name, params, kv_bytes, architecture):
    spec = get_model(name)
    assert (spec.params, spec.kv_bytes_per_token()) == (params, kv_bytes)
    assert spec.architecture == architecture


def test_catalogue_is_consistent():
    for name, spec in catalog_models().items():
        assert spec.name == name
        assert spec.attn_heads % spec.kv_heads == 0
        assert spec.total_layers == spec.layers + 1


def test_parameters_are_those_that_are_published_of_each_row():
    text = files("shunter.data").joinpath("families.csv").read_text(encoding="utf-8")
    published = {r["model"]: int(r["params_published"] or 0) for r in csv.DictReader(text.splitlines())}
    apart = {n: abs(known_models()[n].params / count - 1) for n, count in published.items() if count}
    assert len(apart) > 25
    assert max(apart.values()) < 2e-3, apart


def test_tying_saves_one_embedding():
    spec = get_model("Llama-3-8B")
    assert spec.params - replace(spec, tied_embeddings=True).params == spec.embedding_params


def test_unknown_model_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"^--like: unknown name 'qwen3-9b'; did you mean Qwen3-8B "):
        get_model("qwen3-9b", field="--like")


def test_a_model_is_found_however_its_name_is_spelled():
    assert get_model("Qwen/Qwen3-8B-Instruct") is get_model("qwen3 8b") is get_model("Qwen3-8B")


@settings(deadline=None, max_examples=30)
@given(name=st.sampled_from(sorted(catalog_models())), params=st.floats(8e6, 4e8))
def test_scaled_models_have_the_wanted_size_and_family(name, params):
    base = get_model(name)
    spec = scaled_model(base, params)
    assert spec.params == pytest.approx(params, rel=0.1)
    assert 6 <= spec.layers <= 1.6 * base.layers
    assert spec.architecture == base.architecture
    assert spec.tied_embeddings == base.tied_embeddings
    assert spec.attn_heads * spec.head_dim == spec.hidden_size
    assert spec.hidden_size % 32 == spec.intermediate_size % 32 == 0
    group = base.attn_heads // base.kv_heads
    assert spec.attn_heads == group * spec.kv_heads


def test_scaling_keeps_the_asked_vocabulary():
    assert scaled_model(get_model("Qwen3-8B"), 60e6, vocab_size=1024).vocab_size == 1024


def test_scaling_up_is_refused():
    with pytest.raises(InputError, match=r"^size must be at most that of Qwen3-0\.6B itself \(596 M param"):
        scaled_model(get_model("Qwen3-0.6B"), 1e9)


def test_scaling_below_two_layers_is_refused():
    with pytest.raises(
        InputError, match=r"^size must be at least .* M parameters: two layers of Llama-3-8B's"
    ):
        scaled_model(get_model("Llama-3-8B"), 1e5)
