"""What files and hubs call models, and which shape that is: a name matches whole, or is unknown."""

import pytest

from shunter.catalog.model_names import _ALIASES, known_model, nearest_models, quantization_in
from shunter.catalog.models import catalog_models, get_model, known_models, not_modelled
from shunter.errors import InputError, UnknownNameError
from shunter.models.published.rows import catalog_facts

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


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen3-30B-A3B"),
        ("Qwen3-30B-A3B-Thinking-2507-FP8", "Qwen3-30B-A3B"),
        ("Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf", "Qwen3-30B-A3B"),
        ("Qwen3-235B-A22B-Instruct-2507", "Qwen3-235B-A22B"),
        ("Qwen3-4B-Thinking-2507", "Qwen3-4B"),
        ("Qwen3-4B-2508", None),
        ("Qwen3-Coder-480B-A35B-Instruct", "Qwen3-Coder-480B-A35B"),
        ("mistralai/Mistral-7B-Instruct-v0.1", "Mistral-7B-v0.2"),
        ("Mistral-7B-Instruct-v0.2", "Mistral-7B-v0.2"),
        ("Mistral-7B-v0.4", None),
        ("Devstral-Small-2507", "Mistral-Small-24B"),
        ("google/gemma-2b-it", "Gemma-2B"),
        ("google/gemma-2-2b-it", "Gemma-2-2B"),
        ("gemma-3-270m-it", "Gemma-3-270M"),
        ("TinyLlama-1.1B-Chat-v1.0", "TinyLlama-1.1B"),
        ("DeepSeek-R1", "DeepSeek-V3"),
        ("DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Qwen-1.5B"),
        ("Qwen2.5-Math-1.5B", "Qwen2.5-1.5B"),
        ("Qwen2.5-7B-Instruct-1M", "Qwen2.5-7B"),
        ("Llama-4-Maverick-17B-128E-Instruct", "Llama-4-Maverick"),
        ("Meta-Llama-3.1-405B-Instruct-FP8", "Llama-3.1-405B"),
        ("HuggingFaceTB/SmolLM3-3B", "SmolLM3-3B"),
        ("MiniMax-M2.5", "MiniMax-M2"),
        ("gpt-oss-safeguard-20b", "gpt-oss-20b"),
        ("ibm-granite/granite-3.3-8b-instruct", "Granite-3-8B"),
        ("ibm-granite/granite-3.1-2b-instruct", "Granite-3-2B"),
        ("granite-4.0-micro", None),
        ("ByteDance-Seed/Seed-OSS-36B-Instruct", "Seed-OSS-36B"),
        ("microsoft/Phi-3-medium-128k-instruct", "Phi-3-medium"),
        ("mistralai/Ministral-8B-Instruct-2410", "Ministral-8B"),
        ("mistralai/Mistral-Small-Instruct-2409", "Codestral-22B"),
        ("CohereLabs/c4ai-command-r-v01", "Command-R-v01"),
        ("CohereLabs/c4ai-command-r-08-2024", None),
        ("CohereLabs/aya-expanse-8b", "Aya-Expanse-8B"),
        ("allenai/Olmo-3-7B-Instruct", "Olmo-3-7B"),
        ("allenai/OLMo-2-0325-32B-Instruct", "OLMo-2-32B"),
        ("01-ai/Yi-1.5-9B-Chat", "Yi-9B"),
        ("internlm/internlm2_5-7b-chat", "InternLM2.5-7B"),
        ("upstage/SOLAR-10.7B-Instruct-v1.0", "SOLAR-10.7B"),
        ("zai-org/GLM-4.7", "GLM-4.5"),
        ("GLM-4.7-Flash", None),
        ("THUDM/glm-4-9b-chat", "GLM-4-9B-0414"),
        ("codellama/CodeLlama-7b-Instruct-hf", "Llama-2-7B"),
    ],
)
def test_widely_served_models_are_known_by_their_hubs_names(text, name):
    assert known_model(text, known_models()) == name


@pytest.mark.parametrize(
    ("text", "stored", "name"),
    [
        ("unsloth/Qwen3-8B-UD-Q4_K_XL.gguf", "Q4_K_XL", "Qwen3-8B"),
        ("google/gemma-3-27b-it-qat-q4_0-gguf", "q4_0", "Gemma-3-27B"),
        ("Llama-3-8B Q4_K - Medium", "Q4_K - Medium", "Llama-3-8B"),
        ("llama3:8b-instruct-q4_K_M", "q4_K_M", "Llama-3-8B"),
        ("Llama-3.2-3B-Instruct-IQ4_XS", "IQ4_XS", "Llama-3.2-3B"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "FP8", "Llama-3-8B"),
        ("neuralmagic/Meta-Llama-3-8B-Instruct-FP8-KV", "FP8", "Llama-3-8B"),
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-quantized.w4a16", "w4a16", "Llama-3-70B"),
        ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "AWQ", "Llama-3-8B"),
        ("Qwen2.5-7B-Instruct-GPTQ-Int4", "GPTQ", "Qwen2.5-7B"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "bnb", "Llama-3-8B"),
        ("lmstudio-community/Qwen3-8B-MLX-6bit", "6bit", "Qwen3-8B"),
        ("nvidia/Llama-3.3-70B-Instruct-NVFP4", "NVFP4", "Llama-3-70B"),
        ("Qwen3-8B", "", "Qwen3-8B"),
        ("Qwen3-8B-Q", "", None),
    ],
)
def test_a_name_says_how_its_weights_are_stored(text, stored, name):
    assert quantization_in(text) == stored
    assert known_model(text, known_models()) == name


def test_no_known_name_is_that_of_a_quantisation():
    names = [form for name in known_models() for form in (name, *_ALIASES.get(name, ()))]
    assert [name for name in names if quantization_in(name)] == []


def test_a_name_that_says_another_quantisation_is_no_guess():
    assert catalog_facts("Qwen3-8B-Q8_0.gguf", "q8_0") == catalog_facts("Qwen3-8B", "Q8_0")
    with pytest.raises(
        InputError, match=r"model\.quantization must be AWQ, as Qwen3-8B-AWQ says\. Got 'BF16'"
    ):
        catalog_facts("Qwen3-8B-AWQ", "BF16")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "sees"),
        ("Qwen3-VL-30B-A3B-Instruct", "sees"),
        ("Llama-3.2-11B-Vision-Instruct", "sees"),
        ("Mistral-Small-3.2-24B-Instruct-2506", "sees"),
        ("Phi-4-multimodal-instruct", "sees"),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "state-space"),
        ("ibm-granite/granite-4.0-h-small", "state-space"),
        ("Qwen3-Coder-Next", "linear"),
        ("Qwen3.6-35B-A3B", "linear"),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", "unlike"),
        ("zai-org/GLM-5", "index"),
        ("microsoft/phi-2", "gated"),
    ],
)
def test_widely_served_models_whose_sizes_do_not_follow_are_refused_for_what_they_have(text, what):
    with pytest.raises(InputError, match=f"this one has .*{what}"):
        catalog_facts(text, "F16")


def test_no_name_is_of_two_shapes_or_both_known_and_refused():
    names = [(form, name) for name in known_models() for form in (name, *_ALIASES.get(name, ()))]
    assert [form for form, _ in names if not_modelled(form)] == []
    assert [form for form, name in names if known_model(form, known_models()) != name] == []
    assert set(_ALIASES) <= set(known_models())


def test_a_name_without_its_version_names_those_that_go_on():
    nearest = nearest_models("mistral-7b", known_models())
    assert nearest[:2] == ["Mistral-7B-v0.2", "Mistral-7B-v0.3"]
