"""What files and hubs call models, and which shape that is: a name matches whole, or is unknown."""

import pytest

from shunter.catalog.model_names import known_model, nearest_models
from shunter.catalog.models import catalog_models, get_model
from shunter.errors import UnknownNameError

KNOWN = (*catalog_models(), "Phi-4-14B", "Phi-3.5-mini", "LLaMA-33B")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Llama-3-8B", "Llama-3-8B"),
        ("llama-3-8b", "Llama-3-8B"),
        ("Meta Llama 3 8B Instruct", "Llama-3-8B"),
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3-8B"),
        ("Llama-3-8B-Instruct-AWQ", "Llama-3-8B"),
        ("Llama-3-8B-Instruct-Q4_K_M.gguf", "Llama-3-8B"),
        ("Llama-3-8B-IQ2_XXS", "Llama-3-8B"),
        ("Llama-2-7b-chat-hf", "Llama-2-7B"),
        ("LLaMA-1 7b", "Llama-2-7B"),
        ("Qwen 2.5 7B", "Qwen2.5-7B"),
        ("qwen2.5-7b-instruct-q4_k_m", "Qwen2.5-7B"),
        ("Qwen2.5-7B-Instruct-GGUF:Q4_K_M", "Qwen2.5-7B"),
        ("Qwen2.5-72B-Instruct-GPTQ-Int4", "Qwen2.5-72B"),
        ("Qwen2.5-Coder-14B", "Qwen2.5-14B"),
        ("Qwen3-8B-FP8", "Qwen3-8B"),
        ("Mistral-7B-Instruct-v0.3", "Mistral-7B-v0.3"),
        ("gemma-2-9b-it-bnb-4bit", "Gemma-2-9B"),
        ("phi-4 (14B)", "Phi-4-14B"),
        ("microsoft/phi-4", "Phi-4-14B"),
        ("Phi-4-mini-instruct", None),
        ("Phi-4-multimodal-instruct", None),
        ("Phi-3.5-mini-instruct", "Phi-3.5-mini"),
        ("Phi-3.5-MoE-instruct", None),
        ("Mistral-7B-v0.1", None),
        ("Mistral-7B", None),
        ("Llama-3.1-8B-Vision", None),
        ("Llama-3.1-80B", None),
        ("Llama-3-3B", None),
        ("Qwen2.5-VL-7B-Instruct", None),
        ("Qwen2.5-Coder-1.5Bx", None),
        ("DeepSeek-R1-Distill-Qwen-1.5B", None),
        ("Qwen3-30B-A3B", None),
        ("Instruct", None),
        ("Q4_0", None),
        ("", None),
    ],
)
def test_a_name_is_one_shape_or_none(text, name):
    assert known_model(text, KNOWN) == name


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_name_is_its_own_however_it_is_written(name):
    written = (name, name.lower(), name.replace("-", " "), f"someone/{name}-Instruct")
    assert [known_model(text, KNOWN) for text in written] == [name] * 4


def test_two_names_that_are_one_when_written_plainly_are_none():
    assert known_model("a-1b", ["A-1B", "A 1B"]) is None


def test_the_nearest_come_first():
    assert nearest_models("Phi-4-mini-instruct", KNOWN)[0] in ("Phi-3.5-mini", "Phi-4-14B")
    with pytest.raises(UnknownNameError, match=r"unknown name 'Qwen3-9B'; did you mean Qwen3-8B or"):
        get_model("Qwen3-9B")
